//! Every decoder of what the kernel says, behind one function: for the fuzzer only.
//!
//! The kernel is trusted, but it changes, its modules say more, and what emulates it says less:
//! nothing that it says may make a reader panic, run without end, or not know again what it has
//! just read.

use crate::address::Address;
use crate::link::Link;
use crate::neigh::Neighbour;
use crate::netlink::{Message, messages};
use crate::route::Route;
use crate::tc::Qdisc;
use crate::{conntrack, foreign, monitor, nflog, nft};

/// Reads `input`: the first byte says as what, the rest is what the kernel said.
pub fn read(input: &[u8]) {
    let Some((kind, said)) = input.split_first() else {
        return;
    };
    match kind % 4 {
        0 => dump(said),
        1 => {
            monitor::read(said);
            let _ = nflog::read(said, &mut 0);
            conntrack::events::read(said, &mut Vec::new());
        }
        2 => nft::fuzzing::read(said),
        _ => foreign::fuzzing::read(said),
    }
}

/// A part of a dump of rtnetlink or conntrack. What the message says it is does not matter: each
/// reader gets every body.
fn dump(datagram: &[u8]) {
    for message in messages(datagram).map_while(Result::ok) {
        let _ = message.refusal(0);
        one(message);
    }
}

fn one(message: Message<'_>) {
    let body = message.payload;
    let _ = conntrack::entry_of(message);
    let _ = Link::parse(body);
    let _ = Address::parse(body);
    let _ = Route::parse(body);
    let _ = Neighbour::parse(body);
    let _ = Qdisc::parse(body);
}
