//! The command: its flags, what it says while it runs, and how it ends.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::Args;
use podwire_agent::error::chain;
use podwire_agent::text::printable;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::fleet::Fleet;
use crate::said::Said;
use crate::test::case::{Family, Group};
use crate::test::explain::Agents;
use crate::test::ground::{Explain, Ground, GroundError, Outside};
use crate::test::kubernetes::{self, Cluster};
use crate::test::run::{self, Done, Outcome, Pace, Progress, Verdict};
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
    #[error("interrupted again before everything was taken away; {left}")]
    GivenUp { left: String },
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
    let (mut first, mut any) = (Signals::listen()?, Signals::listen()?);
    let second = async {
        any.next().await;
        any.next().await;
    };
    // A report that cannot be written is known before the minutes that the test takes.
    let junit = flags.junit.as_deref().map(Junit::open).transpose()?;
    let pace = Pace {
        parallel: flags.parallel.into(),
        ..Pace::default()
    };
    let teller = Teller::new();
    let outcome = tried(ground, explain, &pace, &teller, first.next(), second).await;
    teller.end();
    let outcome = outcome?;
    let mut said = Said {
        text: report::render(&outcome),
        good: outcome.passed(),
    };
    // What was found out is not lost with it.
    if let Some(Err(error)) = junit.map(|junit| junit.write(&outcome)) {
        said.text.push_str(&format!("✗ {}.\n", chain(&error)));
        said.good = false;
    }
    Ok(said)
}

/// The test. `first` ends it, and everything is taken away; `second` ends that as well.
async fn tried(
    ground: &impl Ground,
    explain: &impl Explain,
    pace: &Pace,
    progress: &impl Progress,
    first: impl Future<Output = ()>,
    second: impl Future<Output = ()>,
) -> Result<Outcome, TestError> {
    tokio::select! {
        outcome = run::run(ground, explain, pace, progress, first) => {
            outcome?.ok_or(TestError::Interrupted)
        }
        () = second => Err(TestError::GivenUp { left: ground.left() }),
    }
}

/// What asks a program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on they do not end the program by themselves.
    fn listen() -> Result<Self, TestError> {
        let listen = |kind| signal(kind).map_err(TestError::Signals);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
            _ = self.hang_up.recv() => (),
        }
    }
}

/// The file for machines.
struct Junit<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Junit<'a> {
    fn open(path: &'a Path) -> Result<Self, TestError> {
        match File::create(path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(unwritten(path, error)),
        }
    }

    fn write(mut self, outcome: &Outcome) -> Result<(), TestError> {
        let text = junit::render(outcome)?;
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|error| unwritten(self.path, error))
    }
}

fn unwritten(path: &Path, source: io::Error) -> TestError {
    TestError::Write {
        path: path.to_owned(),
        source,
    }
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
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::test::fake::{Cleans, Fake};
    use crate::test::ground::Ran;
    use crate::test::plan::tests::cluster;

    fn fake() -> Fake {
        Fake::new(cluster(1, &[Family::V4]), |_, _, _| Ran::default())
    }

    fn with_junit(path: PathBuf) -> Flags {
        Flags {
            outside: Vec::new(),
            junit: Some(path),
            parallel: 8,
        }
    }

    #[tokio::test]
    async fn a_report_that_cannot_be_written_is_known_before_anything_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let (flags, fake) = (with_junit(directory.path().join("no/such")), fake());
        let error = perform(&flags, &fake, &fake).await.unwrap_err();
        assert!(matches!(error, TestError::Write { .. }), "{error}");
        assert!(fake.events().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_full_takes_the_report_from_machines_only() {
        let (flags, fake) = (with_junit("/dev/full".into()), fake());
        let said = perform(&flags, &fake, &fake).await.unwrap();
        assert!(!said.good && said.text.contains("Nodes:"), "{}", said.text);
        let last = said.text.lines().last().unwrap();
        assert!(last.starts_with("✗ cannot write the report to /dev/full: "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_interrupt_ends_the_clean_up_and_what_is_left_is_named() {
        let mut fake = fake();
        fake.cleans = Cleans::Never;
        let after = |seconds| sleep(Duration::from_secs(seconds));
        let pace = Pace::default();
        let done = tried(&fake, &fake, &pace, &Teller::new(), after(0), after(2)).await;
        assert_eq!(
            done.unwrap_err().to_string(),
            "interrupted again before everything was taken away; what the test made may be left: \
             the next test removes it"
        );
    }

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
