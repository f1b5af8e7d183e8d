//! The way to an address that no Service has: the next hop, whether the source stays, and where it
//! ends. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::features::routes::gateway_of;
use crate::ours::REFUSED_TABLE as REFUSED;
use crate::snapshot::Node;
use crate::why::facts::{Facts, Party};
use crate::why::{End, Hop, MASQUERADED, Wanted};

/// The next hop to an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NextHop {
    /// In words, as they follow the address.
    pub text: String,
    /// What the kernel should say.
    pub wanted: Wanted,
}

impl NextHop {
    fn new(text: String, wanted: Wanted) -> Self {
        Self { text, wanted }
    }

    /// The next hop from this node to an address.
    pub fn to(facts: &Facts<'_>, to: IpAddr) -> Self {
        let uplink = facts.uplink_name();
        match facts.party(to) {
            Party::Pod(pod) => Self::new(
                format!("a pod on this node, straight through its link {}", pod.link),
                Wanted::Link(pod.link.clone()),
            ),
            Party::OwnNode => Self::new("this node itself".into(), Wanted::Any),
            Party::NoPod(cidr) => Self::new(
                format!("nowhere: it is in this node's podCIDR {cidr}, but no pod has it"),
                Wanted::Unreachable,
            ),
            Party::PodOf(node, cidr) => match gateway(facts, node, cidr) {
                Ok(gateway) => Self::new(
                    format!(
                        "via {gateway} ({}, route to {cidr}) through {uplink}",
                        node.name
                    ),
                    Wanted::Gateway(gateway),
                ),
                Err(why) => Self::new(format!("nowhere: Node {} {why}", node.name), Wanted::Any),
            },
            Party::Node(node) => Self::new(
                format!("node {} itself, through {uplink}", node.name),
                Wanted::Somewhere,
            ),
            Party::Gone(cidr, owner) => {
                Self::new(format!("nowhere: {}", gone(cidr, owner)), Wanted::Any)
            }
            Party::Outside => Self::new("outside the cluster".into(), Wanted::Somewhere),
        }
    }
}

/// The next hop of the route to a Node's podCIDR, or why it has none.
fn gateway(facts: &Facts<'_>, node: &Node, cidr: IpNetwork) -> Result<IpAddr, String> {
    let own_ips = facts.own_node().map_or(&[][..], |own| &own.internal_ips);
    match facts.uplink {
        Some(uplink) => gateway_of(cidr, node, uplink, own_ips),
        None => Err(format!(
            "cannot be reached, as there is no uplink; {cidr} neither"
        )),
    }
}

/// Why what goes to the podCIDR of a Node that is gone is refused.
pub(super) fn gone(cidr: IpNetwork, owner: &str) -> String {
    format!(
        "{cidr} was the podCIDR of {owner}, which is gone, and table inet {REFUSED} refuses it for a \
         while"
    )
}

/// Whether a pod's packet is masqueraded on its way out.
pub(super) fn leaving(facts: &Facts<'_>, source: IpAddr, to: IpAddr, party: &Party<'_>) -> Hop {
    let stays = |why: &str| Hop::new(format!("The source stays {source}")).because(why);
    let lost = format!(
        "no machine outside knows a way back to {source}, unless a router there has a route to it"
    );
    let config = facts.config;
    if *party != Party::Outside {
        return stays("Pods and nodes of the cluster see each other's own addresses.");
    }
    if !config.masquerade {
        return stays("--masquerade=false is set: masquerading is off.").suspect(format!(
            "masquerading is off (--masquerade=false), and {lost}"
        ));
    }
    let mut own = facts.own_pod_cidrs().iter();
    if !own.any(|cidr| cidr.contains(source)) {
        return stays("Only what comes from this node's podCIDRs is masqueraded.").suspect(
            format!("{source} is in none of this node's podCIDRs, and {lost}"),
        );
    }
    let mut exempt = config.non_masquerade_cidrs.iter();
    if let Some(network) = exempt.find(|network| network.contains(to)) {
        return stays(&format!("{network} is exempt by --non-masquerade-cidrs.")).suspect(format!(
            "{network} is not masqueraded (--non-masquerade-cidrs), and {lost}"
        ));
    }
    Hop::new(MASQUERADED)
        .because(format!(
            "{to} is outside the cluster, where no route back to a pod exists."
        ))
        .see("nft list table inet podwire-masquerade")
}

/// How a way to an address ends, in a sentence.
pub(super) fn end(to: IpAddr, party: &Party<'_>) -> (End, String) {
    match party {
        Party::Pod(pod) => {
            let name = pod.name.as_deref();
            let name = name.map_or(String::new(), |name| format!(" {name}"));
            let text = format!("It arrives at pod{name}, {to}, on this node.");
            (End::Arrives, text)
        }
        Party::OwnNode => {
            let text =
                "It arrives at this node; `ss -lntup` shows whether a program listens there.";
            (End::Arrives, text.into())
        }
        Party::NoPod(_) => {
            let text = format!("It is refused (no route to host): no pod has {to}.");
            (End::Refused, text)
        }
        Party::PodOf(node, _) => {
            let name = &node.name;
            let text =
                format!("It leaves for node {name}, which knows the pod: ask there for the rest.");
            (End::Leaves, text)
        }
        Party::Node(node) => {
            let name = &node.name;
            let text = format!("It leaves for node {name}, which decides the rest: ask there.");
            (End::Leaves, text)
        }
        Party::Gone(..) => {
            let text = "It is refused at once: the Node whose pod had this address is gone.";
            (End::Refused, text.into())
        }
        Party::Outside => {
            let text = "It leaves the cluster by the node's own routes.";
            (End::Leaves, text.into())
        }
    }
}
