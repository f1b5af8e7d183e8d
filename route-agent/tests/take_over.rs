//! `take-over` beside the real iptables programs: they write the rules and say what is left.
//!
//! Each test has a network namespace of its own, and fails without root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

use podwire_agent::commands::takeover;
use podwire_kernel::netns::Netns;

/// What kube-proxy 1.31 in iptables mode writes for one Service, cut down, between rules of others.
/// The chain MINE-SVC of another program uses a chain of kube-proxy, as the portmap plugin can be
/// made to.
const NAT: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-2ZSCGFOHASJ2ETZM - [0:0]
:KUBE-SEP-IIDBY6BFDKOBEIEM - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
:MINE - [0:0]
:MINE-SVC - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
[3:180] -A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j MINE
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
[7:420] -A POSTROUTING -s 198.51.100.0/24 ! -o docker0 -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE
-A KUBE-SEP-2ZSCGFOHASJ2ETZM -s 10.10.1.3/32 -m comment --comment \"default/web\" -j KUBE-MARK-MASQ
-A KUBE-SEP-2ZSCGFOHASJ2ETZM -p tcp -m comment --comment \"default/web\" -m tcp -j DNAT --to-destination 10.10.1.3:80
-A KUBE-SEP-IIDBY6BFDKOBEIEM -p tcp -m tcp -j DNAT --to-destination 10.10.2.4:80
-A KUBE-SERVICES -d 10.200.1.63/32 -p tcp -m comment --comment \"default/web cluster IP\" -m tcp --dport 9000 -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SERVICES -m comment --comment \"NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-NPX46M4PTMTKRN6Y ! -s 10.10.0.0/16 -d 10.200.1.63/32 -p tcp -m tcp --dport 9000 -j KUBE-MARK-MASQ
-A KUBE-SVC-NPX46M4PTMTKRN6Y -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-2ZSCGFOHASJ2ETZM
-A KUBE-SVC-NPX46M4PTMTKRN6Y -j KUBE-SEP-IIDBY6BFDKOBEIEM
-A MINE -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.10.9.9:8080
[5:300] -A MINE -g MINE-SVC
-A MINE-SVC -s 10.10.9.0/24 -j KUBE-MARK-MASQ
COMMIT
";

/// What must be left of it.
const NAT_AFTER: &str = "*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:KUBE-KUBELET-CANARY -
:KUBE-MARK-MASQ -
:MINE -
:MINE-SVC -
[3:180] -A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j MINE
[7:420] -A POSTROUTING -s 198.51.100.0/24 ! -o docker0 -j MASQUERADE
[0:0] -A MINE -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.10.9.9:8080
[5:300] -A MINE -g MINE-SVC
[0:0] -A MINE-SVC -s 10.10.9.0/24 -j KUBE-MARK-MASQ
COMMIT
";

const FILTER: &str = "*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FIREWALL -m comment --comment \"block incoming localnet connections\" -j DROP
COMMIT
";

const FILTER_AFTER: &str = "*filter
:INPUT DROP
:FORWARD ACCEPT
:OUTPUT ACCEPT
:KUBE-FIREWALL -
[0:0] -A INPUT -j KUBE-FIREWALL
[0:0] -A KUBE-FIREWALL -m comment --comment \"block incoming localnet connections\" -j DROP
COMMIT
";

/// The same in addresses of IPv6.
fn six(rules: &str) -> String {
    let ranges = [
        ("10.10.1.3/32", "fd10::1:3/128"),
        ("10.10.0.0/16", "fd10::/48"),
        ("10.10.9.0/24", "fd10::9:0/112"),
        ("10.200.1.63/32", "fd20::63/128"),
        ("192.0.2.1/32", "2001:db8::1/128"),
        ("198.51.100.0/24", "2001:db8:1::/64"),
        ("10.10.1.3:80", "[fd10::1:3]:80"),
        ("10.10.2.4:80", "[fd10::2:4]:80"),
        ("10.10.9.9:8080", "[fd10::9:9]:8080"),
    ];
    ranges.iter().fold(rules.to_owned(), |text, (four, six)| {
        text.replace(four, six)
    })
}

fn netns() -> Netns {
    Netns::create_anonymous().expect("these tests need root: they make network namespaces")
}

/// Runs a program in the namespace of this thread; it must succeed.
fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; install iptables and nftables"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a save program prints, without the lines that differ each time: comments, and the
/// counters of policies.
fn saved(program: &str, table: &str) -> String {
    run(program, &["-c", "-t", table], "")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| match line.strip_prefix(':') {
            Some(chain) => format!(":{}\n", chain.rsplit_once(" [").unwrap().0),
            None => format!("{line}\n"),
        })
        .collect()
}

fn take_over() -> String {
    let mut out = String::new();
    let worked = takeover::run(false, &mut out).unwrap();
    assert!(worked, "{out}");
    out
}

fn dry_run() -> String {
    let mut out = String::new();
    takeover::run(true, &mut out).unwrap();
    out
}

/// Loads the rules with one backend, takes over, and compares what the backend says is left.
fn check(kind: &str) {
    netns()
        .enter(|| {
            for (program, nat, filter) in [
                ("iptables", NAT.to_owned(), FILTER.to_owned()),
                ("ip6tables", six(NAT), six(FILTER)),
            ] {
                let restore = format!("{program}-{kind}-restore");
                run(&restore, &["-c"], &with_counters(&nat));
                run(&restore, &["-c"], &with_counters(&filter));
            }
            let mentioned = dry_run();
            for place in ["iptables", "ip6tables"] {
                for table in ["nat", "filter"] {
                    let words = format!("would remove {place}-{kind} table {table}: ");
                    assert!(mentioned.contains(&words), "{mentioned}");
                }
            }
            // A dry run has changed nothing.
            assert_eq!(dry_run(), mentioned);
            let said = take_over();
            let held = "  but chain KUBE-MARK-MASQ stays, empty: a rule in chain MINE-SVC leads";
            assert_eq!(said.matches(held).count(), 2, "{said}");
            assert_eq!(saved(&format!("iptables-{kind}-save"), "nat"), NAT_AFTER);
            assert_eq!(
                saved(&format!("iptables-{kind}-save"), "filter"),
                FILTER_AFTER
            );
            // ip6tables-nft-restore 1.8.9 does not take the counters that it is given.
            let nat_after = match kind {
                "nft" => six(NAT_AFTER)
                    .replace("[3:180]", "[0:0]")
                    .replace("[5:300]", "[0:0]")
                    .replace("[7:420]", "[0:0]"),
                _ => six(NAT_AFTER),
            };
            assert_eq!(saved(&format!("ip6tables-{kind}-save"), "nat"), nat_after);
            assert_eq!(
                saved(&format!("ip6tables-{kind}-save"), "filter"),
                FILTER_AFTER
            );
            assert_eq!(take_over(), "no rules of a kube-proxy found\n");
        })
        .unwrap();
}

/// `iptables-restore -c` wants counters on every rule.
fn with_counters(rules: &str) -> String {
    rules
        .lines()
        .map(|line| {
            let counted = if line.starts_with("-A") { "[0:0] " } else { "" };
            format!("{counted}{line}\n")
        })
        .collect()
}

#[test]
fn the_rules_of_iptables_nft_are_taken_out_and_all_others_stay() {
    check("nft");
}

#[test]
fn the_rules_of_iptables_legacy_are_taken_out_and_all_others_stay_with_their_counters() {
    check("legacy");
}

#[test]
fn the_tables_of_the_nftables_mode_go_and_tables_of_others_stay() {
    netns()
        .enter(|| {
            let foreign = "table inet mine {\n chain KUBE-SERVICES {\n counter\n }\n }\n\
                           table inet kube-proxy {\n chain a {\n }\n }\n\
                           table ip podwire-services {\n chain b {\n }\n }\n";
            run("nft", &["-f", "-"], foreign);
            let before = run("nft", &["list", "ruleset"], "");
            let theirs = "table ip kube-proxy {\n\
                          map m { type ipv4_addr : verdict; }\n\
                          chain s { }\n\
                          chain p {\n\
                          type nat hook prerouting priority -100;\n\
                          ip daddr vmap @m\n\
                          jump s\n\
                          }\n\
                          }\n\
                          table ip6 kube-proxy {\n chain s {\n }\n }\n";
            run("nft", &["-f", "-"], theirs);
            assert_eq!(
                take_over(),
                "removed nftables table ip kube-proxy\nremoved nftables table ip6 kube-proxy\n"
            );
            assert_eq!(run("nft", &["list", "ruleset"], ""), before);
        })
        .unwrap();
}

/// What kube-proxy 1.31 in ipvs mode writes into iptables: rules that ask sets of ipset.
const IPVS_NAT: &str = "*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE
-A KUBE-SERVICES ! -s 10.10.0.0/16 -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
COMMIT
";

/// Runs a command line; what was said if it fails.
fn attempt(line: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

/// Says so, past what is held back for tests that pass, where this kernel cannot run a test.
fn not_run(what: &str, reason: &str) {
    let reason = reason.lines().next_back().unwrap_or_default();
    let _ = writeln!(std::io::stderr(), "\nnot run: {what}: {reason}");
}

/// What a kube-proxy in ipvs mode makes besides rules.
const IPVS_WORLD: [&str; 7] = [
    "ip link add kube-ipvs0 type dummy",
    "ip address add 10.200.1.63/32 dev kube-ipvs0",
    "ipset create KUBE-CLUSTER-IP hash:ip,port",
    "ipset add KUBE-CLUSTER-IP 10.200.1.63,tcp:9000",
    "ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535",
    "ipvsadm --add-service --tcp-service 10.200.1.63:9000 --scheduler rr",
    "ipvsadm --add-server --tcp-service 10.200.1.63:9000 --real-server 10.10.1.3:80 --masquerading",
];

#[test]
fn of_an_ipvs_mode_the_link_and_the_rules_go_and_virtual_servers_are_named() {
    let world = || {
        for line in IPVS_WORLD {
            if let Err(reason) = attempt(line) {
                return not_run("take-over from ipvs", &format!("{line}: {}", reason.trim()));
            }
        }
        for kind in ["nft", "legacy"] {
            run(
                &format!("iptables-{kind}-restore"),
                &["-c"],
                &with_counters(IPVS_NAT),
            );
            let would = dry_run();
            let table = format!("would remove iptables-{kind} table nat: 5 chains");
            assert!(would.contains(&table), "{would}");
            assert!(would.contains("1 virtual server of IPVS stay"), "{would}");
            let said = take_over();
            assert_eq!(
                said.contains("removed link kube-ipvs0"),
                kind == "nft",
                "{said}"
            );
            let left = saved(&format!("iptables-{kind}-save"), "nat");
            assert!(!left.contains("KUBE-"), "{left}");
        }
        // The link is gone with its addresses, and no rule holds a set any longer.
        attempt("ip link show kube-ipvs0").unwrap_err();
        attempt("ipset destroy").unwrap();
        assert!(
            attempt("ipvsadm --list --numeric")
                .unwrap()
                .contains("10.200.1.63:9000")
        );
        attempt("ipvsadm --clear").unwrap();
        assert_eq!(take_over(), "no rules of a kube-proxy found\n");
    };
    netns().enter(world).unwrap();
}

#[test]
fn looking_makes_no_tables() {
    netns()
        .enter(|| {
            assert_eq!(dry_run(), "no rules of a kube-proxy found\n");
            for names in ["ip_tables_names", "ip6_tables_names"] {
                let path = format!("/proc/thread-self/net/{names}");
                assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), "");
            }
            assert_eq!(run("nft", &["list", "ruleset"], ""), "");
        })
        .unwrap();
}
