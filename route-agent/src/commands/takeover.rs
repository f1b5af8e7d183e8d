//! What a kube-proxy left behind: finding it, naming it, and removing it.
//!
//! A kube-proxy that is switched off leaves its rules in place, and they go on redirecting
//! traffic to endpoints that are long gone. They are of three kinds: its own nftables tables, and
//! chains with its names in the tables of iptables-nft and of iptables-legacy. Only those are
//! removed, with the jumps to them from built-in chains. A chain to which another program's chain
//! leads stays, but empty, and is named.
//!
//! One in ipvs mode also leaves a link with the addresses of Services, which makes them the node's
//! own. It goes. Virtual servers of IPVS may be another program's, and are only named.
//!
//! The kubelet and others also have chains that start with `KUBE-`. They are not a kube-proxy's
//! and stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use podwire_kernel::foreign::{self, Chain, Edit};
use podwire_kernel::nft::Family;
use podwire_kernel::{IpFamily, RouteSocket};

use crate::warnings::Warning;

/// The chains of a kube-proxy that have one name, in all of its modes.
const CHAINS: [&str; 15] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-MARK-MASQ",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-FIRE-WALL",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-PORTALS-CONTAINER",
];

/// The chains of a kube-proxy that exist once per Service or endpoint; a hash follows.
const CHAINS_BY_SERVICE: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-SEP-",
    "KUBE-EXT-",
    "KUBE-FW-",
    "KUBE-XLB-",
];

/// The tables that iptables-nft can make.
const IPTABLES_TABLES: [&str; 5] = ["nat", "filter", "mangle", "raw", "security"];

/// The link that a kube-proxy in ipvs mode hangs its addresses on.
const IPVS_LINK: &str = "kube-ipvs0";

/// True if a kube-proxy makes chains of this name.
pub fn is_of_kube_proxy(chain: &str) -> bool {
    CHAINS.contains(&chain)
        || CHAINS_BY_SERVICE
            .iter()
            .any(|prefix| chain.starts_with(prefix) && chain.len() > prefix.len())
}

/// Where something was left: a table of another program, or a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The link of a kube-proxy in ipvs mode, with the addresses of Services.
    IpvsLink,
    /// A whole nftables table of a kube-proxy in nftables mode.
    KubeProxy(Family, String),
    /// A table of iptables-nft.
    IptablesNft(Family, String),
    /// A table of iptables-legacy.
    IptablesLegacy(IpFamily, String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = |v6| if v6 { "ip6tables" } else { "iptables" };
        match self {
            Self::IpvsLink => write!(f, "link {IPVS_LINK}"),
            Self::KubeProxy(family, name) => write!(f, "nftables table {family} {name}"),
            Self::IptablesNft(family, table) => {
                write!(f, "{}-nft table {table}", program(*family == Family::Ip6))
            }
            Self::IptablesLegacy(family, table) => {
                let v6 = *family == IpFamily::V6;
                write!(f, "{}-legacy table {table}", program(v6))
            }
        }
    }
}

/// What a kube-proxy left in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The place.
    pub place: Place,
    /// What of it is to be removed; empty if all of it is a kube-proxy's.
    pub removal: Removal,
}

/// What is to be removed from one table of iptables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// What is removed.
    pub edit: Edit,
    /// Chains that must stay because of another program: the chain, and whose chain leads to it.
    pub kept: BTreeMap<String, BTreeSet<String>>,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Place::KubeProxy(..) | Place::IpvsLink = self.place {
            return write!(f, "{}", self.place);
        }
        let edit = &self.removal.edit;
        let chains: Vec<&str> = edit
            .deleted
            .iter()
            .chain(&edit.emptied)
            .map(String::as_str)
            .collect();
        write!(
            f,
            "{}: {} with their rules ({}), {}",
            self.place,
            counted(chains.len(), "chain"),
            some_of(&chains),
            counted(edit.rules.len(), "jump"),
        )
    }
}

/// Why a take-over did not work.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// Looking failed.
    #[error("cannot look for what a kube-proxy left behind")]
    Find {
        /// What the kernel says.
        #[from]
        source: podwire_kernel::Error,
    },
    /// Removing failed; the place is as it was.
    #[error("cannot remove what a kube-proxy left: {place}")]
    Remove {
        /// The place.
        place: Place,
        /// What the kernel says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What must be removed from a table with these chains.
pub fn removal_of(chains: &[Chain]) -> Removal {
    let mut removal = Removal::default();
    for chain in chains.iter().filter(|chain| !is_of_kube_proxy(&chain.name)) {
        for rule in &chain.rules {
            let Some(to) = rule.leads_to.as_ref().filter(|to| is_of_kube_proxy(to)) else {
                continue;
            };
            if chain.builtin {
                removal.edit.rules.push((chain.name.clone(), rule.id));
            } else {
                let by = removal.kept.entry(to.clone()).or_default();
                by.insert(chain.name.clone());
            }
        }
    }
    for chain in chains
        .iter()
        .filter(|chain| is_of_kube_proxy(&chain.name) && !chain.builtin)
    {
        if !removal.kept.contains_key(&chain.name) {
            removal.edit.deleted.push(chain.name.clone());
        } else if !chain.rules.is_empty() {
            removal.edit.emptied.push(chain.name.clone());
        }
    }
    removal
}

/// Finds everything that a kube-proxy left in this network namespace. Changes nothing.
pub fn find() -> Result<Vec<Leftover>, TakeOverError> {
    let mut found = Vec::new();
    let mut add = |place: Place, chains: &[Chain]| {
        let removal = removal_of(chains);
        if !removal.edit.is_empty() {
            found.push(Leftover { place, removal });
        }
    };
    let mut whole = Vec::new();
    if ipvs_link()? {
        whole.push(Leftover {
            place: Place::IpvsLink,
            removal: Removal::default(),
        });
    }
    for family in [Family::Ip, Family::Ip6] {
        for table in foreign::nft::tables(family)? {
            if table == "kube-proxy" {
                whole.push(Leftover {
                    place: Place::KubeProxy(family, table),
                    removal: Removal::default(),
                });
            } else if IPTABLES_TABLES.contains(&table.as_str()) {
                let chains = foreign::nft::chains(family, &table)?;
                add(Place::IptablesNft(family, table), &chains);
            }
        }
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        for table in foreign::legacy::tables(family)? {
            let chains = foreign::legacy::chains(family, &table)?;
            add(Place::IptablesLegacy(family, table), &chains);
        }
    }
    whole.append(&mut found);
    Ok(whole)
}

/// Removes one leftover, whole or not at all. What it holds is looked up again: rules may have
/// changed since it was found. Returns what was removed.
pub fn remove(leftover: &Leftover) -> Result<Leftover, TakeOverError> {
    let failed = |source| TakeOverError::Remove {
        place: leftover.place.clone(),
        source,
    };
    let mut done = Removal::default();
    match &leftover.place {
        Place::IpvsLink => RouteSocket::open()
            .and_then(|mut socket| socket.delete_link_named(IPVS_LINK))
            .map_err(|error| failed(error.into()))?,
        Place::KubeProxy(family, table) => {
            foreign::nft::delete_table(*family, table).map_err(|error| failed(error.into()))?;
        }
        Place::IptablesNft(family, table) => {
            done = removal_of(&foreign::nft::chains(*family, table)?);
            foreign::nft::edit(*family, table, &done.edit).map_err(|error| failed(error.into()))?;
        }
        Place::IptablesLegacy(family, table) => {
            let kept = std::cell::RefCell::default();
            let choose = |chains: &[Chain]| {
                let removal = removal_of(chains);
                *kept.borrow_mut() = removal.kept;
                removal.edit
            };
            let edit = foreign::legacy::edit(*family, table, choose)
                .map_err(|error| failed(error.into()))?;
            done = Removal {
                edit,
                kept: kept.into_inner(),
            };
        }
    }
    Ok(Leftover {
        place: leftover.place.clone(),
        removal: done,
    })
}

/// What the agent says at its start about leftovers.
pub fn warnings(found: &[Leftover]) -> Vec<Warning> {
    let what = |place: &Place| match place {
        Place::IpvsLink => "addresses of Services there, which this node takes for its own",
        _ => "rules there that may send Service traffic to endpoints that are gone",
    };
    found
        .iter()
        .map(|leftover| {
            let text = format!(
                "a kube-proxy left {}; see `podwire-agent take-over --dry-run`, and remove them \
                 with `podwire-agent take-over` once no kube-proxy runs on this node",
                what(&leftover.place)
            );
            Warning::new(leftover.place.to_string(), text)
        })
        .collect()
}

/// Is there a link with the name and of the kind that a kube-proxy in ipvs mode makes?
fn ipvs_link() -> Result<bool, TakeOverError> {
    let link = RouteSocket::open()?.link_by_name(IPVS_LINK)?;
    Ok(link.is_some_and(|link| link.kind.as_deref() == Some("dummy")))
}

/// How many virtual servers IPVS has in this network namespace.
fn virtual_servers() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
    let kinds = ["TCP ", "UDP ", "SCTP ", "FWM "];
    let is_server = |line: &&str| kinds.iter().any(|kind| line.starts_with(kind));
    table.lines().filter(is_server).count()
}

/// The command `podwire-agent take-over`: writes what it does to `out`; true if all of it worked.
pub fn run(dry_run: bool, out: &mut impl fmt::Write) -> Result<bool, TakeOverError> {
    let found = find()?;
    // Writing into a string or to a terminal that is gone is not an error.
    let mut say = |text: String| {
        let _ = writeln!(out, "{}", crate::text::printable(&text));
    };
    let servers = virtual_servers();
    if servers > 0 {
        say(format!(
            "{} of IPVS stay, for they may be another program's: if none uses IPVS, remove them \
             with `ipvsadm --clear`",
            counted(servers, "virtual server")
        ));
    }
    if found.is_empty() {
        say("no rules of a kube-proxy found".into());
        return Ok(true);
    }
    let mut all = true;
    for leftover in &found {
        let done = if dry_run {
            Ok(leftover.clone())
        } else {
            remove(leftover)
        };
        match done {
            Ok(done) => {
                let verb = if dry_run { "would remove" } else { "removed" };
                say(format!("{verb} {done}"));
                for (chain, by) in &done.removal.kept {
                    let by: Vec<&str> = by.iter().map(String::as_str).collect();
                    say(format!(
                        "  but chain {chain} stays, empty: a rule in chain {} leads to it and is \
                         not a kube-proxy's",
                        by.join(", ")
                    ));
                }
            }
            Err(error) => {
                all = false;
                say(crate::error::chain(&error));
            }
        }
    }
    Ok(all)
}

fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// At most a few names.
fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    let shown = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        format!("{shown}, ...")
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use podwire_kernel::foreign::Rule;

    use super::*;

    /// Chains from text: `NAME: CHAIN CHAIN -`, `*` in front of built-in ones.
    fn chains(lines: &[&str]) -> Vec<Chain> {
        let mut id = 0;
        let mut rule = |to: &str| {
            id += 1;
            let leads_to = (to != "-").then(|| to.to_owned());
            let drops = false;
            Rule {
                id,
                leads_to,
                drops,
            }
        };
        lines
            .iter()
            .map(|line| {
                let (name, rules) = line.split_once(':').unwrap();
                Chain {
                    name: name.trim_start_matches('*').to_owned(),
                    builtin: name.starts_with('*'),
                    hook: None,
                    drops: false,
                    rules: rules.split_whitespace().map(&mut rule).collect(),
                }
            })
            .collect()
    }

    #[test]
    fn only_a_kube_proxys_names_are_a_kube_proxys() {
        for name in [
            "KUBE-SERVICES",
            "KUBE-SVC-X",
            "KUBE-SEP-ABC",
            "KUBE-FW-A",
            "KUBE-MARK-MASQ",
        ] {
            assert!(is_of_kube_proxy(name), "{name}");
        }
        for name in [
            "KUBE-FIREWALL",
            "KUBE-IPTABLES-HINT",
            "KUBE-KUBELET-CANARY",
            "KUBE-MARK-DROP",
            "KUBE-ROUTER-INPUT",
            "KUBE-POD-FW-ABC",
            "KUBE-NWPLCY-ABC",
            "KUBE-SVC-",
            "KUBE-",
            "kube-services",
            "CNI-HOSTPORT-DNAT",
        ] {
            assert!(!is_of_kube_proxy(name), "{name}");
        }
    }

    #[test]
    fn jumps_and_chains_go_and_the_rest_stays() {
        let removal = removal_of(&chains(&[
            "*PREROUTING: - KUBE-SERVICES CNI-HOSTPORT-DNAT",
            "*POSTROUTING: KUBE-POSTROUTING",
            "CNI-HOSTPORT-DNAT: -",
            "KUBE-SERVICES: KUBE-SVC-A KUBE-NODEPORTS",
            "KUBE-SVC-A: - KUBE-MARK-MASQ",
            "KUBE-NODEPORTS:",
            "KUBE-MARK-MASQ: -",
            "KUBE-POSTROUTING: - -",
            "KUBE-FIREWALL: -",
        ]));
        let jumps = [("PREROUTING".to_owned(), 2), ("POSTROUTING".to_owned(), 4)];
        assert_eq!(removal.edit.rules, jumps);
        assert_eq!(
            removal.edit.deleted,
            [
                "KUBE-SERVICES",
                "KUBE-SVC-A",
                "KUBE-NODEPORTS",
                "KUBE-MARK-MASQ",
                "KUBE-POSTROUTING"
            ]
        );
        assert!(removal.edit.emptied.is_empty() && removal.kept.is_empty());
    }

    #[test]
    fn a_chain_that_others_lead_to_stays_empty_and_is_not_found_again() {
        let before = chains(&[
            "*PREROUTING: KUBE-SERVICES MINE",
            "MINE: KUBE-MARK-MASQ",
            "KUBE-SERVICES: KUBE-MARK-MASQ",
            "KUBE-MARK-MASQ: -",
        ]);
        let first = removal_of(&before);
        assert_eq!(first.edit.deleted, ["KUBE-SERVICES"]);
        assert_eq!(first.edit.emptied, ["KUBE-MARK-MASQ"]);
        assert!(first.kept["KUBE-MARK-MASQ"].contains("MINE"));
        let after = chains(&[
            "*PREROUTING: MINE",
            "MINE: KUBE-MARK-MASQ",
            "KUBE-MARK-MASQ:",
        ]);
        assert!(removal_of(&after).edit.is_empty());
    }

    #[test]
    fn leftovers_are_named_in_a_few_words() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let leftover = Leftover {
            place: Place::IptablesNft(Family::Ip6, "nat".into()),
            removal: Removal {
                edit: Edit {
                    rules: vec![("PREROUTING".into(), 1)],
                    emptied: names(&["E"]),
                    deleted: names(&["A", "B", "C", "D"]),
                },
                kept: BTreeMap::new(),
            },
        };
        assert_eq!(
            leftover.to_string(),
            "ip6tables-nft table nat: 5 chains with their rules (A, B, C, D, ...), 1 jump"
        );
        let table = Leftover {
            place: Place::KubeProxy(Family::Ip, "kube-proxy".into()),
            removal: Removal::default(),
        };
        assert_eq!(table.to_string(), "nftables table ip kube-proxy");
        let link = Leftover {
            place: Place::IpvsLink,
            removal: Removal::default(),
        };
        let warnings = warnings(&[table, leftover, link]);
        assert_eq!(warnings[0].object, "nftables table ip kube-proxy");
        assert_eq!(warnings[1].object, "ip6tables-nft table nat");
        assert_eq!(warnings[2].object, "link kube-ipvs0");
    }
}
