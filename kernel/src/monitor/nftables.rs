//! nftables notifications: which tables a transaction touched, and whose it was.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::event::{Event, RECEIVE_BUFFER, Touched};
use crate::Cause;
use crate::netlink::{Message, attributes, messages, text};
use crate::nft::Key;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_DELTABLE: u8 = 2;
const NFT_MSG_NEWCHAIN: u8 = 3;
const NFT_MSG_DELCHAIN: u8 = 5;
const NFT_MSG_NEWRULE: u8 = 6;
const NFT_MSG_DELRULE: u8 = 8;
const NFT_MSG_NEWSETELEM: u8 = 12;
const NFT_MSG_DELSETELEM: u8 = 14;
const NFT_MSG_NEWGEN: u8 = 15;
/// The name of the table is the first attribute of every kind of object.
const NFTA_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
/// Size of `struct nfgenmsg` in bytes.
const HEADER: usize = 4;

/// The kernel puts the messages of a transaction together up to NLMSG_GOODSIZE, 8 KiB at most;
/// a single larger message stays below this.
const DATAGRAM_MAX: usize = 64 * 1024;

/// Opens a socket in the namespace of the calling thread; returns its descriptor and the work of
/// reading from it, which ends when the socket breaks or the receiver is gone.
#[expect(
    unsafe_code,
    reason = "the descriptor of a netlink socket is registered"
)]
pub(super) fn listen(
    events: mpsc::Sender<Event>,
) -> Result<(OwnedFd, impl Future<Output = ()>), Cause> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.set_non_blocking(true)?;
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(NFNLGRP_NFTABLES)?;
    let descriptor = socket.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor of a netlink socket stays the same and open until the socket is
    // dropped, which is after the registration ends: `AsyncFd` owns it.
    let socket = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
    Ok((descriptor, run(socket, events)))
}

async fn run(socket: AsyncFd<Socket>, events: mpsc::Sender<Event>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut transaction = Transaction::default();
    while let Ok(mut ready) = socket.readable().await {
        let found = match ready.try_io(|socket| receive(socket.get_ref(), &mut buffer)) {
            Err(_would_block) => continue,
            Ok(Ok(Some(datagram))) => transaction.read(datagram),
            Ok(Ok(None)) => {
                transaction = Transaction::default();
                vec![Event::Lost]
            }
            Ok(Err(_)) => return,
        };
        for event in found {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Reads a datagram; `None` if some were lost.
fn receive<'a>(socket: &Socket, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    let mut lost = false;
    loop {
        let mut space = &mut buffer[..];
        match socket.recv(&mut space, 0) {
            // After an overrun the kernel goes on dropping until its queue is empty
            // (`netlink_rcv_wake`, net/netlink/af_netlink.c), so nothing in there counts.
            Ok(_) if lost => {}
            Ok(length) => return Ok(Some(&buffer[..length])),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) if lost && error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// The tables that the transaction touched so far. Its end is the announcement of the new
/// generation of rules, which also names the process (`nf_tables_commit`).
#[derive(Debug, Default)]
struct Transaction {
    tables: Vec<TouchedTable>,
}

#[derive(Debug, PartialEq, Eq)]
struct TouchedTable {
    family: u8,
    table: String,
    gone: bool,
    touched: Touched,
}

impl Transaction {
    /// Takes in one datagram; returns the events of the transactions that ended in it.
    fn read(&mut self, datagram: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for message in messages(datagram) {
            match message {
                Ok(message) => self.take_in(message, &mut events),
                // Cut off: what is missing may have been anything.
                Err(_) => events.push(Event::Lost),
            }
        }
        events
    }

    fn take_in(&mut self, message: Message<'_>, events: &mut Vec<Event>) {
        let [kind, subsystem] = message.kind.to_le_bytes();
        let Some((header, body)) = message.payload.split_at_checked(HEADER) else {
            return;
        };
        if u16::from(subsystem) != NFNL_SUBSYS_NFTABLES {
            return;
        }
        if kind == NFT_MSG_NEWGEN {
            let writer = writer(body);
            events.extend(self.tables.drain(..).map(|table| Event::Nftables {
                family: table.family,
                table: table.table,
                gone: table.gone,
                port: message.port,
                writer: writer.clone(),
                touched: table.touched,
            }));
            return;
        }
        let Some((_, table)) = attributes(body).find(|(number, _)| *number == NFTA_TABLE) else {
            return;
        };
        let table = self.table(header[0], &text(table));
        // A table that is deleted and made again in one transaction is there in the end.
        table.gone = kind == NFT_MSG_DELTABLE;
        table.touched.take_in(kind, body);
    }

    fn table(&mut self, family: u8, name: &str) -> &mut TouchedTable {
        let known = |table: &TouchedTable| table.family == family && table.table == name;
        let at = self.tables.iter().rposition(known).unwrap_or_else(|| {
            self.tables.push(TouchedTable {
                family,
                table: name.to_owned(),
                gone: false,
                touched: Touched::default(),
            });
            self.tables.len() - 1
        });
        &mut self.tables[at]
    }
}

impl Touched {
    fn take_in(&mut self, kind: u8, body: &[u8]) {
        match kind {
            NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN | NFT_MSG_NEWRULE | NFT_MSG_DELRULE => {
                self.rules = true;
            }
            NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM => self.take_in_elements(body),
            _ => self.anything = true,
        }
    }

    fn take_in_elements(&mut self, body: &[u8]) {
        if self.anything {
            return;
        }
        let find = |bytes, wanted| attributes(bytes).find(|(number, _)| *number == wanted);
        let (set, elements) = (
            find(body, NFTA_SET_ELEM_LIST_SET),
            find(body, NFTA_SET_ELEM_LIST_ELEMENTS),
        );
        let (Some((_, set)), Some((_, elements))) = (set, elements) else {
            self.anything = true;
            return;
        };
        for (_, element) in attributes(elements) {
            let key =
                find(element, NFTA_SET_ELEM_KEY).and_then(|(_, key)| find(key, NFTA_DATA_VALUE));
            match key {
                Some((_, key)) if self.elements.len() < Touched::ELEMENTS_MAX => {
                    self.elements.push((text(set), Key::from_bytes(key)));
                }
                // A catch-all element has no key.
                _ => {
                    self.anything = true;
                    return;
                }
            }
        }
    }
}

/// Who wrote a generation, as `name[PID]`.
fn writer(body: &[u8]) -> Option<String> {
    let find = |wanted| attributes(body).find(|(number, _)| *number == wanted);
    let pid = u32::from_be_bytes(*find(NFTA_GEN_PROC_PID)?.1.first_chunk::<4>()?);
    let (_, name) = find(NFTA_GEN_PROC_NAME)?;
    Some(format!("{}[{pid}]", text(name)))
}

/// Reads `datagram`, twice, as a transaction may come in several: for the fuzzer only.
#[cfg(feature = "fuzzing")]
pub(super) fn read(datagram: &[u8]) {
    let mut transaction = Transaction::default();
    for _ in 0..2 {
        for event in transaction.read(datagram) {
            let Event::Nftables { touched, .. } = event else {
                continue;
            };
            assert!(touched.elements.len() <= Touched::ELEMENTS_MAX);
        }
    }
}
