//! What a portal answers, as a number.
//!
//! A portal's element holds a number, and the map `answers` leads from the number to a chain. So a
//! Service that gets an endpoint more changes data and no verdict: for a verdict that leads to a
//! chain the kernel would validate the whole table, which takes longer the more Services there are
//! (`docs/decisions/0009-services-as-map-elements.md`). Answers that depend on the source are not in
//! that map, because the chains they lead to look into it again, and the kernel refuses loops.

use podwire_kernel::nft::{Field, Set};

use crate::features::services::layout::names::{FixedChain, Pool, SharedChain};

/// The upper bits of every answer and of every endpoint number.
pub const SCRATCH: u32 = 0x7000_0000;
/// The bits that tell such a number from a real packet priority.
pub const SCRATCH_MASK: u32 = 0xf000_0000;

/// What a portal says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// One of this many endpoints.
    Shared(SharedChain),
    /// What the chain of this very Service port says.
    Own(OwnAnswer),
    /// Refused: the Service has no endpoint.
    NoEndpoints,
    /// Dropped: the policy is Local and there is no endpoint on this node.
    NoLocalEndpoints,
    /// It depends on the source ranges.
    CheckSource,
    /// External address, policy Local: it depends on the source.
    ExternalLocal,
    /// Node port, policy Local: it depends on the source.
    NodePortLocal,
}

/// Which chain of its own a Service port answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnAnswer {
    /// Of a node port.
    pub node_port: bool,
    /// The one for endpoints of this node.
    pub local: bool,
}

/// The upper half says of which kind an answer is. nft prints both halves in hexadecimal digits:
/// `7002:a` is one of ten endpoints behind a node port.
const SHARED: u32 = SCRATCH;
const HASH: u32 = 0x0010_0000;
const OWN: u32 = SCRATCH | 0x0100_0000;
const FIXED: u32 = SCRATCH | 0x0200_0000;

/// The upper half's last digit is the place in here.
const POOLS: [Pool; 4] = [
    Pool::Endpoints,
    Pool::LocalEndpoints,
    Pool::NodePortEndpoints,
    Pool::NodePortLocalEndpoints,
];

impl Answer {
    /// The number, host byte order.
    pub fn number(self) -> u32 {
        match self {
            Answer::Shared(SharedChain { pool, hash, count }) => {
                let pool = POOLS.iter().take_while(|other| **other != pool).count() as u32;
                SHARED | if hash { HASH } else { 0 } | pool << 16 | count
            }
            Answer::Own(own) => OWN | u32::from(own.node_port) << 16 | (1 + u32::from(own.local)),
            Answer::NoEndpoints => FIXED | 1,
            Answer::NoLocalEndpoints => FIXED | 2,
            Answer::CheckSource => FIXED | 3,
            Answer::ExternalLocal => FIXED | 4,
            Answer::NodePortLocal => FIXED | 5,
        }
    }

    /// The answer that a number stands for.
    pub fn of(number: u32) -> Option<Answer> {
        let lower = number & 0xffff;
        let answer = match (number & 0xff00_0000, lower) {
            (_, 0) => return None,
            (SHARED, count) => Answer::Shared(SharedChain {
                pool: *POOLS.get((number >> 16 & 0xf) as usize)?,
                hash: number & HASH != 0,
                count,
            }),
            (OWN, which) => Answer::Own(OwnAnswer {
                node_port: number >> 16 & 1 == 1,
                local: which == 2,
            }),
            (FIXED, 1) => Answer::NoEndpoints,
            (FIXED, 2) => Answer::NoLocalEndpoints,
            (FIXED, 3) => Answer::CheckSource,
            (FIXED, 4) => Answer::ExternalLocal,
            (FIXED, 5) => Answer::NodePortLocal,
            _ => return None,
        };
        (answer.number() == number).then_some(answer)
    }

    /// The answer that a key of the map of answers stands for, or the data of a portal.
    pub fn read(bytes: &[u8]) -> Option<Answer> {
        Answer::of(u32::from_ne_bytes(*bytes.first_chunk()?))
    }

    /// How nft prints a number, whatever it stands for: as a packet priority.
    pub fn display(number: &[u8]) -> String {
        Set::verdict_map(&[Field::Priority])
            .display_key(number)
            .to_string()
    }

    /// True if rules and not the map lead from the number to the chain.
    pub fn depends_on_source(self) -> bool {
        use Answer::{CheckSource, ExternalLocal, NodePortLocal};
        matches!(self, CheckSource | ExternalLocal | NodePortLocal)
    }

    /// The name of the chain that it leads to.
    pub fn chain(self) -> String {
        let fixed = match self {
            Answer::Shared(shared) => return shared.name(),
            Answer::Own(own) if own.node_port => FixedChain::NodePortOwnChain,
            Answer::Own(_) => FixedChain::OwnChain,
            Answer::NoEndpoints => FixedChain::NoEndpoints,
            Answer::NoLocalEndpoints => FixedChain::NoLocalEndpoints,
            Answer::CheckSource => FixedChain::CheckSource,
            Answer::ExternalLocal => FixedChain::ExternalLocal,
            Answer::NodePortLocal => FixedChain::NodePortLocal,
        };
        fixed.name().to_owned()
    }

    /// What it means, in words.
    pub fn comment(self) -> String {
        let text = match self {
            Answer::Shared(SharedChain { count: 1, .. }) => "1 endpoint",
            Answer::Shared(SharedChain { count, .. }) => return format!("{count} endpoints"),
            Answer::Own(own) if own.local => "a chain of its own, endpoints of this node",
            Answer::Own(_) => "a chain of its own",
            Answer::NoEndpoints => "no endpoint",
            Answer::NoLocalEndpoints => "policy Local, no endpoint here",
            Answer::CheckSource => "not for every source",
            Answer::ExternalLocal | Answer::NodePortLocal => "policy Local: check the source",
        };
        text.to_owned()
    }
}

/// As nft prints a packet priority: `7000:3`.
impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&Answer::display(&self.number().to_ne_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::features::services::desired::room::MOST_ENDPOINTS;

    fn all() -> Vec<Answer> {
        let mut all = vec![
            Answer::NoEndpoints,
            Answer::NoLocalEndpoints,
            Answer::CheckSource,
            Answer::ExternalLocal,
            Answer::NodePortLocal,
        ];
        for pool in POOLS {
            for hash in [false, true] {
                for count in [1, 2, 10, MOST_ENDPOINTS as u32] {
                    all.push(Answer::Shared(SharedChain { pool, hash, count }));
                }
            }
        }
        for (node_port, local) in [(false, false), (false, true), (true, false), (true, true)] {
            all.push(Answer::Own(OwnAnswer { node_port, local }));
        }
        all
    }

    #[test]
    fn every_answer_is_found_by_a_number_of_its_own() {
        let numbers: BTreeSet<u32> = all().into_iter().map(Answer::number).collect();
        assert_eq!(numbers.len(), all().len());
        for answer in all() {
            assert_eq!(Answer::of(answer.number()), Some(answer), "{answer}");
        }
    }

    #[test]
    fn other_numbers_are_no_answers() {
        let others = [
            0,
            2,
            0x7000_0000,
            0x7004_0001,
            0x7020_0001,
            0x7100_0003,
            0x7102_0001,
            0x7200_0006,
            0x7201_0001,
            0x7300_0001,
        ];
        for number in others {
            assert_eq!(Answer::of(number), None, "{number:#x}");
        }
    }

    #[test]
    fn it_reads_as_nft_prints_it() {
        let shared =
            |pool, hash, count| Answer::Shared(SharedChain { pool, hash, count }).to_string();
        assert_eq!(shared(Pool::Endpoints, false, 3), "7000:3");
        assert_eq!(shared(Pool::NodePortEndpoints, false, 10), "7002:a");
        assert_eq!(shared(Pool::LocalEndpoints, true, 1), "7011:1");
        assert_eq!(Answer::NoEndpoints.to_string(), "7200:1");
    }
}
