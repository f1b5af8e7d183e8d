//! What is written into a key is read from it again.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::nft::{Key, KeyBuf, KeyReader};
use crate::{IpFamily, Protocol};

#[derive(Debug, Clone, PartialEq)]
enum Field {
    Address(IpAddr),
    Protocol(Protocol),
    Port(u16),
    Number(u32),
    LinkName(String),
}

impl Field {
    fn put(&self, key: &mut KeyBuf) {
        match self {
            Self::Address(address) => key.push_address(*address),
            Self::Protocol(protocol) => key.push_protocol(protocol.number()),
            Self::Port(port) => key.push_port(*port),
            Self::Number(number) => key.push_number(*number),
            Self::LinkName(name) => key.push_link_name(name),
        };
    }

    /// Reads a field of the same kind.
    fn read_like(&self, reader: &mut KeyReader<'_>) -> Option<Self> {
        Some(match self {
            Self::Address(address) => Self::Address(reader.address(IpFamily::of(*address))?),
            Self::Protocol(_) => Self::Protocol(reader.protocol()?),
            Self::Port(_) => Self::Port(reader.port()?),
            Self::Number(_) => Self::Number(reader.number()?),
            Self::LinkName(_) => Self::LinkName(reader.link_name()?),
        })
    }
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        any::<IpAddr>().prop_map(Field::Address),
        proptest::sample::select(&Protocol::ALL[..]).prop_map(Field::Protocol),
        any::<u16>().prop_map(Field::Port),
        any::<u32>().prop_map(Field::Number),
        "[a-z0-9.-]{1,15}".prop_map(Field::LinkName),
    ]
}

proptest! {
    #[test]
    fn a_reader_reads_the_fields_that_were_written(fields in vec(field(), 0..5)) {
        let mut key = KeyBuf::new();
        fields.iter().for_each(|field| field.put(&mut key));
        let mut reader = KeyReader::new(&key);
        for field in &fields {
            prop_assert_eq!(field.read_like(&mut reader), Some(field.clone()));
        }
        prop_assert_eq!(reader.rest(), &[] as &[u8]);
        prop_assert_eq!(reader.number(), None);
    }

    #[test]
    fn an_interval_reaches_from_the_first_to_the_last_address(
        address in any::<IpAddr>(),
        shorter in 0u8..=128,
    ) {
        let family = IpFamily::of(address);
        let prefix = family.bits().saturating_sub(shorter);
        let network = ipnetwork::IpNetwork::new(address, prefix).unwrap();
        let (first, last) = Key::interval(network);
        let read = |key: &Key| KeyReader::new(key).address(family);
        prop_assert_eq!(read(&first), Some(network.network()));
        prop_assert_eq!(last.is_none(), prefix == family.bits());
        let last = last.as_ref().map_or(Some(network.network()), read);
        prop_assert_eq!(last, Some(network.broadcast()));
    }
}
