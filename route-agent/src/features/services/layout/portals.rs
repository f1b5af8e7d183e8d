//! Where a frontend is found in the table, and where that leads.

use crate::features::services::desired::frontends::Frontend;
use crate::features::services::desired::plan::{Plan, PortPlan};
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::elements::{Element, Key, Value, objects};
use crate::features::services::layout::names::{FixedMap, Map};
use crate::snapshot::ObjectName;

/// The map in which a frontend of a port is found, and the key.
pub fn portal(port: &PortPlan, front: &Frontend) -> (FixedMap, Key) {
    match front {
        Frontend::NodePort(number) => (
            FixedMap::NodePorts,
            Key::new().transport(port.protocol, *number),
        ),
        Frontend::ClusterIp(address)
        | Frontend::LoadBalancer(address)
        | Frontend::ExternalIp(address) => {
            let key = Key::new().address(*address);
            (FixedMap::Services, key.transport(port.protocol, port.port))
        }
    }
}

/// The chain that decides for a connection to a frontend; none if the plan does not have it.
pub fn chain(service: &ObjectName, port: &PortPlan, front: &Frontend) -> Option<String> {
    let (map, key) = portal(port, front);
    let plan = Plan {
        ports: Box::new([port.clone()]),
        ..Plan::default()
    };
    let elements = objects(service, &plan).elements;
    let value_at = |map: FixedMap, key: Key| {
        let here = |element: &&Element| element.map == Map::Fixed(map) && element.key == key;
        elements.iter().find(here).map(|element| element.value)
    };
    let Value::Answer(answer) = value_at(map, key)? else {
        return None;
    };
    let Answer::Own(own) = answer else {
        return Some(answer.chain());
    };
    let chains = if own.node_port {
        FixedMap::NodePortOwnChains
    } else {
        FixedMap::OwnChains
    };
    match value_at(chains, key.number(answer.number()))? {
        Value::Goto(chain) => Some(chain.name(service)),
        _ => None,
    }
}
