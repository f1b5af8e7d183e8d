//! How many connections a server holds, and which one goes when another comes.
//!
//! A connection is taken at once, always: if there is no place, the one that has waited longest for
//! its client goes. One source has [`PER_SOURCE`] places, all sources together [`STRANGERS`], and
//! the node itself has [`OWN`] that no one else can take: kubelet's probes come from there. Servers
//! that are open to the same clients share their places, so that many ports are no way around them; but
//! each port makes one more place, because load balancers ask all ports at once from one address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Places of one source.
pub const PER_SOURCE: usize = 8;
/// Places of all sources but the node itself.
pub const STRANGERS: usize = 64;
/// Places of the node itself.
pub const OWN: usize = 32;
/// No more places for ports than this, however many ports there are.
pub const MOST_FOR_PORTS: usize = 512;

/// Who holds a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The node itself: through the socket file, from a loopback address, or from the address that
    /// it asks.
    Own,
    /// Another machine or a pod; of an IPv6 address the first 64 bits, because who has one address
    /// of a link can have all.
    Stranger(IpAddr),
}

impl Source {
    /// The source of a connection from `peer` to `local`.
    pub fn of(peer: SocketAddr, local: SocketAddr) -> Self {
        let (peer, local) = (peer.ip().to_canonical(), local.ip().to_canonical());
        if peer.is_loopback() || peer == local {
            return Self::Own;
        }
        Self::Stranger(match peer {
            IpAddr::V4(_) => peer,
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        })
    }
}

/// The places of one or several servers.
#[derive(Debug, Clone)]
pub struct Places(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    /// Places of the node itself.
    own: usize,
    /// Places that every other source has beyond [`PER_SOURCE`], and all together beyond [`STRANGERS`].
    for_ports: usize,
    taken: BTreeMap<u64, Taken>,
    /// Counts what happens: tells connections apart, and which has waited longer.
    turn: u64,
}

#[derive(Debug)]
struct Taken {
    source: Source,
    /// The turn in which the server began to wait for the client; none while it makes an answer.
    waits_since: Option<u64>,
    /// Dropped with the entry, which tells the connection to go.
    _stay: oneshot::Sender<()>,
}

/// A place that is held; free again when dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    id: u64,
}

impl Default for Places {
    fn default() -> Self {
        Self::with_own(OWN)
    }
}

impl Places {
    /// So many of them for the node itself.
    pub fn with_own(own: usize) -> Self {
        Self(Arc::new(Mutex::new(Table {
            own,
            for_ports: 0,
            taken: BTreeMap::new(),
            turn: 0,
        })))
    }

    /// From now on clients may ask so many ports.
    pub fn set_ports(&self, ports: usize) {
        self.table().for_ports = ports.min(MOST_FOR_PORTS);
    }

    /// A place, and what resolves when the connection has to go for the sake of another.
    pub fn take(&self, source: Source) -> (Place, oneshot::Receiver<()>) {
        let (stay, go) = oneshot::channel();
        let mut table = self.table();
        while let Some(id) = table.to_go_for(source) {
            table.taken.remove(&id);
        }
        let id = table.next_turn();
        let taken = Taken {
            source,
            waits_since: Some(id),
            _stay: stay,
        };
        table.taken.insert(id, taken);
        let places = self.clone();
        (Place { places, id }, go)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whatever panicked, the table is whole between two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The client's request is there: what takes time now is not the client's fault.
    pub fn answering(&self) {
        if let Some(taken) = self.places.table().taken.get_mut(&self.id) {
            taken.waits_since = None;
        }
    }

    /// The answer is on its way: the client has to read it, and may ask again.
    pub fn answered(&self) {
        let mut table = self.places.table();
        let turn = table.next_turn();
        if let Some(taken) = table.taken.get_mut(&self.id) {
            taken.waits_since = Some(turn);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().taken.remove(&self.id);
    }
}

impl Table {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// The connection that has to go before `source` can have one more, if there is no place.
    fn to_go_for(&self, source: Source) -> Option<u64> {
        let of = |wanted: Source| self.taken.values().filter(move |t| t.source == wanted);
        if source == Source::Own {
            return (of(Source::Own).count() >= self.own).then(|| self.longest(Source::Own))?;
        }
        if of(source).count() >= PER_SOURCE + self.for_ports {
            return self.longest(source);
        }
        let mut held: BTreeMap<Source, usize> = BTreeMap::new();
        for taken in self.taken.values().filter(|t| t.source != Source::Own) {
            *held.entry(taken.source).or_default() += 1;
        }
        if held.values().sum::<usize>() < STRANGERS + self.for_ports {
            return None;
        }
        // Who holds most can best do without one.
        let most = held.values().copied().max()?;
        let of_those = self.taken.iter();
        let of_those = of_those.filter(|(_, taken)| held.get(&taken.source) == Some(&most));
        of_those.map(|(id, _)| *id).min_by_key(|id| self.wait(*id))
    }

    /// The connection of a source that has waited longest for its client; one that is being
    /// answered only if all are.
    fn longest(&self, source: Source) -> Option<u64> {
        let of_source = self.taken.iter().filter(|(_, t)| t.source == source);
        of_source.map(|(id, _)| *id).min_by_key(|id| self.wait(*id))
    }

    fn wait(&self, id: u64) -> (bool, u64) {
        let since = self.taken.get(&id).and_then(|taken| taken.waits_since);
        (since.is_none(), since.unwrap_or(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(last: u8) -> Source {
        Source::Stranger(IpAddr::from([10, 10, 2, last]))
    }

    fn gone(go: &mut oneshot::Receiver<()>) -> bool {
        matches!(go.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[test]
    fn a_load_balancer_that_asks_many_ports_at_once_has_a_place_for_each() {
        let places = Places::default();
        places.set_ports(100);
        let mut held: Vec<_> = (0..100).map(|_| places.take(stranger(1))).collect();
        assert!(!held.iter_mut().any(|(_, go)| gone(go)));
        places.set_ports(1);
        let _last = places.take(stranger(1));
        let gone = held.iter_mut().filter_map(|(_, go)| gone(go).then_some(()));
        assert_eq!(gone.count(), 100 - PER_SOURCE, "and the last stays");
    }

    #[test]
    fn a_source_with_all_its_places_loses_the_connection_that_waited_longest() {
        let places = Places::default();
        let mut other = places.take(stranger(2));
        let mut held: Vec<_> = (0..PER_SOURCE).map(|_| places.take(stranger(1))).collect();
        // The first is being answered, the second has just been.
        held[0].0.answering();
        held[1].0.answering();
        held[1].0.answered();
        let _one_more = places.take(stranger(1));
        let found: Vec<usize> = (0..PER_SOURCE)
            .filter(|at| gone(&mut held[*at].1))
            .collect();
        assert_eq!(found, [2]);
        assert!(!gone(&mut other.1));
    }

    #[test]
    fn many_sources_take_no_place_of_the_node_and_the_greediest_loses_first() {
        let places = Places::default();
        let mut own = places.take(Source::Own);
        let mut modest = places.take(stranger(255));
        let mut greedy: Vec<_> = (0..200).map(|n| places.take(stranger(n % 20))).collect();
        assert!(!gone(&mut own.1));
        assert!(!gone(&mut modest.1), "others hold more");
        let left = greedy
            .iter_mut()
            .filter_map(|(_, go)| (!gone(go)).then_some(()))
            .count();
        assert_eq!(left, STRANGERS - 1);
    }

    #[test]
    fn the_node_has_its_places_and_no_more() {
        let places = Places::default();
        let mut held: Vec<_> = (0..=OWN).map(|_| places.take(Source::Own)).collect();
        assert!(gone(&mut held[0].1) && !gone(&mut held[1].1));
        drop(held);
        assert!(places.table().taken.is_empty());
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits_or_the_node_itself() {
        for (peer, local, expected) in [
            ("127.0.0.1:1", "127.0.0.1:2", None),
            ("[::1]:1", "[::1]:2", None),
            ("172.18.0.2:1", "172.18.0.2:2", None),
            ("[::ffff:172.18.0.2]:1", "[::ffff:172.18.0.2]:2", None),
            (
                "[::ffff:10.1.2.3]:1",
                "[::ffff:172.18.0.2]:2",
                Some("10.1.2.3"),
            ),
            ("[fd00::1:2:3:4]:1", "[fd00::5]:2", Some("fd00::")),
        ] {
            let source = Source::of(peer.parse().unwrap(), local.parse().unwrap());
            let expected = expected.map_or(Source::Own, |ip| Source::Stranger(ip.parse().unwrap()));
            assert_eq!(source, expected, "{peer}");
        }
    }
}
