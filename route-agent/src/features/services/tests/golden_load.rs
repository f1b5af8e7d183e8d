//! What `nft` has printed, loaded by `nft`: the kernel holds what it held before.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Once;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Expr, Rule, Table};

use crate::features::services::tests::bench::{Bench, nft};
use crate::features::services::tests::golden::{blocks, list, path};
use crate::ours::SERVICES_TABLE as TABLE;

/// The set of who may speak to a Service with source ranges: the one set with ranges in which a
/// protocol is looked up.
const ALLOWED_SOURCES: &str = "allowed-sources";

/// That kernel is the same for all tests.
static SAID: Once = Once::new();

/// Loads golden files, as far as the kernel takes them of `nft`.
pub struct Loader {
    /// Whether the kernel refuses the rule that looks up in [`ALLOWED_SOURCES`].
    refuses_source_ranges: bool,
}

impl Loader {
    /// Asks the kernel of an empty namespace.
    ///
    /// For the one byte of a protocol that is looked up in a set with ranges, `nft` 1.0.6 writes
    /// `byteorder hton`, size 2, length 1. Ubuntu's 6.8.0-151 and Debian's 6.12.118 and 7.3.4 answer that
    /// with `EOPNOTSUPP`. The agent leaves the expression out, because it does nothing, so that the
    /// agent's rule is taken everywhere.
    pub fn new(family: IpFamily) -> Self {
        let (name, addresses) = match family {
            IpFamily::V4 => ("ip", "ipv4_addr"),
            IpFamily::V6 => ("ip6", "ipv6_addr"),
        };
        let probe = format!(
            "table {name} probe {{
                set ranges {{ type inet_proto . {addresses}; flags interval; }}
                chain looks-up {{
                    meta l4proto . {name} saddr @ranges accept
                }}
            }}
            delete table {name} probe"
        );
        let Err(reason) = load(&probe) else {
            return Self {
                refuses_source_ranges: false,
            };
        };
        assert!(
            reason.contains("Operation not supported"),
            "nft does not load\n{probe}\n{reason}"
        );
        SAID.call_once(|| {
            let what = "the rule of source ranges loaded by nft";
            let _ = writeln!(std::io::stderr(), "\nnot run: {what}: {reason}");
        });
        Self {
            refuses_source_ranges: true,
        }
    }

    /// Empties the kernel, has `nft` load the files, and finds what was there before: in nft's
    /// listing, and in what we read ourselves. An agent that starts over it changes nothing in the
    /// listing; where a rule was refused of `nft`, it adds that rule.
    #[track_caller]
    pub fn loads_again(&self, bench: &mut Bench, files: &[&str]) {
        let (listed, observed) = (list(), observe(bench));
        nft("flush ruleset");
        // In one go: nft 1.0.6 cannot add to maps of a table that is there.
        let texts = files
            .iter()
            .map(|file| self.loadable(&std::fs::read_to_string(path(file)).unwrap()));
        load(&texts.collect::<String>()).unwrap_or_else(|reason| panic!("{files:?}: {reason}"));
        let (sorted_before, sorted_now) = (sorted(&self.loadable(&listed)), sorted(&list()));
        assert_eq!(sorted_now, sorted_before, "{files:?} list otherwise");
        self.compare(files, &observe(bench), &observed);
        bench.restart();
        assert_eq!(sorted(&list()), sorted(&listed), "{files:?} after a start");
    }

    /// Compares what was loaded with what had been observed, both as our own code reads them.
    #[track_caller]
    fn compare(&self, files: &[&str], loaded: &Table, observed: &Table) {
        for (name, set) in observed.sets.iter() {
            assert_eq!(loaded.sets.get(name), Some(set), "{files:?}: set {name}");
        }
        for (name, chain) in observed.chains.iter() {
            let there = loaded.chains.get(name).unwrap();
            assert_eq!(there.base, chain.base, "{files:?}: chain {name}");
            let rules: Vec<&Rule> = chain
                .rules
                .iter()
                .filter(|rule| !(self.refuses_source_ranges && looks_up(rule, ALLOWED_SOURCES)))
                .collect();
            assert_eq!(there.rules.len(), rules.len(), "{files:?}: chain {name}");
            for (there, rule) in there.rules.iter().zip(rules) {
                let same = there == rule || by_listing(rule) && there.comment == rule.comment;
                assert!(same, "{files:?}: chain {name} has {there:?}, not {rule:?}");
            }
        }
    }

    /// A listing as the kernel takes it of `nft`.
    fn loadable(&self, listing: &str) -> String {
        let lookup = format!("@{ALLOWED_SOURCES} ");
        listing
            .split_inclusive('\n')
            .filter(|line| !(self.refuses_source_ranges && line.contains(&lookup)))
            .collect()
    }
}

fn looks_up(rule: &Rule, name: &str) -> bool {
    rule.exprs
        .iter()
        .any(|expr| matches!(expr, Expr::Lookup { set, .. } if **set == *name))
}

/// Whether a rule is compared by the listing alone: nft chooses other registers than we do for what
/// a rule remembers or hashes.
fn by_listing(rule: &Rule) -> bool {
    rule.exprs
        .iter()
        .any(|expr| matches!(expr, Expr::Dynset { .. } | Expr::Hash { .. }))
}

/// The sets and chains of a listing, in an order that does not depend on when they were made.
fn sorted(listing: &str) -> String {
    let mut blocks = blocks(listing);
    blocks.sort_unstable();
    blocks.concat()
}

/// The table as our own code reads it.
pub fn observe(bench: &mut Bench) -> Table {
    let family = podwire_kernel::nft::Family::from(bench.family());
    let table = bench.kernel.socket.observe(family, TABLE).unwrap();
    let mut table = table.unwrap().normalised();
    // What `nft` adds where a set has ranges, and what does nothing: see `Loader::new`.
    let does_nothing =
        |expr: &Expr| matches!(expr, Expr::Unknown { name, .. } if **name == *"byteorder");
    for rule in table.chains.values_mut().flat_map(|chain| &mut chain.rules) {
        rule.exprs.retain(|expr| !does_nothing(expr));
    }
    table
}

/// Has `nft` load a text, or says what `nft` says first against it.
fn load(text: &str) -> Result<(), String> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(errors.lines().next().unwrap_or_default().to_owned()),
    }
}
