//! The other end: what the kernel holds, and when it tells of a change.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};

use crate::cluster::is_endpoint;

// linux/netfilter/nfnetlink.h and nf_tables.h. Messages are in the machine's byte order: these two
// bytes are a little-endian machine's, the only kind that kind's images are made for.
const GROUP: u32 = 1 << (7 - 1);
const NFTABLES: u8 = 10;
const NEW_RULE: u8 = 6;
const NEW_ELEMENTS: u8 = 12;

/// How many endpoint addresses the kernel holds in this table, wherever in it they are.
pub fn endpoints(table: &str) -> usize {
    let output = Command::new("nft")
        .args(["-n", "list", "table", "ip", table])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    let found: std::collections::BTreeSet<Ipv4Addr> = words
        .filter_map(|word| word.parse().ok())
        .filter(|&address| is_endpoint(address))
        .collect();
    found.len()
}

/// Removes these tables of any family, if they are there.
pub fn delete_tables(names: &[&str]) {
    for name in names {
        for family in ["ip", "ip6", "inet"] {
            let _ = Command::new("nft")
                .args(["delete", "table", family, name])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// nftables' notifications, which the kernel sends when it commits.
pub struct Notices {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Notices {
    /// Of everything that happens from now on.
    pub fn listen() -> Self {
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(family, kind, flags, SockProtocol::NetlinkNetFilter).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20)).unwrap();
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).unwrap();
        Self {
            socket,
            buffer: vec![0; 1 << 16],
        }
    }

    /// The moment at which the commit of something with this address was announced.
    pub fn added(&mut self, address: Ipv4Addr) -> Instant {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{address} was not in the kernel after 60 s"
            );
            let timeout = PollTimeout::try_from(left).unwrap();
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).unwrap();
            let flags = MsgFlags::MSG_DONTWAIT;
            let Ok(length) = recv(self.socket.as_raw_fd(), &mut self.buffer, flags) else {
                continue;
            };
            let seen = Instant::now();
            if adds(&self.buffer[..length], address) {
                return seen;
            }
        }
    }
}

/// Does a message of this datagram tell of a new rule or element with this address?
fn adds(mut datagram: &[u8], address: Ipv4Addr) -> bool {
    // struct nlmsghdr: the length in four bytes, the kind in two; messages begin at multiples of 4.
    while let Some((&[a, b, c, d, message, subsystem], _)) = datagram.split_first_chunk() {
        let length = (u32::from_ne_bytes([a, b, c, d]) as usize).clamp(16, datagram.len().max(16));
        let body = datagram.get(16..length).unwrap_or_default();
        if subsystem == NFTABLES
            && matches!(message, NEW_RULE | NEW_ELEMENTS)
            && body.windows(4).any(|bytes| bytes == address.octets())
        {
            return true;
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    false
}

/// Waits until the processors have little to do, at most for a minute: what a table's deletion
/// and the API server's own work leave behind is no part of the next measurement.
pub fn settle() {
    for _ in 0..60 {
        let before = worked();
        std::thread::sleep(Duration::from_secs(1));
        let after = worked();
        let share = (after.0 - before.0) / (after.1 - before.1);
        if share < 0.15 {
            return;
        }
    }
    eprintln!("this machine has been busy for a minute: the figures are not to be trusted");
}

/// What all processors did since the start of the machine, and how long they were there.
fn worked() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let first = stat.lines().next().unwrap();
    let ticks: Vec<f64> = first
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let total: f64 = ticks.iter().sum();
    // The fourth and fifth are the time without work.
    (total - ticks[3] - ticks[4], total)
}
