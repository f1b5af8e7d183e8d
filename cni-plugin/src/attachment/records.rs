//! The directory of records of attachments.
//!
//! A record is a JSON file `<host link name>.json`; one that the plugin wrote as a chained
//! `portmap` is `<host link name>.portmap.json`. A process that changes records or the tables that
//! are made of them holds the lock of the directory, so none sees one without the other. The plugin
//! writes the record before it changes nftables and removes it afterwards: if it is killed in
//! between, the record is there, and the next DEL or the agent knows what to do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg};

use super::host_link_name;
use super::record::Record;
use crate::files;

/// The name under which a record is written first. The writer holds the lock.
const TEMPORARY: &str = ".new";

/// Longer files are not records: the configuration that they come from is no longer.
const LONGEST: u64 = 16 << 20;

/// The directory of records, locked as long as this value lives.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    _lock: Flock<File>,
}

/// A record that cannot be read; the others can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read attachment record {}: {reason}", path.display())]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Unreadable {
    /// The host end of the link that the record was about; `None` if its name does not say so.
    pub fn link(&self) -> Option<&str> {
        let link = self.path.file_name()?.to_str()?.strip_suffix(".json")?;
        let is_ours = link.starts_with("veth") && !link.contains('.');
        is_ours.then_some(link)
    }
}

/// Something about the directory of records that did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} {}: {}; the directory must be writable", path.display(), errno.desc())]
pub struct RecordError {
    /// What was attempted, as a verb phrase.
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub errno: Errno,
}

impl Records {
    /// Opens the directory and waits for its lock; makes it if there is none.
    pub fn create(directory: &Path) -> Result<Self, RecordError> {
        files::create_directory(directory)
            .map_err(|error| failed("create directory", directory, &error))?;
        Self::lock(directory, FlockArg::LockExclusive)
    }

    /// Opens the directory unless another process has its lock; `None` if so, or if there is none.
    pub fn try_open(directory: &Path) -> Result<Option<Self>, RecordError> {
        if !directory.is_dir() {
            return Ok(None);
        }
        match Self::lock(directory, FlockArg::LockExclusiveNonblock) {
            Err(error) if error.errno == Errno::EWOULDBLOCK => Ok(None),
            locked => locked.map(Some),
        }
    }

    /// Opens the directory and waits for its lock; `None` if there is none, and so no record.
    pub fn open(directory: &Path) -> Result<Option<Self>, RecordError> {
        if !directory.is_dir() {
            return Ok(None);
        }
        Self::lock(directory, FlockArg::LockExclusive).map(Some)
    }

    fn lock(directory: &Path, kind: FlockArg) -> Result<Self, RecordError> {
        let path = directory.join("lock");
        match files::lock(AT_FDCWD, &path, kind) {
            Ok(lock) => Ok(Self {
                directory: directory.to_owned(),
                _lock: lock,
            }),
            Err(errno) => Err(failed("lock", &path, &errno.into())),
        }
    }

    /// All records, the oldest first, and what could not be read.
    pub fn read_all(&self) -> Result<(Vec<Record>, Vec<Unreadable>), RecordError> {
        let mut records = Vec::new();
        let mut unreadable = Vec::new();
        let wrong = |error| failed("list", &self.directory, &error);
        for entry in fs::read_dir(&self.directory).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if !name.is_some_and(is_record) {
                continue;
            }
            match read(&path) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(reason) => unreadable.push(Unreadable { path, reason }),
            }
        }
        records.sort_unstable_by(|a, b| a.since.cmp(&b.since).then_with(|| a.cmp(b)));
        Ok((records, unreadable))
    }

    /// Whether there is a record of this attachment in `directory`, readable or not.
    pub fn has(directory: &Path, container_id: &str, ifname: &str, chained: bool) -> bool {
        let path = directory.join(file_name(container_id, ifname, chained));
        path.symlink_metadata().is_ok()
    }

    /// How many records there are, readable or not. What is no file is none.
    pub fn count(&self) -> Result<usize, RecordError> {
        let wrong = |error| failed("list", &self.directory, &error);
        let entries = fs::read_dir(&self.directory).map_err(wrong)?;
        let is_counted = |entry: &fs::DirEntry| {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            is_file && entry.file_name().to_str().is_some_and(is_record)
        };
        Ok(entries.flatten().filter(is_counted).count())
    }

    /// The record of one attachment, if there is one; or why it cannot be read.
    pub fn find(
        &self,
        container_id: &str,
        ifname: &str,
        chained: bool,
    ) -> Result<Option<Record>, String> {
        let record = read(&self.path(container_id, ifname, chained))?;
        // Another container with the same hash is not this one.
        Ok(record.filter(|one| one.container_id == container_id && one.ifname == ifname))
    }

    /// The record of one attachment, if there is one that can be read.
    pub fn get(&self, container_id: &str, ifname: &str, chained: bool) -> Option<Record> {
        self.find(container_id, ifname, chained).ok().flatten()
    }

    /// Writes a record, in place of the one of the same attachment. It is there complete or not at
    /// all if the plugin is killed. Nothing is synced to a disk: `/run` is in memory, and what a
    /// record is about, links and nftables, ends with the boot as well.
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.container_id, &record.ifname, record.chained);
        let temporary = self.temporary();
        let write = || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create_new(true).mode(0o600);
            let mut file = options.open(&temporary)?;
            file.write_all(record.print().to_string().as_bytes())?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            failed("write attachment record", &path, &error)
        })
    }

    /// Removes the record of an attachment; says whether there was one.
    pub fn remove(
        &self,
        container_id: &str,
        ifname: &str,
        chained: bool,
    ) -> Result<bool, RecordError> {
        self.tidy();
        remove(&self.path(container_id, ifname, chained))
    }

    /// Removes a record that cannot be read; says whether there was one.
    pub fn remove_unreadable(&self, one: &Unreadable) -> Result<bool, RecordError> {
        remove(&one.path)
    }

    /// Removes what a call that was killed may have left half-written.
    pub fn tidy(&self) {
        self.temporary();
    }

    fn temporary(&self) -> PathBuf {
        files::temporary(AT_FDCWD, &self.directory.join(TEMPORARY))
    }

    fn path(&self, container_id: &str, ifname: &str, chained: bool) -> PathBuf {
        self.directory
            .join(file_name(container_id, ifname, chained))
    }
}

/// The name of the file of a record.
fn file_name(container_id: &str, ifname: &str, chained: bool) -> String {
    let name = host_link_name(container_id, ifname);
    let kind = if chained { ".portmap.json" } else { ".json" };
    format!("{name}{kind}")
}

/// Whether a file of this name is a record.
fn is_record(name: &str) -> bool {
    name.ends_with(".json") && !name.starts_with('.')
}

/// The record in a file; `None` if there is no such file (any more).
fn read(path: &Path) -> Result<Option<Record>, String> {
    let bytes = match files::read(path, LONGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let document = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let record = Record::parse(&document).map_err(|error| error.to_string())?;
    let name = file_name(&record.container_id, &record.ifname, record.chained);
    if path.file_name() != Some(name.as_ref()) {
        return Err("it is about another attachment than its name".to_owned());
    }
    Ok(Some(record))
}

fn remove(path: &Path) -> Result<bool, RecordError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A directory of that name is not a record; what is in it is not ours to remove.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            Ok(fs::remove_dir(path).is_ok())
        }
        Err(error) => Err(failed("remove attachment record", path, &error)),
    }
}

fn failed(action: &'static str, path: &Path, error: &io::Error) -> RecordError {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let path = path.to_owned();
    RecordError {
        action,
        path,
        errno,
    }
}

#[cfg(test)]
mod tests {
    use podwire_kernel::Protocol;
    use serde_json::{Value, json};

    use super::super::record::{ALWAYS_WRITTEN, HostPort};
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            container_id: id.into(),
            ifname: "eth0".into(),
            network: "net".into(),
            pod: Some(("default".into(), "web-0".into())),
            since: 1,
            chained: false,
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            host_ports: vec![HostPort {
                protocol: Protocol::Udp,
                host_ip: Some("192.0.2.1".parse().unwrap()),
                host_port: 8080,
                container_port: 80,
            }],
            snat: true,
            masquerade_all: true,
            ip_masq: vec!["10.0.0.2/24".parse().unwrap()],
        }
    }

    #[test]
    fn a_record_reads_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::create(&folder.path().join("a/b")).unwrap();
        records.write(&record("x")).unwrap();
        records.write(&record("y")).unwrap();
        assert_eq!(records.get("x", "eth0", false), Some(record("x")));
        assert_eq!(records.get("x", "eth1", false), None);
        let (all, unreadable) = records.read_all().unwrap();
        assert_eq!(all, [record("x"), record("y")]);
        assert_eq!(unreadable, []);
    }

    #[test]
    fn a_chained_record_stands_beside_the_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::create(folder.path()).unwrap();
        let mut chained = record("x");
        chained.chained = true;
        records.write(&record("x")).unwrap();
        records.write(&chained).unwrap();
        assert!(records.remove("x", "eth0", false).unwrap());
        assert_eq!(records.get("x", "eth0", true), Some(chained));
    }

    #[test]
    fn removing_a_record_leaves_nothing_and_can_be_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::create(folder.path()).unwrap();
        records.write(&record("x")).unwrap();
        fs::write(folder.path().join(TEMPORARY), "half a rec").unwrap();
        assert!(records.remove("x", "eth0", false).unwrap());
        assert!(!records.remove("x", "eth0", false).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the lock");
    }

    #[test]
    fn a_broken_record_is_named_and_does_not_hide_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::create(folder.path()).unwrap();
        records.write(&record("x")).unwrap();
        for (name, content) in [("a.json", "{"), ("b.json", r#"{"hostPorts": [{}]}"#)] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let (all, unreadable) = records.read_all().unwrap();
        assert_eq!(all, [record("x")]);
        assert_eq!(unreadable.len(), 2);
        assert!(unreadable[0].to_string().contains(".json: "));
    }

    #[test]
    fn a_record_that_lost_some_of_its_content_or_is_about_another_attachment_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::create(folder.path()).unwrap();
        records.write(&record("x")).unwrap();
        let path = records.path("x", "eth0", false);
        let whole = record("x").print();
        let mut contents = vec![json!({}), record("y").print()];
        for key in ALWAYS_WRITTEN {
            for value in [None, Some(Value::Null)] {
                let mut content = whole.clone();
                let fields = content.as_object_mut().unwrap();
                fields.remove(key);
                fields.extend(value.map(|value| (key.to_owned(), value)));
                contents.push(content);
            }
        }
        let mut chained = whole.clone();
        chained["chained"] = true.into();
        contents.push(chained);
        for content in contents {
            fs::write(&path, content.to_string()).unwrap();
            records.find("x", "eth0", false).unwrap_err();
            assert_eq!(records.read_all().unwrap().1.len(), 1, "{content}");
        }
        fs::write(&path, whole.to_string()).unwrap();
        assert_eq!(records.get("x", "eth0", false), Some(record("x")));
    }

    #[test]
    fn one_at_a_time_works_on_the_records() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::create(folder.path()).unwrap();
        let try_lock = || {
            let file = File::open(folder.path().join("lock")).unwrap();
            Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
        };
        assert!(!try_lock());
        drop(records);
        assert!(try_lock());
    }

    #[test]
    fn without_a_directory_there_are_no_records() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            Records::open(&folder.path().join("none"))
                .unwrap()
                .is_none()
        );
    }
}
