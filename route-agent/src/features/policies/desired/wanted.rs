//! What the kernel should hold for policies, in one family: where something lies, and what it says.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::nft::COMMENT_MAX;

use crate::features::policies::desired::looks::look;
use crate::features::policies::desired::truth::Traffic;
use crate::snapshot::{Direction, ObjectName, Protocol};
use crate::text::start as start_of;

/// The number of a class; [`NO_CLASS`] for a peer that no rule tells from others.
pub type Class = u32;

/// The class of a peer that no rule tells from others. What is allowed for it is allowed for all.
pub const NO_CLASS: Class = 0;

/// A place that the kernel looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A local pod to which (or from which) everything is allowed.
    Open(Direction, IpAddr),
    /// A local pod that is isolated in some direction. It may always reach itself.
    Isolated(IpAddr),
    /// An address outside the node's podCIDRs that is an isolated local pod's, or attached and closed.
    Outside(IpAddr),
    /// The class of a single address.
    Peer(IpAddr),
    /// The class of the addresses from this one on, if they are not found singly.
    Block(IpAddr),
    /// Something is allowed, or denied.
    Cell(Cell),
}

/// What is said of some traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It is dropped.
    Deny,
    /// It may pass.
    Allow,
}

impl Verdict {
    /// Both, in the order in which they are looked for.
    pub const ALL: [Self; 2] = [Self::Deny, Self::Allow];
}

/// Some traffic between a class and a local pod. Of several cells that it is in, the one with the
/// fewest ports decides; and what is said of its class before what is said of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// The class of the peer.
    pub class: Class,
    /// As seen from the local pod.
    pub direction: Direction,
    /// The local pod.
    pub local: IpAddr,
    /// Over what.
    pub ports: Ports,
    /// What is said of it.
    pub verdict: Verdict,
}

/// Ports of the destination, the fewest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// One port.
    One(Protocol, u16),
    /// From one to another, both included.
    Range(Protocol, PortRange),
    /// All ports of a protocol.
    All(Protocol),
    /// Everything, with ports or without.
    Any,
}

/// The first and the last port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// Ranges of up to this many ports are written port by port: each other range costs a rule.
pub const FEW_PORTS: u16 = 16;

impl PortRange {
    /// The ports from one to another, if they are so many that they are written as a range.
    pub fn of_many(first: u16, last: u16) -> Option<Self> {
        (last - first >= FEW_PORTS).then_some(Self { first, last })
    }
}

/// What is at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct What {
    /// The class, at places that lead to one.
    pub class: Class,
    /// The last address, at places of several.
    pub last: Option<IpAddr>,
    /// Why it is there.
    pub note: Note,
}

impl What {
    /// At a place that says all by being there.
    pub fn member(note: Note) -> Self {
        Self {
            class: NO_CLASS,
            last: None,
            note,
        }
    }
}

/// Why something is there, for who reads it in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// It is the address of a pod.
    Pod(ObjectName),
    /// Anything else.
    Text(Arc<str>),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Pod(name) => name.fmt(f),
            Note::Text(text) => f.write_str(text),
        }
    }
}

/// Names as one text that has room in a comment: those for which there is none are counted, and so
/// are `more`. The first one is cut rather than left out.
pub fn listed(start: &str, names: &[&str], more: usize, between: &str) -> Arc<str> {
    let mut text = start.to_owned();
    let length = |name: &&str| name.len() + between.len();
    let whole = text.len() + names.iter().map(length).sum::<usize>();
    let room = match names.len() + more {
        1 => COMMENT_MAX,
        _ if more == 0 && whole <= COMMENT_MAX + between.len() => usize::MAX,
        _ => COMMENT_MAX - " and 4294967295 more".len(),
    };
    for (place, name) in names.iter().enumerate() {
        if place > 0 && text.len() + length(name) > room {
            text += &format!(" and {} more", names.len() - place + more);
            return text.into();
        }
        text += if place > 0 { between } else { "" };
        text += match place {
            0 => start_of(name, room.min(COMMENT_MAX).saturating_sub(text.len())),
            _ => name,
        };
    }
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text.into()
}

/// Everything that is wanted in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted(BTreeMap<Place, What>);

impl Wanted {
    /// What is at a place.
    pub fn get(&self, place: &Place) -> Option<&What> {
        self.0.get(place)
    }

    /// True if something is there.
    pub fn has(&self, place: &Place) -> bool {
        self.0.contains_key(place)
    }

    /// All places, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&Place, &What)> {
        self.0.iter()
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes as little memory as can be: what is filled one by one in its order keeps half of every
    /// node of the tree free.
    pub fn compact(&mut self) {
        self.0 = std::mem::take(&mut self.0).into_iter().collect();
    }

    /// Puts something at a place, or takes it away; returns what was there.
    pub fn put(&mut self, place: Place, what: Option<What>) -> Option<What> {
        match what {
            Some(what) => self.0.insert(place, what),
            None => self.0.remove(&place),
        }
    }

    /// The cells of a class.
    pub fn cells(&self, class: Class) -> impl Iterator<Item = Cell> {
        self.0
            .range(first_of(class)..)
            .map_while(move |(place, _)| cell_of(class, place))
    }

    /// The peers with a class of their own within a range of addresses.
    pub fn peers(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        let all = self.0.range(Place::Peer(first)..=Place::Peer(last));
        all.filter_map(|(place, _)| match place {
            Place::Peer(address) => Some(*address),
            _ => None,
        })
    }

    /// The ranges of addresses that share a class, from the one that may contain `first` on.
    pub fn blocks(&self, first: IpAddr) -> impl Iterator<Item = (IpAddr, IpAddr, Class)> {
        let before = self.0.range(..=Place::Block(first)).next_back();
        let from = match before {
            Some((place @ Place::Block(_), _)) => *place,
            _ => Place::Block(first),
        };
        self.0.range(from..).map_while(|(place, what)| match place {
            Place::Block(start) => Some((*start, what.last.unwrap_or(*start), what.class)),
            _ => None,
        })
    }

    /// The class of an address, found as the kernel finds it.
    pub fn class(&self, address: IpAddr) -> Class {
        if let Some(what) = self.get(&Place::Peer(address)) {
            return what.class;
        }
        let block = self.blocks(address).next();
        let block = block.filter(|(first, last, _)| (*first..=*last).contains(&address));
        block.map_or(NO_CLASS, |(.., class)| class)
    }

    /// Whether a packet may pass, decided as the kernel decides it. `is_here` says whether an address
    /// is one of this node's podCIDRs.
    pub fn allows(
        &self,
        from: IpAddr,
        to: IpAddr,
        traffic: Traffic,
        is_here: impl Fn(IpAddr) -> bool,
    ) -> bool {
        let by = |direction, local, peer| {
            let checked = is_here(local) || self.has(&Place::Outside(local));
            !checked
                || self.has(&Place::Open(direction, local))
                || from == to && self.has(&Place::Isolated(local))
                || [self.class(peer), NO_CLASS]
                    .into_iter()
                    .find_map(|class| self.verdict(direction, local, class, traffic))
                    == Some(Verdict::Allow)
        };
        by(Direction::Ingress, to, from) && by(Direction::Egress, from, to)
    }

    /// What is said of traffic with a class, if anything.
    fn verdict(
        &self,
        direction: Direction,
        local: IpAddr,
        class: Class,
        traffic: Traffic,
    ) -> Option<Verdict> {
        let cells = self.cells_of(class, direction, local);
        let cells = cells.filter(|cell| cell.ports.contain(traffic));
        let nearest = cells.min_by_key(|cell| (cell.ports, cell.verdict));
        nearest.map(|cell| cell.verdict)
    }

    /// True if something of a class is denied that has to do with a local pod.
    pub fn denies(&self, class: Class, direction: Direction, local: IpAddr) -> bool {
        let mut cells = self.cells_of(class, direction, local);
        cells.any(|cell| cell.verdict == Verdict::Deny)
    }

    /// The cells between a class and a local pod.
    fn cells_of(
        &self,
        class: Class,
        direction: Direction,
        local: IpAddr,
    ) -> impl Iterator<Item = Cell> {
        let first = Cell {
            class,
            direction,
            local,
            ports: Ports::One(Protocol::Tcp, 0),
            verdict: Verdict::Deny,
        };
        let all = self.0.range(Place::Cell(first)..);
        all.map_while(move |(place, _)| {
            look();
            match place {
                Place::Cell(cell)
                    if (cell.class, cell.direction, cell.local) == (class, direction, local) =>
                {
                    Some(*cell)
                }
                _ => None,
            }
        })
    }
}

/// The place of a class's first cell.
fn first_of(class: Class) -> Place {
    Place::Cell(Cell {
        class,
        direction: Direction::Ingress,
        local: IpAddr::from([0, 0, 0, 0]),
        ports: Ports::One(Protocol::Tcp, 0),
        verdict: Verdict::Deny,
    })
}

/// The cell at a place, if it is one of the class.
fn cell_of(class: Class, place: &Place) -> Option<Cell> {
    look();
    match place {
        Place::Cell(cell) if cell.class == class => Some(*cell),
        _ => None,
    }
}

impl Ports {
    /// True if it is over them.
    pub fn contain(self, traffic: Traffic) -> bool {
        match (self, traffic) {
            (Ports::Any, _) => true,
            (_, Traffic::Portless) => false,
            (Ports::One(protocol, one), Traffic::Port(of, port)) => (protocol, one) == (of, port),
            (Ports::Range(protocol, range), Traffic::Port(of, port)) => {
                protocol == of && (range.first..=range.last).contains(&port)
            }
            (Ports::All(protocol), Traffic::Port(of, _)) => protocol == of,
        }
    }
}

/// What differs between two moments: each place with what was there before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta(BTreeMap<Place, Option<What>>);

impl Delta {
    /// Notes what was at a place before the first change of it.
    pub fn note(&mut self, place: Place, before: Option<What>) {
        self.0.entry(place).or_insert(before);
    }

    /// Forgets places that are again as they were.
    pub fn settle(&mut self, now: &Wanted) {
        self.0
            .retain(|place, before| before.as_ref() != now.get(place));
    }

    /// The places, each with what was there before.
    pub fn iter(&self) -> impl Iterator<Item = (&Place, Option<&What>)> {
        self.0
            .iter()
            .map(|(place, before)| (place, before.as_ref()))
    }

    /// What was at a place before, given what is there now.
    pub fn before<'a>(&'a self, place: &Place, now: &'a Wanted) -> Option<&'a What> {
        match self.0.get(place) {
            Some(before) => before.as_ref(),
            None => now.get(place),
        }
    }

    /// The range of addresses that an address was in before, given what is there now: its class.
    pub fn block_before(&self, address: IpAddr, now: &Wanted) -> Class {
        let until = ..=Place::Block(address);
        let before = self.0.range(until).rev();
        let before = before.map_while(|(place, before)| match place {
            Place::Block(first) => Some((*first, before.as_ref())),
            _ => None,
        });
        let mut before = before.filter_map(|(first, what)| Some((first, what?)));
        let changed = before.next();
        let kept = now.blocks(address).next();
        let kept = kept.filter(|(first, ..)| !self.0.contains_key(&Place::Block(*first)));
        let changed = changed.map(|(first, what)| (first, what.last.unwrap_or(first), what.class));
        let found = [changed, kept].into_iter().flatten();
        let mut found = found.filter(|(first, last, _)| (*first..=*last).contains(&address));
        found.next().map_or(NO_CLASS, |(.., class)| class)
    }

    /// The places of cells of a class that differ.
    pub fn cells(&self, class: Class) -> impl Iterator<Item = (Cell, Option<&What>)> {
        self.0
            .range(first_of(class)..)
            .map_while(move |(place, before)| Some((cell_of(class, place)?, before.as_ref())))
    }

    /// True if none does.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
