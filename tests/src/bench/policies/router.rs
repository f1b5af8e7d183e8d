//! The same pods and policies in the layout of kube-router's nftables mode.
//!
//! It follows `pkg/controllers/netpol/npc_nftables.go` of cloudnativelabs/kube-router at commit
//! 7bb6746b853c: a chain for each pod of the node and for each policy of the cluster, two jumps for
//! each of these pods where packets are forwarded, one after the other, a set for the pods that a
//! policy is about and one for the peers of each of its rules. A policy's chain sets bit 0x10000 of
//! the packet's mark, a pod's chain refuses what lacks it and sets bit 0x20000, which is accepted in
//! the end. A sync writes everything again; the names of the chains hold its number, so those of the
//! last one can go.
//!
//! Where it differs it costs less: everything is one transaction of one `nft`, which kube-router
//! runs once for each policy and pod; all elements of a set are one command; rules have no comments.
//! The rules about Services and node ports are left out, which no packet of the bench meets.

use std::fmt::Display;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use podwire_kernel::netns::Netns;
use serde_json::Value;

use super::objects::{Objects, Pod, Policy, Rule, changed};

/// Its table.
pub const TABLE: &str = "kube-router-filter-ipv4";

const FORWARD: &str = "KUBE-ROUTER-FORWARD";
const OUTPUT: &str = "KUBE-ROUTER-OUTPUT";
const INPUT: &str = "KUBE-ROUTER-INPUT";
const HOOKS: [(&str, &str); 3] = [(INPUT, "input"), (FORWARD, "forward"), (OUTPUT, "output")];

/// What every pod's chain begins with.
const COMMON: &str = "KUBE-NWPLCY-COMMON";

/// How a policy's chain says that it allows a packet.
const ALLOW: &str = "counter meta mark set meta mark or 0x10000 return";

/// What every pod's chain ends with.
const END: [&str; 4] = [
    "meta mark and 0x10000 == 0x0 limit rate 10/minute burst 10 packets log group 100",
    "meta mark and 0x10000 == 0x0 counter reject",
    "meta mark set meta mark and 0xfffeffff",
    "meta mark set meta mark or 0x20000",
];

/// Writes everything in the node as the sync of this number does; how long `nft` took.
pub fn sync(
    node: &Netns,
    directory: PathBuf,
    objects: &Objects,
    round: u32,
) -> Result<Duration, String> {
    let path = directory.join("router.nft");
    fs::write(&path, Sync::of(objects, round).text)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let start = Instant::now();
    nft(node, &["-f", &path.display().to_string()])?;
    Ok(start.elapsed())
}

/// Rules and elements of a table.
pub fn size(node: &Netns, table: &str) -> Result<[usize; 2], String> {
    let text = nft(node, &["-j", "list", "table", "ip", table])?;
    let parsed: Value =
        serde_json::from_slice(&text).map_err(|error| format!("cannot read nft: {error}"))?;
    let items = parsed["nftables"].as_array().into_iter().flatten();
    Ok(items.fold([0, 0], |[rules, elements], item| {
        let sets = [&item["set"]["elem"], &item["map"]["elem"]];
        let count = sets.map(|set| set.as_array().map_or(0, Vec::len));
        let rule = usize::from(item["rule"].is_object());
        [rules + rule, elements + count.iter().sum::<usize>()]
    }))
}

fn nft(node: &Netns, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn Display| format!("cannot run nft: {error}");
    let output = node
        .enter(|| Command::new("nft").args(arguments).output())
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(failed(&String::from_utf8_lossy(&output.stderr))),
    }
}

/// The commands of a sync.
struct Sync<'a> {
    objects: &'a Objects,
    round: u32,
    text: String,
}

impl<'a> Sync<'a> {
    fn of(objects: &'a Objects, round: u32) -> Self {
        let mut sync = Self {
            objects,
            round,
            text: format!("add table ip {TABLE}\n"),
        };
        sync.frame();
        let last = changed(round);
        let policies = || objects.policies.iter().chain([&last]);
        policies().for_each(|policy| sync.policy(policy));
        let local: Vec<&Pod> = objects.pods.iter().filter(|pod| pod.local).collect();
        for pod in &local {
            let about = |policy: &&Policy| policy.about.is_none_or(|app| app == pod.app);
            sync.pod(pod, policies().filter(about));
        }
        for (chain, _) in HOOKS {
            sync.rule(chain, "meta mark and 0x20000 == 0x20000 counter accept");
        }
        if let Some(last) = round.checked_sub(1) {
            let gone = local.iter().map(|pod| pod_chain(last, pod));
            let gone = gone.chain(policies().map(|policy| policy_chain(last, policy)));
            gone.for_each(|chain| sync.command("delete chain", &chain, ""));
        }
        sync
    }

    fn command(&mut self, verb: &str, name: &str, rest: &str) {
        let (verb, kind) = verb.split_once(' ').unwrap_or((verb, ""));
        self.text += &format!("{verb} {kind} ip {TABLE} {name} {rest}\n");
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        self.command("add rule", chain, rule);
    }

    /// The chains of the hooks, emptied, and the one that all pods share.
    fn frame(&mut self) {
        for (chain, hook) in HOOKS {
            let base = format!("{{ type filter hook {hook} priority filter; }}");
            self.command("add chain", chain, &base);
            self.command("flush chain", chain, "");
        }
        self.command("add chain", COMMON, "");
        self.command("flush chain", COMMON, "");
        for rule in [
            "ct state invalid counter drop",
            "ct state established,related counter accept",
            "icmp type echo-request counter accept",
            "icmp type destination-unreachable counter accept",
            "icmp type time-exceeded counter accept",
        ] {
            self.rule(COMMON, rule);
        }
    }

    fn policy(&mut self, policy: &Policy) {
        let chain = policy_chain(self.round, policy);
        self.command("add chain", &chain, "");
        let name = &policy.name;
        let (from, to) = (format!("KUBE-SRC-{name}"), format!("KUBE-DST-{name}"));
        let objects = self.objects;
        let pods = |app| objects.with(app).map(|pod| pod.address);
        match &policy.rule {
            Rule::Nothing => {
                self.set(&from, "", pods(policy.about));
                self.set(&to, "", pods(policy.about));
            }
            Rule::To(app) => {
                let peers = format!("{to}-0");
                self.set(&from, "", pods(policy.about));
                self.set(&peers, "", pods(Some(app)));
                let rule = format!("ip saddr @{from} ip daddr @{peers} {ALLOW}");
                self.rule(&chain, &rule);
            }
            Rule::From(app, ports) => {
                self.set(&to, "", pods(policy.about));
                let peers = format!("{from}-0");
                self.set(&peers, "", pods(Some(app)));
                self.ports(&chain, &peers, &to, ports);
            }
            Rule::FromAddress(address, ports) => {
                self.set(&to, "", pods(policy.about));
                let peers = format!("{from}-0-block");
                self.set(&peers, "flags interval;", [*address].into_iter());
                self.ports(&chain, &peers, &to, ports);
            }
        }
    }

    /// A rule for each port that is open.
    fn ports(&mut self, chain: &str, from: &str, to: &str, ports: &[u16]) {
        for port in ports {
            let rule = format!("ip saddr @{from} ip daddr @{to} tcp dport {port} {ALLOW}");
            self.rule(chain, &rule);
        }
    }

    fn set(&mut self, name: &str, flags: &str, addresses: impl Iterator<Item = Ipv4Addr>) {
        let definition = format!("{{ type ipv4_addr; {flags} }}");
        self.command("add set", name, &definition);
        self.command("flush set", name, "");
        let elements: Vec<String> = addresses.map(|address| address.to_string()).collect();
        let elements = format!("{{ {} }}", elements.join(", "));
        self.command("add element", name, &elements);
    }

    fn pod<'p>(&mut self, pod: &Pod, policies: impl Iterator<Item = &'p Policy>) {
        let chain = pod_chain(self.round, pod);
        let address = pod.address;
        self.command("add chain", &chain, "");
        self.rule(&chain, &format!("counter jump {COMMON}"));
        let node = format!("fib saddr type local ip daddr {address} counter accept");
        self.rule(&chain, &node);
        for policy in policies {
            let side = match policy.rule {
                Rule::Nothing => String::new(),
                Rule::To(_) => format!("ip saddr {address} "),
                Rule::From(..) | Rule::FromAddress(..) => format!("ip daddr {address} "),
            };
            let target = policy_chain(self.round, policy);
            self.rule(&chain, &format!("{side}counter jump {target}"));
        }
        END.iter().for_each(|rule| self.rule(&chain, rule));
        for hook in [FORWARD, OUTPUT] {
            self.rule(hook, &format!("ip daddr {address} counter jump {chain}"));
        }
        for (hook, _) in HOOKS {
            self.rule(hook, &format!("ip saddr {address} counter jump {chain}"));
        }
    }
}

fn pod_chain(round: u32, pod: &Pod) -> String {
    format!("KUBE-POD-FW-{round}-{}", pod.name)
}

fn policy_chain(round: u32, policy: &Policy) -> String {
    format!("KUBE-NWPLCY-{round}-{}", policy.name)
}
