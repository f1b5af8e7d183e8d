//! Rules that are not ours: iptables tables, in both of its backends.
//!
//! To take over from a kube-proxy means to find its chains and take them out, and nothing
//! else. Both backends are shown as the same plain values: [`Chain`]s with [`Rule`]s that may lead
//! to other chains. Both take the same [`Edit`], which is carried out as a whole or not at all.
//! What a rule matches is of no interest here.

mod blob;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod legacy;
pub mod nft;

/// A chain of an iptables table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// True if the kernel sends packets there by itself (`PREROUTING`, `FORWARD`, ...).
    pub builtin: bool,
    /// Where, as `NF_INET_*` counts hooks: 0 prerouting, 1 input, 2 forward, 3 output,
    /// 4 postrouting.
    pub hook: Option<u32>,
    /// True if its policy is to drop what no rule decides on.
    pub drops: bool,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What identifies it in an [`Edit`] of the same table: the handle in nftables, the number of
    /// the entry in iptables-legacy.
    pub id: u64,
    /// The chain that it jumps or goes to.
    pub leads_to: Option<String>,
    /// True if it drops what it matches.
    pub drops: bool,
}

/// What to take out of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Single rules: the chain, and the rule's id.
    pub rules: Vec<(String, u64)>,
    /// Chains that lose all of their rules and stay.
    pub emptied: Vec<String>,
    /// Chains that go, with their rules. Nothing that stays may lead to them.
    pub deleted: Vec<String>,
}

impl Edit {
    /// True if there is nothing to take out.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.emptied.is_empty() && self.deleted.is_empty()
    }
}
