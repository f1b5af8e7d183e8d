//! The kernel settings without which a node forwards nothing.
//!
//! In: the uplink. Out: `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding` are 1, and an
//! uplink that has learned from router advertisements goes on doing so (a forwarding interface
//! ignores them unless `accept_ra` is 2, Documentation/networking/ip-sysctl.rst). What others switch
//! off is switched on again. What cannot be written is a warning, never a failure.
//!
//! Any machine of the uplink's network can send router advertisements. So `accept_ra` is left
//! alone on a node that forwarded before Podwire came, because it has ignored them, and on a node
//! that has nothing from any: to listen from now on would hand its default route to whoever sends
//! first.

use podwire_kernel::route::{RouteFilter, protocol};
use podwire_kernel::{RouteSocket, sysctl};

use crate::config::Config;
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::originals::{self, IPV4_FORWARDING as IPV4, IPV6_FORWARDING as IPV6};
use crate::ours::{LINK_GROUP, Removal};
use crate::report::Report;
use crate::uplink::Uplink;
use crate::warnings::Warning;

/// The feature.
#[derive(Debug, Default)]
pub struct Forwarding;

impl Feature for Forwarding {
    fn name(&self) -> &'static str {
        "forwarding"
    }

    fn notice(&mut self, event: &Event<'_>, _: &World<'_>) -> bool {
        match event {
            Event::Uplink | Event::Resync => true,
            // Our own writes are announced as well, but those switch it on.
            Event::Kernel(KernelEvent::Forwarding { on, .. }) => !on,
            _ => false,
        }
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let mut warnings = Vec::new();
        let mut writes = 0;
        for (key, value, consequence) in desired(world) {
            match originals::ensure(&key, value, &world.config.run_dir) {
                Ok(changed) => writes += u64::from(changed),
                Err(error) => {
                    let text = format!("{}; {consequence}", crate::error::chain(&error));
                    warnings.push(Warning::new(format!("sysctl {key}"), text));
                }
            }
        }
        warn.replace(warnings);
        Ok(Synced {
            writes,
            again: false,
        })
    }

    fn report(&mut self, world: &World<'_>, report: &mut Report) {
        for (key, value, _) in desired(world) {
            match sysctl::read(&key) {
                Ok(found) if found != value => {
                    report
                        .differences
                        .push(format!("sysctl {key} is {found}, not {value}"));
                }
                _ => {}
            }
        }
    }

    /// What other features changed is in the same record.
    fn uninstall(&mut self, config: &Config, how: Removal) -> Result<Vec<String>, SyncError> {
        Ok(originals::restore(&config.run_dir, how)?)
    }
}

/// Settings, their values, and what follows if they cannot be had. The order matters: an uplink
/// must not miss router advertisements for a moment.
fn desired(world: &World<'_>) -> Vec<(String, &'static str, &'static str)> {
    let mut all = vec![(
        IPV4.to_owned(),
        "1",
        "IPv4 pods reach nothing beyond this node; set it on the node itself",
    )];
    if sysctl::read(IPV6).is_err() {
        // A kernel without IPv6 has nothing to forward.
        return all;
    }
    let consequence = "this node loses IPv6 routes that it learns from router advertisements";
    for name in pupils(world.uplink) {
        let key = originals::accept_ra(&name);
        let listens = sysctl::read(&key).is_ok_and(|value| value == "1");
        let forwarded =
            originals::before_us(IPV6, &world.config.run_dir).is_ok_and(|value| value != "0");
        if listens && !forwarded {
            all.push((key, "2", consequence));
        }
    }
    let consequence = "IPv6 pods reach nothing beyond this node; set it on the node itself";
    all.push((IPV6.to_owned(), "1", consequence));
    all
}

/// The links that have learned a route or an address from router advertisements: of the uplink
/// whether it has, and while it is not known, all that have, because forwarding would take that from
/// them.
fn pupils(uplink: Option<&Uplink>) -> Vec<String> {
    learned(uplink).unwrap_or_else(|error| {
        tracing::debug!(%error, "what router advertisements have taught is not known");
        Vec::new()
    })
}

fn learned(uplink: Option<&Uplink>) -> podwire_kernel::Result<Vec<String>> {
    let mut socket = RouteSocket::open()?;
    let mut links = socket.links_with_lent_addresses()?;
    let filter = RouteFilter {
        protocol: Some(protocol::RA),
        ..RouteFilter::default()
    };
    links.extend(socket.routes(filter)?.iter().filter_map(|route| route.link));
    if let Some(uplink) = uplink {
        let has = links.contains(&uplink.index);
        return Ok(has.then(|| uplink.name.clone()).into_iter().collect());
    }
    let all = socket.links()?.into_iter();
    let with_lesson = all.filter(|link| links.contains(&link.index) && link.group != LINK_GROUP);
    Ok(with_lesson.map(|link| link.name).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;

    use podwire_kernel::link::Veth;
    use podwire_kernel::route::Route;

    use super::*;
    use crate::features::test_node::TestNode;

    const ACCEPT_RA: &str = "net/ipv6/conf/eth0/accept_ra";

    /// A node that forwards nothing and learns routes from router advertisements.
    fn node() -> TestNode {
        let mut node = TestNode::apart();
        let veth = Veth {
            up: true,
            ..Veth::new("eth0", "peer").unwrap()
        };
        let mut socket = RouteSocket::open().unwrap();
        let index = socket.create_veth(&veth).unwrap();
        socket.add_route(&taught(index.index)).unwrap();
        for (key, value) in [(IPV4, "0"), (IPV6, "0"), (ACCEPT_RA, "1")] {
            sysctl::write(key, value).unwrap();
        }
        node.uplink = Some(Uplink {
            index: index.index,
            name: "eth0".into(),
            mtu: 1500,
            up: true,
            addresses: vec![IpAddr::from([172, 18, 0, 2]).into()],
            on_link: Vec::new(),
        });
        node
    }

    /// What the kernel makes of an advertisement.
    fn taught(link: u32) -> Route {
        Route {
            link: Some(link),
            protocol: protocol::RA,
            ..Route::to("2001:db8::/64".parse().unwrap())
        }
    }

    fn settings() -> [String; 3] {
        [IPV4, IPV6, ACCEPT_RA].map(|key| sysctl::read(key).unwrap())
    }

    #[test]
    fn a_node_forwards_and_its_uplink_still_hears_routers() {
        let mut node = node();
        assert_eq!(node.writes(&mut Forwarding), 3);
        assert_eq!(settings(), ["1", "1", "2"]);
        assert_eq!(node.writes(&mut Forwarding), 0);
        assert_eq!(node.report(&mut Forwarding).differences, [""; 0]);
        sysctl::write(IPV4, "0").unwrap();
        assert_eq!(
            node.report(&mut Forwarding).differences,
            ["sysctl net/ipv4/ip_forward is 0, not 1"]
        );
    }

    #[test]
    fn a_node_that_has_learned_nothing_does_not_begin_to_hear_routers() {
        let mut node = node();
        let link = node.uplink.as_ref().unwrap().index;
        let mut socket = RouteSocket::open().unwrap();
        socket.delete_route(&taught(link)).unwrap();
        assert_eq!(node.writes(&mut Forwarding), 2);
        assert_eq!(settings(), ["1", "1", "1"]);
        assert_eq!(node.writes(&mut Forwarding), 0);
    }

    #[test]
    fn a_node_that_forwarded_already_goes_on_ignoring_router_advertisements() {
        let mut node = node();
        sysctl::write(IPV6, "1").unwrap();
        sysctl::write(ACCEPT_RA, "1").unwrap();
        // Whatever there is from a time before: an attacker's route among the others.
        assert_eq!(node.writes(&mut Forwarding), 1);
        assert_eq!(settings(), ["1", "1", "1"]);
        // Also when forwarding was switched off in between, and we switch it on.
        sysctl::write(IPV4, "0").unwrap();
        assert_eq!(node.writes(&mut Forwarding), 1);
        assert_eq!(settings(), ["1", "1", "1"]);
    }

    #[test]
    fn an_address_that_ends_was_learned_as_well() {
        let mut node = node();
        let link = node.uplink.as_ref().unwrap().index;
        let mut socket = RouteSocket::open().unwrap();
        socket.delete_route(&taught(link)).unwrap();
        let line = "ip addr add 2001:db8::7/64 dev eth0 valid_lft 600 preferred_lft 600";
        let mut words = line.split(' ');
        let mut command = std::process::Command::new(words.next().unwrap());
        assert!(command.args(words).status().unwrap().success());
        assert_eq!(node.writes(&mut Forwarding), 3);
        assert_eq!(settings(), ["1", "1", "2"]);
    }

    #[test]
    fn before_the_uplink_is_known_no_link_loses_what_it_has_learned() {
        let mut node = node();
        node.uplink = None;
        assert_eq!(node.writes(&mut Forwarding), 3);
        assert_eq!(settings(), ["1", "1", "2"]);
    }

    #[test]
    fn an_uplink_that_ignores_router_advertisements_on_purpose_goes_on_ignoring_them() {
        let mut node = node();
        sysctl::write(ACCEPT_RA, "0").unwrap();
        assert_eq!(node.writes(&mut Forwarding), 2);
        assert_eq!(settings(), ["1", "1", "0"]);
    }

    #[test]
    fn uninstall_puts_back_what_was_before_the_first_change() {
        let mut node = node();
        node.writes(&mut Forwarding);
        // Another process changes it, and the agent changes it back: the first value counts.
        sysctl::write(IPV4, "0").unwrap();
        node.writes(&mut Forwarding);
        let would = Forwarding.uninstall(&node.config, Removal::Look).unwrap();
        assert_eq!(settings(), ["1", "1", "2"]);
        let removed = Forwarding.uninstall(&node.config, Removal::Act).unwrap();
        assert_eq!((would.len(), removed.len()), (3, 3));
        assert_eq!(settings(), ["0", "0", "1"]);
        assert_eq!(
            Forwarding.uninstall(&node.config, Removal::Act).unwrap(),
            [""; 0]
        );
    }

    #[test]
    fn settings_of_an_uplink_that_is_gone_do_not_stop_an_uninstall() {
        let mut node = node();
        node.writes(&mut Forwarding);
        let mut socket = RouteSocket::open().unwrap();
        socket.delete_link_named("eth0").unwrap();
        Forwarding.uninstall(&node.config, Removal::Act).unwrap();
        assert_eq!(sysctl::read(IPV4).unwrap(), "0");
    }

    #[test]
    fn a_change_that_cannot_be_written_down_is_not_made_and_named() {
        let mut node = node();
        fs::write(&*node.config.run_dir, "no directory").unwrap();
        assert_eq!(node.writes(&mut Forwarding), 0);
        assert_eq!(settings(), ["0", "0", "1"]);
        let warnings = node.warnings();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings.iter().any(
                |warning| warning.starts_with("sysctl net/ipv4/ip_forward: ")
                    && warning.contains("IPv4 pods reach nothing beyond this node")
            ),
            "{warnings:?}"
        );
    }
}
