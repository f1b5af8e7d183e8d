//! The file from which the plugin learns, without an agent, which namespaces have policies.
//!
//! It is there before the tables are, and goes after them. A policy that is new closes its namespace
//! there before it is in the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::files::{self, Durability, FileError};
use crate::snapshot::{ObjectName, Snapshot};

/// What is known of the file.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// The namespaces with policies; none if no one has looked.
    names: Option<BTreeSet<Arc<str>>>,
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
        path: &Path,
        snapshot: &Snapshot,
        changed: &BTreeSet<ObjectName>,
    ) -> Result<(), FileError> {
        let names = self.names.get_or_insert_with(|| {
            let policies = snapshot.policies.keys();
            policies.map(|name| name.namespace.clone()).collect()
        });
        for name in changed {
            let any = snapshot.policies_in(&name.namespace).next().is_some();
            self.written &= match any {
                true => !names.insert(name.namespace.clone()),
                false => !names.remove(&name.namespace),
            };
        }
        if self.written {
            return Ok(());
        }
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        if fs::read(path).ok().as_deref() != Some(text.as_bytes()) {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).map_err(FileError::of("create", directory))?;
            }
            files::replace(path, text.as_bytes(), 0o644, Durability::UntilBoot)?;
        }
        self.written = true;
        Ok(())
    }

    /// Removes the file.
    pub fn remove(&mut self, path: &Path) -> Result<(), FileError> {
        self.distrust();
        files::remove(path).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::policies::desired::samples::{Cluster, name, policy};
    use crate::snapshot::Key;

    #[test]
    fn the_file_follows_the_policies_and_is_written_only_for_a_namespace_that_differs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy/namespaces");
        let everyone = serde_json::json!({"podSelector": {}});
        let mut cluster = Cluster::of(&[policy("shop/one", &everyone)]);
        let mut file = Namespaces::default();
        let mut check = |cluster: &Cluster, changed: &[&str], text: &str| {
            let changed = changed.iter().map(|at| name(at)).collect();
            file.write(&path, &cluster.snapshot, &changed).unwrap();
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
        file.remove(&path).unwrap();
        assert!(!path.exists());
    }
}
