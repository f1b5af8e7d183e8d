//! What the kernel and the permissions of this process can do, tried out before it matters.
//!
//! Each probe is a real try of what the agent will do. Where a network namespace of our own can be
//! made, they happen there, but for those of permissions and settings of this one; else in place, with
//! objects that the same transaction removes again or that carry a name of ours and are removed at once. A probe that fails has a consequence: the
//! agent falls back to something else, or refuses a part of its work. Nothing fails in silence.

mod probe;
mod probes;

use std::collections::BTreeSet;
use std::fmt;
use std::thread;

use podwire_kernel::netns;
use serde::Serialize;

pub use crate::commands::preflight::probe::{Finding, Missing, Without};

use crate::commands::preflight::probe::{PERMISSION, Probe};
use crate::warnings::Warning;

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// True if the tries were made in a network namespace of their own.
    pub apart: bool,
    /// What was found, in the order of importance.
    pub findings: Vec<Finding>,
}

/// Tries everything out.
pub fn run() -> Preflight {
    let try_here = |here: bool| {
        move || -> Vec<(usize, Finding)> {
            let wanted = |(_, probe): &(usize, Probe)| probe.here == here;
            let probes = probes::all().into_iter().enumerate().filter(wanted);
            probes.map(|(place, probe)| (place, probe.run())).collect()
        }
    };
    // A thread of its own, because it does not come back from its namespace.
    let apart = thread::spawn(move || {
        let apart = netns::unshare_thread().is_ok();
        (apart, try_here(false)())
    });
    let (apart, others) = apart.join().unwrap_or_default();
    // Afterwards: what is looked at here comes with modules that the others have the kernel load.
    let mut findings = try_here(true)();
    findings.extend(others);
    findings.sort_by_key(|(place, _)| *place);
    Preflight {
        apart,
        findings: findings.into_iter().map(|(_, finding)| finding).collect(),
    }
}

impl Preflight {
    /// True if some part of the agent's work is impossible.
    pub fn refuses(&self) -> bool {
        self.missing()
            .any(|(_, missing)| missing.then == Without::Refuses)
    }

    /// What the agent says about it while it runs.
    pub fn warnings(&self) -> Vec<Warning> {
        self.missing()
            .map(|(finding, missing)| {
                let mut text = format!("{} ({})", missing.consequence, missing.error);
                if !missing.modules.is_empty() {
                    text += &format!(
                        "; it may be for want of modules: on the node, as root, run `{}`",
                        modprobe(missing.modules.iter().copied())
                    );
                }
                Warning::new(format!("kernel feature {}", finding.feature), text)
            })
            .collect()
    }

    fn missing(&self) -> impl Iterator<Item = (&Finding, &Missing)> {
        self.findings
            .iter()
            .filter_map(|finding| Some((finding, finding.missing.as_ref()?)))
    }
}

impl fmt::Display for Preflight {
    /// A table for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: fn(&Finding) -> usize| self.findings.iter().map(of).max().unwrap_or(0);
        let feature = width(|finding| finding.feature.len()).max("FEATURE".len());
        let outcome = width(|finding| finding.outcome().len()).max("OUTCOME".len());
        writeln!(
            f,
            "{:feature$}  {:outcome$}  NEEDED FOR",
            "FEATURE", "OUTCOME"
        )?;
        for finding in &self.findings {
            writeln!(
                f,
                "{:feature$}  {:outcome$}  {}",
                finding.feature,
                finding.outcome(),
                finding.needed_for
            )?;
        }
        // Without permission everything fails, for that one reason.
        let powerless = self
            .missing()
            .any(|(finding, _)| finding.feature == PERMISSION);
        for (finding, missing) in self.missing() {
            if powerless && finding.feature != PERMISSION {
                continue;
            }
            write!(f, "\n{}: {}\n", finding.feature, missing.error)?;
            writeln!(f, "  so {}", missing.consequence)?;
        }
        let modules = self.missing().flat_map(|(_, missing)| &missing.modules);
        let modules: BTreeSet<&str> = modules.copied().collect();
        if !powerless && !modules.is_empty() {
            let load = modprobe(modules);
            write!(
                f,
                "\nIt may be for want of kernel modules. The kernel loads them by itself where it may; \
                 else run on the node, as root:\n  {load}\n"
            )?;
        }
        let place = if self.apart {
            "in a network namespace of its own, but for permissions and settings of this node"
        } else {
            "in place, with throw-away objects: another network namespace may not be made here"
        };
        let worst = if self.refuses() {
            "Podwire cannot do its work here"
        } else if self.missing().next().is_some() {
            "Podwire works here, with less"
        } else {
            "Podwire works here"
        };
        write!(f, "\nEach was tried {place}. {worst}.")
    }
}

/// The command that loads these modules. Without `--all` it would take the second for an option of
/// the first.
fn modprobe<'a>(modules: impl IntoIterator<Item = &'a str>) -> String {
    let mut command = "modprobe --all".to_owned();
    for module in modules {
        command.push(' ');
        command.push_str(module);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(missing: Option<Missing>) -> Preflight {
        let works = Finding {
            feature: "nat",
            needed_for: "Services",
            missing: None,
        };
        let other = Finding {
            feature: "inotify on files",
            needed_for: "noticing changes",
            missing,
        };
        Preflight {
            apart: true,
            findings: vec![works, other],
        }
    }

    fn missing(then: Without) -> Option<Missing> {
        Some(Missing {
            error: "Operation not permitted".into(),
            then,
            consequence: "files are looked at every second.",
            modules: Vec::new(),
        })
    }

    #[test]
    fn the_table_says_what_follows() {
        assert_eq!(
            example(missing(Without::FallsBack)).to_string(),
            "FEATURE           OUTCOME     NEEDED FOR\n\
             nat               works       Services\n\
             inotify on files  falls back  noticing changes\n\
             \n\
             inotify on files: Operation not permitted\n  \
             so files are looked at every second.\n\
             \n\
             Each was tried in a network namespace of its own, but for permissions and settings of \
             this node. Podwire works here, with less."
        );
        assert!(example(None).to_string().ends_with("Podwire works here."));
        // What is said of all holds for all.
        assert!(probes::all().iter().any(|probe| probe.here));
    }

    #[test]
    fn modules_are_named_in_one_command() {
        let mut preflight = example(missing(Without::FallsBack));
        for (finding, modules) in preflight.findings.iter_mut().zip([["b", "a"], ["c", "a"]]) {
            finding.missing = missing(Without::FallsBack);
            finding.missing.as_mut().unwrap().modules = modules.into();
        }
        let told = preflight.to_string();
        assert!(
            told.contains("as root:\n  modprobe --all a b c\n"),
            "{told}"
        );
        let warning = &preflight.warnings()[0].text;
        assert!(warning.ends_with("run `modprobe --all b a`"), "{warning}");
    }

    /// What a rule says, and the module that does it; what is not here is part of nf_tables.
    const STATEMENTS: [(&str, &str); 16] = [
        ("type nat ", "nft_chain_nat"),
        ("ct ", "nft_ct"),
        ("counter", "nft_counter"),
        ("ct count ", "nft_connlimit"),
        ("dnat ", "nft_nat"),
        ("fib ", "nft_fib_inet"),
        ("jhash ", "nft_hash"),
        ("limit rate ", "nft_limit"),
        ("log ", "nft_log"),
        ("masquerade", "nft_masq"),
        ("numgen ", "nft_numgen"),
        ("queue ", "nft_queue"),
        ("quota ", "nft_quota"),
        ("redirect", "nft_redir"),
        ("reject", "nft_reject_inet"),
        ("socket ", "nft_socket"),
    ];

    #[test]
    fn every_module_that_the_rules_use_is_named_by_a_probe() {
        let probes = probes::all();
        let named = probes.iter().flat_map(|probe| probe.modules).copied();
        // The last one is for `--cluster-ip-echo` alone, as docs/kernels.md says.
        let named: BTreeSet<&str> = named.chain(["nft_redir"]).collect();
        let mut used = BTreeSet::new();
        for feature in ["services", "policies"] {
            let folder = format!(
                "{}/src/features/{feature}/golden",
                env!("CARGO_MANIFEST_DIR")
            );
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_none_or(|name| name != "nft") {
                    continue;
                }
                let text = std::fs::read_to_string(path).unwrap();
                // What stands in quotes is a name or a comment.
                let rules: String = text.split('"').step_by(2).collect();
                let said = STATEMENTS.iter().filter(|(word, _)| {
                    let mut places = rules.match_indices(word);
                    places.any(|(at, _)| at == 0 || rules[..at].ends_with(char::is_whitespace))
                });
                used.extend(said.map(|(_, module)| *module));
            }
        }
        assert!(used.contains("nft_limit"), "{used:?}");
        let missing: Vec<_> = used.difference(&named).collect();
        assert!(missing.is_empty(), "no probe names {missing:?}");
    }

    #[test]
    fn only_a_refusal_refuses_and_every_gap_is_a_warning() {
        assert!(!example(None).refuses() && example(None).warnings().is_empty());
        let less = example(missing(Without::FallsBack));
        assert!(!less.refuses());
        assert_eq!(less.warnings()[0].object, "kernel feature inotify on files");
        assert!(example(missing(Without::Refuses)).refuses());
    }

    /// What kernels up to 6.8 or so lack; `make kernels` shows which.
    fn may_be_missing(feature: &str, then: Without) -> bool {
        feature == "conntrack filter" && then == Without::FallsBack
    }

    #[test]
    fn every_probe_works_as_root_on_a_complete_kernel() {
        let preflight = run();
        assert!(preflight.apart, "this test needs root");
        let gaps = preflight
            .missing()
            .filter(|(finding, missing)| !may_be_missing(finding.feature, missing.then));
        let gaps: Vec<_> = gaps.collect();
        assert!(gaps.is_empty(), "{gaps:?}");
    }

    #[test]
    fn in_place_the_probes_work_as_well_and_leave_nothing_behind() {
        // A namespace of this test stands for a node where no other can be made.
        let list = || {
            let output = std::process::Command::new("sh")
                .args(["-c", "nft list ruleset; ip link; ip route show table all"])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        thread::spawn(move || {
            netns::unshare_thread().unwrap();
            let before = list();
            for probe in probes::all().into_iter().filter(|probe| !probe.here) {
                let (feature, outcome) = (probe.feature, (probe.try_it)());
                assert!(
                    outcome.is_ok() || may_be_missing(feature, probe.then),
                    "{feature}: {outcome:?}"
                );
            }
            assert_eq!(list(), before);
        })
        .join()
        .unwrap();
    }
}
