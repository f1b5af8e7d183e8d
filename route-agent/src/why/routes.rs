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
    /// How a way ends that goes there.
    pub end: End,
}

impl NextHop {
    fn new(text: String, wanted: Wanted, end: End) -> Self {
        Self { text, wanted, end }
    }

    /// True if it does not lead to who has the address.
    pub fn leads_nowhere(&self) -> bool {
        matches!(self.end, End::Refused | End::Dropped)
    }

    /// The next hop from this node to an address.
    pub fn to(facts: &Facts<'_>, to: IpAddr) -> Self {
        let uplink = facts.uplink_name();
        match facts.party(to) {
            Party::Pod(pod) => Self::new(
                format!("a pod on this node, straight through its link {}", pod.link),
                Wanted::Link(pod.link.clone()),
                End::Arrives,
            ),
            Party::OwnNode => Self::new("this node itself".into(), Wanted::Any, End::Arrives),
            Party::NoPod(cidr) => Self::new(
                format!("nowhere: it is in this node's podCIDR {cidr}, but no pod has it"),
                Wanted::Unreachable,
                End::Refused,
            ),
            Party::PodOf(node, cidr) => match gateway(facts, node, cidr) {
                Ok(gateway) => Self::new(
                    format!(
                        "via {gateway} ({}, route to {cidr}) through {uplink}",
                        node.name
                    ),
                    Wanted::Gateway(gateway),
                    End::Leaves,
                ),
                // A router that knows the pod may be behind them; that cannot be seen from here.
                Err(why) => Self::new(
                    format!(
                        "by this node's other routes, if any, not to the pod: Node {} {why}",
                        node.name
                    ),
                    Wanted::Any,
                    End::Dropped,
                ),
            },
            Party::Node(node) => Self::new(
                format!("node {} itself, through {uplink}", node.name),
                Wanted::Somewhere,
                End::Leaves,
            ),
            Party::Gone(cidr, owner) => Self::new(
                format!("nowhere: {}", gone(cidr, owner)),
                Wanted::Any,
                End::Refused,
            ),
            Party::Outside => {
                let asks = facts.asks_in_vain(to);
                let why = asks
                    .and_then(|(node, cidr)| Some((node, gateway(facts, node, cidr).err()?)))
                    .map(|(node, why)| format!(": Node {} {why}", node.name));
                Self::new(
                    format!("outside the cluster{}", why.unwrap_or_default()),
                    Wanted::Somewhere,
                    End::Leaves,
                )
            }
        }
    }
}

/// The next hop of the route to a Node's podCIDR, or why it has none.
fn gateway(facts: &Facts<'_>, node: &Node, cidr: IpNetwork) -> Result<IpAddr, String> {
    if let Some(why) = facts.snapshot.why_left_out(node, cidr) {
        return Err(why.to_owned());
    }
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
    let mut own = facts.own_pod_cidrs().into_iter();
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
pub(super) fn conclusion(to: IpAddr, party: &Party<'_>, next: &NextHop) -> String {
    match party {
        Party::Pod(pod) => {
            let name = pod.name.as_deref();
            let name = name.map_or(String::new(), |name| format!(" {name}"));
            format!("It arrives at pod{name}, {to}, on this node.")
        }
        Party::OwnNode => {
            "It arrives at this node; `ss -lntup` shows whether a program listens there.".into()
        }
        Party::NoPod(_) => format!("It is refused (no route to host): no pod has {to}."),
        Party::PodOf(..) if next.leads_nowhere() => format!("It leaves {}.", next.text),
        Party::PodOf(node, _) => {
            let name = &node.name;
            format!("It leaves for node {name}, which knows the pod: ask there for the rest.")
        }
        Party::Node(node) => {
            let name = &node.name;
            format!("It leaves for node {name}, which decides the rest: ask there.")
        }
        Party::Gone(..) => {
            "It is refused at once: the Node whose pod had this address is gone.".into()
        }
        Party::Outside => "It leaves the cluster by the node's own routes.".into(),
    }
}
