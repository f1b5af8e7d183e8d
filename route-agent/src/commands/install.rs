//! `podwire-agent install`: puts the plugin where the container runtime looks for it.
//!
//! The image has no shell and no `cp`, and a plugin that is being started must not be written to
//! ("text file busy") nor be seen half written: so the copy is made beside it and renamed over it.

use std::fs::{self, Metadata};
use std::io;
use std::iter::successors;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};

use clap::Args;
use podwire::files::{create_directory, read};
use tracing::info;

use crate::config::values::absolute_path;
use crate::files::{self, Durability, FileError};
use crate::ours::Removal;

/// The name under which the plugin is installed.
const PLUGIN: &str = "podwire";

/// The flags of `podwire-agent install`.
#[derive(Debug, Clone, Args)]
pub struct Install {
    /// The plugin to install.
    #[arg(
        long,
        env = "PODWIRE_PLUGIN",
        default_value = "/podwire",
        value_name = "FILE",
        value_parser = absolute_path()
    )]
    pub plugin: PathBuf,

    /// Where to.
    #[command(flatten)]
    pub bin_dir: BinDir,
}

/// The directory of the plugin, for all commands that ask for it.
#[derive(Debug, Clone, Args)]
pub struct BinDir {
    /// Where the container runtime looks for its CNI plugins.
    #[arg(
        id = "bin_dir",
        long = "bin-dir",
        env = "PODWIRE_CNI_BIN_DIR",
        default_value = "/opt/cni/bin",
        value_name = "DIR",
        value_parser = absolute_path()
    )]
    path: PathBuf,
}

impl Deref for BinDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Install {
    /// Installs the plugin, and `loopback` as a link to it if the node has none: containerd
    /// calls that for every pod.
    pub fn run(&self) -> Result<(), FileError> {
        // First what may be missing: an installation that fails leaves nothing behind.
        let unread = FileError::of("read the plugin (--plugin)", &self.plugin);
        let wanted = fs::read(&self.plugin).map_err(unread)?;
        create_directory(&self.bin_dir).map_err(FileError::of("create", &self.bin_dir))?;
        let target = self.bin_dir.join(PLUGIN);
        if is_installed(&target, &wanted) {
            info!(plugin = %target.display(), "is installed already");
        } else {
            files::replace(&target, &wanted, 0o755, Durability::Durable)?;
            info!(plugin = %target.display(), "installed");
        }
        link_loopback(&self.bin_dir.join("loopback"), &wanted)
    }

    /// Removes what [`run`](Self::run) has installed in this directory; returns which files.
    pub fn remove(bin_dir: &Path, how: Removal) -> Result<Vec<PathBuf>, FileError> {
        let mut removed = files::uninstall(&bin_dir.join(PLUGIN), how)?;
        let loopback = bin_dir.join("loopback");
        let is_ours = fs::read_link(&loopback).is_ok_and(|to| to == Path::new(PLUGIN));
        if is_ours {
            if how == Removal::Act {
                files::remove_if_there(&loopback)?;
            }
            removed.push(loopback);
        }
        Ok(removed)
    }
}

/// Whether the plugin is there as it should be, and a runtime can start it.
fn is_installed(target: &Path, wanted: &[u8]) -> bool {
    let is_executable = |found: Metadata| found.mode() & 0o555 == 0o555;
    read(target, wanted.len() as u64 + 1).is_ok_and(|present| present == wanted)
        && fs::symlink_metadata(target).is_ok_and(is_executable)
}

/// Makes `loopback`, unless the node has one that a runtime can start. A link that leads to none in its
/// directory is none, whosever it is, and so is an empty directory or file.
fn link_loopback(path: &Path, plugin: &[u8]) -> Result<(), FileError> {
    let starts = |found: Metadata| found.is_file() && found.len() > 0 && found.mode() & 0o111 != 0;
    if fs::metadata(path).is_ok_and(starts) || leads_out(path) {
        return Ok(());
    }
    match fs::symlink_metadata(path) {
        Ok(found) if is_anothers(path, &found, plugin) => {
            let why = io::Error::other("what is there is no program and not ours; move it away");
            return Err(FileError::of("make the loopback plugin", path)(why));
        }
        _ => files::remove_if_there(path)?,
    };
    match symlink(PLUGIN, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(FileError::of("create", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a link leads out of its directory, which is all that a container sees of the node: whether
/// anything is there cannot be judged. k3s links all its plugins so.
fn leads_out(path: &Path) -> bool {
    let next = |link: &PathBuf| Some(link.parent()?.join(fs::read_link(link).ok()?));
    let is_out = |to: PathBuf| {
        let up = to.components().any(|part| part == Component::ParentDir);
        up || !path.parent().is_some_and(|here| to.starts_with(here))
    };
    // As many as the kernel follows, and one of them may lead to itself.
    successors(next(&path.to_owned()), next)
        .take(40)
        .any(is_out)
}

/// Whether something that is no program is worth asking about before it goes: a file with content that
/// is not the plugin's, a device, a pipe. A directory goes only if it is empty.
fn is_anothers(path: &Path, found: &Metadata, plugin: &[u8]) -> bool {
    let is_plain = found.is_symlink() || found.is_dir();
    let is_ours = || {
        let most = plugin.len() as u64 + 1;
        found.is_file() && read(path, most).is_ok_and(|text| text.is_empty() || text == plugin)
    };
    !is_plain && !is_ours()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Node {
        directory: tempfile::TempDir,
        install: Install,
    }

    fn node() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let install = Install {
            plugin: directory.path().join("image"),
            bin_dir: BinDir {
                path: directory.path().join("opt/cni/bin"),
            },
        };
        fs::write(&install.plugin, "version 1").unwrap();
        Node { directory, install }
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_plugin_is_installed_executable_with_loopback_beside_it() {
        let Node { install, .. } = &node();
        install.run().unwrap();
        let target = install.bin_dir.join("podwire");
        assert_eq!(fs::read(&target).unwrap(), b"version 1");
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(
            fs::read(install.bin_dir.join("loopback")).unwrap(),
            b"version 1"
        );
        assert_eq!(names(&install.bin_dir), ["loopback", "podwire"]);
    }

    #[test]
    fn an_upgrade_replaces_the_file_and_never_writes_into_it() {
        let Node { install, .. } = &node();
        install.run().unwrap();
        let target = install.bin_dir.join("podwire");
        let running = File::open(&target).unwrap();
        fs::write(&install.plugin, "version 2").unwrap();
        install.run().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"version 2");
        assert_eq!(io::read_to_string(running).unwrap(), "version 1");
    }

    #[test]
    fn what_is_installed_already_is_not_touched() {
        let Node { install, .. } = &node();
        install.run().unwrap();
        let inode = || fs::metadata(install.bin_dir.join("podwire")).unwrap().ino();
        let before = inode();
        install.run().unwrap();
        assert_eq!(inode(), before);
    }

    #[test]
    fn what_no_runtime_can_start_is_not_taken_for_installed() {
        let Node { install, .. } = &node();
        install.run().unwrap();
        let target = install.bin_dir.join("podwire");
        let loopback = install.bin_dir.join("loopback");
        let starts = || {
            let found = fs::symlink_metadata(&target).unwrap();
            found.is_file()
                && found.mode() & 0o777 == 0o755
                && fs::read(&target).unwrap() == b"version 1"
                && fs::read(&loopback).unwrap() == b"version 1"
        };
        fs::set_permissions(&target, Permissions::from_mode(0o644)).unwrap();
        fs::remove_file(&loopback).unwrap();
        symlink("gone/loopback", &loopback).unwrap();
        install.run().unwrap();
        assert!(starts());
        // A link is someone's, and may lead elsewhere tomorrow; a pipe would never end.
        let pipe = || nix::unistd::mkfifo(&target, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let link = || symlink(&install.plugin, &target).unwrap();
        let directories = || {
            fs::create_dir(&target).unwrap();
            fs::create_dir(install.bin_dir.join(".podwire.temp")).unwrap();
        };
        let made: [&dyn Fn(); 3] = [&pipe, &link, &directories];
        for make in made {
            fs::remove_file(&target).unwrap();
            make();
            install.run().unwrap();
            assert!(starts());
        }
        assert_eq!(names(&install.bin_dir), ["loopback", "podwire"]);
    }

    #[test]
    fn a_loopback_plugin_of_the_node_stays() {
        let Node { install, .. } = &node();
        fs::create_dir_all(&*install.bin_dir).unwrap();
        let [loopback, elsewhere] =
            ["loopback", "elsewhere"].map(|name| install.bin_dir.join(name));
        fs::write(&elsewhere, "the node's own").unwrap();
        fs::set_permissions(&elsewhere, Permissions::from_mode(0o755)).unwrap();
        symlink("elsewhere", &loopback).unwrap();
        install.run().unwrap();
        assert_eq!(fs::read(&loopback).unwrap(), b"the node's own");
        fs::rename(&elsewhere, &loopback).unwrap();
        install.run().unwrap();
        assert_eq!(fs::read(&loopback).unwrap(), b"the node's own");
    }

    #[test]
    fn a_loopback_that_leads_out_of_its_directory_stays_though_nothing_is_seen_there() {
        let Node { install, .. } = &node();
        fs::create_dir_all(&*install.bin_dir).unwrap();
        let loopback = install.bin_dir.join("loopback");
        let k3s = "/var/lib/rancher/k3s/data/0a1b/bin/cni";
        symlink(k3s, install.bin_dir.join("cni")).unwrap();
        for to in [k3s, "../0a1b/bin/cni", "cni"] {
            symlink(to, &loopback).unwrap();
            install.run().unwrap();
            assert_eq!(fs::read_link(&loopback).unwrap(), Path::new(to));
            Install::remove(&install.bin_dir, Removal::Act).unwrap();
            assert_eq!(names(&install.bin_dir), ["cni", "loopback"]);
            fs::remove_file(&loopback).unwrap();
        }
    }

    #[test]
    fn a_loopback_that_no_runtime_can_start_is_replaced_or_named() {
        let Node { install, .. } = &node();
        install.run().unwrap();
        let loopback = install.bin_dir.join("loopback");
        let file = |text: &str, mode| {
            fs::write(&loopback, text).unwrap();
            fs::set_permissions(&loopback, Permissions::from_mode(mode)).unwrap();
        };
        let link = |to: &str| symlink(to, &loopback).unwrap();
        let replaced: [&dyn Fn(); 7] = [
            &|| link("loopback"),
            &|| link("."),
            &|| link("podwire/under"),
            &|| fs::create_dir(&loopback).unwrap(),
            &|| file("", 0o755),
            &|| file("", 0o644),
            &|| file("version 1", 0o644),
        ];
        for make in replaced {
            fs::remove_file(&loopback).unwrap();
            make();
            install.run().unwrap();
            assert_eq!(fs::read_link(&loopback).unwrap(), Path::new("podwire"));
        }
        fs::remove_file(&loopback).unwrap();
        let named: [&dyn Fn(); 3] = [
            &|| file("another's", 0o644),
            &|| nix::unistd::mkfifo(&loopback, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            &|| {
                fs::create_dir(&loopback).unwrap();
                fs::write(loopback.join("another's"), "").unwrap();
            },
        ];
        for make in named {
            make();
            let error = install.run().unwrap_err();
            assert!(error.to_string().ends_with("/loopback"), "{error}");
            assert!(
                error.source.to_string().contains("move it away"),
                "{error:?}"
            );
            files::remove_tree(&loopback).unwrap();
        }
    }

    #[test]
    fn what_was_installed_can_be_removed_and_nothing_else() {
        let Node { install, .. } = &node();
        install.run().unwrap();
        fs::write(install.bin_dir.join("bridge"), "another").unwrap();
        let removed = Install::remove(&install.bin_dir, Removal::Act).unwrap();
        assert_eq!(removed.len(), 2, "{removed:?}");
        assert_eq!(names(&install.bin_dir), ["bridge"]);
        assert_eq!(
            Install::remove(&install.bin_dir, Removal::Act)
                .unwrap()
                .len(),
            0
        );
        fs::write(install.bin_dir.join("loopback"), "the node's own").unwrap();
        assert_eq!(
            Install::remove(&install.bin_dir, Removal::Act)
                .unwrap()
                .len(),
            0
        );
    }

    #[test]
    fn an_error_names_the_file() {
        let Node {
            directory,
            mut install,
        } = node();
        install.plugin = directory.path().join("nothing");
        let error = install.run().unwrap_err();
        let named = error.to_string();
        assert!(named.starts_with("cannot read the plugin (--plugin) /"));
        assert!(error.to_string().ends_with("/nothing"), "{error}");
        assert!(
            !directory.path().join("opt").exists(),
            "nothing is left of it"
        );
    }
}
