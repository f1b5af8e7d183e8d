//! Tables and chains.

use super::basics::{ChainType, Hook, Policy};
use super::named::Named;
use super::rule::Rule;
use super::set::Set;
use super::text::Comment;
use super::{Expr, Family};

/// A table with everything in it: what is wanted, or what the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its address family.
    pub family: Family,
    /// Its name; tables of different families may share one.
    pub name: String,
    /// What it is for.
    pub comment: Option<Comment>,
    /// Its chains are at no hook (`NFT_TABLE_F_DORMANT`): whatever they say, no packet is asked about.
    pub dormant: bool,
    /// Chains, in the order in which they are created.
    pub chains: Named<Chain>,
    /// Sets and maps, in the order in which they are created.
    pub sets: Named<Set>,
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Where it hangs; a chain without is only reached by jump and goto.
    pub base: Option<Base>,
    /// The rules in order.
    pub rules: Vec<Rule>,
    /// What it is for.
    pub comment: Option<Comment>,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What kind.
    pub kind: ChainType,
    /// At which hook.
    pub hook: Hook,
    /// In which order; see [`super::priority`].
    pub priority: i32,
    /// What happens at its end.
    pub policy: Policy,
}

impl Table {
    /// An empty table.
    pub fn new(family: Family, name: &str) -> Self {
        Self {
            family,
            name: name.to_owned(),
            comment: None,
            dormant: false,
            chains: Named::new(),
            sets: Named::new(),
        }
    }

    /// With a comment.
    pub fn with_comment(mut self, text: &str) -> Self {
        self.comment = Comment::new(text);
        self
    }

    /// With a chain.
    pub fn with_chain(mut self, name: &str, chain: Chain) -> Self {
        self.chains.insert(name, chain);
        self
    }

    /// With a set or map.
    pub fn with_set(mut self, name: &str, set: Set) -> Self {
        self.sets.insert(name, set);
        self
    }

    /// The same with everything removed that only the kernel knows: counters, what is left of
    /// time-outs, and the elements of dynamic sets. Two tables are alike if these are equal.
    pub fn normalised(mut self) -> Self {
        for rule in self.chains.values_mut().flat_map(|chain| &mut chain.rules) {
            for expr in &mut rule.exprs {
                if let Expr::Counter(counter) = expr {
                    *counter = super::Counter::default();
                }
            }
        }
        for set in self.sets.values_mut() {
            if set.dynamic {
                set.elements.clear();
            }
            for element in set.elements.values_mut() {
                (element.counter, element.expires) = (None, None);
            }
        }
        self
    }
}

impl Chain {
    /// A chain that is reached by jump and goto.
    pub fn regular() -> Self {
        Self::default()
    }

    /// A base chain that accepts what no rule decides on.
    pub fn base(kind: ChainType, hook: Hook, priority: i32) -> Self {
        let base = Base {
            kind,
            hook,
            priority,
            policy: Policy::Accept,
        };
        Self {
            base: Some(base),
            ..Self::default()
        }
    }

    /// With a rule at its end.
    pub fn with_rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// With a comment.
    pub fn with_comment(mut self, text: &str) -> Self {
        self.comment = Comment::new(text);
        self
    }
}
