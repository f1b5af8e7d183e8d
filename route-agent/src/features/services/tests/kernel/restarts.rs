//! An agent that starts over what another one left, with other settings or other objects.

use podwire_kernel::IpFamily;

use crate::config::services::Config;
use crate::features::services::desired::frontends::Claim;
use crate::features::services::table::sync::FamilyTable;
use crate::features::services::tests::bench::{Bench, in_namespace, nft};
use crate::features::services::tests::kernel::{WEB, everything, listed, same, with_web};
use crate::snapshot::{Object, Protocol, ServiceCidr};

/// What the kernel holds must be what an agent writes that finds nothing.
#[track_caller]
fn as_if_new(bench: &mut Bench, when: &str) {
    assert_eq!(bench.differences(), [""; 0], "{when}");
    assert!(bench.table.applied().refused().is_empty(), "{when}");
    let found = listed();
    nft("flush ruleset");
    bench.restart();
    same(&found, &listed(), when);
}

#[test]
fn networks_that_grow_or_shrink_replace_what_was_there() {
    in_namespace(|| {
        let mut bench = with_web("10.10.1.3@worker 10.10.2.4");
        for (services, pods) in [
            ("10.200.0.0/16", "10.10.0.0/16"),
            ("10.192.0.0/12", "10.8.0.0/13"),
            ("10.200.0.0/16", "10.10.0.0/15"),
            ("10.200.0.0/20", "10.10.0.0/17"),
        ] {
            bench.set(Object::ServiceCidr(ServiceCidr {
                name: "kubernetes".into(),
                cidrs: [services.parse().unwrap()].into_iter().collect(),
                invalid: Vec::new(),
            }));
            bench.config.cluster_cidrs = vec![pods.parse().unwrap()];
            bench.restart();
            for network in [services, pods] {
                assert!(listed().contains(network), "{network}: {}", listed());
            }
            as_if_new(&mut bench, services);
        }
    });
}

#[test]
fn without_a_date_who_has_it_keeps_it_over_a_reading_and_a_restart() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        let spec = |address| {
            format!("kind NodePort; cluster-ip {address}; port tcp 80 31000; external-ip 192.0.2.1")
        };
        bench.service("b", &spec("10.200.1.2"));
        bench.service("d", "cluster-ip 10.200.1.4; port tcp 80");
        bench.sync();
        bench.service("a", &spec("10.200.1.1"));
        bench.service("c", "cluster-ip 10.200.1.4; port tcp 81");
        bench.sync();
        let names = [
            "31000 comment \"default/",
            "192.0.2.1 . tcp . 80 comment \"default/",
        ];
        let holds = |when: &str| {
            for name in names {
                assert!(
                    listed().contains(&format!("{name}b:80")),
                    "{when}: {}",
                    listed()
                );
                assert!(
                    !listed().contains(&format!("{name}a:80")),
                    "{when}: {}",
                    listed()
                );
            }
            assert!(
                listed().contains("10.200.1.4 comment \"default/d\""),
                "{when}"
            );
            assert!(!listed().contains("default/c"), "{when}: {}", listed());
        };
        holds("running");
        bench.table.distrust();
        assert_eq!(bench.sync().batches, 0);
        holds("read back");
        assert_eq!(bench.restart(), 0);
        holds("restarted");
        // A Service that goes while the table is read back leaves nothing to anyone but the next.
        bench.gone("b");
        bench.table.distrust();
        bench.sync();
        assert!(listed().contains("31000 comment \"default/a:80\""));
        assert_eq!(bench.differences(), [""; 0]);
    });
}

#[test]
fn source_ranges_that_grow_or_shrink_replace_what_was_there() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        for (round, range) in ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/16"]
            .into_iter()
            .enumerate()
        {
            let spec = format!(
                "kind LoadBalancer; cluster-ip 10.200.1.64; port tcp 80 31000; vip 5.6.7.8; \
                 source {range}"
            );
            bench.service("guarded", &spec);
            // One endpoint more each time, which must arrive as well.
            let endpoints: Vec<_> = (0..=round).map(|n| format!("10.10.2.{}", n + 4)).collect();
            bench.endpoints("guarded", &endpoints.join(" "));
            bench.restart();
            bench.sync_later();
            assert!(listed().contains(&endpoints[round]), "{range}");
            as_if_new(&mut bench, range);
        }
        bench.service("guarded", "cluster-ip 10.200.1.64; port tcp 80");
        bench.restart();
        bench.sync_later();
        as_if_new(&mut bench, "no ranges");
    });
}

#[test]
fn counters_are_switched_off_and_on_whatever_services_there_are() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        super::everything(&mut bench);
        bench.sync();
        for counters in [false, true] {
            bench.config = Config {
                counters,
                ..Config::default()
            };
            bench.restart();
            as_if_new(&mut bench, &format!("counters {counters}"));
        }
    });
}

#[test]
fn what_is_refused_at_the_start_keeps_its_rules_until_it_is_taken() {
    in_namespace(|| {
        let mut bench = with_web("10.10.1.3 10.10.2.4");
        let right = listed();
        bench.kernel.refuse = Some("default/web");
        bench.endpoints("web", "10.10.1.3 10.10.2.4 10.10.2.5");
        bench.restart();
        assert_eq!(bench.table.applied().refused().len(), 1);
        bench.sync_later();
        same(&listed(), &right, "after the refusal");
        // Nothing has changed in the cluster; it is the time to try again.
        bench.kernel.refuse = None;
        bench.sync();
        bench.sync_later();
        assert!(listed().contains("10.10.2.5"));
        as_if_new(&mut bench, "tried again");
    });
}

#[test]
fn what_was_refused_at_the_start_and_goes_leaves_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        bench.service("web", WEB);
        bench.endpoints("web", "10.10.1.3 10.10.2.4");
        bench.service("other", "cluster-ip 10.200.1.64; port tcp 80");
        bench.sync();
        bench.kernel.refuse = Some("default/web");
        bench.endpoints("web", "10.10.1.3 10.10.2.5");
        bench.restart();
        bench.gone("web");
        bench.kernel.refuse = None;
        bench.sync();
        bench.sync_later();
        assert!(!listed().contains("default/web"));
        as_if_new(&mut bench, "gone");
    });
}

#[test]
fn clients_of_udp_services_that_went_meanwhile_are_named() {
    for (family, address) in [
        (IpFamily::V4, "10.200.1.53"),
        (IpFamily::V6, "fd00:10:200::53"),
    ] {
        in_namespace(move || {
            let mut bench = Bench::new(family);
            let spec = format!("kind NodePort; cluster-ip {address}; port udp 53 31053");
            bench.service("dns", &spec);
            bench.service("web", &format!("cluster-ip {address}; port tcp 80"));
            bench.sync();
            bench.gone("dns");
            bench.table = FamilyTable::new(family, &bench.config);
            let claims: Vec<Claim> = bench.sync().udp.into_iter().map(|one| one.claim).collect();
            let vip = Claim::Vip(address.parse().unwrap(), Protocol::Udp, 53);
            assert!(claims.contains(&vip), "{claims:?}");
            assert!(claims.contains(&Claim::NodePort(Protocol::Udp, 31053)));
            assert_eq!(claims.len(), 2);
        });
    }
}

#[test]
fn rules_of_a_version_that_logged_nothing_are_replaced_and_all_others_stay() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        bench.sync();
        bench.sync_later();
        let right = listed();
        let table = "ip podwire-services";
        let instead = |chain: &str, rules: &[&str]| {
            nft(&format!("flush chain {table} {chain}"));
            for rule in rules {
                nft(&format!("add rule {table} {chain} {rule}"));
            }
        };
        let unallocated = "ip daddr @service-cidrs fib daddr type != local counter drop";
        instead("prerouting-unallocated", &[unallocated]);
        instead("output-unallocated", &[unallocated]);
        let guard =
            ["ip daddr", "ip saddr"].map(|field| format!("{field} 127.0.0.0/8 counter drop"));
        let guard = guard.each_ref().map(String::as_str);
        let base = "{ type filter hook prerouting priority raw; }";
        nft(&format!("delete chain {table} guard-localhost"));
        nft(&format!("add chain {table} guard-localhost {base}"));
        instead("guard-localhost", &guard);
        instead("localhost-stays-here", &guard);
        instead("no-local-endpoints", &["counter drop"]);
        instead(
            "no-endpoints",
            &[
                "meta l4proto tcp counter reject with tcp reset",
                "counter reject",
            ],
        );
        nft(&format!(
            "delete chain {table} unallocated; delete chain {table} loopback"
        ));
        let portal = || nft(&format!("-a list chain {table} services"));
        let before = portal();
        // The difference in rules is one transaction; no element is written.
        assert_eq!(bench.restart(), 1);
        same(&listed(), &right, "over older rules");
        assert_eq!(portal(), before, "the portal was written as well");
        assert_eq!(bench.restart(), 0);
    });
}
