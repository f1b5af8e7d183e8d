//! Links, addresses and routes, through rtnetlink.

use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::AsyncSocket;
use tokio::sync::mpsc;

use super::{Event, RECEIVE_BUFFER};
use crate::Cause;
use crate::address::Address;
use crate::route::Route;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Opens a socket in the namespace of the calling thread; returns its descriptor and the work of
/// reading from it, which ends when the socket breaks or nobody takes the events any more.
pub(super) fn listen(
    events: mpsc::Sender<Event>,
) -> Result<(OwnedFd, impl Future<Output = ()>), Cause> {
    let (mut connection, handle, mut messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
    let socket = connection.socket_mut().socket_ref();
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    let descriptor = socket.as_fd().try_clone_to_owned()?;
    let raw = descriptor.try_clone()?;
    let work = async move {
        // The connection also ends when the last handle is gone.
        let _handle = handle;
        let forward = async {
            while let Ok((message, _)) = messages.recv().await {
                if matches!(message.payload, NetlinkPayload::Overrun(_)) {
                    drain(&raw);
                    while messages.try_recv().is_ok() {}
                }
                if let Some(event) = understand(message.payload)
                    && events.send(event).await.is_err()
                {
                    break;
                }
            }
        };
        tokio::select! {
            () = connection => {}
            () = forward => {}
        }
    };
    Ok((descriptor, work))
}

/// Empties the receive queue of a socket. The kernel tells of an overrun once, at its beginning,
/// and goes on dropping until the queue is empty (`netlink_rcv_wake`, net/netlink/af_netlink.c):
/// only what comes after that is complete again, and nothing in the queue counts.
fn drain(socket: &OwnedFd) {
    loop {
        match recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT) {
            // Nothing is taken in but the datagram is gone. A further overrun is the same one.
            Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
            Err(_) => return,
        }
    }
}

fn understand(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Event::Lost),
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => about_link(&link, false),
        RouteNetlinkMessage::DelLink(link) => about_link(&link, true),
        RouteNetlinkMessage::NewAddress(message) => {
            Address::from_message(&message)
                .ok()?
                .map(|address| Event::Address {
                    address,
                    gone: false,
                })
        }
        RouteNetlinkMessage::DelAddress(message) => {
            Address::from_message(&message)
                .ok()?
                .map(|address| Event::Address {
                    address,
                    gone: true,
                })
        }
        RouteNetlinkMessage::NewRoute(message) => Route::from_message(&message)
            .ok()?
            .map(|route| Event::Route { route, gone: false }),
        RouteNetlinkMessage::DelRoute(message) => Route::from_message(&message)
            .ok()?
            .map(|route| Event::Route { route, gone: true }),
        _ => None,
    }
}

fn about_link(message: &LinkMessage, gone: bool) -> Option<Event> {
    // Bridges report their ports with messages of their own, in which "deleted" means that the
    // link left the bridge (`br_ifinfo_notify`, net/bridge/br_netlink.c).
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let name = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
    Some(Event::Link {
        index: message.header.index,
        name: name.unwrap_or_default(),
        up: message.header.flags.contains(LinkFlags::Up),
        gone,
    })
}
