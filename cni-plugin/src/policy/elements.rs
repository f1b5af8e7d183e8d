//! What the plugin itself changes in the tables of policies, where no agent does.

use std::net::IpAddr;

use nix::errno::Errno;
use podwire_kernel::netlink::until_undisturbed;
use podwire_kernel::nft::{Batch, Comment, Element, Family, Field, Key, KeyBuf, NftSocket, Set};
use podwire_kernel::{Cause, IpFamily};

use crate::attachment::TableError;
use crate::error::Error;
use crate::policy::names::{ALLOWED, OPEN, TABLE};

/// The tables of policies that are there, of the families that were asked about.
#[derive(Debug)]
pub struct Tables {
    socket: NftSocket,
    families: Vec<IpFamily>,
}

impl Tables {
    /// Those of these families; none if there is none.
    pub fn open(families: &[IpFamily]) -> Result<Option<Self>, Error> {
        Self::find(families).map_err(failed)
    }

    fn find(families: &[IpFamily]) -> Result<Option<Self>, TableError> {
        let Some(mut socket) = NftSocket::open_if_any()? else {
            return Ok(None);
        };
        let mut there = Vec::new();
        for family in families {
            if socket.has_table(Family::from(*family), TABLE)? {
                there.push(*family);
            }
        }
        let tables = Self {
            socket,
            families: there,
        };
        Ok((!tables.families.is_empty()).then_some(tables))
    }

    /// Opens addresses both ways. What is left of their last owners goes first.
    pub fn open_addresses(&mut self, addresses: &[IpAddr], comment: &str) -> Result<(), Error> {
        self.forget(addresses)?;
        let mut batch = Batch::new();
        let element = Element {
            comment: Comment::new(comment),
            ..Element::default()
        };
        for (family, address) in self.pairs(addresses) {
            let header = Set::of(&[destination(family)]);
            let key = key(address);
            let mut table = batch.table(family.into(), TABLE);
            for set in OPEN {
                let mut elements = table.elements(set, &header);
                elements.add(&element.borrow(&key));
            }
        }
        match self.socket.commit(&mut batch) {
            // The last policy went, and the table with it.
            Err(error) if error.errno() == Some(Errno::ENOENT as i32) => Ok(()),
            outcome => outcome.map_err(|error| failed(error.into())),
        }
    }

    /// Takes out every element that names one of the addresses as a local pod or as a peer, and all
    /// verdicts that are remembered: the next owner of an address inherits nothing.
    pub fn forget(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let pairs: Vec<_> = self.pairs(addresses).collect();
        for family in self.families.clone() {
            let mut keys = pairs.iter().filter(|(of, _)| *of == family);
            let keys: Vec<Key> = keys.by_ref().map(|(_, address)| key(*address)).collect();
            if !keys.is_empty() {
                self.forget_in(family.into(), &keys).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn forget_in(&mut self, family: Family, addresses: &[Key]) -> Result<(), TableError> {
        let socket = &mut self.socket;
        let read = || {
            let mut found = Vec::new();
            let headers = socket.set_headers(family, TABLE)?;
            // The keys of ranges are networks, of which no attachment is one.
            let exact = headers
                .iter()
                .filter(|(_, set)| !set.interval && !set.dynamic);
            for (name, set) in exact {
                socket.each_element(family, TABLE, name, set, |key, _| {
                    if names_one(&set.key, &key, addresses) {
                        found.push((name.to_owned(), set.header(), key));
                    }
                })?;
            }
            Ok::<_, podwire_kernel::Error>(found)
        };
        let is_disturbed = |error: &podwire_kernel::Error| error.cause == Cause::Unstable;
        let found = match until_undisturbed(read, is_disturbed) {
            Err(error) if error.is_not_found() => return Ok(()),
            outcome => outcome?,
        };
        let mut batch = Batch::new();
        let mut table = batch.table(family, TABLE);
        for (name, set, key) in &found {
            table.elements(name, set).destroy(key, None);
        }
        table.flush_set(ALLOWED);
        match self.socket.commit(&mut batch) {
            Err(error) if error.errno() == Some(Errno::ENOENT as i32) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    /// The addresses of families that have a table.
    fn pairs<'a>(
        &self,
        addresses: &'a [IpAddr],
    ) -> impl Iterator<Item = (IpFamily, IpAddr)> + use<'a> {
        let families = self.families.clone();
        let pairs = addresses
            .iter()
            .map(|address| (IpFamily::of(*address), *address));
        pairs.filter(move |(family, _)| families.contains(family))
    }
}

/// True if a field of the key that is an address is one of these.
fn names_one(fields: &[Field], key: &[u8], addresses: &[Key]) -> bool {
    let mut rest = key;
    fields.iter().any(|field| {
        let length = (field.padded_len() as usize).min(rest.len());
        let (value, behind) = rest.split_at(length);
        rest = behind;
        is_address(*field) && addresses.iter().any(|address| **address == *value)
    })
}

fn is_address(field: Field) -> bool {
    matches!(
        field,
        Field::IpSaddr | Field::IpDaddr | Field::Ip6Saddr | Field::Ip6Daddr
    )
}

fn destination(family: IpFamily) -> Field {
    match family {
        IpFamily::V4 => Field::IpDaddr,
        IpFamily::V6 => Field::Ip6Daddr,
    }
}

fn key(address: IpAddr) -> Key {
    KeyBuf::new().address(address).finish()
}

fn failed(source: TableError) -> Error {
    Error::Nftables {
        purpose: "NetworkPolicies",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_field_that_is_an_address_names_one() {
        let address = "10.10.1.3".parse().unwrap();
        let fields = [Field::Priority, Field::IpDaddr, Field::L4Proto];
        let cell = |class: u32, local: IpAddr| {
            KeyBuf::new()
                .number(class)
                .address(local)
                .protocol(6)
                .finish()
        };
        let ours = [key(address)];
        assert!(names_one(&fields, &cell(7, address), &ours));
        // A class whose number has the bytes of the address.
        let class = u32::from_ne_bytes([10, 10, 1, 3]);
        let other = "10.10.1.4".parse().unwrap();
        assert!(!names_one(&fields, &cell(class, other), &ours));
        assert!(names_one(
            &[Field::IpSaddr, Field::IpDaddr],
            &[0; 8],
            &[key([0; 4].into())]
        ));
        assert!(!names_one(&fields, &[], &ours));
    }
}
