//! Links, addresses, routes and neighbours against a real kernel, in namespaces of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Pair, ip, net, netns, pair, run_in};
use podwire_kernel::address::Address;
use podwire_kernel::link::{
    Ipv4Conf, Ipv6AddressMode, Link, LinkChange, Mac, Veth, broken_name_rule,
};
use podwire_kernel::neigh::Neighbour;
use podwire_kernel::route::{Route, RouteChange, RouteFilter, RouteKind};
use podwire_kernel::{Cause, IpFamily, Requests, RouteSocket, Scope};

/// A link, once the kernel has taken notice that it is operational.
fn operational(socket: &mut RouteSocket, name: &str) -> Link {
    for _ in 0..500 {
        let link = socket.link_by_name(name).unwrap().unwrap();
        if link.operational {
            return link;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{name} does not become operational");
}

#[test]
fn a_veth_pair_is_made_across_two_namespaces() {
    let (near, far) = (netns(), netns());
    let mut here = RouteSocket::open_in(&near).unwrap();
    let mut there = RouteSocket::open_in(&far).unwrap();
    let veth = Veth {
        peer_netns: Some(&far),
        mtu: Some(1400),
        group: 112,
        up: true,
        ..Veth::new("veth0", "eth0").unwrap()
    };
    let ends = here.create_veth(&veth).unwrap();
    let note = LinkChange {
        alias: Some("box/eth0"),
        ..LinkChange::of(ends.index)
    };
    here.change_link(&note).unwrap();
    there.set_up(ends.peer_index).unwrap();

    let link = operational(&mut here, "veth0");
    assert_eq!(link.index, ends.index);
    assert_eq!(link.peer, Some(ends.peer_index));
    assert!(link.peer_netns.is_some());
    assert_eq!(link.mac, Some(veth.mac));
    assert_eq!((link.mtu, link.group), (1400, 112));
    assert_eq!(link.alias.as_deref(), Some("box/eth0"));
    assert_eq!(link.kind.as_deref(), Some("veth"));
    assert!(link.up && link.operational && !link.loopback);
    let peer = there.link_by_index(ends.peer_index).unwrap().unwrap();
    assert_eq!(
        (peer.name.as_str(), peer.mac, peer.mtu),
        ("eth0", Some(veth.peer_mac), 1400)
    );
    assert_eq!(here.writes(), 2, "making the pair and changing it");
    assert!(run_in(&near, "ip", &["-d", "link", "show", "veth0"]).contains("group 112"));

    here.delete_link(ends.index).unwrap();
    assert_eq!(there.link_by_name("eth0").unwrap(), None);
}

#[test]
fn the_rule_for_interface_names_is_the_kernel_s() {
    let netns = netns();
    let mut socket = RouteSocket::open_in(&netns).unwrap();
    let mut takes = |name: &str| {
        let made = socket.create_veth(&Veth::new("other", name).unwrap());
        let same = made.is_ok() && socket.link_by_name(name).unwrap().is_some();
        if let Ok(ends) = made {
            socket.delete_link(ends.index).unwrap();
        }
        same
    };
    let names = [
        "e",
        "fifteen-bytes-x",
        "...",
        "a.b",
        "a@b",
        "\u{fc}",
        "-a",
        "*",
        "a\u{2}",
    ];
    for name in names {
        assert_eq!(broken_name_rule(name), None, "{name:?}");
        assert!(takes(name), "{name:?}");
    }
    for name in [
        ".", "..", "a/b", "a:b", "a b", "a\t", "a\u{b}", "\u{e0}", "n%d", "5%",
    ] {
        assert!(broken_name_rule(name).is_some(), "{name:?}");
        assert!(!takes(name), "{name:?}");
    }
}

#[test]
fn indexes_of_a_veth_pair_can_be_chosen_so_that_one_datagram_does_all() {
    let (near, far) = (netns(), netns());
    let mut here = RouteSocket::open_in(&near).unwrap();
    let veth = Veth {
        peer_netns: Some(&far),
        index: Some(70_001),
        peer_index: Some(7),
        ..Veth::new("veth0", "eth0").unwrap()
    };
    let mut requests = Requests::new();
    requests
        .create_veth(&veth)
        .change_link(&LinkChange {
            up: Some(true),
            ..LinkChange::of(70_001)
        })
        .add_address(&Address::new(70_001, net("10.0.0.1/32")));
    here.run(&mut requests).unwrap();
    let mut there = RouteSocket::open_in(&far).unwrap();
    assert_eq!(there.index_of("eth0").unwrap(), 7);
    assert_eq!(
        here.addresses(Some(70_001)).unwrap(),
        [Address::new(70_001, net("10.0.0.1/32"))]
    );
}

#[test]
fn a_link_is_changed_in_every_way_at_once() {
    let Pair {
        netns,
        mut socket,
        link,
        ..
    } = pair(&[]);
    let bridge = socket.create_bridge("br0").unwrap();
    socket.set_down(link).unwrap();
    let mac = Mac([2, 0, 0, 0, 0, 7]);
    socket
        .change_link(&LinkChange {
            up: Some(true),
            name: Some("renamed"),
            alias: Some("a note"),
            mtu: Some(1280),
            mac: Some(mac),
            group: Some(3),
            master: Some(bridge),
            ..LinkChange::of(link)
        })
        .unwrap();
    let observed = socket.link_by_name("renamed").unwrap().unwrap();
    assert_eq!(observed.index, link);
    assert_eq!(observed.master, Some(bridge));
    assert_eq!(
        (observed.mtu, observed.group, observed.mac),
        (1280, 3, Some(mac))
    );
    assert_eq!(observed.alias.as_deref(), Some("a note"));
    assert!(observed.up);
    assert_eq!(socket.link_by_name("v0").unwrap(), None);
    assert!(run_in(&netns, "ip", &["link", "show", "renamed"]).contains("master br0"));

    socket.set_master(link, None).unwrap();
    assert_eq!(socket.link_by_index(link).unwrap().unwrap().master, None);
}

#[test]
fn a_link_keeps_its_name_when_it_moves_to_another_namespace() {
    let Pair {
        mut socket, link, ..
    } = pair(&[]);
    let elsewhere = netns();
    let change = LinkChange {
        netns: Some(&elsewhere),
        ..LinkChange::of(link)
    };
    socket.change_link(&change).unwrap();
    assert_eq!(socket.link_by_index(link).unwrap(), None);
    assert!(
        RouteSocket::open_in(&elsewhere)
            .unwrap()
            .link_by_name("v0")
            .unwrap()
            .is_some()
    );
}

#[test]
fn ipv4_parameters_of_a_link_are_set_and_cleared_through_netlink() {
    let Pair {
        netns,
        mut socket,
        link,
        ..
    } = pair(&[]);
    let read = |name: &str| {
        let key = format!("net/ipv4/conf/v0/{name}");
        netns
            .enter(|| podwire_kernel::sysctl::read(&key))
            .unwrap()
            .unwrap()
    };
    let all = [
        (Ipv4Conf::Forwarding, "forwarding"),
        (Ipv4Conf::ProxyArp, "proxy_arp"),
        (Ipv4Conf::AcceptRedirects, "accept_redirects"),
        (Ipv4Conf::SendRedirects, "send_redirects"),
        (Ipv4Conf::RpFilter, "rp_filter"),
        (Ipv4Conf::ArpAnnounce, "arp_announce"),
        (Ipv4Conf::ArpIgnore, "arp_ignore"),
        (Ipv4Conf::ArpAccept, "arp_accept"),
        (Ipv4Conf::ArpNotify, "arp_notify"),
        (Ipv4Conf::RouteLocalnet, "route_localnet"),
    ];
    for (value, text) in [(1, "1"), (0, "0")] {
        let conf = all.map(|(parameter, _)| (parameter, value));
        socket
            .change_link(&LinkChange {
                ipv4_conf: &conf,
                ..LinkChange::of(link)
            })
            .unwrap();
        for (_, name) in all {
            assert_eq!(read(name), text, "{name}");
        }
    }
}

#[test]
fn without_address_mode_no_link_local_address_appears_and_ours_is_ready_at_once() {
    let netns = netns();
    let mut socket = RouteSocket::open_in(&netns).unwrap();
    let veth = Veth::new("v0", "v1").unwrap();
    let ends = socket.create_veth(&veth).unwrap();
    let own = format!("{}/64", veth.mac.link_local());
    let mut requests = Requests::new();
    for index in [ends.index, ends.peer_index] {
        let mode = Some(Ipv6AddressMode::None);
        let up = Some(true);
        requests.change_link(&LinkChange {
            ipv6_address_mode: mode,
            ..LinkChange::of(index)
        });
        requests.change_link(&LinkChange {
            up,
            ..LinkChange::of(index)
        });
    }
    let address = Address::new(ends.index, net(&own));
    requests.add_address(&address);
    socket.run(&mut requests).unwrap();
    assert_eq!(address.scope, Scope::Link);
    assert_eq!(socket.addresses(Some(ends.index)).unwrap(), [address]);
    assert_eq!(socket.addresses(Some(ends.peer_index)).unwrap(), []);
    assert!(!run_in(&netns, "ip", &["-6", "addr", "show", "v0"]).contains("tentative"));
}

#[test]
fn addresses_come_back_as_they_were_written() {
    let Pair {
        netns,
        mut socket,
        link,
        ..
    } = pair(&[]);
    let wanted = [
        Address {
            scope: Scope::Link,
            ..Address::new(link, net("10.0.0.1/24"))
        },
        Address {
            prefix_route: false,
            ..Address::new(link, net("10.9.0.1/16"))
        },
        Address::new(link, net("fd00::1/128")),
        Address {
            prefix_route: false,
            nodad: false,
            ..Address::new(link, net("fd01::1/64"))
        },
    ];
    let mut requests = Requests::new();
    wanted.iter().for_each(|address| {
        requests.add_address(address);
    });
    socket.run(&mut requests).unwrap();
    let mut observed = socket.addresses(Some(link)).unwrap();
    // The kernel's own link-local address comes with the link.
    observed.retain(|address| address.scope != Scope::Link || address.network.is_ipv4());
    observed.sort_by_key(|address| address.network);
    assert_eq!(observed, wanted);
    let routes = run_in(&netns, "ip", &["route"]);
    assert!(
        routes.contains("10.0.0.0/24") && !routes.contains("10.9.0.0/16"),
        "{routes}"
    );

    for address in &wanted {
        socket.remove_address(address).unwrap();
    }
    let left = socket.addresses(Some(link)).unwrap();
    assert!(
        left.iter().all(|address| address.scope == Scope::Link),
        "{left:?}"
    );
    let again = socket.remove_address(&wanted[0]).unwrap_err();
    assert!(again.is_not_found(), "{again}");
}

#[test]
fn routes_come_back_as_they_were_written() {
    let Pair {
        mut socket, link, ..
    } = pair(&["10.0.0.1/24", "fd00::1/64"]);
    let wanted = vec![
        Route {
            gateway: Some(ip("10.0.0.2")),
            link: Some(link),
            protocol: 112,
            mtu: Some(1300),
            advmss: Some(1260),
            ..Route::to(net("10.1.0.0/24"))
        },
        Route {
            kind: RouteKind::Unreachable,
            protocol: 112,
            ..Route::to(net("10.2.0.0/24"))
        },
        Route {
            link: Some(link),
            scope: Scope::Link,
            source: Some(ip("10.0.0.1")),
            protocol: 112,
            metric: 5,
            ..Route::to(net("10.3.0.7/32"))
        },
        Route {
            gateway: Some(ip("192.168.7.7")),
            link: Some(link),
            protocol: 112,
            onlink: true,
            ..Route::to(net("10.4.0.0/16"))
        },
        Route {
            gateway: Some(ip("fd00::2")),
            link: Some(link),
            protocol: 112,
            table: 1000,
            ..Route::to(net("fd01::/64"))
        },
    ];
    let changes: Vec<_> = wanted.iter().cloned().map(RouteChange::Replace).collect();
    for result in socket.apply(&changes).unwrap() {
        result.unwrap();
    }
    let ours = RouteFilter {
        protocol: Some(112),
        ..RouteFilter::default()
    };
    let mut observed = socket.routes(ours).unwrap();
    observed.sort();
    assert_eq!(observed, wanted);
    let v6 = RouteFilter {
        family: Some(IpFamily::V6),
        table: Some(1000),
        ..RouteFilter::default()
    };
    assert_eq!(socket.routes(v6).unwrap(), wanted[4..]);
    let elsewhere = RouteFilter {
        link: Some(link + 1),
        ..ours
    };
    assert_eq!(socket.routes(elsewhere).unwrap(), []);

    let changes: Vec<_> = wanted.into_iter().map(RouteChange::Delete).collect();
    for result in socket.apply(&changes).unwrap() {
        result.unwrap();
    }
    assert_eq!(socket.routes(ours).unwrap(), []);
}

#[test]
fn a_refused_change_is_told_in_its_place_and_the_others_are_made() {
    let Pair {
        mut socket, link, ..
    } = pair(&["10.0.0.1/24"]);
    let route = |destination: &str, gateway: &str| Route {
        gateway: Some(ip(gateway)),
        link: Some(link),
        ..Route::to(net(destination))
    };
    let results = socket
        .apply(&[
            RouteChange::Add(route("10.1.0.0/24", "10.0.0.2")),
            RouteChange::Add(route("10.2.0.0/24", "172.16.0.1")),
            RouteChange::Add(route("10.1.0.0/24", "10.0.0.3")),
            RouteChange::Delete(route("10.9.0.0/24", "10.0.0.2")),
            RouteChange::Replace(route("10.1.0.0/24", "10.0.0.4")),
        ])
        .unwrap();
    let numbers: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().and_then(|error| error.errno()))
        .collect();
    use libc::{EEXIST, ENETUNREACH, ESRCH};
    assert_eq!(
        numbers,
        [None, Some(ENETUNREACH), Some(EEXIST), Some(ESRCH), None]
    );
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot add route 10.2.0.0/24 via 172.16.0.1 on link {link}: Network is unreachable \
             (Nexthop has invalid gateway)"
        )
    );
    let found = socket.route_get(ip("10.1.0.77")).unwrap();
    assert_eq!(
        (found.gateway, found.source),
        (Some(ip("10.0.0.4")), Some(ip("10.0.0.1")))
    );
    assert_eq!(socket.writes(), 2 + 1 + 5);
}

#[test]
fn a_destination_without_a_route_is_unreachable() {
    let mut socket = RouteSocket::open_in(&netns()).unwrap();
    for address in ["192.0.2.1", "2001:db8::1"] {
        let error = socket.route_get(ip(address)).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENETUNREACH), "{error}");
    }
}

#[test]
fn a_route_with_several_next_hops_is_seen_as_such_and_can_be_deleted() {
    let Pair {
        netns,
        mut socket,
        link,
        ..
    } = pair(&["10.0.0.1/24"]);
    let hops = [
        "nexthop", "via", "10.0.0.2", "dev", "v0", "nexthop", "via", "10.0.0.3", "dev", "v0",
    ];
    let args = [&["route", "add", "10.1.0.0/24", "proto", "112"], &hops[..]].concat();
    run_in(&netns, "ip", &args);
    let ours = RouteFilter {
        protocol: Some(112),
        ..RouteFilter::default()
    };
    let found = socket.routes(ours).unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].multipath);
    assert_eq!(
        (found[0].gateway, found[0].link),
        (Some(ip("10.0.0.2")), Some(link))
    );
    socket.delete_route(&found[0]).unwrap();
    assert_eq!(socket.routes(ours).unwrap(), []);
}

#[test]
fn five_thousand_routes_are_written_and_listed_again() {
    let Pair {
        mut socket, link, ..
    } = pair(&["10.0.0.1/24"]);
    let changes: Vec<_> = (0..5000u32)
        .map(|n| {
            let destination = format!("10.{}.{}.0/24", 64 + n / 256, n % 256);
            RouteChange::Replace(Route {
                gateway: Some(ip("10.0.0.2")),
                link: Some(link),
                protocol: 112,
                ..Route::to(net(&destination))
            })
        })
        .collect();
    let results = socket.apply(&changes).unwrap();
    assert!(results.iter().all(Result::is_ok));
    let ours = RouteFilter {
        protocol: Some(112),
        ..RouteFilter::default()
    };
    assert_eq!(socket.routes(ours).unwrap().len(), 5000);
}

#[test]
fn a_long_list_in_which_everything_fails_still_tells_every_failure() {
    let Pair {
        mut socket, link, ..
    } = pair(&["10.0.0.1/24"]);
    let unknown = Route {
        link: Some(link),
        ..Route::to(net("10.77.0.0/24"))
    };
    let changes = vec![RouteChange::Delete(unknown); 2000];
    let results = socket.apply(&changes).unwrap();
    assert_eq!(results.len(), 2000);
    let lost = results
        .iter()
        .filter(|result| !matches!(result, Err(error) if error.errno() == Some(libc::ESRCH)));
    assert_eq!(lost.count(), 0);
}

#[test]
fn neighbour_entries_are_written_and_listed() {
    let Pair {
        mut socket,
        link,
        other,
        ..
    } = pair(&["10.0.0.1/24"]);
    let mac = Some(Mac([2, 0, 0, 0, 0, 9]));
    let entry = |link, address: &str, permanent| Neighbour {
        link,
        address: ip(address),
        mac,
        permanent,
    };
    let mut wanted = vec![
        entry(link, "10.0.0.9", false),
        entry(link, "10.0.0.10", true),
        entry(link, "fd00::9", true),
        entry(other, "10.0.0.9", false),
        entry(other, "10.0.0.10", false),
    ];
    for entry in &wanted {
        socket.replace_neighbour(entry).unwrap();
    }
    let mut observed = socket.neighbours(None).unwrap();
    observed.retain(|entry| entry.mac == mac);
    observed.sort();
    wanted.sort();
    assert_eq!(observed, wanted);
    let on_link = socket.neighbours(Some(link)).unwrap();
    assert!(on_link.iter().all(|entry| entry.link == link));
}

#[test]
fn an_object_that_is_not_there_is_told_apart_from_a_failure() {
    let Pair { mut socket, .. } = pair(&[]);
    assert_eq!(socket.link_by_name("nope").unwrap(), None);
    assert_eq!(socket.link_by_name("").unwrap(), None);
    assert_eq!(socket.link_by_name("a-name-of-sixteen").unwrap(), None);
    assert_eq!(socket.link_by_index(9999).unwrap(), None);
    assert_eq!(socket.link_by_index(0).unwrap(), None);
    let error = socket.delete_link_named("nope").unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(socket.index_of("nope").unwrap_err().cause, Cause::NotFound);
    let veth = Veth::new("v0", "v9").unwrap();
    let error = socket.create_veth(&veth).unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert_eq!(
        socket.link_by_name("v9").unwrap(),
        None,
        "half a pair is left behind"
    );
}
