//! Whether a change takes something away that was allowed.
//!
//! Connections that are under way are judged again only then, so "no" must be right; a "yes" that
//! was not needed costs a little time and cuts nothing.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::cidr::next;
use crate::features::policies::desired::wanted::{
    Cell, Class, Delta, NO_CLASS, Place, Ports, Verdict, Wanted, What,
};
use crate::snapshot::Direction;

/// True if something that was allowed before `delta` may not be allowed `now`. `is_used` says whether
/// an address is of a class.
pub fn takes_away(delta: &Delta, now: &Wanted, is_used: impl Fn(Class) -> bool) -> bool {
    let change = Change {
        delta,
        now,
        is_used: &is_used,
        covered: RefCell::default(),
        denied: RefCell::default(),
    };
    delta.iter().any(|(place, before)| match before {
        Some(before) => change.loses(place, before),
        None => change.loses_by_coming(place),
    })
}

struct Change<'a> {
    delta: &'a Delta,
    now: &'a Wanted,
    is_used: &'a dyn Fn(Class) -> bool,
    /// What is known of one class and another: of a list that changes all members move alike.
    covered: RefCell<HashMap<(Class, Class), bool>>,
    /// Where something is denied of a class: asked once for each cell, and found by all of them.
    denied: RefCell<HashMap<(Class, Direction, IpAddr), bool>>,
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
                let grown = after.filter(|after| after.last.unwrap_or(*first) > last);
                self.classes(*first, last)
                    .into_iter()
                    .any(|class| !self.covers(before.class, class))
                    || grown.is_some_and(|after| !self.covers(NO_CLASS, after.class))
            }
            Place::Cell(cell) => {
                after.is_none() && cell.verdict == Verdict::Allow && !self.is_made_up_for(*cell)
            }
        }
    }

    /// Whether something is lost because there is something at a place now: a class of which less is
    /// allowed than of the one before, or a denial.
    fn loses_by_coming(&self, place: &Place) -> bool {
        let class = || self.now.get(place).map_or(NO_CLASS, |what| what.class);
        match place {
            Place::Cell(cell) => {
                cell.verdict == Verdict::Deny && !self.is_open(cell.direction, cell.local)
            }
            Place::Peer(address) => {
                let before = self.delta.block_before(*address, self.now);
                !self.covers(before, class())
            }
            Place::Block(_) => !self.covers(NO_CLASS, class()),
            // No one judged what went to such an address, so all of it was remembered.
            Place::Outside(_) => true,
            Place::Open(..) | Place::Isolated(_) => false,
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
        let known = self.covered.borrow().get(&(from, to)).copied();
        known.unwrap_or_else(|| {
            let covers = self.compare(from, to);
            self.covered.borrow_mut().insert((from, to), covers);
            covers
        })
    }

    fn compare(&self, from: Class, to: Class) -> bool {
        let denies = |cell: Cell| cell.verdict == Verdict::Deny;
        if from == NO_CLASS && !self.now.cells(to).any(denies) {
            // What is said of all holds where nothing else is said.
            return true;
        }
        let stayed = self.now.cells(from);
        let stayed = stayed.filter(|cell| self.was_there(cell));
        let went = self.delta.cells(from);
        let went = went.filter_map(|(cell, before)| before.map(|_| cell));
        let allowed = stayed.chain(went);
        let allowed = allowed.filter(|cell| cell.verdict == Verdict::Allow);
        let allowed: Vec<Cell> = allowed.collect();
        let stays = allowed.iter().all(|cell| {
            let cell = *cell;
            let same = Place::Cell(Cell { class: to, ..cell });
            // What is said of all is asked behind what is said of a class.
            let of_all =
                from == NO_CLASS && self.now.has(&Place::Cell(cell)) && !self.denies(to, cell);
            self.now.has(&same)
                || of_all
                || self.is_in(to, cell)
                || self.is_open(cell.direction, cell.local)
        });
        stays && self.denies_no_more(from, to, &allowed)
    }

    /// True if nothing is denied of class `to` that was not of class `from`, in the same words. What is said
    /// of all held for `from` as well where nothing was `allowed` of it: that is asked before.
    fn denies_no_more(&self, from: Class, to: Class, allowed: &[Cell]) -> bool {
        let denied = self.now.cells(to).filter(|_| from != to);
        let mut denied = denied.filter(|cell| cell.verdict == Verdict::Deny);
        let allowed = allowed.iter().map(|cell| (cell.direction, cell.local));
        let allowed: HashSet<_> = allowed.collect();
        denied.all(|cell| {
            let Cell {
                direction, local, ..
            } = cell;
            let was_for_all = to == NO_CLASS && !allowed.contains(&(direction, local));
            self.was_there(&Cell {
                class: from,
                ..cell
            }) || was_for_all && self.was_there(&cell)
                || self.is_open(direction, local)
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
                verdict: Verdict::Allow,
                ..cell
            }))
        };
        // Which of two words is asked first is not looked into.
        if self.denies(class, cell) || self.denies(NO_CLASS, cell) {
            return false;
        }
        let wider = [cell.ports, Ports::Any];
        let wider = wider.into_iter().chain(match cell.ports {
            Ports::One(protocol, _) | Ports::Range(protocol, _) => Some(Ports::All(protocol)),
            Ports::All(_) | Ports::Any => None,
        });
        wider
            .into_iter()
            .any(|ports| of(class, ports) || of(NO_CLASS, ports))
    }

    /// True if something of a class is denied now that has to do with the local pod of a cell.
    fn denies(&self, class: Class, cell: Cell) -> bool {
        let Cell {
            direction, local, ..
        } = cell;
        let mut denied = self.denied.borrow_mut();
        let found = denied.entry((class, direction, local));
        *found.or_insert_with(|| self.now.denies(class, direction, local))
    }

    fn is_open(&self, direction: Direction, local: IpAddr) -> bool {
        self.now.has(&Place::Open(direction, local))
    }
}
