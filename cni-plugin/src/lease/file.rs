//! What a name that spells an address holds: a lease, or whatever else was put there.
//!
//! Reading never follows a link, never waits for the other end of a pipe, and never fails for the
//! sake of one name: what cannot be understood is an address whose owner is unknown.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::Owner;

/// Longer files are not leases. What they name came in the environment, of which no variable is
/// longer (`MAX_ARG_STRLEN`, linux/binfmts.h): whatever was leased can be released.
const LONGEST: u64 = 128 << 10;

/// Whose an address is, by its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// One interface of one container's.
    Owner(Owner),
    /// No one's: a file that a crash left empty or full of zeros, or that is about to be written.
    NoOne,
    /// It cannot be known, and why.
    Unknown(String),
}

/// The file of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whose the address is.
    pub holder: Holder,
    /// When the file was written.
    pub since: SystemTime,
}

/// Looks at the file `name` of an address in a directory; `None` if there is none. Fails only if the
/// process cannot open any file.
pub fn look(directory: impl AsFd, name: &str) -> Result<Option<Found>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let unknown = |reason: &str| {
        let holder = Holder::Unknown(reason.to_owned());
        let since = SystemTime::UNIX_EPOCH;
        Ok(Some(Found { holder, since }))
    };
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => return Err(errno),
        Err(Errno::ELOOP) => return unknown("it is a symbolic link"),
        Err(Errno::ENXIO) => return unknown("it is a socket"),
        Err(errno) => return unknown(errno.desc()),
    };
    let metadata = match file.metadata() {
        Ok(metadata) if metadata.is_dir() => return unknown("it is a directory"),
        Ok(metadata) if !metadata.is_file() => return unknown("it is not a regular file"),
        Ok(metadata) => metadata,
        Err(error) => return unknown(&error.to_string()),
    };
    let mut content = Vec::with_capacity(256);
    if let Err(error) = file.take(LONGEST + 1).read_to_end(&mut content) {
        return unknown(&error.to_string());
    }
    Ok(Some(Found {
        holder: Holder::of(&content),
        since: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    }))
}

impl Holder {
    /// Whose the lease is that holds `content`.
    fn of(content: &[u8]) -> Self {
        if content.len() as u64 > LONGEST {
            return Self::Unknown(format!("it is longer than {LONGEST} bytes"));
        }
        if let Some(owner) = Owner::parse(content) {
            return Self::Owner(owner);
        }
        let says_nothing = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
        if content.iter().all(says_nothing) {
            Self::NoOne
        } else {
            Self::Unknown("it names no container".to_owned())
        }
    }

    /// The owner, if it is known.
    pub fn owner(self) -> Option<Owner> {
        match self {
            Self::Owner(owner) => Some(owner),
            Self::NoOne | Self::Unknown(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_leaves_is_no_one_s_and_what_is_not_understood_is_unknown() {
        for content in [&b""[..], b"\r\n", b"\0\0\0\0", b" \n"] {
            assert_eq!(Holder::of(content), Holder::NoOne, "{content:?}");
        }
        let long = vec![b'a'; LONGEST as usize + 1];
        for content in [&b"\xff\xfe"[..], b"abc\0\0", &long] {
            let holder = Holder::of(content);
            assert!(matches!(holder, Holder::Unknown(_)), "{holder:?}");
        }
    }
}
