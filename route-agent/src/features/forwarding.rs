//! The kernel settings without which a node forwards nothing.
//!
//! In: the uplink. Out: `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding` are 1, and an
//! uplink that learns its IPv6 routes from router advertisements goes on doing so (a forwarding
//! interface ignores them unless `accept_ra` is 2, Documentation/networking/ip-sysctl.rst). What
//! others switch off is switched on again. What cannot be written is a warning, never a failure.

use podwire_kernel::sysctl;

use crate::config::Config;
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::originals;
use crate::report::Report;
use crate::warnings::Warning;

const IPV4: &str = "net/ipv4/ip_forward";
const IPV6: &str = "net/ipv6/conf/all/forwarding";

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
        for (key, value, consequence) in desired(world.uplink.map(|uplink| uplink.name.as_str())) {
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
        for (key, value, _) in desired(world.uplink.map(|uplink| uplink.name.as_str())) {
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
    fn uninstall(&mut self, config: &Config) -> Result<Vec<String>, SyncError> {
        Ok(originals::restore(&config.run_dir)?)
    }
}

/// Settings, their values, and what follows if they cannot be had. The order matters: an uplink
/// must not miss router advertisements for a moment.
fn desired(uplink: Option<&str>) -> Vec<(String, &'static str, &'static str)> {
    let mut all = vec![(
        IPV4.to_owned(),
        "1",
        "IPv4 pods reach nothing beyond this node; set it on the node itself",
    )];
    if sysctl::read(IPV6).is_err() {
        // A kernel without IPv6 has nothing to forward.
        return all;
    }
    let accept_ra = uplink.map(|uplink| format!("net/ipv6/conf/{uplink}/accept_ra"));
    if let Some(key) = accept_ra.filter(|key| sysctl::read(key).is_ok_and(|value| value == "1")) {
        let consequence = "this node loses IPv6 routes that it learns from router advertisements";
        all.push((key, "2", consequence));
    }
    let consequence = "IPv6 pods reach nothing beyond this node; set it on the node itself";
    all.push((IPV6.to_owned(), "1", consequence));
    all
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;

    use podwire_kernel::RouteSocket;
    use podwire_kernel::link::Veth;

    use super::*;
    use crate::features::test_node::TestNode;
    use crate::uplink::Uplink;

    const ACCEPT_RA: &str = "net/ipv6/conf/eth0/accept_ra";

    /// A node that forwards nothing and learns routes from router advertisements.
    fn node() -> TestNode {
        let mut node = TestNode::apart();
        let veth = Veth::new("eth0", "peer").unwrap();
        let index = RouteSocket::open().unwrap().create_veth(&veth).unwrap();
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
        assert_eq!(Forwarding.uninstall(&node.config).unwrap().len(), 3);
        assert_eq!(settings(), ["0", "0", "1"]);
        assert_eq!(Forwarding.uninstall(&node.config).unwrap(), [""; 0]);
    }

    #[test]
    fn settings_of_an_uplink_that_is_gone_do_not_stop_an_uninstall() {
        let mut node = node();
        node.writes(&mut Forwarding);
        let mut socket = RouteSocket::open().unwrap();
        socket.delete_link_named("eth0").unwrap();
        Forwarding.uninstall(&node.config).unwrap();
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
