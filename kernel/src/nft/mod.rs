//! nftables over netlink: tables as values, their difference as a batch, the batch as one
//! transaction. No program is run and no library is needed.
//!
//! - [`Table`] is what is wanted and what the kernel has, the same type for both.
//!   [`NftSocket::observe`] reads one, [`diff`] compares two, [`NftSocket::commit`] carries the
//!   difference out, all of it or nothing.
//! - [`Rule`] is written by what it says; [`Set`] declares its key by the fields that it is made
//!   of, and so `nft list` prints it well.
//! - [`Batch`] also takes single changes, for callers that know what changed.
//!
//! What `nft` can print of it is written down in `docs/nftables.md`.

mod basics;
mod batch;
mod change;
mod diff;
mod elem_wire;
mod expr;
mod expr_decode;
mod expr_encode;
mod field;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod key;
mod named;
mod observe;
mod rule;
mod set;
mod set_wire;
mod socket;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod uapi;
pub(crate) mod wire;

pub use basics::{ChainType, Counter, Family, Hook, Policy, Verdict, priority};
pub use batch::{Batch, ElementWriter, TableWriter};
pub use change::{Change, Object};
pub use diff::{diff, diff_into};
pub use expr::{
    Comparison, CtKey, Direction, DynsetOp, Expr, FibResult, HashKind, LogTarget, LookupInto,
    MetaKey, NatKind, NumgenKind, PayloadBase, Reg, Reject, ct_state, ct_status, fib_flag,
    fib_type, nat_flag,
};
pub use field::Field;
pub use key::{Key, KeyBuf, KeyReader};
pub use named::Named;
pub use rule::{Rule, Sources};
pub use set::{Data, Element, ElementRef, Set, Value, ValueRef};
pub use socket::{CommitError, Culprit, NftSocket};
pub use source::Source;
pub use table::{Base, Chain, Table};
pub use text::{COMMENT_MAX, Comment};
