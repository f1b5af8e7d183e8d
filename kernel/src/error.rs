//! What can go wrong between us and the kernel: one sentence per failure.
//!
//! [`Error`] says what was attempted on which object; [`Cause`] says why it failed. The display of
//! an [`Error`] is the whole sentence, so it has no `source()` and nothing is printed twice.

use std::fmt;
use std::fs;
use std::io;

use nix::errno::Errno;

/// The bit of CAP_NET_ADMIN (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

/// A result whose error names the operation, the object and the cause.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation on the kernel that failed: what, on what, why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What was attempted, as a verb phrase in lower case: `create link`, `add route`.
    pub operation: &'static str,
    /// The object of the operation, as a person would name it: `veth0a1b2c3d4e5`, `10.0.0.0/24`.
    pub object: String,
    /// Why it failed.
    pub cause: Cause,
}

/// Why an operation on the kernel failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The kernel answered the netlink request with an error.
    Refused {
        /// The error number, positive (`EPERM` is 1).
        errno: i32,
        /// The kernel's own explanation (extended ACK), if it gave one.
        explanation: Option<String>,
    },
    /// A system call failed: opening a file, entering a namespace, sending on a socket.
    System {
        /// The error number, positive.
        errno: i32,
    },
    /// An answer did not fit into the receive buffer of the socket, so what happened is unknown.
    AnswerLost,
    /// No answer came within the time-out of the socket.
    NoAnswer,
    /// The state changed under every attempt to read it consistently.
    Unstable,
    /// The kernel's answer could not be understood.
    Malformed(String),
    /// The object is not of the kind that the operation works on.
    Unsuitable(&'static str),
    /// The object does not exist.
    NotFound,
}

impl Error {
    /// An error of `operation` on `object`, because of `cause`.
    pub fn new(operation: &'static str, object: impl fmt::Display, cause: Cause) -> Self {
        Self {
            operation,
            object: object.to_string(),
            cause,
        }
    }

    /// The error number behind the failure, if the kernel gave one; positive, as in `errno.h`.
    /// An object that was looked for and not found counts as `ENODEV`.
    pub fn errno(&self) -> Option<i32> {
        self.cause.errno()
    }

    /// Whether the object was not there: `ENOENT`, `ENODEV`, `ESRCH`, `EADDRNOTAVAIL`, `ENXIO`.
    pub fn is_not_found(&self) -> bool {
        use libc::{EADDRNOTAVAIL, ENODEV, ENOENT, ENXIO, ESRCH};
        matches!(
            self.errno(),
            Some(ENOENT | ENODEV | ESRCH | EADDRNOTAVAIL | ENXIO)
        )
    }

    /// Whether the object was there already: `EEXIST`.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

impl Cause {
    /// The error number behind this cause, if there is one; see [`Error::errno`].
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } | Self::System { errno } => Some(*errno),
            Self::NotFound => Some(libc::ENODEV),
            Self::AnswerLost => Some(libc::ENOBUFS),
            Self::NoAnswer => Some(libc::ETIMEDOUT),
            Self::Unstable | Self::Malformed(_) | Self::Unsuitable(_) => None,
        }
    }

    /// Makes this cause the reason why `operation` on `object` failed.
    pub fn during(self, operation: &'static str, object: impl fmt::Display) -> Error {
        Error::new(operation, object, self)
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::System { errno },
            None => Self::Malformed(error.to_string()),
        }
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::System {
            errno: errno as i32,
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} {}: {}",
            self.operation, self.object, self.cause
        )
    }
}

impl std::error::Error for Cause {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { errno, explanation } => {
                write!(f, "{}", Errno::from_raw(*errno).desc())?;
                if let Some(text) = explanation {
                    write!(f, " ({text})")?;
                }
                // The kernel explains what is wrong with a request, not who may make it.
                let lacks_rights = || explanation.is_none() && lacks_net_admin();
                f.write_str(advice(*errno, lacks_rights))
            }
            Self::System { errno } => {
                f.write_str(Errno::from_raw(*errno).desc())?;
                f.write_str(advice(*errno, lacks_net_admin))
            }
            Self::AnswerLost => f.write_str(
                "the kernel's answer did not fit into the socket's receive buffer; raise \
                 net.core.rmem_max or give the process CAP_NET_ADMIN",
            ),
            Self::NoAnswer => f.write_str("the kernel gave no answer in time"),
            Self::Unstable => {
                f.write_str("the state kept changing while it was being read; try again")
            }
            Self::Malformed(what) => write!(f, "the kernel's answer is not understood: {what}"),
            Self::Unsuitable(why) => f.write_str(why),
            Self::NotFound => f.write_str("there is no such object"),
        }
    }
}

/// What to do about an error number, where there is something to do; starts with its separator. The
/// kernel refuses with the same number what a process has no right to and what no one may do.
fn advice(errno: i32, lacks_rights: impl FnOnce() -> bool) -> &'static str {
    match errno {
        libc::EPERM | libc::EACCES => match lacks_rights() {
            true => "; run as root or with CAP_NET_ADMIN (and CAP_SYS_ADMIN to enter namespaces)",
            false => "",
        },
        libc::EAFNOSUPPORT => "; this address family is switched off in the kernel",
        libc::EPROTONOSUPPORT | libc::EOPNOTSUPP => {
            "; the kernel lacks this feature, or its module cannot be loaded"
        }
        libc::EMFILE | libc::ENFILE => "; raise the limit of open files",
        _ => "",
    }
}

/// Whether this thread is not known to have the capability CAP_NET_ADMIN.
fn lacks_net_admin() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective(&status).is_none_or(|capabilities| capabilities & NET_ADMIN == 0)
}

/// The effective capabilities of a thread, whose `status` file this is (proc_pid_status(5)).
fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_sentence_with_operation_object_reason_and_advice() {
        let refused = Cause::Refused {
            errno: libc::EAFNOSUPPORT,
            explanation: None,
        };
        assert_eq!(
            refused.during("add address", "fd00::1").to_string(),
            "cannot add address fd00::1: Address family not supported by protocol; this address \
             family is switched off in the kernel"
        );
        let explained = Cause::Refused {
            errno: libc::EOPNOTSUPP,
            explanation: Some("Unknown device type".into()),
        };
        assert_eq!(
            explained.during("create link", "d0").to_string(),
            "cannot create link d0: Operation not supported on transport endpoint (Unknown device \
             type); the kernel lacks this feature, or its module cannot be loaded"
        );
    }

    #[test]
    fn who_has_the_rights_is_not_told_to_get_them() {
        for errno in [libc::EPERM, libc::EACCES] {
            assert_eq!(advice(errno, || false), "");
            assert!(advice(errno, || true).starts_with("; run as root or with CAP_NET_ADMIN"));
        }
        let explained = Cause::Refused {
            errno: libc::EACCES,
            explanation: Some("IPv6 is disabled on this device".into()),
        };
        assert_eq!(
            explained.to_string(),
            "Permission denied (IPv6 is disabled on this device)"
        );
        let status =
            |capabilities| format!("Name:\tx\nCapPrm:\t0\nCapEff:\t{capabilities}\nSeccomp:\t0\n");
        let effective = |capabilities| effective(&status(capabilities)).map(|all| all & NET_ADMIN);
        assert_eq!(effective("000001ffffffffff"), Some(NET_ADMIN));
        assert_eq!(effective("0000000000001000"), Some(NET_ADMIN));
        assert_eq!(effective("000001ffffffefff"), Some(0));
        assert_eq!(effective("?"), None);
    }

    #[test]
    fn absence_is_told_apart_from_other_failures() {
        let with = |errno| Cause::System { errno }.during("read", "x");
        for errno in [
            libc::ENOENT,
            libc::ENODEV,
            libc::ESRCH,
            libc::EADDRNOTAVAIL,
            libc::ENXIO,
        ] {
            assert!(with(errno).is_not_found());
        }
        assert!(Cause::NotFound.during("find", "x").is_not_found());
        assert!(!with(libc::EPERM).is_not_found());
        assert!(with(libc::EEXIST).is_exists());
        assert_eq!(Cause::Unstable.during("list", "x").errno(), None);
    }
}
