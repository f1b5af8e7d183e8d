//! The command: its flags, what it says while it runs, and how it ends.

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use clap::Args;
use podwire_agent::text::printable;
use tokio::signal::unix::{SignalKind, signal};

use crate::fleet::Fleet;
use crate::said::Said;
use crate::test::explain::Agents;
use crate::test::ground::{Explain, Ground, GroundError, Outside};
use crate::test::kubernetes::{self, Cluster};
use crate::test::plan::{Family, Group};
use crate::test::run::{self, Done, Pace, Progress, Verdict};
use crate::test::{junit, report};

/// Answers almost everywhere where anything outside of a cluster does, over both families.
const SOMEWHERE: [(Family, &str); 2] = [
    (Family::V4, "https://1.1.1.1/"),
    (Family::V6, "https://[2606:4700:4700::1111]/"),
];

/// The flags of `test` that have nothing to do with where it runs.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Something outside of the cluster that answers HTTP, by its address, one for a family. If it
    /// answers with the address that it sees, as agnhost's /clientip does, that must be a node's.
    /// `none` tries nothing outside.
    #[arg(long, value_name = "URL", value_parser = outside)]
    pub outside: Vec<Named>,

    /// Write what came of it to this file, as JUnit does.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// How many ways are tried at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub parallel: u16,
}

/// The flags of `kubectl podwire test`.
#[derive(Debug, Clone, Args)]
pub struct Test {
    /// The image that pods run: one with agnhost's netexec, and bash, curl, dig, ip and ping.
    #[arg(long, default_value = kubernetes::IMAGE)]
    pub image: String,

    /// What is tried, and how it is told.
    #[command(flatten)]
    pub flags: Flags,
}

impl Test {
    /// Tests the cluster of this client, whose agents are this fleet.
    pub async fn run(&self, client: kube::Client, fleet: Fleet) -> Result<Said, TestError> {
        let agents = Agents::new(fleet);
        let no_policies = agents.no_policies().await;
        let outside = self.flags.outside();
        let cluster = Cluster::new(client, self.image.clone(), no_policies, outside);
        perform(&self.flags, &cluster, &agents).await
    }
}

/// What `--outside` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Nothing is tried.
    Nothing,
    /// This is tried.
    Url(Family, String),
}

/// A URL whose host is an address: whether names are known is another question.
fn outside(text: &str) -> Result<Named, String> {
    if text == "none" {
        return Ok(Named::Nothing);
    }
    let example = "write it as http://192.0.2.1:8080/clientip";
    let (scheme, rest) = text.split_once("://").ok_or(example)?;
    // It becomes part of a command line in a pod.
    let plain = |c: char| c.is_ascii_alphanumeric() || ":/.[]-_?=%".contains(c);
    if !["http", "https"].contains(&scheme) || !text.chars().all(plain) {
        return Err(example.to_owned());
    }
    let host = rest.split('/').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let address: IpAddr = host.parse().map_err(|_| example)?;
    Ok(Named::Url(Family::of(address), text.to_owned()))
}

impl Flags {
    /// True if someone says what is tried outside, or that nothing is.
    pub fn names_outside(&self) -> bool {
        !self.outside.is_empty()
    }

    /// What is tried outside.
    pub fn outside(&self) -> Vec<Outside> {
        if self.outside.contains(&Named::Nothing) {
            return Vec::new();
        }
        let named = self.outside.iter().filter_map(|one| match one {
            Named::Nothing => None,
            Named::Url(family, url) => Some((*family, url.clone(), true)),
        });
        let mut all: Vec<_> = named.collect();
        if all.is_empty() {
            all.extend(SOMEWHERE.map(|(family, url)| (family, url.to_owned(), false)));
        }
        let outside = |(family, url, named)| Outside { family, url, named };
        all.into_iter().map(outside).collect()
    }
}

/// Why there is no result, or none that counts.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TestError {
    #[error(transparent)]
    Ground(#[from] GroundError),
    #[error("cannot listen for signals, and would leave pods behind when one comes")]
    Signals(#[source] io::Error),
    #[error("interrupted; everything that the test made is removed")]
    Interrupted,
    #[error("cannot write the report as JUnit")]
    Junit(#[from] quick_junit::SerializeError),
    #[error("cannot write the report to {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Runs the test, and says on standard error how far it is.
pub async fn perform(
    flags: &Flags,
    ground: &impl Ground,
    explain: &impl Explain,
) -> Result<Said, TestError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(TestError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(TestError::Signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(TestError::Signals)?;
    let asked_to_end = async {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hang_up.recv() => (),
        }
    };
    let pace = Pace {
        parallel: flags.parallel.into(),
        ..Pace::default()
    };
    let teller = Teller::new();
    let outcome = run::run(ground, explain, &pace, &teller, asked_to_end).await;
    teller.end();
    let outcome = outcome?.ok_or(TestError::Interrupted)?;
    if let Some(path) = &flags.junit {
        let text = junit::render(&outcome)?;
        std::fs::write(path, text).map_err(|source| TestError::Write {
            path: path.clone(),
            source,
        })?;
    }
    Ok(Said {
        text: report::render(&outcome),
        good: outcome.passed(),
    })
}

/// Tells a person how far it is: a line that changes on a terminal, else a line for each stage and
/// each failure.
struct Teller {
    terminal: bool,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    failed: usize,
    group: Option<Group>,
}

impl Teller {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            told: Mutex::default(),
        }
    }

    /// Leaves the line that changes.
    fn end(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn say(&self, line: &str) {
        let mut stderr = io::stderr().lock();
        // Whoever does not listen misses it.
        let _ = match self.terminal {
            true => write!(stderr, "\r\x1b[K{}\n", printable(line)),
            false => writeln!(stderr, "{}", printable(line)),
        };
    }
}

impl Progress for Teller {
    fn stage(&self, what: &str) {
        self.say(&format!("{what} ..."));
    }

    fn case(&self, done: &Done, through: usize, of: usize) {
        let mut told = self
            .told
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if matches!(done.verdict, Verdict::Failed { .. }) {
            told.failed += 1;
        }
        let group = done.case.group;
        if self.terminal {
            let failed = match told.failed {
                0 => String::new(),
                failed => format!(", {failed} failed"),
            };
            let line = format!("{through} of {of}{failed}: {}", group.title());
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        } else if told.group < Some(group) {
            told.group = Some(group);
            self.say(&format!("{through} of {of}: {}", group.title()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_is_named_by_its_address_and_fits_a_command_line() {
        let v6 = "http://[2001:db8::1]:8080/clientip";
        assert_eq!(outside(v6), Ok(Named::Url(Family::V6, v6.into())));
        let v4 = "https://192.0.2.1/";
        assert_eq!(outside(v4), Ok(Named::Url(Family::V4, v4.into())));
        assert_eq!(outside("none"), Ok(Named::Nothing));
        for bad in [
            "192.0.2.1",
            "ftp://192.0.2.1/",
            "http://example.org/",
            "http://192.0.2.1/;reboot",
            "http://192.0.2.1/$(reboot)",
            "http://192.0.2.1/ x",
        ] {
            assert!(outside(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_a_word_something_is_tried_that_is_allowed_to_be_away() {
        let flags = |outside: &[&str]| Flags {
            outside: outside
                .iter()
                .map(|one| self::outside(one).unwrap())
                .collect(),
            junit: None,
            parallel: 8,
        };
        assert!(flags(&[]).outside().iter().all(|one| !one.named));
        assert_eq!(flags(&["none"]).outside(), []);
        let named = flags(&["http://192.0.2.1/"]).outside();
        assert!(named.len() == 1 && named[0].named);
    }
}
