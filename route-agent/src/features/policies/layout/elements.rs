//! What is wanted as elements of sets, and back.

use std::net::IpAddr;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Comment, Element, Key, KeyBuf, KeyReader, Table, Value};

use crate::features::policies::desired::frame::Frame;
use crate::features::policies::desired::wanted::{Cell, Note, Place, Ports, Wanted, What};
use crate::features::policies::layout::sets::Lookup;
use crate::features::policies::layout::skeleton::skeleton;

/// The set in which a place lies, and its key there.
pub fn key(place: &Place) -> (Lookup, Key) {
    let address = |address: &IpAddr| KeyBuf::new().address(*address);
    let (lookup, key) = match place {
        Place::Open(direction, local) => (Lookup::Open(*direction), address(local)),
        Place::Isolated(local) => (Lookup::Itself, address(local).address(*local)),
        Place::Outside(local) => (Lookup::Outside, address(local)),
        Place::Peer(peer) => (Lookup::Peers, address(peer)),
        Place::Block(first) => (Lookup::Blocks, address(first)),
        Place::Cell(cell) => of_cell(cell),
    };
    (lookup, key.finish())
}

fn of_cell(cell: &Cell) -> (Lookup, KeyBuf) {
    let Cell {
        class,
        direction,
        local,
        ports,
        verdict,
    } = *cell;
    let key = KeyBuf::new().number(class).address(local);
    match ports {
        Ports::One(protocol, port) => (
            Lookup::Ports(direction, verdict),
            key.protocol(protocol.number()).port(port),
        ),
        Ports::Range(protocol, range) => (
            Lookup::Range(direction, verdict, range),
            key.protocol(protocol.number()),
        ),
        Ports::All(protocol) => (
            Lookup::Protocols(direction, verdict),
            key.protocol(protocol.number()),
        ),
        Ports::Any => (Lookup::Any(direction, verdict), key),
    }
}

/// What is at a place, as an element.
pub fn element(place: &Place, what: &What) -> Element {
    let leads_to_class = matches!(place, Place::Peer(_) | Place::Block(_));
    let first = match place {
        Place::Block(first) => Some(*first),
        _ => None,
    };
    // A range of one address is shown as that address.
    let last = what.last.filter(|last| Some(*last) != first);
    Element {
        key_end: last.map(|last| KeyBuf::new().address(last).finish()),
        value: match leads_to_class {
            true => Value::Data(KeyBuf::new().number(what.class).finish()),
            false => Value::None,
        },
        comment: match &what.note {
            Note::Pod(name) => Comment::new(&name.to_string()),
            Note::Text(text) => Comment::new(text),
        },
        ..Element::default()
    }
}

/// The place of a key; none for keys of ranges of addresses, and of sets that are not for places.
pub fn place(lookup: Lookup, key: &[u8], family: IpFamily) -> Option<Place> {
    let mut key = KeyReader::new(key);
    Some(match lookup {
        Lookup::Open(direction) => Place::Open(direction, key.address(family)?),
        Lookup::Outside => Place::Outside(key.address(family)?),
        Lookup::Peers => Place::Peer(key.address(family)?),
        Lookup::Itself => {
            let (one, other) = (key.address(family)?, key.address(family)?);
            return (one == other).then_some(Place::Isolated(one));
        }
        Lookup::Ports(direction, verdict)
        | Lookup::Range(direction, verdict, _)
        | Lookup::Protocols(direction, verdict)
        | Lookup::Any(direction, verdict) => {
            let (class, local) = (key.number()?, key.address(family)?);
            let ports = match lookup {
                Lookup::Ports(..) => Ports::One(key.protocol()?, key.port()?),
                Lookup::Range(.., range) => Ports::Range(key.protocol()?, range),
                Lookup::Protocols(..) => Ports::All(key.protocol()?),
                _ => Ports::Any,
            };
            Place::Cell(Cell {
                class,
                direction,
                local,
                ports,
                verdict,
            })
        }
        Lookup::Blocks | Lookup::Allowed | Lookup::Ported => return None,
    })
}

/// The whole table.
pub fn table(family: IpFamily, frame: &Frame, wanted: &Wanted) -> Table {
    let mut table = skeleton(family, frame);
    for (at, what) in wanted.iter() {
        let (lookup, key) = key(at);
        if let Some(set) = table.sets.get_mut(&lookup.name()) {
            set.elements.insert(key, element(at, what));
        }
    }
    table
}
