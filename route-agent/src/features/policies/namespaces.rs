//! The file from which the plugin learns, without an agent, which namespaces have policies.
//!
//! It is there before the tables are, and goes after them. A policy that is new closes its namespace
//! there before it is in the kernel. While there is no policy another file says so: that neither is
//! there means that no agent has listed the cluster since the machine started.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podwire::files::{create_own_directory, read_own};
use podwire::policy::{EVERY_NAMESPACE, NAMESPACES, NONE};

use crate::config::Config;
use crate::files::{self, Durability, FileError};
use crate::snapshot::{PolicyName, Snapshot};

/// What is known of the file.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// The namespaces with policies; none if no one has looked.
    names: Option<BTreeSet<Arc<str>>>,
    /// Whether ClusterNetworkPolicies are about all of them, also those that come later.
    all: bool,
    /// What it holds is as wanted.
    written: bool,
}

impl Namespaces {
    /// Nothing is known from now on.
    pub fn distrust(&mut self) {
        *self = Self::default();
    }

    /// Writes the namespaces that have policies; `changed` are the policies that may have come or gone.
    pub fn write(
        &mut self,
        config: &Config,
        snapshot: &Snapshot,
        changed: &BTreeSet<PolicyName>,
    ) -> Result<(), FileError> {
        let names = self.names.get_or_insert_with(|| {
            let policies = snapshot.policies.keys();
            policies.map(|name| name.namespace.clone()).collect()
        });
        let all = !snapshot.cluster_policies.is_empty();
        self.written &= self.all == all;
        self.all = all;
        let namespaced = changed.iter().filter_map(|name| match name {
            PolicyName::Namespaced(name) => Some(name),
            PolicyName::Cluster(_) => None,
        });
        for name in namespaced {
            let any = snapshot.policies_in(&name.namespace).next().is_some();
            self.written &= match any {
                true => !names.insert(name.namespace.clone()),
                false => !names.remove(&name.namespace),
            };
        }
        if self.written {
            return Ok(());
        }
        let names = names.iter().map(|name| &**name);
        let names = all.then_some(EVERY_NAMESPACE).into_iter().chain(names);
        let text: String = names.map(|name| format!("{name}\n")).collect();
        put(&path(config), text.as_bytes())?;
        remove(&none(config))?;
        self.written = true;
        Ok(())
    }

    /// There is no policy.
    pub fn say_none(&mut self, config: &Config) -> Result<(), FileError> {
        self.distrust();
        put(&none(config), b"")?;
        remove(&path(config))
    }

    /// No one asks for policies.
    pub fn remove(&mut self, config: &Config) -> Result<(), FileError> {
        self.distrust();
        remove(&path(config))?;
        remove(&none(config))
    }
}

fn path(config: &Config) -> PathBuf {
    config.run_dir.join(NAMESPACES)
}

fn none(config: &Config) -> PathBuf {
    config.run_dir.join(NONE)
}

/// Writes a file, unless it is right, and ours: what others have put there while they could says
/// nothing, whatever it holds.
fn put(path: &Path, text: &[u8]) -> Result<(), FileError> {
    // Whoever may write there could change it later.
    if let Some(directory) = path.parent() {
        create_own_directory(directory).map_err(FileError::of("create", directory))?;
    }
    let limit = text.len() as u64 + 1;
    if read_own(path, limit).is_ok_and(|found| found.as_deref() == Some(text)) {
        return Ok(());
    }
    files::remove_directory(path)?;
    files::replace(path, text, 0o644, Durability::UntilBoot)
}

fn remove(path: &Path) -> Result<(), FileError> {
    files::remove_directory(path)?;
    files::remove(path).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::test_config;
    use crate::features::policies::desired::samples::{Cluster, cluster_policy, name, policy};
    use crate::snapshot::Key;

    #[test]
    fn the_file_follows_the_policies_and_is_written_only_for_a_namespace_that_differs() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = format!("--run-dir={}", directory.path().display());
        let config = test_config(&["--node-name=worker", &run_dir]);
        let (path, none) = (path(&config), none(&config));
        let everyone = serde_json::json!({"podSelector": {}});
        let mut cluster = Cluster::of(&[policy("shop/one", &everyone)]);
        let mut file = Namespaces::default();
        let mut check = |cluster: &Cluster, changed: &[&str], text: &str| {
            let changed = changed.iter().map(|at| PolicyName::Namespaced(name(at)));
            let changed = changed.collect();
            file.write(&config, &cluster.snapshot, &changed).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text);
        };
        check(&cluster, &[], "shop\n");
        cluster.set(&[policy("bank/one", &everyone), policy("shop/two", &everyone)]);
        check(&cluster, &["bank/one", "shop/two"], "bank\nshop\n");
        cluster.gone(Key::NetworkPolicy(name("shop/one")));
        // Nothing differs, so no one looks at what lies there.
        fs::remove_file(&path).unwrap();
        check(&cluster, &["shop/one"], "");
        cluster.gone(Key::NetworkPolicy(name("shop/two")));
        check(&cluster, &["shop/two"], "bank\n");
        // Of namespaces that come later no one can say here whether one is about them.
        cluster.set(&[cluster_policy("wide", &serde_json::json!({}))]);
        check(&cluster, &[], "*\nbank\n");
        cluster.gone(Key::ClusterNetworkPolicy("wide".into()));
        check(&cluster, &[], "bank\n");
        file.say_none(&config).unwrap();
        assert!(!path.exists() && none.exists());
        file.write(&config, &cluster.snapshot, &BTreeSet::new())
            .unwrap();
        assert!(path.exists() && !none.exists());
        file.say_none(&config).unwrap();
        file.remove(&config).unwrap();
        assert!(!path.exists() && !none.exists());
    }

    #[test]
    fn what_others_have_put_in_the_place_of_a_file_is_replaced_and_neither_followed_nor_waited_for()
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy/namespaces");
        let victim = directory.path().join("victim");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&victim, "shop\n").unwrap();
        let plant: [&dyn Fn(); 5] = [
            &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
            &|| symlink("/dev/zero", &path).unwrap(),
            &|| symlink(&victim, &path).unwrap(),
            &|| fs::create_dir(&path).unwrap(),
            // The same, but of another user, who may write there later.
            &|| fs::write(&path, "shop\n").unwrap(),
        ];
        for plant in plant {
            plant();
            if fs::symlink_metadata(&path).unwrap().is_file() {
                chown(&path, Some(1000), None).unwrap();
            }
            put(&path, b"shop\n").unwrap();
            let found = fs::symlink_metadata(&path).unwrap();
            assert!(found.is_file() && found.uid() == 0, "{found:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "shop\n");
            remove(&path).unwrap();
        }
        put(&path, b"shop\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        put(&path, b"shop\n").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "{mode:o}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "shop\n");
    }

    #[test]
    fn directories_of_ours_are_not_writable_for_others_whatever_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/policy/none");
        let made = path.clone();
        let made = std::thread::spawn(move || {
            // From here on the thread has a umask of its own.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            nix::sys::stat::umask(nix::sys::stat::Mode::empty());
            put(&made, b"")
        });
        made.join().unwrap().unwrap();
        for parent in path.ancestors().skip(1).take(2) {
            let mode = fs::metadata(parent).unwrap().permissions().mode();
            assert_eq!(mode & 0o022, 0, "{}: {mode:o}", parent.display());
        }
    }
}
