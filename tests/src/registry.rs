//! Which labs are up on this machine.
//!
//! Each lab has a directory `/run/podwire-lab/NAME` with one file that names the process which
//! holds it. That is all a lab leaves on the host; the directory goes with `down`, and if that
//! never ran, the next command that looks removes it, because its process is gone. The start
//! time tells a process from a later one with the same PID.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::wait;

/// The directory that holds a directory for each lab.
const DIRECTORY: &str = "/run/podwire-lab";

/// The longest name of a lab.
const LONGEST_NAME: usize = 32;

/// A process, told from later ones with the same PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its PID.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    started: u64,
}

impl Process {
    /// The process with this PID, if it is alive.
    pub fn find(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so count from the last one (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, started) = (fields.first()?, fields.get(19)?);
        if matches!(*state, "Z" | "X") {
            return None;
        }
        Some(Process {
            pid,
            started: started.parse().ok()?,
        })
    }

    /// This process.
    fn own() -> Result<Process> {
        let pid = nix::unistd::getpid().as_raw();
        Process::find(pid).ok_or_else(|| Error::Unreadable {
            path: "/proc/self/stat".into(),
            reason: "it does not describe this process".into(),
        })
    }

    /// Whether it is the one that asks.
    pub fn is_this_one(self) -> bool {
        self.pid == nix::unistd::getpid().as_raw()
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Process::find(self.pid) == Some(self)
    }

    /// Ends it with SIGKILL, if it still runs.
    pub fn kill(self) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// What is recorded of a lab. An earlier `podwire-lab` on this machine reads the first two numbers, and
/// writes nothing else: each would otherwise take the other's labs for dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    /// The process that holds it.
    #[serde(flatten)]
    holder: Process,
    /// The process that raised it, as long as the lab ends with that one.
    #[serde(default)]
    raiser: Option<Process>,
}

impl Held {
    /// Whether the lab is about to end, though its process is still there: no one keeps it, or it has
    /// left its namespaces already, as it does before it waits for all that lived in them.
    fn is_ending(&self) -> bool {
        let namespace = format!("/proc/{}/ns/mnt", self.holder.pid);
        self.raiser.is_some_and(|raiser| !raiser.is_alive()) || fs::read_link(namespace).is_err()
    }
}

/// Where a lab is recorded, while it is being raised and while it is up.
#[derive(Debug)]
pub struct Entry {
    name: String,
    held: Held,
}

/// How long the kernel may take to kill what lives in a lab.
pub const END_LIMIT: Duration = Duration::from_secs(20);

impl Entry {
    /// Takes the name for a lab that is about to be raised.
    pub fn claim(name: &str) -> Result<Entry> {
        require_root()?;
        check_name(name)?;
        forget_the_dead();
        let own = Process::own()?;
        // Until the lab's own process is known, this one holds the name.
        let held = Held {
            holder: own,
            raiser: Some(own),
        };
        let entry = Entry {
            name: name.into(),
            held,
        };
        loop {
            let lock = lock()?;
            let Some(before) = held_by_name(name) else {
                let directory = directory(name);
                let _ = fs::remove_dir_all(&directory);
                fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
                entry.write()?;
                return Ok(entry);
            };
            drop(lock);
            if !before.is_ending() {
                return Err(Error::AlreadyUp { name: name.into() });
            }
            wait::until(&format!("the end of lab {name}"), END_LIMIT, || {
                !before.holder.is_alive()
            })?;
        }
    }

    /// Takes `stem`, or the first of `stem-2`, `stem-3` and so on that is free.
    pub fn claim_free(stem: &str) -> Result<Entry> {
        let mut number = 1;
        loop {
            let name = if number == 1 {
                stem.to_owned()
            } else {
                format!("{stem}-{number}")
            };
            match Entry::claim(&name) {
                Err(Error::AlreadyUp { .. }) => number += 1,
                result => return result,
            }
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Records which process holds the lab.
    pub fn set_holder(&mut self, process: Process) -> Result<()> {
        self.held.holder = process;
        self.write()
    }

    /// Records that the lab outlives the process that raised it.
    pub fn set_staying(&mut self) -> Result<()> {
        self.held.raiser = None;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let path = record(&self.name);
        let text = serde_json::to_vec(&self.held).expect("a Held is plain data");
        let beside = path.with_extension("new");
        fs::write(&beside, text).map_err(Error::file("write", &beside))?;
        fs::rename(&beside, &path).map_err(Error::file("rename", path))
    }

    /// Where the lab's own process logs.
    pub fn log(&self) -> PathBuf {
        directory(&self.name).join("log")
    }

    /// Removes the record, and the common directory if it was the last one.
    pub fn remove(self) {
        remove(&self.name, self.held.holder);
    }
}

/// Removes what is recorded of the lab that this process held, unless the name has passed to another
/// one meanwhile.
pub fn remove(name: &str, process: Process) {
    let Ok(_lock) = lock() else { return };
    if read(name).is_some_and(|held| held.holder == process) {
        let _ = fs::remove_dir_all(directory(name));
    }
    let _ = fs::remove_dir(DIRECTORY);
}

/// The process that holds the lab, if it is up.
pub fn holder(name: &str) -> Option<Process> {
    let held = held_by_name(name)?;
    (!held.is_ending()).then_some(held.holder)
}

/// The process that holds the lab, were it about to end.
pub fn process(name: &str) -> Option<Process> {
    held_by_name(name).map(|held| held.holder)
}

fn held_by_name(name: &str) -> Option<Held> {
    read(name).filter(|held| held.holder.is_alive())
}

fn read(name: &str) -> Option<Held> {
    serde_json::from_slice(&fs::read(record(name)).ok()?).ok()
}

/// An error unless this process may make and enter namespaces.
pub fn require_root() -> Result<()> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(Error::NotRoot),
    }
}

/// The names of all labs that are up, sorted. Removes what crashed ones left.
pub fn all() -> Vec<String> {
    forget_the_dead();
    let mut names = recorded();
    names.retain(|name| holder(name).is_some());
    names.sort();
    names
}

/// Removes what crashed labs left.
fn forget_the_dead() {
    for name in recorded()
        .into_iter()
        .filter(|name| process(name).is_none())
    {
        // Under the lock, and asked again: it may just be being raised.
        if let Ok(_lock) = lock()
            && process(&name).is_none()
        {
            let _ = fs::remove_dir_all(directory(&name));
            let _ = fs::remove_dir(DIRECTORY);
        }
    }
}

fn recorded() -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn directory(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

fn record(name: &str) -> PathBuf {
    directory(name).join("holder.json")
}

/// An error unless the name can be a directory's.
pub fn check_name(name: &str) -> Result<()> {
    let fits = (1..=LONGEST_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits {
        Ok(())
    } else {
        Err(Error::BadLabName { name: name.into() })
    }
}

/// One command at a time looks at the records and changes them. The lock is on the directory
/// itself, so that no lock file is left behind.
fn lock() -> Result<Flock<File>> {
    let failed = |source: std::io::Error| Error::File {
        action: "lock",
        path: DIRECTORY.into(),
        source,
    };
    loop {
        fs::create_dir_all(DIRECTORY).map_err(failed)?;
        let directory = match File::open(DIRECTORY) {
            Ok(directory) => directory,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        let lock = Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed(errno.into()))?;
        // The last lab may have taken the directory away while we waited.
        let same = |a: fs::Metadata, b: fs::Metadata| {
            use std::os::unix::fs::MetadataExt;
            a.ino() == b.ino()
        };
        if let (Ok(held), Ok(named)) = (lock.metadata(), fs::metadata(DIRECTORY))
            && same(held, named)
        {
            return Ok(lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_not_another_one_with_its_pid() {
        let own = Process::own().unwrap();
        assert!(own.is_alive());
        assert!(
            !Process {
                started: own.started + 1,
                ..own
            }
            .is_alive()
        );
    }

    #[test]
    fn a_lab_ends_when_no_one_keeps_it() {
        let holder = Process::own().unwrap();
        let gone = Process {
            started: holder.started + 1,
            ..holder
        };
        for (raiser, ends) in [(None, false), (Some(holder), false), (Some(gone), true)] {
            assert_eq!(Held { holder, raiser }.is_ending(), ends, "{raiser:?}");
        }
    }

    #[test]
    fn earlier_programs_read_what_is_recorded_and_are_read() {
        let holder = Process::own().unwrap();
        let raiser = Some(holder);
        for held in [
            Held { holder, raiser },
            Held {
                holder,
                raiser: None,
            },
        ] {
            let text = serde_json::to_string(&held).unwrap();
            assert_eq!(serde_json::from_str::<Held>(&text).unwrap(), held);
            assert_eq!(serde_json::from_str::<Process>(&text).unwrap(), holder);
        }
        let old = serde_json::to_string(&holder).unwrap();
        let read = serde_json::from_str::<Held>(&old).unwrap();
        assert_eq!(
            read,
            Held {
                holder,
                raiser: None
            }
        );
    }

    #[test]
    fn names_that_are_no_directory_names_are_refused() {
        for bad in ["", "..", "a/b", "a b", &"x".repeat(33)] {
            assert!(
                matches!(check_name(bad), Err(Error::BadLabName { .. })),
                "{bad:?}"
            );
        }
        check_name("demo-2").unwrap();
    }
}
