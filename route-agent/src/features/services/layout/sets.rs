//! How the sets and maps are declared.

use podwire_kernel::nft::{Family, Field, Set};

use crate::config::services::Config;
use crate::features::services::layout::names::{AffinityHolds, FixedMap, Map};
use crate::features::services::layout::words::Words;

/// At most this many clients of one Service port are remembered; more are served and forgotten.
const CLIENTS: u32 = 65_536;

/// Names of the sets that hold networks.
pub mod networks {
    /// Pods of the whole cluster.
    pub const PODS: &str = "pod-cidrs";
    /// Pods of this node.
    pub const OWN_PODS: &str = "node-pod-cidrs";
    /// Addresses that Services may get.
    pub const SERVICES: &str = "service-cidrs";
    /// Where node ports answer, unless it is everywhere.
    pub const NODE_PORTS: &str = "nodeport-addresses";
}

/// The set that a map lies in, without elements.
pub fn set_of(map: Map, family: Family, config: &Config) -> Set {
    let words = Words::of(family);
    let counted = |set| counted(set, config);
    let vip = words.vip();
    let port = [Field::L4Proto, Field::ThDport];
    let slot = |key: &[Field]| [key, &[Field::Slot]].concat();
    let backend = [words.daddr, Field::ThDport];
    let map = match map {
        Map::Fixed(map) => map,
        Map::Affinity(map) => return affinity_set(&words, map.holds, config),
    };
    match map {
        FixedMap::Services | FixedMap::Allowed | FixedMap::Inside | FixedMap::Outside => {
            counted(Set::map(&vip, &[Field::Priority]))
        }
        FixedMap::NodePorts | FixedMap::NodePortsInside | FixedMap::NodePortsOutside => {
            counted(Set::map(&port, &[Field::Priority]))
        }
        FixedMap::Answers => Set::verdict_map(&[Field::Priority]),
        FixedMap::OwnChains => Set::verdict_map(&[&vip[..], &[Field::Priority]].concat()),
        FixedMap::NodePortOwnChains => Set::verdict_map(&[&port[..], &[Field::Priority]].concat()),
        FixedMap::MasqueradeVips => counted(Set::verdict_map(&vip)),
        FixedMap::MasqueradeNodePorts => counted(Set::verdict_map(&port)),
        FixedMap::Pool(pool) if pool.has_address() => counted(Set::map(&slot(&vip), &backend)),
        FixedMap::Pool(_) => counted(Set::map(&slot(&port), &backend)),
        FixedMap::AllowedSources => {
            counted(Set::of(&[&vip[..], &[words.saddr]].concat()).with_intervals())
        }
        FixedMap::ClusterIps => Set::of(&[words.daddr]),
        FixedMap::Hairpin => counted(Set::of(&[words.saddr, words.daddr])),
    }
}

/// A map of one Service port with affinity.
fn affinity_set(words: &Words, holds: AffinityHolds, config: &Config) -> Set {
    match holds {
        AffinityHolds::Clients => Set::map(&[words.saddr], &[Field::Priority])
            .dynamic(CLIENTS)
            .with_timeouts(),
        AffinityHolds::Choices => Set::map(&[Field::Slot], &[Field::Priority]),
        AffinityHolds::Endpoints => {
            let set = Set::map(&[Field::Priority], &[words.daddr, Field::ThDport]);
            counted(set, config)
        }
    }
}

/// With a counter in each element, if the settings want it.
fn counted(set: Set, config: &Config) -> Set {
    if config.counters {
        set.with_counters()
    } else {
        set
    }
}
