//! What all plugins are given, and what a GC means by it.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::environment::Call;
use crate::lease::Owner;

/// What a call is about: the environment, standard input and what is the same in all plugins.
#[derive(Debug)]
pub struct Request<'a> {
    /// The environment.
    pub call: &'a Call,
    /// Standard input as it came, for other plugins.
    pub stdin: &'a [u8],
    /// Standard input, understood.
    pub config: Config<'a>,
}

/// Whether a GC keeps what belongs to `owner`. A lease of the old format names no interface, so
/// any attachment of its container keeps it.
pub(super) fn is_valid(valid: &BTreeSet<Owner>, owner: &Owner) -> bool {
    match owner.ifname {
        Some(_) => valid.contains(owner),
        None => valid
            .iter()
            .any(|one| one.container_id == owner.container_id),
    }
}
