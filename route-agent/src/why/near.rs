//! Destinations that are not beyond the sender's own link: itself, and what else is on the link. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::why::facts::{Facts, Party};
use crate::why::{End, Hop};

/// A way that ends before any rule or route of the cluster is asked.
pub(super) struct Near {
    /// The step.
    pub hop: Hop,
    /// How it ends.
    pub end: End,
    /// The same in a sentence.
    pub conclusion: String,
}

/// The way to such a destination; none if it is another one. `sender` is who sends, in words.
pub(super) fn near(facts: &Facts<'_>, from: &Party<'_>, sender: &str, to: IpAddr) -> Option<Near> {
    let itself = to.is_loopback() || to.is_unspecified();
    match from {
        Party::Pod(pod) if itself || pod.addresses.contains(&to) => Some(inside(sender, to)),
        Party::OwnNode if to.is_unspecified() => Some(node_itself(to)),
        Party::OwnNode if !is_for_all(facts, to) => None,
        _ if is_for_all(facts, to) => Some(for_all(from, sender, to)),
        Party::Pod(_) | Party::OwnNode => None,
        _ if itself => Some(not_on_a_wire(to)),
        _ => None,
    }
}

/// True if all on a link, or all members of a group, are meant.
fn is_for_all(facts: &Facts<'_>, to: IpAddr) -> bool {
    if to.is_multicast() {
        return true;
    }
    let IpAddr::V4(address) = to else {
        return false;
    };
    let networks = facts
        .uplink
        .into_iter()
        .flat_map(|uplink| &uplink.addresses);
    let mut networks = networks.filter_map(|network| match network {
        IpNetwork::V4(network) if network.prefix() < 31 => Some(network.broadcast()),
        _ => None,
    });
    address.is_broadcast() || networks.any(|broadcast| broadcast == address)
}

fn inside(sender: &str, to: IpAddr) -> Near {
    let which = match to.is_loopback() || to.is_unspecified() {
        true => format!("{to} means the sender itself."),
        false => format!("{to} is the sender's own address."),
    };
    let hop = Hop::new("It stays in the pod, on its interface lo")
        .because(which)
        .because("It never comes to this node: neither Services nor policies see it.");
    Near {
        hop,
        end: End::Arrives,
        conclusion: format!("It goes back to {sender}; `ss -lntup` in the pod shows who listens."),
    }
}

fn node_itself(to: IpAddr) -> Near {
    Near {
        hop: Hop::new("It stays on this node, on its interface lo")
            .because(format!("{to} means the sender itself.")),
        end: End::Arrives,
        conclusion: "It arrives at this node; `ss -lntup` shows whether a program listens there."
            .into(),
    }
}

fn for_all(from: &Party<'_>, sender: &str, to: IpAddr) -> Near {
    let kind = match to.is_multicast() {
        true => "multicast",
        false => "broadcast",
    };
    let who = match from {
        Party::Pod(pod) => format!(
            "On the pod's link, {}, there is no one else but this node.",
            pod.link
        ),
        _ => "It reaches who is on the link that it is sent on.".to_owned(),
    };
    let hop = Hop::new(format!("{to} is a {kind} address"))
        .because(who)
        .because(format!(
            "A node forwards no {kind}, and no Service has such an address."
        ));
    let (end, conclusion) = match from {
        Party::Pod(_) => (
            End::Dropped,
            format!("What {sender} sends there ends at this node and reaches no other pod."),
        ),
        Party::OwnNode => (
            End::Leaves,
            "It leaves for the link that the program chooses, and reaches no pod.".to_owned(),
        ),
        _ => (
            End::Dropped,
            "What comes to this node ends here and reaches no pod.".to_owned(),
        ),
    };
    Near {
        hop,
        end,
        conclusion,
    }
}

fn not_on_a_wire(to: IpAddr) -> Near {
    Near {
        hop: Hop::new(format!("{to} means the sender itself")),
        end: End::Elsewhere,
        conclusion: "Such a packet stays where it is sent: ask there.".into(),
    }
}
