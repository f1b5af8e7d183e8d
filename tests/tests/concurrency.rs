//! Hundreds of pods at once, a third of the calls killed in the middle: every address is given
//! once, and after garbage collection nothing is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use podwire_lab::node::Node;
use podwire_lab::runtime::{self, Attachment, POD_LINK, PortMapping, Sandbox, Verb};
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Error, Lab};
use serde_json::json;

/// How many pods.
const PODS: usize = 300;

/// How many calls run at a time.
const WORKERS: usize = 24;

/// A call is killed after at most this time: longer than any call takes on an idle machine, so
/// that kills hit every moment of it, and some come too late.
const LATEST_KILL: Duration = Duration::from_millis(60);

#[test]
fn ipv4_addresses_are_unique_and_nothing_is_left_after_kills_and_gc() {
    storm(Families::V4, &["10.20.0.0/16"]);
}

#[test]
fn ipv6_addresses_are_unique_and_nothing_is_left_after_kills_and_gc() {
    storm(Families::V6, &["fd00:20::/64"]);
}

#[test]
fn dual_stack_addresses_are_unique_and_nothing_is_left_after_kills_and_gc() {
    storm(Families::Dual, &["10.20.0.0/16", "fd00:20::/64"]);
}

fn storm(families: Families, subnets: &[&str]) {
    // One at a time: a storm has enough workers for any machine.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::for_test_without_agents(&Topology::pair(families)).unwrap();
    let node = lab.machine("worker").unwrap();
    configure(&node, subnets);
    let before = state(&node);
    let sandboxes = sandboxes(&node);
    let network = node.runtime().network().unwrap();
    let chance = Chance::new(families as u64 + 1);

    let added: Mutex<Vec<(usize, Attachment)>> = Mutex::default();
    each(&sandboxes, |number, sandbox| {
        let limit = chance.limit(number);
        match node.runtime().add_within(sandbox, &network, limit) {
            Ok(attachment) => added.lock().unwrap().push((number, attachment)),
            Err(error) => assert_killed(number, &error),
        }
    });
    let added = added.into_inner().unwrap();
    assert!(
        added.len() >= PODS * 2 / 3,
        "only {} ADDs succeeded",
        added.len()
    );
    assert!(
        added.len() < PODS,
        "no ADD was killed in time: the test shows nothing"
    );
    let given: Vec<IpAddr> = added
        .iter()
        .flat_map(|(_, attachment)| runtime::addresses(&attachment.result))
        .collect();
    assert_eq!(given.len(), added.len() * subnets.len());
    assert_eq!(
        given.iter().collect::<BTreeSet<_>>().len(),
        given.len(),
        "an address came twice"
    );
    let rules = node.place().output("nft list ruleset").unwrap();
    for (number, attachment) in &added {
        let sandbox = &sandboxes[*number];
        node.runtime().check(sandbox, attachment).unwrap();
        for port in &sandbox.ports {
            assert!(
                rules.contains(&format!("tcp . {}", port.host_port)),
                "{port:?} is closed"
            );
        }
    }

    each(&sandboxes, |number, sandbox| {
        let call = node.runtime();
        let call = call.call(Verb::Del, sandbox, &sandbox.netns, chance.limit(number + 1));
        if let Err(error) = call.list(&network, POD_LINK, None) {
            assert_killed(number + 1, &error);
        }
    });
    node.runtime().collect_garbage([]).unwrap();
    // The namespaces are still there: what is gone was taken away, and did not go with them.
    assert_eq!(state(&node), before);
    // And it goes on as if nothing had happened.
    node.place().output("ip netns add after").unwrap();
    node.runtime()
        .add(&Sandbox::new("default", "after"))
        .unwrap();
}

/// Writes the conflist that the agent would write.
fn configure(node: &Node, subnets: &[&str]) {
    let ranges: Vec<_> = subnets
        .iter()
        .map(|subnet| json!([{"subnet": subnet}]))
        .collect();
    let conflist = json!({
        "name": "podwire",
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "plugins": [{
            "type": "podwire",
            "ipMasq": false,
            "capabilities": {"portMappings": true},
            "ipam": {"type": "host-local", "dataDir": "/run/podwire/ipam", "ranges": ranges},
        }],
    });
    let line = format!("cat > /etc/cni/net.d/00-podwire.conflist <<'END'\n{conflist}\nEND");
    node.place().output(&line).unwrap();
}

/// Sandboxes with a namespace each, every second one with a hostPort.
fn sandboxes(node: &Node) -> Vec<Sandbox> {
    let line = format!("for i in $(seq 0 {}); do ip netns add p$i; done", PODS - 1);
    // Making a namespace takes the kernel milliseconds, and on a busy machine far longer.
    node.place()
        .sh_within(&line, Duration::from_secs(180))
        .unwrap()
        .success()
        .unwrap();
    (0..PODS)
        .map(|number| {
            let mut sandbox = Sandbox::new("default", &format!("p{number}"));
            if number % 2 == 0 {
                let port = u16::try_from(20_000 + number).unwrap();
                sandbox.ports.push(PortMapping::new(port, 80, "tcp"));
            }
            sandbox
        })
        .collect()
}

/// Works on all sandboxes, [`WORKERS`] at a time.
fn each(sandboxes: &[Sandbox], work: impl Fn(usize, &Sandbox) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed))
                    && let Some(sandbox) = sandboxes.get(number)
                {
                    work(number, sandbox);
                }
            });
        }
    });
}

/// A call that was not to be killed must not fail.
fn assert_killed(number: usize, error: &Error) {
    assert!(
        Chance::kills(number) && matches!(error, Error::TimedOut { .. }),
        "{error}"
    );
}

/// When calls are killed: one of three, at a moment that differs from call to call.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn kills(number: usize) -> bool {
        number.is_multiple_of(3)
    }

    fn limit(&self, number: usize) -> Duration {
        if !Chance::kills(number) {
            return runtime::PLUGIN_LIMIT;
        }
        // splitmix64: well spread, and the same in every run.
        let mut mixed = self
            .0
            .wrapping_add((number as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0x94d0_49bb_1331_11eb);
        LATEST_KILL.mul_f64(((mixed ^ (mixed >> 31)) % 1000) as f64 / 1000.0)
    }
}

/// Everything about a node that pods could leave behind, but for what stays when there is no pod:
/// IPAM's lock, its last address and its lists of free ones, and rules that name no pod.
fn state(node: &Node) -> String {
    node.place()
        .output(
            "ip -o link | sed 's/^[0-9]*: //'; ip -o addr | wc -l; ip route; ip -6 route | wc -l; \
             nft list ruleset | grep elements; \
             find /run/podwire /var/lib/cni -type f 2>/dev/null | \
             grep -vE '/(lock|last_reserved_ip\\.[0-9]+|\\.podwire(\\.free\\.[0-9]+)?)$' | sort",
        )
        .unwrap()
}
