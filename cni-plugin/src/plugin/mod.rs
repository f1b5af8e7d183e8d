//! The plugins that one binary can be, by the name it is called by.

mod bandwidth;
mod check;
mod host_local;
mod loopback;
mod podwire;
mod portmap;
mod request;
mod sandbox;

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

pub use self::request::Request;
use crate::config::{Config, decode, version_for_errors};
use crate::environment::{Call, Verb};
use crate::error::Error;
use crate::result::print_versions;
use crate::streams::StreamError;
use crate::version::Version;

/// A larger configuration is refused: 16 MiB is more than any runtime sends.
const LARGEST_INPUT: u64 = 16 << 20;

/// A plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// A link, a lease and host ports, in one.
    Podwire,
    /// The reference plugin `ptp`: a link and a lease.
    Ptp,
    /// The reference plugin `host-local`: a lease.
    HostLocal,
    /// The reference plugin `portmap`: host ports.
    Portmap,
    /// The reference plugin `loopback`.
    Loopback,
    /// The reference plugin `bandwidth`.
    Bandwidth,
}

/// What the plugin answers: the JSON for standard output, if any, and whether it succeeded.
#[derive(Debug)]
pub struct Answer {
    /// What to print on standard output.
    pub output: Option<Value>,
    /// What to print on standard error.
    pub about: Option<String>,
    /// Whether the exit status is 0.
    pub success: bool,
}

impl Plugin {
    /// The plugin that is called by this name of the program; `podwire` if it is no other.
    pub fn named(program: &OsStr) -> Self {
        match Path::new(program).file_name().and_then(OsStr::to_str) {
            Some("ptp") => Self::Ptp,
            Some("host-local") => Self::HostLocal,
            Some("portmap") => Self::Portmap,
            Some("loopback") => Self::Loopback,
            Some("bandwidth") => Self::Bandwidth,
            _ => Self::Podwire,
        }
    }

    /// The name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Podwire => "podwire",
            Self::Ptp => "ptp",
            Self::HostLocal => "host-local",
            Self::Portmap => "portmap",
            Self::Loopback => "loopback",
            Self::Bandwidth => "bandwidth",
        }
    }

    /// The oldest version that the plugin speaks.
    fn oldest(self) -> Version {
        match self {
            Self::Bandwidth => Version::V0_3_0,
            _ => Version::V0_1_0,
        }
    }

    /// Does what environment and standard input ask for.
    pub fn answer(self, variable: impl Fn(&str) -> Option<OsString>, stdin: impl Read) -> Answer {
        let call = match Call::read(variable) {
            Ok(Some(call)) => call,
            Ok(None) => return self.introduce(),
            Err(error) => return Answer::failed(&error.into(), Version::NEWEST),
        };
        if call.verb == Verb::Version {
            return Answer::succeeded(Some(print_versions(self.oldest())));
        }
        let bytes = match read_all(stdin) {
            Ok(bytes) => bytes,
            Err(error) => return Answer::failed(&error, Version::NEWEST),
        };
        let document = match decode(&bytes) {
            Ok(document) => document,
            Err(error) => return Answer::failed(&error, Version::NEWEST),
        };
        match self.run(&call, &bytes, &document) {
            Ok(output) => Answer::succeeded(output),
            Err(error) => Answer::failed(&error, version_for_errors(&document)),
        }
    }

    fn run(self, call: &Call, stdin: &[u8], document: &Value) -> Result<Option<Value>, Error> {
        let config = Config::read(document, self.oldest())?;
        call.check()?;
        config.allow(call.verb)?;
        let request = Request {
            call,
            stdin,
            config,
        };
        match self {
            Self::Podwire => podwire::run(&request, podwire::Mode::Podwire),
            Self::Ptp => podwire::run(&request, podwire::Mode::Ptp),
            Self::HostLocal => host_local::run(&request),
            Self::Loopback => loopback::run(&request),
            Self::Portmap => portmap::run(&request),
            Self::Bandwidth => bandwidth::run(&request),
        }
    }

    /// What to say to a person who calls the program without a command.
    fn introduce(self) -> Answer {
        let versions: Vec<_> = self.oldest().and_newer().map(Version::as_str).collect();
        let about = format!(
            "CNI {} plugin, podwire {}\nCNI protocol versions supported: {}",
            self.name(),
            env!("CARGO_PKG_VERSION"),
            versions.join(", ")
        );
        Answer {
            output: None,
            about: Some(about),
            success: true,
        }
    }
}

impl Answer {
    /// The answer to a caller that would not hear all of it, on every stream that is open.
    pub fn unheard(error: StreamError) -> Self {
        Self {
            about: Some(format!("podwire: {error}")),
            ..Self::failed(&error.into(), Version::NEWEST)
        }
    }

    fn succeeded(output: Option<Value>) -> Self {
        Self {
            output,
            about: None,
            success: true,
        }
    }

    fn failed(error: &Error, version: Version) -> Self {
        Self {
            output: Some(error.print(version)),
            about: None,
            success: false,
        }
    }
}

fn read_all(stdin: impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = stdin.take(LARGEST_INPUT + 1).read_to_end(&mut bytes);
    let length = read.map_err(|source| Error::Stdin { source })?;
    if length as u64 > LARGEST_INPUT {
        let limit = LARGEST_INPUT;
        return Err(Error::InputTooLong { limit });
    }
    Ok(bytes)
}

/// A JSON value as text, with four spaces for each level, as the reference plugins print it.
pub fn text(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // A value of strings and numbers always has a text, and the memory takes it.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    bytes.push(b'\n');
    String::from_utf8_lossy(&bytes).into_owned()
}
