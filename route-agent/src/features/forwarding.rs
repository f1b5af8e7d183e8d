//! The kernel settings without which a node forwards nothing.
//!
//! In: the uplink. Out: `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding` are 1, and an
//! uplink that learns its IPv6 routes from router advertisements goes on doing so (a forwarding
//! interface ignores them unless `accept_ra` is 2, Documentation/networking/ip-sysctl.rst). What
//! cannot be written is a warning, never a failure.

use kernel::sysctl;

use crate::config::Config;
use crate::originals;
use crate::reconcile::{Event, Feature, SyncError, Synced, Warn, World};
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

    fn heed(&mut self, event: &Event<'_>, _: &World<'_>) -> bool {
        matches!(event, Event::Uplink | Event::Resync)
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let mut warnings = Vec::new();
        let mut writes = 0;
        for (key, value, consequence) in desired(world.uplink.map(|uplink| uplink.name.as_str())) {
            match originals::ensure(&key, value, &world.config.run_dir) {
                Ok(changed) => writes += u64::from(changed),
                Err(error) => {
                    let text = format!("{}; {consequence}", crate::chain(&error));
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
/// must not be deaf to router advertisements for a moment.
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
