//! How much of a plan the layout has room for, and what is said of the rest.

use crate::features::services::desired::plan::{Plan, PortPlan};
use crate::features::services::desired::room::{MOST_ELEMENTS, MOST_ENDPOINTS};

/// What of a plan cannot be done: a sentence for each port with too many endpoints, and one for the
/// ports without room.
pub fn warnings(plan: &Plan) -> impl Iterator<Item = String> {
    let of_port = |port: &PortPlan| {
        let count = port.cluster.len().max(port.local.len());
        let more = count.checked_sub(MOST_ENDPOINTS).filter(|more| *more > 0)?;
        let (number, protocol) = (port.port, port.protocol.name());
        Some(format!(
            "port {number}/{protocol} has {count} endpoints and only {MOST_ENDPOINTS} can be told \
             apart: the other {more} get no connections; spread them over several Services"
        ))
    };
    let left_out = plan.left_out.map(|left_out| {
        let most = format!("{MOST_ELEMENTS} elements of the kernel's maps");
        left_out.warning("ports, addresses, endpoints and source ranges", &most)
    });
    plan.ports.iter().filter_map(of_port).chain(left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::services::desired::endpoints::Backend;
    use crate::features::services::desired::plan::desired;
    use crate::features::services::desired::samples::{HERE, SLICE, service, slice};
    use crate::snapshot::Balancing;
    use podwire_kernel::IpFamily;

    #[test]
    fn endpoints_beyond_what_a_number_can_tell_apart_are_named() {
        let slices = [slice(SLICE, "10.10.1.3")];
        let service = service("cluster-ip 10.200.1.63; port tcp 80");
        let balancing = Balancing::Random;
        let slices = slices.iter();
        let mut plan = desired(&service, slices, IpFamily::V4, HERE, balancing, |_| true).unwrap();
        let many = |count: u32| -> Box<[Backend]> {
            let backend = |number| Backend {
                address: std::net::Ipv4Addr::from(0x0a0a_0000 + number).into(),
                port: 80,
            };
            (0..count).map(backend).collect()
        };
        plan.ports[0].cluster = many(65_535);
        assert_eq!(warnings(&plan).count(), 0);
        plan.ports[0].cluster = many(65_537);
        let warnings: Vec<String> = warnings(&plan).collect();
        assert_eq!(
            warnings,
            [
                "port 80/tcp has 65537 endpoints and only 65535 can be told apart: the other 2 get no \
                 connections; spread them over several Services"
            ]
        );
    }
}
