//! What can change.

use crate::address::Address;
use crate::nft::Key;
use crate::route::Route;

/// Receive buffer of each socket in bytes; the kernel doubles it. A notification takes about
/// 800 bytes with its overhead, so some 2,500 fit.
pub(super) const RECEIVE_BUFFER: usize = 1 << 20;

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link came, changed or went.
    Link {
        /// Its number.
        index: u32,
        /// Its name.
        name: String,
        /// Whether it is set up.
        up: bool,
        /// Whether it was deleted.
        gone: bool,
    },
    /// An address came, changed or went.
    Address {
        /// The address.
        address: Address,
        /// Whether it was removed.
        gone: bool,
    },
    /// A route came, changed or went. The kernel says nothing about IPv4 routes that go because
    /// their link goes down or vanishes: the event of the link stands for them
    /// (`fib_sync_down_dev`, net/ipv4/fib_semantics.c).
    Route {
        /// The route.
        route: Route,
        /// Whether it was deleted.
        gone: bool,
    },
    /// Forwarding was switched for all interfaces of a family
    /// (`net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`), by whomever.
    Forwarding {
        /// IPv6, or else IPv4.
        v6: bool,
        /// Whether packets are forwarded now.
        on: bool,
    },
    /// Something in an nftables table changed. One transaction gives one event per table.
    Nftables {
        /// The family of the table (`NFPROTO_*`, linux/netfilter.h): 1 inet, 2 ip, 10 ip6.
        family: u8,
        /// The name of the table.
        table: String,
        /// Whether the table itself was deleted.
        gone: bool,
        /// The port of the socket through which it was changed.
        port: u32,
        /// The process that changed it, as `name[PID]`, if the kernel told.
        writer: Option<String>,
        /// What of it was changed.
        touched: Touched,
    },
    /// Notifications were lost: anything may have changed. It comes when listening is complete
    /// again, so the state that is read after it misses nothing.
    Lost,
}

/// What a transaction changed in an nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Chains or their rules came, changed or went.
    pub rules: bool,
    /// Anything may have changed: the table, sets as a whole, or more elements than are named.
    pub anything: bool,
    /// Elements that came or went, by the names of their sets and their keys; at most
    /// [`Touched::ELEMENTS_MAX`], and incomplete if `anything` is true.
    pub elements: Vec<(String, Key)>,
}

impl Touched {
    /// This many elements are named; after more it is quicker to read all of them.
    pub const ELEMENTS_MAX: usize = 1024;
}
