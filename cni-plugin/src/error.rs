//! What the plugin says when it fails: one enum, and the one place that knows CNI's error codes.

use std::path::PathBuf;
use std::{fmt, io};

use serde_json::{Map, Value};

use crate::arguments::ArgumentsError;
use crate::attachment::{RecordError, TableError};
use crate::environment::{EnvironmentError, Verb};
use crate::json::WrongType;
use crate::lease::{AllocationError, StoreError};
use crate::range::RangeError;
use crate::result::NoShape;
use crate::streams::StreamError;
use crate::text::printable;
use crate::version::Version;

/// Error codes of the CNI specification 1.1.0, and those of its Go library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(pub u32);

impl Code {
    /// The configuration has a version that the plugin does not speak.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// The configuration asks for something that the plugin cannot do.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// An environment variable is missing or wrong.
    pub const ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed.
    pub const IO: Self = Self(5);
    /// The input is no JSON, or not of the right types.
    pub const DECODING: Self = Self(6);
    /// The configuration makes no sense.
    pub const CONFIG: Self = Self(7);
    /// `CNI_NETNS` is not a namespace for a container.
    pub const NETNS: Self = Self(8);
    /// What failed may work a moment later.
    pub const TRY_AGAIN: Self = Self(11);
    /// The plugin cannot serve ADD now.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// What no other code says.
    pub const OTHER: Self = Self(999);
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment describes no call.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// `CNI_ARGS` is wrong.
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    /// A standard stream is closed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Standard input cannot be read.
    #[error("error reading from stdin")]
    Stdin {
        /// What the system said.
        source: io::Error,
    },
    /// Standard input is larger than any configuration.
    #[error("error reading from stdin: it is longer than {} MiB", limit >> 20)]
    InputTooLong {
        /// The longest input that is read, in bytes.
        limit: u64,
    },
    /// Standard input is not JSON.
    #[error("cannot decode the network configuration")]
    NoJson {
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// A value of the configuration has the wrong type.
    #[error("cannot decode the network configuration")]
    WrongType(#[from] WrongType),
    /// The configuration has no name.
    #[error("missing network name")]
    NoName,
    /// The name of the network is none.
    #[error("invalid characters found in network name")]
    BadName {
        /// The name.
        name: String,
    },
    /// The name of the network is too long.
    #[error("network name is too long")]
    LongName {
        /// The name.
        name: String,
        /// The longest that a name may be, in bytes.
        limit: usize,
    },
    /// The configuration has a version that is not spoken.
    #[error("incompatible CNI versions")]
    Version {
        /// The version of the configuration.
        found: String,
        /// The oldest version that is spoken; all newer ones are as well.
        oldest: Version,
    },
    /// The verb came with a later version.
    #[error("config version does not allow {verb}")]
    VerbTooNew {
        /// The verb.
        verb: Verb,
        /// The version of the configuration.
        version: Version,
        /// The first version with this verb.
        since: Version,
    },
    /// Something in the configuration that the plugin cannot do.
    #[error("unsupported field: {key} is {value}, but {reason}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What can be done.
        reason: &'static str,
    },
    /// A value that makes no sense.
    #[error("{reason}")]
    Config {
        /// Which value, and what is wrong with it.
        reason: String,
    },
    /// A range set that cannot be.
    #[error("invalid range set {set}")]
    Range {
        /// Its number, from 0.
        set: usize,
        /// What is wrong with it.
        source: RangeError,
    },
    /// The lease directory does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No address can be leased.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// A file cannot be read.
    #[error("cannot read {} ({key})", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What lies in the agent's directory cannot be trusted.
    #[error("cannot use the run directory {}", path.display())]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The attachment records do not work.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The namespace of the container is gone, or is none.
    #[error("failed to open netns {path:?}")]
    Netns {
        /// Its path.
        path: String,
        /// What the kernel said, without the path.
        source: podwire_kernel::Cause,
    },
    /// The container shares the namespace of the plugin.
    #[error("plugin's netns and netns from CNI_NETNS should not be the same")]
    OwnNetns,
    /// The interface is there already.
    #[error("container veth name ({ifname:?}) peer provided ({host:?}) already exists")]
    InterfaceExists {
        /// The interface in the container.
        ifname: String,
        /// The host end.
        host: String,
    },
    /// The kernel refused something.
    #[error("{purpose}")]
    Kernel {
        /// What it was for.
        purpose: &'static str,
        /// What the kernel said.
        source: podwire_kernel::Error,
    },
    /// nftables refused something.
    #[error("{purpose}")]
    Nftables {
        /// What it was for.
        purpose: &'static str,
        /// What nftables said.
        source: TableError,
    },
    /// A result has no shape in the version of the configuration.
    #[error(transparent)]
    NoShape(#[from] NoShape),
    /// Another plugin, to which a part of the work was given, failed.
    #[error("{message}")]
    Delegate {
        /// The code it gave.
        code: Code,
        /// What it said.
        message: String,
        /// What else it said.
        details: String,
    },
    /// An attachment is not as it was made.
    #[error("{difference}")]
    Changed {
        /// What is different.
        difference: String,
    },
    /// No ADD can be served now.
    #[error("the plugin is not available: {reason}")]
    NotAvailable {
        /// Why.
        reason: String,
    },
    /// The rules that NetworkPolicies ask for cannot be made.
    #[error(
        "{lacks}; namespace {namespace} {concern}, a pod there is not started unprotected; look \
         at the log of podwire-agent on this node, the runtime tries again"
    )]
    Unprotected {
        /// What is missing.
        lacks: String,
        /// The namespace.
        namespace: String,
        /// Which policies it has or may have, in words.
        concern: &'static str,
    },
    /// Several things failed, and the others were done all the same.
    #[error("{}", Sentences(failures))]
    Several {
        /// What failed, at least two.
        failures: Vec<Error>,
    },
}

impl Error {
    /// A value of the configuration that makes no sense.
    pub fn config(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Config { reason }
    }

    /// Makes an error of a kernel error that came up while doing something for `purpose`.
    pub fn kernel(purpose: &'static str) -> impl FnOnce(podwire_kernel::Error) -> Self {
        move |source| Self::Kernel { purpose, source }
    }

    /// The one error of several, or none.
    pub fn collect(failures: Vec<Self>) -> Result<(), Self> {
        let mut failures = failures;
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.remove(0)),
            _ => Err(Self::Several { failures }),
        }
    }

    /// The code for the runtime.
    pub fn code(&self) -> Code {
        match self {
            Self::Environment(_) | Self::Arguments(_) => Code::ENVIRONMENT,
            Self::Stream(_)
            | Self::Stdin { .. }
            | Self::InputTooLong { .. }
            | Self::Store(_)
            | Self::File { .. }
            | Self::RunDir { .. }
            | Self::Record(_) => Code::IO,
            Self::NoJson { .. } | Self::WrongType(_) => Code::DECODING,
            Self::Range { source, .. } => match source {
                RangeError::WrongType(_) => Code::DECODING,
                _ => Code::CONFIG,
            },
            Self::NoName | Self::BadName { .. } | Self::LongName { .. } | Self::Config { .. } => {
                Code::CONFIG
            }
            Self::Version { .. } | Self::VerbTooNew { .. } => Code::INCOMPATIBLE_VERSION,
            Self::Unsupported { .. } => Code::UNSUPPORTED_FIELD,
            Self::Netns { .. } | Self::OwnNetns => Code::NETNS,
            Self::Delegate { code, .. } => *code,
            Self::NotAvailable { .. } => Code::NOT_AVAILABLE,
            Self::Unprotected { .. } => Code::TRY_AGAIN,
            Self::Several { failures } => failures.first().map_or(Code::OTHER, Self::code),
            Self::Allocation(_)
            | Self::InterfaceExists { .. }
            | Self::Kernel { .. }
            | Self::Nftables { .. }
            | Self::NoShape(_)
            | Self::Changed { .. } => Code::OTHER,
        }
    }

    /// What is worth knowing beside the message: values, and what to do.
    fn details(&self) -> String {
        match self {
            Self::Version { found, oldest } => {
                let spoken: Vec<_> = oldest.and_newer().map(|one| format!("\"{one}\"")).collect();
                format!(
                    "config is {found:?}, plugin supports [{}]",
                    spoken.join(" ")
                )
            }
            Self::VerbTooNew { version, since, .. } => {
                format!("config is {version}, the verb exists since {since}")
            }
            Self::BadName { name } => format!(
                "the name is {name:?}, but a name starts with a letter or digit and goes on with \
                 letters, digits, \"_\", \".\" and \"-\""
            ),
            Self::LongName { name, limit } => format!(
                "the name has {} characters, but it becomes a part of the aliases of links, where \
                 {limit} have room",
                name.len()
            ),
            Self::Allocation(error) => error.advice().to_owned(),
            Self::OwnNetns => "CNI_NETNS has to name the network namespace of a container".into(),
            Self::InterfaceExists { .. } => {
                "call DEL first, or choose another name with CNI_IFNAME".into()
            }
            Self::Delegate { details, .. } => details.clone(),
            _ => String::new(),
        }
    }

    /// The error as CNI wants it on standard output.
    pub fn print(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".into(), version.as_str().into());
        object.insert("code".into(), self.code().0.into());
        object.insert("msg".into(), (*printable(&chain(self))).into());
        let details = self.details();
        if !details.is_empty() {
            object.insert("details".into(), (*printable(&details)).into());
        }
        Value::Object(object)
    }
}

/// An error with its causes on one line. No error says what its cause says.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Errors one after the other, each with its causes.
struct Sentences<'a>(&'a [Error]);

impl fmt::Display for Sentences<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}", chain(error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use podwire_kernel::Cause;

    use super::*;

    fn message(error: &Error) -> String {
        error.print(Version::NEWEST)["msg"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn samples() -> Vec<(Error, &'static str)> {
        let kernel = || Cause::NotFound.during("change link", "veth0");
        let io = || io::Error::from_raw_os_error(nix::libc::EIO);
        let json = serde_json::from_str::<Value>("{").unwrap_err();
        let wrong = || WrongType {
            place: "mtu".into(),
            expected: "a whole number",
            found: "true".into(),
        };
        vec![
            (
                Error::Stdin { source: io() },
                "error reading from stdin: Input/output error (os error 5)",
            ),
            (
                Error::NoJson { source: json },
                "cannot decode the network configuration: EOF while parsing an object at line 1 \
                 column 1",
            ),
            (
                wrong().into(),
                "cannot decode the network configuration: mtu must be a whole number, not true",
            ),
            (
                Error::Range {
                    set: 1,
                    source: wrong().into(),
                },
                "invalid range set 1: mtu must be a whole number, not true",
            ),
            (
                Error::File {
                    key: "ipam.resolvConf",
                    path: "/x".into(),
                    source: io(),
                },
                "cannot read /x (ipam.resolvConf): Input/output error (os error 5)",
            ),
            (
                Error::Netns {
                    path: "/n".into(),
                    source: Cause::NotFound,
                },
                "failed to open netns \"/n\": there is no such object",
            ),
            (
                Error::kernel("link")(kernel()),
                "link: cannot change link veth0: there is no such object",
            ),
            (
                Error::Nftables {
                    purpose: "host ports",
                    source: TableError::Read(kernel()),
                },
                "host ports: cannot change link veth0: there is no such object",
            ),
        ]
    }

    #[test]
    fn a_message_names_each_cause_once() {
        for (error, text) in samples() {
            assert_eq!(message(&error), text);
        }
    }

    #[test]
    fn an_error_leaves_what_its_cause_says_to_the_cause() {
        for (error, _) in samples() {
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(!error.to_string().contains(&cause), "{error}");
        }
    }

    #[test]
    fn several_errors_are_told_with_their_causes() {
        let failures = samples().into_iter().map(|(error, _)| error).collect();
        let text = message(&Error::collect(failures).unwrap_err());
        for (_, one) in samples() {
            assert!(text.contains(one), "{text}");
        }
    }
}
