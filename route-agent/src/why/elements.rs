//! What the policy table says of a packet, asked element by element as its rules ask.

use std::net::IpAddr;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Family, KeyBuf, KeyReader};

use crate::features::policies::desired::truth::Traffic;
use crate::features::policies::desired::wanted::{Cell, Class, NO_CLASS, Place, Ports};
use crate::features::policies::layout::elements::key;
use crate::features::policies::layout::sets::Lookup;
use crate::ours::POLICY_TABLE as TABLE;
use crate::why::Asked;
use crate::why::kernel::{Answer, Entry, Kernel};

/// Asks what the rules would ask, and compares the outcome with what the policies say.
pub(super) fn policies(kernel: &mut impl Kernel, asked: &Asked) -> Result<Answer, String> {
    let family = IpFamily::of(asked.local);
    let table = format!("{} {TABLE}", Family::from(family));
    let Some(lookups) = kernel.policy_lookups(family)? else {
        let text = format!("the table {table} is not there, so nothing is enforced");
        return Ok(Answer::of(text.clone()).differs(text));
    };
    let mut rules = Rules {
        kernel,
        family,
        asked,
        lookups,
        answer: Answer::default(),
    };
    let passes = rules.pass()?;
    let answer = rules.answer;
    if passes == asked.passes {
        return Ok(answer);
    }
    let (does, should) = match passes {
        true => ("lets it pass", "deny it"),
        false => ("drops it", "allow it"),
    };
    let Asked {
        direction, local, ..
    } = asked;
    Ok(answer.differs(format!(
        "{direction} of {local}: the table {table} {does}, but the policies {should}"
    )))
}

struct Rules<'a, K> {
    kernel: &'a mut K,
    family: IpFamily,
    asked: &'a Asked,
    lookups: Vec<Lookup>,
    answer: Answer,
}

impl<K: Kernel> Rules<'_, K> {
    /// Whether the rules let it pass; what they find is noted.
    fn pass(&mut self) -> Result<bool, String> {
        let Asked {
            direction,
            local,
            peer,
            inside,
            ..
        } = *self.asked;
        let outside = self.lookups.contains(&Lookup::Outside);
        let is_checked = inside || outside && self.has(&Place::Outside(local))?;
        if !is_checked {
            self.note(format!("{local} is in no podCIDR of this node, and open"));
            return Ok(true);
        }
        if self.has(&Place::Open(direction, local))? {
            return Ok(true);
        }
        let class = self.class(peer)?;
        let classes = [Some(class), (class != NO_CLASS).then_some(NO_CLASS)];
        for class in classes.into_iter().flatten() {
            for ports in self.ports() {
                let cell = Cell {
                    class,
                    direction,
                    local,
                    ports,
                };
                if self.has(&Place::Cell(cell))? {
                    return Ok(true);
                }
            }
        }
        let known = self.has(&Place::Isolated(local))?;
        if !known {
            self.note(format!("nothing is decided about {local}"));
        } else if local != peer {
            self.note("no element allows it".into());
        }
        Ok(known && local == peer)
    }

    /// The class of the other end.
    fn class(&mut self, peer: IpAddr) -> Result<Class, String> {
        let known = [
            (Lookup::Peers, key(&Place::Peer(peer)).1),
            (Lookup::Blocks, KeyBuf::new().address(peer).finish()),
        ];
        for (lookup, key) in known {
            if let Some(entry) = self.element(lookup, &key)? {
                let class = KeyReader::new(&entry.data).number().unwrap_or(NO_CLASS);
                let (major, minor) = (class >> 16, class & 0xffff);
                let (name, comment) = (lookup.name(), comment(&entry));
                self.note(format!(
                    "{name}: {peer} has class {major:x}:{minor:x}{comment}"
                ));
                return Ok(class);
            }
        }
        self.note(format!("{peer} has no class: no rule here asks for it"));
        Ok(NO_CLASS)
    }

    /// The ports under which the rules look, in their order.
    fn ports(&self) -> Vec<Ports> {
        let Traffic::Port(protocol, port) = self.asked.traffic else {
            return vec![Ports::Any];
        };
        let ranges = self.lookups.iter().filter_map(|lookup| match lookup {
            Lookup::Range(direction, range)
                if *direction == self.asked.direction
                    && (range.first..=range.last).contains(&port) =>
            {
                Some(Ports::Range(protocol, *range))
            }
            _ => None,
        });
        let last = [Ports::All(protocol), Ports::Any];
        let first = [Ports::One(protocol, port)];
        first.into_iter().chain(ranges).chain(last).collect()
    }

    fn has(&mut self, place: &Place) -> Result<bool, String> {
        let (lookup, key) = key(place);
        let Some(entry) = self.element(lookup, &key)? else {
            return Ok(false);
        };
        let header = lookup.header(self.family);
        let (name, comment) = (lookup.name(), comment(&entry));
        self.note(format!("{name}: {}{comment}", header.display_key(&key)));
        Ok(true)
    }

    fn element(&mut self, lookup: Lookup, key: &[u8]) -> Result<Option<Entry>, String> {
        self.kernel.policy_element(self.family, lookup, key)
    }

    fn note(&mut self, text: String) {
        self.answer.holds.push(text);
    }
}

fn comment(entry: &Entry) -> String {
    let comment = entry.comment.as_ref();
    comment.map_or(String::new(), |text| format!(" ({text})"))
}
