//! Links, addresses, routes and forwarding, through rtnetlink's connection.
//!
//! The connection hands the messages over as bytes, which the values of this crate read
//! themselves: an attribute of a newer kernel that `netlink-packet-route` does not know must not
//! cost a notification.

use std::convert::Infallible;
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::proto::new_connection;
use rtnetlink::sys::{AsyncSocket, protocols::NETLINK_ROUTE};
use tokio::sync::mpsc;

use super::event::{Event, RECEIVE_BUFFER};
use crate::Cause;
use crate::address::Address;
use crate::link::Link;
#[cfg(feature = "fuzzing")]
use crate::netlink::messages;
use crate::netlink::{attributes, word};
use crate::route::Route;

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

// linux/rtnetlink.h, linux/netconf.h
const RTM_NEWNETCONF: u16 = 80;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// `NETCONFA_IFINDEX_ALL`, -1: not one interface but all.
const ALL_INTERFACES: u32 = u32::MAX;
/// Size of `struct netconfmsg`, one byte with the family, as attributes are aligned.
const NETCONF_HEADER: usize = 4;

/// A notification that is not read yet.
#[derive(Debug)]
struct Unread {
    kind: u16,
    body: Vec<u8>,
}

impl NetlinkDeserializable for Unread {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

impl NetlinkSerializable for Unread {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

/// Opens a socket in the namespace of the calling thread; returns its descriptor and the work of
/// reading from it, which ends when the socket breaks or the receiver is gone.
pub(super) fn listen(
    events: mpsc::Sender<Event>,
) -> Result<(OwnedFd, impl Future<Output = ()>), Cause> {
    let (mut connection, handle, mut messages) = new_connection::<Unread>(NETLINK_ROUTE)?;
    let socket = connection.socket_mut().socket_mut();
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    socket.bind_auto()?;
    for group in GROUPS {
        socket.add_membership(group as u32)?;
    }
    let descriptor = socket.as_fd().try_clone_to_owned()?;
    let raw = descriptor.try_clone()?;
    let work = async move {
        // The connection also ends when the last handle is gone.
        let _handle = handle;
        let forward = async {
            while let Ok((message, _)) = messages.recv().await {
                let event = match message.payload {
                    NetlinkPayload::InnerMessage(message) => understand(&message),
                    NetlinkPayload::Overrun(_) => {
                        drain(&raw);
                        while messages.try_recv().is_ok() {}
                        Some(Event::Lost)
                    }
                    _ => None,
                };
                if let Some(event) = event
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

fn understand(message: &Unread) -> Option<Event> {
    let body = &message.body[..];
    match message.kind {
        libc::RTM_NEWLINK => about_link(body, false),
        libc::RTM_DELLINK => about_link(body, true),
        libc::RTM_NEWADDR => about_address(body, false),
        libc::RTM_DELADDR => about_address(body, true),
        libc::RTM_NEWROUTE => about_route(body, false),
        libc::RTM_DELROUTE => about_route(body, true),
        RTM_NEWNETCONF => about_settings(body),
        _ => None,
    }
}

fn about_address(body: &[u8], gone: bool) -> Option<Event> {
    Address::parse(body)
        .ok()?
        .map(|address| Event::Address { address, gone })
}

fn about_route(body: &[u8], gone: bool) -> Option<Event> {
    Route::parse(body)
        .ok()?
        .map(|route| Event::Route { route, gone })
}

fn about_settings(body: &[u8]) -> Option<Event> {
    let v6 = match i32::from(*body.first()?) {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return None,
    };
    let value = |wanted: u16| {
        let mut all = attributes(body.get(NETCONF_HEADER..)?);
        word(all.find(|(kind, _)| *kind == wanted)?.1)
    };
    // Every interface that comes is told as well.
    let on = value(NETCONFA_FORWARDING)? != 0;
    (value(NETCONFA_IFINDEX)? == ALL_INTERFACES).then_some(Event::Forwarding { v6, on })
}

fn about_link(body: &[u8], gone: bool) -> Option<Event> {
    // The first byte is the family. Bridges report their ports with messages of their own
    // (AF_BRIDGE), in which "deleted" means that the link left the bridge (`br_ifinfo_notify`,
    // net/bridge/br_netlink.c).
    if body.first() != Some(&(libc::AF_UNSPEC as u8)) {
        return None;
    }
    let link = Link::parse(body).ok()?;
    Some(Event::Link {
        index: link.index,
        name: link.name,
        up: link.up,
        gone,
    })
}

/// Reads the notifications in `datagram`: for the fuzzer only.
#[cfg(feature = "fuzzing")]
pub(super) fn read(datagram: &[u8]) {
    for message in messages(datagram).map_while(Result::ok) {
        let _ = understand(&Unread {
            kind: message.kind,
            body: message.payload.to_vec(),
        });
    }
}
