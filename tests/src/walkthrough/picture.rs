//! The way of a packet as a drawing.

use std::fmt::Write;

use crate::error::Result;
use crate::lab::Lab;

/// How wide each half of the drawing is.
const HALF: usize = 36;

/// The way from one pod to another on another node, with the names and addresses of this lab.
pub fn path(lab: &Lab, from: &str, to: &str) -> Result<String> {
    let ends = [lab.pod(from)?, lab.pod(to)?];
    let nodes = [lab.machine(ends[0].node())?, lab.machine(ends[1].node())?];
    let ipv6 = ends[0]
        .addresses()
        .first()
        .is_some_and(std::net::IpAddr::is_ipv6);
    let print = |address: Option<std::net::IpAddr>| {
        address.map_or_else(String::new, |address| address.to_string())
    };
    let gateway = |node: &crate::node::Node| {
        let cidr = node
            .machine()
            .pod_cidrs
            .iter()
            .find(|cidr| cidr.is_ipv6() == ipv6);
        print(cidr.and_then(|cidr| cidr.iter().nth(1)))
    };
    let rows = [
        ends.each_ref()
            .map(|pod| format!("{}  {}", pod.name(), print(pod.address(ipv6)))),
        ["|  eth0".into(), "|  eth0".into()],
        ["|  (the cable)".into(), "|  (the cable)".into()],
        ends.each_ref().map(|pod| format!("|  {}", pod.host_link())),
        nodes
            .each_ref()
            .map(|node| format!("{}  gateway {}", node.name(), gateway(node))),
        [
            "|  a route to each peer's podCIDR".into(),
            "|  a route to each pod".into(),
        ],
        nodes
            .each_ref()
            .map(|node| format!("|  eth0 {}", print(node.machine().address(ipv6)))),
    ];
    let mut text = String::new();
    for [left, right] in rows {
        let _ = writeln!(text, "    {left:<HALF$}{right}");
    }
    let wire = "=".repeat(HALF - 1);
    let _ = writeln!(text, "    +{wire}+   the node network");
    Ok(text)
}
