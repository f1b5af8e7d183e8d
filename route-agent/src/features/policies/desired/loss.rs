//! Whether a change takes something away that was allowed.
//!
//! Connections that are under way are judged again only then, so "no" must be right; a "yes" that
//! was not needed costs a little time and cuts nothing.

use std::net::IpAddr;

use crate::cidr::next;
use crate::features::policies::desired::wanted::{
    Cell, Class, Delta, NO_CLASS, Place, Ports, Wanted, What,
};
use crate::snapshot::Direction;

/// True if something that was allowed before `delta` may not be allowed `now`. `is_used` says whether
/// an address is of a class.
pub fn takes_away(delta: &Delta, now: &Wanted, is_used: impl Fn(Class) -> bool) -> bool {
    let change = Change {
        delta,
        now,
        is_used: &is_used,
    };
    delta
        .iter()
        .any(|(place, before)| before.is_some_and(|before| change.loses(place, before)))
}

struct Change<'a> {
    delta: &'a Delta,
    now: &'a Wanted,
    is_used: &'a dyn Fn(Class) -> bool,
}

impl Change<'_> {
    /// Whether something is lost at a place where there was something before.
    fn loses(&self, place: &Place, before: &What) -> bool {
        let after = self.now.get(place);
        match place {
            Place::Open(..) => after.is_none(),
            Place::Isolated(address) | Place::Outside(address) => {
                after.is_none()
                    && !Direction::ALL
                        .iter()
                        .all(|one| self.is_open(*one, *address))
            }
            Place::Peer(address) => {
                let class = after.map_or_else(|| self.now.class(*address), |what| what.class);
                !self.covers(before.class, class)
            }
            Place::Block(first) => {
                let last = before.last.unwrap_or(*first);
                self.classes(*first, last)
                    .into_iter()
                    .any(|class| !self.covers(before.class, class))
            }
            Place::Cell(cell) => after.is_none() && !self.is_made_up_for(*cell),
        }
    }

    /// All classes that addresses of a range have now.
    fn classes(&self, first: IpAddr, last: IpAddr) -> Vec<Class> {
        let blocks = self.now.blocks(first);
        let blocks = blocks.take_while(|(start, ..)| *start <= last);
        let blocks: Vec<_> = blocks.filter(|(_, end, _)| *end >= first).collect();
        let mut classes: Vec<Class> = blocks.iter().map(|(.., class)| *class).collect();
        let whole = match (blocks.first(), blocks.last()) {
            (Some((start, ..)), Some((_, end, _))) => {
                let gapless = |pair: &[(IpAddr, IpAddr, Class)]| next(pair[0].1) == Some(pair[1].0);
                *start <= first && *end >= last && blocks.windows(2).all(gapless)
            }
            _ => false,
        };
        if !whole {
            classes.push(NO_CLASS);
        }
        classes
    }

    /// True if a peer that was of class `from` and is of class `to` loses nothing.
    fn covers(&self, from: Class, to: Class) -> bool {
        let stayed = self.now.cells(from);
        let stayed = stayed.filter(|cell| self.was_there(cell));
        let went = self.delta.cells(from);
        let went = went.filter_map(|(cell, before)| before.map(|_| cell));
        stayed.chain(went).all(|cell| {
            from == to && self.now.has(&Place::Cell(cell))
                || self.is_in(to, cell)
                || self.is_open(cell.direction, cell.local)
        })
    }

    fn was_there(&self, cell: &Cell) -> bool {
        self.delta.before(&Place::Cell(*cell), self.now).is_some()
    }

    /// True if what was allowed in a cell that went is still allowed, or was for no one.
    fn is_made_up_for(&self, cell: Cell) -> bool {
        // What the addresses of a class that no one has any longer lose is judged with them.
        let unused = cell.class != NO_CLASS && !(self.is_used)(cell.class);
        unused || self.is_in(cell.class, cell) || self.is_open(cell.direction, cell.local)
    }

    /// True if the traffic of a cell is allowed for a class now.
    fn is_in(&self, class: Class, cell: Cell) -> bool {
        let of = |class, ports| {
            self.now.has(&Place::Cell(Cell {
                class,
                ports,
                ..cell
            }))
        };
        let wider = [cell.ports, Ports::Any];
        let wider = wider.into_iter().chain(match cell.ports {
            Ports::One(protocol, _) | Ports::Range(protocol, _) => Some(Ports::All(protocol)),
            Ports::All(_) | Ports::Any => None,
        });
        wider
            .into_iter()
            .any(|ports| of(class, ports) || of(NO_CLASS, ports))
    }

    fn is_open(&self, direction: Direction, local: IpAddr) -> bool {
        self.now.has(&Place::Open(direction, local))
    }
}
