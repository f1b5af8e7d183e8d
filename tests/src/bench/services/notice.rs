//! When the kernel takes in a change of its rules.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};
use podwire_kernel::netns::Netns;

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h), as a mask.
const GROUP: u32 = 1 << (7 - 1);

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Listens to nftables' notifications, which the kernel sends when it commits.
#[derive(Debug)]
pub struct Notices {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Notices {
    /// Listens in a network namespace.
    pub fn listen(netns: &Netns) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("cannot listen to nftables: {error}");
        let listening = netns.enter(|| {
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkNetFilter,
            )?;
            setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
            nix::Result::Ok(socket)
        });
        let socket = listening
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        Ok(Self {
            socket,
            buffer: vec![0; 1 << 16],
        })
    }

    /// Forgets what was announced so far.
    pub fn forget(&mut self) {
        while recv(
            self.socket.as_raw_fd(),
            &mut self.buffer,
            MsgFlags::MSG_DONTWAIT,
        )
        .is_ok()
        {}
    }

    /// Waits for an announcement that holds `address`; the moment at which it was read.
    pub fn await_address(&mut self, address: Ipv4Addr) -> Result<Instant, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout)
                .map_err(|errno| format!("cannot wait for nftables: {errno}"))?;
            if left.is_zero() {
                return Err(format!("nftables never got {address}"));
            }
            let flags = MsgFlags::MSG_DONTWAIT;
            let Ok(length) = recv(self.socket.as_raw_fd(), &mut self.buffer, flags) else {
                continue;
            };
            let seen = Instant::now();
            if self.buffer[..length]
                .windows(4)
                .any(|bytes| bytes == address.octets())
            {
                return Ok(seen);
            }
        }
    }
}
