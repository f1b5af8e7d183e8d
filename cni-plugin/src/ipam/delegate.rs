//! Another plugin that gives addresses: found in `CNI_PATH`, called with our environment and the
//! whole of our standard input.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;

use crate::environment::{Call, Verb};
use crate::error::{Code, Error};
use crate::json::{Fields, Node};
use crate::result::Attached;
use crate::version::Version;

/// In the environment of the plugins that are called for addresses: for which container.
const DELEGATED: &str = "PODWIRE_IPAM_DELEGATED";

/// Another plugin, by its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    kind: String,
}

impl Delegate {
    /// The plugin of this type, which is the name of its program.
    pub fn new(kind: &str) -> Result<Self, Error> {
        if kind.contains(['/', '\0']) || kind == "." || kind == ".." {
            return Err(Error::config(format!(
                "ipam.type is {kind:?}, but a type is the name of a program in CNI_PATH"
            )));
        }
        let kind = kind.to_owned();
        Ok(Self { kind })
    }

    /// Runs ADD, and DEL if it fails.
    pub fn add(&self, call: &Call, stdin: &[u8], version: Version) -> Result<Attached, Error> {
        let added = self
            .run(call, stdin)
            .and_then(|output| self.understand(&output, version));
        if added.is_err() {
            // The error of ADD is the one to tell.
            let _ = self.release(call, stdin);
        }
        added
    }

    /// Runs DEL.
    pub fn release(&self, call: &Call, stdin: &[u8]) -> Result<(), Error> {
        self.run_verb(call, stdin, Verb::Del).map(drop)
    }

    /// Runs the verb of `call` and returns what the plugin printed.
    pub fn run(&self, call: &Call, stdin: &[u8]) -> Result<Vec<u8>, Error> {
        self.run_verb(call, stdin, call.verb)
    }

    fn run_verb(&self, call: &Call, stdin: &[u8], verb: Verb) -> Result<Vec<u8>, Error> {
        // By its own name, by another or through a script: each would call the next without end. What a
        // plugin started for another container may be a runtime.
        if std::env::var_os(DELEGATED).is_some_and(|of| of == *call.container_id) {
            return Err(Error::config(format!(
                "ipam.type is {:?}, which leads back to this plugin: name one that gives addresses, such \
                 as host-local",
                self.kind
            )));
        }
        let output = self.spawn(&self.find(call)?, call, stdin, verb)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(self.failure(&output))
    }

    fn find(&self, call: &Call) -> Result<PathBuf, Error> {
        let mut candidates = call
            .search_path()
            .map(|directory| directory.join(&self.kind));
        candidates.find(|path| path.is_file()).ok_or_else(|| {
            Error::config(format!(
                "failed to find plugin {:?} in path [{}]: install it there, or use ipam.type \
                 host-local, which is built in",
                self.kind,
                call.path.to_string_lossy()
            ))
        })
    }

    fn spawn(
        &self,
        program: &PathBuf,
        call: &Call,
        stdin: &[u8],
        verb: Verb,
    ) -> Result<Output, Error> {
        let failed = |error: std::io::Error| Error::Delegate {
            code: Code::OTHER,
            message: format!("cannot run IPAM plugin {}: {error}", program.display()),
            details: String::new(),
        };
        let mut command = Command::new(program);
        command.env("CNI_COMMAND", verb.to_string());
        command.env(DELEGATED, &call.container_id);
        // A file in memory, not a pipe: the plugin may fill its output before it reads on.
        command.stdin(in_memory(stdin).map_err(failed)?);
        command.stderr(Stdio::inherit()).output().map_err(failed)
    }

    fn understand(&self, output: &[u8], version: Version) -> Result<Attached, Error> {
        let document: Value = serde_json::from_slice(output)
            .map_err(|error| self.unusable(format!("its result is no JSON: {error}")))?;
        let attached = Attached::read(&Node::of_document(&document), version)
            .map_err(|error| self.unusable(format!("its result is wrong: {error}")))?;
        if attached.ips.is_empty() {
            return Err(Error::config("IPAM plugin returned missing IP config"));
        }
        Ok(attached)
    }

    fn unusable(&self, reason: String) -> Error {
        Error::Delegate {
            code: Code::DECODING,
            message: format!("IPAM plugin {}: {reason}", self.kind),
            details: String::new(),
        }
    }

    /// What a plugin that failed has to say.
    fn failure(&self, output: &Output) -> Error {
        let told = || {
            let document: Value = serde_json::from_slice(&output.stdout).ok()?;
            let fields = Fields::of_document(&document).ok()?;
            let code = fields.small("code").ok()?.unwrap_or(Code::OTHER.0);
            let message = fields.string("msg").ok()?.to_owned();
            let details = fields.string("details").ok()?.to_owned();
            (!message.is_empty()).then_some((Code(code), message, details))
        };
        let (code, message, details) = told().unwrap_or_else(|| {
            let message = format!(
                "IPAM plugin {} failed ({}) and gave no error message",
                self.kind, output.status
            );
            (Code::OTHER, message, String::new())
        });
        Error::Delegate {
            code,
            message,
            details,
        }
    }
}

/// A file without a name that contains `content`, to be read from its start.
fn in_memory(content: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("stdin", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}
