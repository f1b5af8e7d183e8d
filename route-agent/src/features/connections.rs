//! A limit of the connections that one pod may have open, if one is wanted.
//!
//! In: the flag. Out: with a limit the table `inet podwire-connections`; without one no table, so
//! that no packet pays for it. What must hold: of the connections that a pod of this node has opened
//! and the kernel still tracks, both families together, there are at most as many as the flag says;
//! what others open to a pod is not counted. A kernel that cannot count connections is a warning,
//! never a failure: pods work as without a limit.
//!
//! The kernel tracks the connections of the whole node in one table. A pod that fills it takes new
//! connections from all others (docs/security.md).

use podwire_kernel::nft::{
    Chain, ChainType, Family, Field, Hook, Rule, Set, Table, ct_state, priority,
};

use crate::config::Config;
use crate::feature::{Event, Feature, SyncError, Synced, Warn, World};
use crate::features::parts::kept_table::{KeepError, KeptTable};
use crate::features::parts::log::{Logging, Reason};
use crate::ours::{CONNECTIONS_TABLE as TABLE, LINK_GROUP as POD_LINKS, Removal};
use crate::report::Report;
use crate::warnings::Warning;

/// How many links the kernel remembers; it forgets those without connections by itself.
const LINKS: u32 = 65_535;

/// The chain in which connections end that are too many.
const END: &str = "too-many";

/// The feature.
#[derive(Debug)]
pub struct Connections {
    table: KeptTable,
    logging: Logging,
    /// Not looked at since the start.
    stale: bool,
}

impl Connections {
    /// Works in the network namespace of the calling thread.
    pub fn open(logging: Logging) -> podwire_kernel::Result<Self> {
        Ok(Self {
            table: KeptTable::open(Family::Inet, TABLE)?,
            logging,
            stale: true,
        })
    }

    fn keep(&mut self, wanted: Option<&Table>) -> Result<u64, KeepError> {
        match wanted {
            Some(table) => self.table.keep(table),
            None => self.table.remove().map(u64::from),
        }
    }
}

impl Feature for Connections {
    fn name(&self) -> &'static str {
        "connections"
    }

    fn ports(&mut self) -> Vec<u32> {
        self.table.port().into_iter().collect()
    }

    fn notice(&mut self, event: &Event<'_>, _: &World<'_>) -> bool {
        match event {
            Event::Resync => {
                self.table.distrust();
                self.stale = true;
            }
            Event::Kernel(event) => self.stale |= self.table.is_touched_by(event),
            _ => {}
        }
        self.stale
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let wanted = desired(world.config, self.logging);
        match self.keep(wanted.as_ref()) {
            Ok(writes) => {
                self.stale = false;
                warn.replace([]);
                Ok(Synced {
                    writes,
                    again: false,
                })
            }
            Err(error @ KeepError::Commit { .. }) if wanted.is_some() => {
                self.table.distrust();
                let text = format!(
                    "{}; pods have no limit of connections: on the node, as root, run `modprobe \
                     nft_connlimit`",
                    crate::error::chain(&error)
                );
                warn.replace([Warning::new("--pod-connections", text)]);
                Ok(Synced {
                    writes: 0,
                    again: true,
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn report(&mut self, world: &World<'_>, report: &mut Report) {
        if let Some(wanted) = desired(world.config, self.logging) {
            report.differences.extend(self.table.differences(&wanted));
            report.add_refused(self.table.refused());
        }
    }

    fn uninstall(&mut self, _: &Config, how: Removal) -> Result<Vec<String>, SyncError> {
        let removed = self.table.uninstall(how)?;
        let name = removed.then(|| format!("nftables table inet {TABLE}"));
        Ok(name.into_iter().collect())
    }
}

/// The table that this node should have, if any.
fn desired(config: &Config, logging: Logging) -> Option<Table> {
    let limit = std::num::NonZeroU32::new(config.pod_connections)?.get();
    // The kernel keeps the limit in each element: another limit needs another set.
    let set = format!("at-most-{limit}");
    let rule = Rule::new()
        .iifgroup(POD_LINKS)
        .ct_state(ct_state::NEW)
        .add_with_more_connections_than(&set, &[Field::Iifname], limit)
        .goto(END);
    let end = Rule::new().counter().drop();
    let end = end.comment("this pod has as many connections as it may have");
    // Behind connection tracking, and before anything is decided about the connection.
    let chain = Chain::base(ChainType::Filter, Hook::Prerouting, priority::MANGLE);
    let table = Table::new(Family::Inet, TABLE)
        .with_comment("podwire: how many connections a pod may have open")
        .with_set(&set, Set::of(&[Field::Iifname]).dynamic(LINKS))
        .with_chain("from-pods", chain.with_rule(rule))
        .with_chain(END, logging.chain(Reason::TooManyConnections, [end]));
    Some(table)
}

#[cfg(test)]
mod tests {
    use podwire_kernel::netns::Netns;

    use super::*;
    use crate::config::test_config;

    fn config(limit: u32) -> Config {
        let limit = format!("--pod-connections={limit}");
        test_config(&["--node-name=worker", &limit])
    }

    #[test]
    fn without_a_limit_there_is_no_table_and_it_goes_when_the_limit_does() {
        assert_eq!(desired(&config(0), Logging::On), None);
        assert_eq!(
            desired(&test_config(&["--node-name=worker"]), Logging::On),
            None
        );
        Netns::create_anonymous()
            .unwrap()
            .enter(|| {
                let mut feature = Connections::open(Logging::On).unwrap();
                for limit in [0, 20, 30] {
                    let wanted = desired(&config(limit), Logging::On);
                    let first = feature.keep(wanted.as_ref()).unwrap();
                    assert_eq!(first > 0, limit > 0, "{limit}");
                    feature.table.distrust();
                    assert_eq!(feature.keep(wanted.as_ref()).unwrap(), 0, "{limit}");
                    assert_eq!(feature.table.observe().unwrap().is_some(), limit > 0);
                }
                assert!(feature.keep(None).unwrap() > 0);
                assert_eq!(feature.table.observe().unwrap(), None);
            })
            .unwrap();
    }
}
