//! Kernel settings before ours.
//!
//! Every change of a setting goes through here: the value that was found goes into a file in
//! the run directory first, and ours with it, so that `uninstall` can put it back where ours is still
//! in force. The file lives as long as the settings do: both are gone after a reboot.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use podwire::files::{create_directory, read_own};
use podwire_kernel::sysctl;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{self, Durability, FileError};
use crate::ours::Removal;

/// Whether IPv4 packets are forwarded.
pub const IPV4_FORWARDING: &str = "net/ipv4/ip_forward";
/// Whether IPv6 packets are forwarded.
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";
/// Lets packets to and from 127.0.0.0/8 use other links than `lo`.
pub const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";
/// How many connections may be tracked.
pub const CONNTRACK_MAX: &str = "net/netfilter/nf_conntrack_max";
/// How long an open TCP connection may be idle.
pub const TIMEOUT_ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";
/// How long one may be half-closed.
pub const TIMEOUT_CLOSE_WAIT: &str = "net/netfilter/nf_conntrack_tcp_timeout_close_wait";
/// Whether packets outside of a TCP connection's window belong to it.
pub const BE_LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";

/// Those and [`accept_ra`] are all that is ever changed, and so all that is put back.
const KEYS: [&str; 7] = [
    IPV4_FORWARDING,
    IPV6_FORWARDING,
    ROUTE_LOCALNET,
    CONNTRACK_MAX,
    TIMEOUT_ESTABLISHED,
    TIMEOUT_CLOSE_WAIT,
    BE_LIBERAL,
];

const FILE: &str = "sysctl.json";

/// More than a record of all settings.
const LONGEST: u64 = 1 << 20;

/// Where what is no record goes, before it is written anew.
const UNREADABLE: &str = "sysctl.json.unreadable";

/// By keys.
type Originals = BTreeMap<String, Original>;

/// The file, and what is known from it.
struct Record {
    path: PathBuf,
    originals: Originals,
    /// Something in it was not understood.
    is_doubtful: bool,
}

/// What is known of a setting that we changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Original {
    /// The value that was found first, and the one that we set last.
    Changed([String; 2]),
    /// The value that was found; earlier versions wrote down no more.
    Found(String),
}

/// A setting could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] podwire_kernel::Error),
    /// The record of changed settings cannot be written.
    #[error(transparent)]
    Record(#[from] FileError),
}

/// The setting by which a link hears router advertisements.
pub fn accept_ra(link: &str) -> String {
    format!("net/ipv6/conf/{link}/accept_ra")
}

/// Sets a value unless it is set, and keeps the one before; says whether it had to be changed.
pub fn ensure(key: &str, value: &str, run_dir: &Path) -> Result<bool, Error> {
    debug_assert!(is_one_of_ours(key), "{key} would not be put back");
    let before = sysctl::read(key)?;
    if before == value {
        return Ok(false);
    }
    remember(run_dir, key, &before, value)?;
    sysctl::write(key, value)?;
    tracing::info!(key, value, "kernel setting changed");
    Ok(true)
}

/// The value that a setting had before the first change of ours, or has now if there was none.
pub fn before_us(key: &str, run_dir: &Path) -> Result<String, Error> {
    match Record::read(run_dir).originals.get(key) {
        Some(original) => Ok(original.before().to_owned()),
        None => Ok(sysctl::read(key)?),
    }
}

/// Puts everything back that is ours still, and forgets it; returns what, in a few words each. What
/// cannot be put back stays on record, and does not keep the others from it.
pub fn restore(run_dir: &Path, how: Removal) -> Result<Vec<String>, Error> {
    let mut record = Record::read(run_dir);
    let mut restored = Vec::new();
    let mut failure = None;
    for (key, original) in std::mem::take(&mut record.originals) {
        let value = original.before();
        match put_back(&key, &original, how) {
            Ok(false) => {}
            Ok(true) => restored.push(match how {
                Removal::Act => format!("our value of sysctl {key}: it is {value} again"),
                Removal::Look => format!("our value of sysctl {key}: it was {value} before"),
            }),
            Err(error) => {
                tracing::warn!(key, value, %error, "kernel setting not put back");
                failure.get_or_insert(error);
                record.originals.insert(key, original);
            }
        }
    }
    if let Some(failure) = failure {
        if how == Removal::Act {
            record.write()?;
        }
        return Err(failure.into());
    }
    if how == Removal::Act {
        record.put_aside();
    }
    files::uninstall(&record.path, how)?;
    Ok(restored)
}

/// Puts one setting back if it is ours still, and forgets it; says to what, if that changed it. What
/// we never changed stays.
pub fn restore_one(key: &str, run_dir: &Path) -> Result<Option<String>, Error> {
    let mut record = Record::read(run_dir);
    let Some(original) = record.originals.remove(key) else {
        return Ok(None);
    };
    let changed = put_back(key, &original, Removal::Act)?;
    record.write()?;
    Ok(changed.then(|| original.before().to_owned()))
}

/// Puts a setting back, or only looks; says whether there is something to put back.
fn put_back(key: &str, original: &Original, how: Removal) -> podwire_kernel::Result<bool> {
    let now = match sysctl::read(key) {
        // An interface that is gone took its settings with it.
        Err(error) if error.is_not_found() => return Ok(false),
        now => now?,
    };
    if now == original.before() {
        return Ok(false);
    }
    if !original.is_ours(&now) {
        tracing::info!(key, now, "kernel setting stays: its value is not ours");
        return Ok(false);
    }
    if how == Removal::Act {
        sysctl::write(key, original.before())?;
    }
    Ok(true)
}

/// Of the values found, the first is the one to keep.
fn remember(run_dir: &Path, key: &str, before: &str, ours: &str) -> Result<(), Error> {
    let mut record = Record::read(run_dir);
    let known = record.originals.get(key);
    let first = known.map_or(before, Original::before);
    let now = Original::Changed([first.to_owned(), ours.to_owned()]);
    if known == Some(&now) && !record.is_doubtful {
        return Ok(());
    }
    record.originals.insert(key.to_owned(), now);
    record.write()
}

impl Record {
    /// What others can have written is no record, and is replaced by the next change; so is what is
    /// not understood, entry by entry. Neither can a record bring root to write other settings than
    /// ours.
    fn read(run_dir: &Path) -> Self {
        let mut record = Self {
            path: run_dir.join(FILE),
            originals: Originals::new(),
            is_doubtful: false,
        };
        let path = record.path.display();
        match read_own(&record.path, LONGEST) {
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(entries) => record.understand(entries),
                Err(error) => {
                    tracing::warn!(%path, %error, "no record of kernel settings: none is put back");
                    record.is_doubtful = true;
                }
            },
            Ok(None) => {
                tracing::warn!(%path, "not read: it is a link or no file, or others can have written it");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%path, %error, "cannot read which kernel settings were changed")
            }
        }
        if record.is_doubtful {
            // What guards it goes with our tables, so it is taken to be ours, and off before.
            let opened = Original::Changed(["0".to_owned(), "1".to_owned()]);
            let key = ROUTE_LOCALNET.to_owned();
            record.originals.entry(key).or_insert(opened);
        }
        record
    }

    fn understand(&mut self, entries: BTreeMap<String, Value>) {
        for (key, value) in entries {
            if !is_one_of_ours(&key) {
                tracing::warn!(key, "not put back: we never change this setting");
            } else if let Ok(original) = Original::deserialize(&value) {
                self.originals.insert(key, original);
            } else {
                tracing::warn!(key, %value, "not put back: this is not what a setting was before");
                self.is_doubtful = true;
            }
        }
    }

    fn write(&self) -> Result<(), Error> {
        let path = &self.path;
        let text = serde_json::to_vec_pretty(&self.originals)
            .map_err(|error| FileError::of("write", path)(error.into()))?;
        if let Some(run_dir) = path.parent() {
            create_directory(run_dir).map_err(FileError::of("create", run_dir))?;
        }
        self.put_aside();
        files::remove_directory(path)?;
        // The settings end with the boot, and so may their record.
        Ok(files::replace(path, &text, 0o644, Durability::UntilBoot)?)
    }

    /// Keeps a file that was not understood, for a person who may know more; that failing is no
    /// reason to do without the settings.
    fn put_aside(&self) {
        if !self.is_doubtful {
            return;
        }
        let kept = self.path.with_file_name(UNREADABLE);
        let path = kept.display();
        match files::rename(&self.path, &kept) {
            Ok(()) => {
                tracing::warn!(%path, "holds what was not understood of the changed settings")
            }
            Err(error) => tracing::warn!(%path, %error, "cannot keep what was not understood"),
        }
    }
}

fn is_one_of_ours(key: &str) -> bool {
    let link = key.strip_prefix("net/ipv6/conf/");
    let link = link.and_then(|rest| rest.strip_suffix("/accept_ra"));
    KEYS.contains(&key) || link.is_some_and(|link| !link.contains('/'))
}

impl Original {
    /// The value that was found first.
    fn before(&self) -> &str {
        match self {
            Self::Changed([before, _]) | Self::Found(before) => before,
        }
    }

    /// Whether a value is the one that we set; without a word on that, any other than the first.
    fn is_ours(&self, now: &str) -> bool {
        match self {
            Self::Changed([_, ours]) => now == ours,
            Self::Found(before) => now != before,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    use podwire_kernel::netns::unshare_thread;

    use super::*;

    /// A run directory with this record, in a network namespace of its own.
    fn with_record(text: &str) -> tempfile::TempDir {
        unshare_thread().expect("needs root: it makes a network namespace");
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), text).unwrap();
        directory
    }

    #[test]
    fn the_first_value_found_is_kept_however_often_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        remember(&run_dir, IPV4_FORWARDING, "1", "5").unwrap();
        remember(&run_dir, ROUTE_LOCALNET, "2", "6").unwrap();
        remember(&run_dir, IPV4_FORWARDING, "3", "7").unwrap();
        let text = fs::read_to_string(run_dir.join(FILE)).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({ROUTE_LOCALNET: ["2", "6"], IPV4_FORWARDING: ["1", "7"]});
        assert_eq!(kept, expected);
    }

    #[test]
    fn what_is_no_record_stops_no_setting_and_is_kept_aside() {
        for text in ["", "{", "[1]", "7", "\u{0}"] {
            let directory = with_record(text);
            let run_dir = directory.path();
            sysctl::write(IPV4_FORWARDING, "0").unwrap();
            assert_eq!(before_us(IPV4_FORWARDING, run_dir).unwrap(), "0");
            assert_eq!(restore_one(IPV4_FORWARDING, run_dir).unwrap(), None);
            assert_eq!(restore(run_dir, Removal::Look).unwrap(), [""; 0]);
            assert!(ensure(IPV4_FORWARDING, "1", run_dir).unwrap());
            let kept = fs::read_to_string(run_dir.join(UNREADABLE)).unwrap();
            assert_eq!(kept, text);
            assert_eq!(restore(run_dir, Removal::Act).unwrap().len(), 1);
            assert_eq!(sysctl::read(IPV4_FORWARDING).unwrap(), "0");
            fs::write(run_dir.join(FILE), text).unwrap();
            assert_eq!(restore(run_dir, Removal::Act).unwrap(), [""; 0]);
            assert!(!run_dir.join(FILE).exists());
        }
    }

    #[test]
    fn of_a_record_with_one_entry_of_the_wrong_shape_the_others_count() {
        let text = r#"{"net/ipv4/ip_forward": ["0", "1"], "net/ipv4/conf/all/route_localnet": {"was": 0}}"#;
        let directory = with_record(text);
        let run_dir = directory.path();
        sysctl::write(IPV4_FORWARDING, "1").unwrap();
        assert!(ensure(ROUTE_LOCALNET, "1", run_dir).unwrap());
        let kept = fs::read_to_string(run_dir.join(UNREADABLE)).unwrap();
        assert_eq!(kept, text);
        assert_eq!(restore(run_dir, Removal::Act).unwrap().len(), 2);
        assert_eq!(sysctl::read(IPV4_FORWARDING).unwrap(), "0");
    }

    #[test]
    fn a_record_of_another_user_is_not_read_and_no_pipe_waited_for() {
        let directory = with_record(r#"{"net/ipv4/ip_forward": "0"}"#);
        let (run_dir, path) = (directory.path(), directory.path().join(FILE));
        chown(&path, Some(1000), None).unwrap();
        sysctl::write(IPV4_FORWARDING, "1").unwrap();
        assert_eq!(restore(run_dir, Removal::Look).unwrap(), [""; 0]);
        assert_eq!(before_us(IPV4_FORWARDING, run_dir).unwrap(), "1");
        for target in ["directory", "pipe", "/dev/zero"] {
            fs::remove_file(&path).unwrap();
            match target {
                "directory" => fs::create_dir(&path).unwrap(),
                "pipe" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
                target => symlink(target, &path).unwrap(),
            }
            assert_eq!(before_us(IPV4_FORWARDING, run_dir).unwrap(), "1");
            assert!(ensure(IPV4_FORWARDING, "0", run_dir).unwrap());
            assert_eq!(restore(run_dir, Removal::Look).unwrap().len(), 1);
            sysctl::write(IPV4_FORWARDING, "1").unwrap();
        }
    }

    #[test]
    fn a_setting_that_we_never_change_is_not_put_back_whatever_the_record_says() {
        let text = r#"{"net/ipv4/ip_default_ttl": "7", "net/ipv6/conf/a/b/accept_ra": "0"}"#;
        let directory = with_record(text);
        let before = sysctl::read("net/ipv4/ip_default_ttl").unwrap();
        let restored = restore(directory.path(), Removal::Act).unwrap();
        assert_eq!(restored, [""; 0]);
        let after = sysctl::read("net/ipv4/ip_default_ttl").unwrap();
        assert_eq!(after, before);
    }

    #[test]
    fn what_the_kernel_refuses_stays_on_record_and_the_rest_is_put_back() {
        let text = r#"{"net/ipv4/conf/all/route_localnet": "none", "net/ipv4/ip_forward": "1"}"#;
        let directory = with_record(text);
        sysctl::write(IPV4_FORWARDING, "0").unwrap();
        let error = restore(directory.path(), Removal::Act).unwrap_err();
        assert!(error.to_string().contains("route_localnet"), "{error}");
        assert_eq!(sysctl::read(IPV4_FORWARDING).unwrap(), "1");
        let left = Record::read(directory.path()).originals;
        assert_eq!(left.keys().collect::<Vec<_>>(), [ROUTE_LOCALNET]);
    }

    #[test]
    fn a_value_that_another_has_set_since_stays() {
        let directory = with_record("{}");
        let run_dir = directory.path();
        // The kernel takes any number for it.
        let key = ROUTE_LOCALNET;
        for (before, ours, since, after) in [("2", "3", "4", "4"), ("2", "3", "3", "2")] {
            sysctl::write(key, before).unwrap();
            ensure(key, ours, run_dir).unwrap();
            sysctl::write(key, since).unwrap();
            let changes = since != after;
            let would = restore(run_dir, Removal::Look).unwrap();
            assert_eq!(would.len(), usize::from(changes), "{would:?}");
            restore(run_dir, Removal::Act).unwrap();
            assert_eq!(sysctl::read(key).unwrap(), after);
            assert!(!run_dir.join(FILE).exists());
            sysctl::write(key, before).unwrap();
            ensure(key, ours, run_dir).unwrap();
            sysctl::write(key, since).unwrap();
            let one = restore_one(key, run_dir).unwrap();
            assert_eq!(one.as_deref(), changes.then_some(after));
            assert_eq!(sysctl::read(key).unwrap(), after);
        }
        // A record of an earlier version does not say what we set.
        sysctl::write(key, "4").unwrap();
        let text = r#"{"net/ipv4/conf/all/route_localnet": "2"}"#;
        fs::write(run_dir.join(FILE), text).unwrap();
        assert_eq!(restore(run_dir, Removal::Act).unwrap().len(), 1);
        assert_eq!(sysctl::read(key).unwrap(), "2");
    }
}
