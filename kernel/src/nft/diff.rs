//! From the table that is there to the table that is wanted, with as few changes as possible.

use super::batch::Batch;
use super::rule::Rule;
use super::set::{Element, Set};
use super::table::{Chain, Table};

/// The changes that turn `observed` (`None`: there is no such table) into `desired`.
///
/// - The table is never deleted, so sets that rules fill keep what they have. One that is dormant is woken.
/// - A chain whose rules differ is flushed and filled again; the others are left alone, with their
///   counters.
/// - Of a set, the elements that differ are changed; a set that is declared differently is deleted
///   and made again. Elements of dynamic sets are left alone.
/// - Chains and sets that are not wanted are deleted.
///
/// Empty if both are alike; what only the kernel knows (counters, what is left of time-outs) does
/// not matter.
///
/// The kernel cannot change the comment of a table, so it does not count as a difference; a chain or
/// set with another comment is made again.
pub fn diff(observed: Option<&Table>, desired: &Table) -> Batch {
    let mut batch = Batch::new();
    diff_into(&mut batch, observed, desired);
    batch
}

/// As [`diff`], behind the changes that `batch` has already: of several tables all change or none.
pub fn diff_into(batch: &mut Batch, observed: Option<&Table>, desired: &Table) {
    let nothing = Table::new(desired.family, &desired.name);
    if observed.is_none_or(|table| table.dormant) {
        batch
            .table(desired.family, &desired.name)
            .add(desired.comment.as_ref());
    }
    let difference = Difference {
        from: observed.unwrap_or(&nothing),
        to: desired,
    };
    difference.remove(batch);
    difference.add(batch);
}

struct Difference<'a> {
    from: &'a Table,
    to: &'a Table,
}

/// What is to be done about a chain or set that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
}

impl<'a> Difference<'a> {
    fn chain_fate(&self, name: &str, chain: &Chain) -> Fate {
        match self.to.chains.get(name) {
            Some(wanted) if same_chain(chain, wanted) => Fate::Stays,
            _ => Fate::Goes,
        }
    }

    fn set_fate(&self, name: &str, set: &Set) -> Fate {
        match self.to.sets.get(name) {
            Some(wanted) if set.same_header(wanted) => Fate::Stays,
            _ => Fate::Goes,
        }
    }

    /// Whether the rules of the chain can stay as they are: they are wanted, and nothing that they
    /// refer to is made again.
    fn rules_stay(&self, name: &str, chain: &Chain) -> bool {
        let wanted = self.to.chains.get(name);
        self.chain_fate(name, chain) == Fate::Stays
            && wanted.is_some_and(|wanted| same_rules(&chain.rules, &wanted.rules))
            && chain
                .rules
                .iter()
                .all(|rule| !self.refers_to_what_goes(rule))
    }

    fn refers_to_what_goes(&self, rule: &Rule) -> bool {
        rule.references().any(|reference| match reference {
            Reference::Set(name) => self
                .from
                .sets
                .get(name)
                .is_some_and(|set| self.set_fate(name, set) == Fate::Goes),
            Reference::Chain(name) => self.chain_goes(name),
        })
    }

    fn chain_goes(&self, name: &str) -> bool {
        let chain = self.from.chains.get(name);
        chain.is_some_and(|chain| self.chain_fate(name, chain) == Fate::Goes)
    }

    /// Whether the element can stay: it is wanted as it is, and the chain that it leads to stays.
    fn element_stays(&self, element: &Element, wanted: Option<&Element>, set: &Set) -> bool {
        let default = |element: &Element| element.timeout.or(set.default_timeout);
        let leads_on = match &element.value {
            super::Value::Verdict(verdict) => {
                verdict.chain().is_none_or(|chain| !self.chain_goes(chain))
            }
            _ => true,
        };
        leads_on
            && wanted.is_some_and(|wanted| {
                let alike = Element {
                    timeout: wanted.timeout,
                    ..element.clone()
                };
                default(element) == default(wanted) && alike.same_as(wanted)
            })
    }

    /// Everything that goes: first what refers to others, then the others.
    fn remove(&self, batch: &mut Batch) {
        let mut writer = batch.table(self.to.family, &self.to.name);
        for (name, chain) in self.from.chains.iter() {
            if !chain.rules.is_empty() && !self.rules_stay(name, chain) {
                writer.flush_chain(name);
            }
        }
        for (name, set) in self.from.sets.iter() {
            if self.set_fate(name, set) == Fate::Goes {
                writer.delete_set(name);
                continue;
            }
            let Some(wanted) = self.to.sets.get(name) else {
                continue;
            };
            let mut elements = writer.elements(name, set);
            for (key, element) in set.elements.iter().filter(|_| !set.dynamic) {
                if !self.element_stays(element, wanted.elements.get(key), set) {
                    elements.delete(key, element.key_end.as_deref());
                }
            }
        }
        for (name, chain) in self.from.chains.iter() {
            if self.chain_fate(name, chain) == Fate::Goes {
                writer.delete_chain(name);
            }
        }
    }

    /// Everything that comes: first sets and chains, then what refers to them.
    fn add(&self, batch: &mut Batch) {
        let mut writer = batch.table(self.to.family, &self.to.name);
        for (name, set) in self.to.sets.iter() {
            if !self.set_stays(name) {
                writer.add_set(name, set);
            }
        }
        for (name, chain) in self.to.chains.iter() {
            let found = self.from.chains.get(name);
            let as_wanted = found.is_some_and(|found| {
                self.chain_fate(name, found) == Fate::Stays && policy(found) == policy(chain)
            });
            if !as_wanted {
                writer.add_chain(name, chain);
            }
        }
        for (name, set) in self.to.sets.iter() {
            let found = self.from.sets.get(name).filter(|_| self.set_stays(name));
            let mut elements = writer.elements(name, set);
            for (key, element) in &set.elements {
                let stays = found.is_some_and(|found| {
                    set.dynamic
                        || found
                            .elements
                            .get(key)
                            .is_some_and(|there| self.element_stays(there, Some(element), found))
                });
                if !stays {
                    elements.add(&element.borrow(key));
                }
            }
        }
        for (name, chain) in self.to.chains.iter() {
            let found = self.from.chains.get(name);
            if found.is_some_and(|found| self.rules_stay(name, found)) {
                continue;
            }
            for rule in &chain.rules {
                writer.add_rule(name, rule);
            }
        }
    }

    fn set_stays(&self, name: &str) -> bool {
        let found = self.from.sets.get(name);
        found.is_some_and(|set| self.set_fate(name, set) == Fate::Stays)
    }
}

fn policy(chain: &Chain) -> Option<super::Policy> {
    chain.base.as_ref().map(|base| base.policy)
}

/// Whether a chain can be turned into the other without making it again: the policy can.
fn same_chain(a: &Chain, b: &Chain) -> bool {
    let base = |chain: &Chain| {
        chain
            .base
            .as_ref()
            .map(|base| (base.kind.clone(), base.hook, base.priority))
    };
    base(a) == base(b) && a.comment == b.comment
}

fn same_rules(a: &[Rule], b: &[Rule]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_as(b))
}

/// What a rule refers to by name.
enum Reference<'a> {
    Set(&'a str),
    Chain(&'a str),
}

impl Rule {
    fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.exprs.iter().filter_map(|expr| match expr {
            super::Expr::Lookup { set, .. } | super::Expr::Dynset { set, .. } => {
                Some(Reference::Set(set))
            }
            super::Expr::Verdict(verdict) => verdict.chain().map(Reference::Chain),
            _ => None,
        })
    }
}
