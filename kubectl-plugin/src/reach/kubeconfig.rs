//! The kubeconfig, found and merged as kubectl does it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

/// The client's configuration: of the file `named`, else of the files of `KUBECONFIG`, else of
/// `~/.kube/config`, with the context of `options`.
pub async fn read(
    named: Option<&Path>,
    options: &KubeConfigOptions,
) -> Result<Config, ConfigError> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let merged = match named {
        Some(path) => read_file(path)?,
        None => {
            let mut files = present(&listed);
            if files.is_empty() {
                files.extend(own().filter(|path| path.exists()));
            }
            if files.is_empty() {
                // What is missing is told by who looks for it.
                return Ok(Config::from_kubeconfig(options).await?);
            }
            merge(&files)?
        }
    };
    Ok(Config::from_custom_kubeconfig(merged, options).await?)
}

/// The file of whoever is at home here, where kube looks for it.
fn own() -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".kube/config"))
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is no YAML of a kubeconfig.
    #[error("{} is no kubeconfig: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The first line of what the parser says.
        reason: String,
    },
    /// Another reason.
    #[error(transparent)]
    Other(#[from] KubeconfigError),
}

fn read_file(path: &Path) -> Result<Kubeconfig, ConfigError> {
    Kubeconfig::read_from(path).map_err(|error| match error {
        // The lines after the first show the text.
        KubeconfigError::Parse(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            ConfigError::Malformed {
                path: path.to_owned(),
                reason: first.trim_start_matches("error: ").to_owned(),
            }
        }
        error => error.into(),
    })
}

/// The files of a list with colons that are there. kubectl passes over the others (`Load`,
/// client-go/tools/clientcmd/loader.go).
fn present(listed: &OsStr) -> Vec<PathBuf> {
    let named = std::env::split_paths(listed).filter(|path| !path.as_os_str().is_empty());
    named.filter(|path| path.exists()).collect()
}

/// The files as one; of what several have, that of the first counts.
fn merge(paths: &[PathBuf]) -> Result<Kubeconfig, ConfigError> {
    paths
        .iter()
        .try_fold(Kubeconfig::default(), |merged, path| {
            Ok(merged.merge(read_file(path)?)?)
        })
}

#[cfg(test)]
mod tests {
    use kube::Client;

    use super::*;

    const FILE: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
        contexts: [{name: c, context: {cluster: k, user: u}}]\n\
        clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'PROXY}}]\nusers: []\n";

    #[test]
    fn of_a_list_of_files_those_that_are_not_there_are_passed_over() {
        let folder = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let there = folder.join("there");
        std::fs::write(&there, FILE.replace("PROXY", "")).unwrap();
        let paths = [&folder.join("not-there"), Path::new(""), &there];
        let listed = std::env::join_paths(paths).unwrap();
        assert_eq!(present(&listed), [there]);
        let merged = merge(&present(&listed)).unwrap();
        assert_eq!(merged.current_context.as_deref(), Some("c"));
        assert!(present(OsStr::new("/not/there")).is_empty());
        let broken = folder.join("broken");
        std::fs::write(&broken, "garbage: [\n").unwrap();
        let said = merge(std::slice::from_ref(&broken))
            .unwrap_err()
            .to_string();
        let starts = format!("{} is no kubeconfig: line 1", broken.display());
        assert!(
            said.starts_with(&starts) && said.lines().count() == 1,
            "{said}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_proxy_of_the_kubeconfig_can_be_used() {
        let text = FILE.replace("PROXY", ", proxy-url: 'http://127.0.0.1:3128'");
        let file = Kubeconfig::from_yaml(&text).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options);
        let client = Client::try_from(config.await.unwrap());
        assert!(client.is_ok(), "{:?}", client.err());
    }
}
