//! Classes of peers: those that no rule tells from each other.
//!
//! The number of a class follows from what its members have in common, so an agent that starts again
//! finds its own numbers in the kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podwire::hash::fnv1a;

use crate::features::policies::desired::atoms::AtomId;
use crate::features::policies::desired::id_set::IdSet;
use crate::features::policies::desired::wanted::Class;
use crate::snapshot::Protocol;

/// What the members of a class have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassKey {
    /// The questions that they answer with yes; not empty.
    pub atoms: Arc<IdSet>,
    /// The numbers of the named ports that are asked of them; sorted.
    pub ports: Box<[(Arc<str>, Protocol, u16)]>,
}

impl ClassKey {
    /// The number of the named port.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        let named = ports.find(|(one, of, _)| (&**one, *of) == (name, protocol));
        named.map(|(.., number)| *number)
    }
}

/// The classes that are in use.
#[derive(Debug, Default)]
pub struct Classes {
    numbers: HashMap<ClassKey, Class>,
    used: BTreeMap<Class, Used>,
    /// The classes by places, of which those that are free are used again.
    places: Vec<Class>,
    free: Vec<u32>,
    /// The places of those whose members answer a question with yes.
    with_atom: HashMap<AtomId, IdSet>,
    /// Those that may have come or gone since the last look.
    touched: BTreeSet<Class>,
    /// Those that were there at the last look.
    settled: BTreeSet<Class>,
}

#[derive(Debug)]
struct Used {
    key: ClassKey,
    members: usize,
    place: u32,
}

impl Classes {
    /// One more member; `hash` is that of the key's questions, of which there may be thousands.
    pub fn acquire(&mut self, key: ClassKey, hash: impl FnOnce(&IdSet) -> u64) -> Class {
        if let Some(class) = self.numbers.get(&key) {
            if let Some(used) = self.used.get_mut(class) {
                used.members += 1;
            }
            return *class;
        }
        let hash = hash(&key.atoms);
        let class = self.free_number(&key, hash);
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(class);
            (self.places.len() - 1) as u32
        });
        self.places[place as usize] = class;
        for atom in key.atoms.iter() {
            self.with_atom.entry(atom).or_default().insert(place);
        }
        self.touched.insert(class);
        self.numbers.insert(key.clone(), class);
        let used = Used {
            key,
            members: 1,
            place,
        };
        self.used.insert(class, used);
        class
    }

    /// One member less. The class keeps its number until [`Classes::settle`].
    pub fn release(&mut self, class: Class) {
        if let Some(used) = self.used.get_mut(&class) {
            used.members -= 1;
            if used.members == 0 {
                self.touched.insert(class);
            }
        }
    }

    /// Lets go of classes without members: those that came since the last time, and those that went.
    pub fn settle(&mut self) -> (BTreeSet<Class>, BTreeSet<Class>) {
        let (mut came, mut went) = (BTreeSet::new(), BTreeSet::new());
        for class in std::mem::take(&mut self.touched) {
            let there = self.used.get(&class).is_some_and(|used| used.members > 0);
            match (self.settled.contains(&class), there) {
                (false, true) => _ = (self.settled.insert(class), came.insert(class)),
                (true, false) => _ = (self.settled.remove(&class), went.insert(class)),
                (true, true) | (false, false) => {}
            }
            if !there {
                self.forget(class);
            }
        }
        (came, went)
    }

    /// True if an address is of the class.
    pub fn is_used(&self, class: Class) -> bool {
        self.settled.contains(&class)
    }

    /// What the members of a class have in common.
    pub fn key(&self, class: Class) -> Option<&ClassKey> {
        self.used.get(&class).map(|used| &used.key)
    }

    /// The classes whose members answer a question with yes; only those in `only`, if it is given. Costs
    /// what the smaller of both sets has: one class among thousands is looked up, not looked for.
    pub fn with<'a>(
        &'a self,
        atom: AtomId,
        only: Option<&'a BTreeSet<Class>>,
    ) -> impl Iterator<Item = Class> + 'a {
        let all = self.with_atom.get(&atom);
        let (few, only) = match only {
            Some(only) if all.is_none_or(|all| only.len() <= all.words()) => (Some(only), None),
            only => (None, only),
        };
        let answers = move |class: &Class| {
            let key = self.key(*class);
            key.is_some_and(|key| key.atoms.contains(atom))
        };
        let looked_up = few.into_iter().flatten().copied().filter(answers);
        let places = all.filter(|_| few.is_none()).into_iter();
        let classes = places.flat_map(|all| all.iter().map(|place| self.places[place as usize]));
        let found = classes.filter(move |class| only.is_none_or(|only| only.contains(class)));
        looked_up.chain(found)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.settled.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.settled.is_empty()
    }

    /// How much room the classes by question take, in words of 16 bytes.
    #[cfg(test)]
    pub fn words(&self) -> usize {
        self.with_atom.values().map(IdSet::words).sum()
    }

    fn forget(&mut self, class: Class) {
        let Some(Used { key, place, .. }) = self.used.remove(&class) else {
            return;
        };
        self.numbers.remove(&key);
        self.free.push(place);
        for atom in key.atoms.iter() {
            if let Some(places) = self.with_atom.get_mut(&atom) {
                places.remove(place);
                if places.is_empty() {
                    self.with_atom.remove(&atom);
                }
            }
        }
    }

    /// A number that no other class has: two different classes may have the same hash.
    fn free_number(&self, key: &ClassKey, hash: u64) -> Class {
        let ports = key.ports.iter().flat_map(|(name, protocol, number)| {
            let name = name.bytes();
            name.chain([0, protocol.number()])
                .chain(number.to_be_bytes())
        });
        let mut hash = fnv1a(hash.to_be_bytes().into_iter().chain(ports));
        loop {
            let class = number(hash);
            if !self.used.contains_key(&class) {
                return class;
            }
            // Not the next one: who chooses what is asked could have thousands beside each other taken.
            hash = fnv1a(hash.to_be_bytes());
        }
    }
}

/// `nft` prints the number in two halves and cannot read one whose half is missing.
fn number(hash: u64) -> Class {
    let half = |bits: u64| (bits % 0xfffe) as u32 + 1;
    half(hash >> 32) << 16 | half(hash & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(atoms: &[AtomId]) -> ClassKey {
        ClassKey {
            atoms: Arc::new(atoms.iter().copied().collect()),
            ports: Box::default(),
        }
    }

    #[test]
    fn a_class_lasts_as_long_as_its_members_and_two_never_share_a_number() {
        let mut classes = Classes::default();
        let one = classes.acquire(key(&[1]), |_| 7);
        let two = classes.acquire(key(&[1, 2]), |_| 7);
        assert_ne!(one, two);
        assert_eq!(classes.acquire(key(&[1]), |_| 7), one);
        assert_eq!(classes.settle(), ([one, two].into(), [].into()));
        assert_eq!(
            classes.with(1, None).collect::<BTreeSet<_>>(),
            [one, two].into()
        );
        classes.release(one);
        assert_eq!(classes.settle(), ([].into(), [].into()));
        classes.release(one);
        // The last member went and another came: it never went.
        classes.release(two);
        assert_eq!(classes.acquire(key(&[1, 2]), |_| 7), two);
        assert_eq!(classes.settle(), ([].into(), [one].into()));
        assert_eq!(classes.with(1, None).collect::<Vec<_>>(), [two]);
        let among = |only: Option<&BTreeSet<Class>>| classes.with(1, only).collect::<Vec<_>>();
        assert_eq!((among(None), among(Some(&[].into()))), (vec![two], vec![]));
        assert_eq!(among(Some(&[one].into())), [0; 0]);
        assert_eq!(among(Some(&[one, two].into())), [two]);
        assert!(!classes.is_used(one) && classes.is_used(two) && classes.len() == 1);
    }

    #[test]
    fn more_classes_than_have_room_beside_each_other_are_numbered_as_fast_as_others() {
        let mut classes = Classes::default();
        // Whoever writes policies can choose what the numbers begin with. All that begin so are 65,534.
        for atom in 0..66_000 {
            classes.acquire(key(&[atom]), |_| 7 << 32 | u64::from(atom));
        }
        assert_eq!(classes.settle().0.len(), 66_000);
    }

    #[test]
    fn a_number_has_two_halves_of_which_neither_is_nothing_or_all_ones() {
        for hash in [
            0,
            1,
            0xfffd,
            0xfffe,
            0xffff,
            u64::MAX,
            0xfffe_0000_fffe,
            1 << 32,
        ] {
            let (major, minor) = (number(hash) >> 16, number(hash) & 0xffff);
            assert!(
                (1..0xffff).contains(&major) && (1..0xffff).contains(&minor),
                "{hash:x}"
            );
        }
    }
}
