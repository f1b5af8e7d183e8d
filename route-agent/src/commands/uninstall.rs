//! `podwire-agent uninstall`: removes what the agent and the plugin have put on this node.
//!
//! Routes, tables, the CNI configuration, leases, records and the kernel settings that were
//! changed go. Links of pods stay, so that pods that still run keep their network until the
//! runtime takes them down; `--pods` removes them as well. The plugin itself stays as long as there
//! are links of its making: the runtime calls it to take their pods down.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;
use podwire::attachment::LINK_GROUP;
use podwire_kernel::RouteSocket;

use crate::commands::install::{BinDir, Install};
use crate::commands::output::print;
use crate::config::Config;
use crate::features;
use crate::features::parts::log::Logging;
use crate::text::printable_lines;

/// The flags of `podwire-agent uninstall`.
#[derive(Debug, Clone, Args)]
pub struct Uninstall {
    /// Remove the links of pods too: pods that still run lose their network.
    #[arg(long, env = "PODWIRE_UNINSTALL_PODS")]
    pub pods: bool,

    /// Stay until stopped after everything is removed: for a DaemonSet, which knows no end.
    #[arg(long, env = "PODWIRE_UNINSTALL_STAY")]
    pub stay: bool,

    /// Where the plugin was installed.
    #[command(flatten)]
    pub bin_dir: BinDir,

    /// The same flags as those of `run`: where things are.
    #[command(flatten)]
    pub config: Config,
}

/// The agent would put everything back.
#[derive(Debug, thiserror::Error)]
#[error("an agent answers on {}; stop it first, or it puts everything back", socket.display())]
pub struct StillRunning {
    socket: PathBuf,
}

impl Uninstall {
    /// Removes everything; returns what, in a few words each. Goes on after an error, and returns
    /// the first one at the end.
    pub fn run(&self) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let socket = self.config.socket();
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Err(Box::new(StillRunning { socket }));
        }
        let mut removed = Vec::new();
        let mut first_error = None;
        let mut note = |result: Result<Vec<String>, Box<dyn Error + Send + Sync>>| match result {
            Ok(texts) => removed.extend(texts),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        };
        let (health_ports, _) = tokio::sync::watch::channel(Default::default());
        for mut feature in features::all(health_ports, Logging::Off)? {
            note(feature.uninstall(&self.config));
        }
        if self.pods {
            note(remove_links());
        }
        note(remove_plugin(&self.bin_dir));
        note(remove_run_dir(&self.config));
        match first_error {
            Some(error) => {
                if !removed.is_empty() {
                    // The error that counts is the first.
                    let _ = print(&account(&removed));
                }
                Err(error)
            }
            None => Ok(removed),
        }
    }
}

/// What was removed, for people; silence would leave open whether anything was looked at.
pub fn account(removed: &[String]) -> String {
    if removed.is_empty() {
        return "nothing was left to remove\n".to_owned();
    }
    let lines: Vec<String> = removed
        .iter()
        .map(|what| format!("removed {what}"))
        .collect();
    printable_lines(&lines)
}

fn remove_links() -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut socket = RouteSocket::open()?;
    let mut removed = Vec::new();
    for link in socket
        .links()?
        .into_iter()
        .filter(|link| link.group == LINK_GROUP)
    {
        match socket.delete_link(link.index) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => removed.push(format!("link {}", link.name)),
        }
    }
    Ok(removed)
}

fn remove_plugin(bin_dir: &Path) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut links = RouteSocket::open()?.links()?.into_iter();
    if links.any(|link| link.group == LINK_GROUP) {
        tracing::info!("the plugin stays for the pods that still have a link of its making");
        return Ok(Vec::new());
    }
    Ok(Install::remove(bin_dir)?
        .into_iter()
        .map(|path| format!("file {}", path.display()))
        .collect())
}

fn remove_run_dir(config: &Config) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    // Sockets without an agent; the directory goes only if nothing of others is in it.
    let _ = std::fs::remove_file(config.socket());
    let _ = std::fs::remove_file(config.pods_socket());
    Ok(match std::fs::remove_dir(&*config.run_dir) {
        Ok(()) => vec![format!("directory {}", config.run_dir.display())],
        Err(_) => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_listed_line_by_line_and_nothing_is_said_as_well() {
        let removed = ["a".to_owned(), "b".to_owned()];
        assert_eq!(account(&removed), "removed a\nremoved b\n");
        let forged = ["link a\nremoved b\u{1b}[2J".to_owned()];
        assert_eq!(account(&forged), "removed link a\\nremoved b\\u{1b}[2J\n");
        assert_eq!(account(&[]), "nothing was left to remove\n");
    }
}
