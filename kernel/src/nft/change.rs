//! What a message of a batch is about, in words: to name the culprit when the kernel refuses one.

use std::fmt;

use super::basics::Family;
use super::elem_wire::element_of;
use super::key::Key;
use super::text::{Comment, comment_of};
use super::uapi::{self, chain, elem, msg, rule, set, table, udata};
use super::wire::{attributes, find, str_of};

/// Size of `struct nlmsghdr` and of `struct nfgenmsg`, in bytes.
pub(crate) const NLMSG_HEADER: usize = 16;
pub(crate) const NFGEN_HEADER: usize = 4;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether something is added; else it is deleted.
    pub adds: bool,
    /// The family of the table.
    pub family: Option<Family>,
    /// The name of the table.
    pub table: String,
    /// What is changed in it.
    pub object: Object,
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The whole transaction: the kernel did not say which part of it.
    Transaction,
    /// The table itself.
    Table,
    /// A chain.
    Chain(String),
    /// A rule, or when deleting, all rules of the chain.
    Rule {
        /// Its chain.
        chain: String,
        /// Its comment.
        comment: Option<Comment>,
    },
    /// A set or map.
    Set(String),
    /// One element.
    Element {
        /// Its set or map.
        set: String,
        /// Its key, or the first key of its range.
        key: Key,
        /// Its comment.
        comment: Option<Comment>,
    },
    /// Several elements, one of which the kernel refuses: older kernels do not say which.
    Elements {
        /// Their set or map.
        set: String,
        /// How many.
        count: usize,
    },
}

impl Change {
    /// What `message`, with its header, changes; `offset` is the place that the kernel objects to.
    pub(crate) fn of(message: &[u8], offset: Option<usize>) -> Self {
        let kind = message
            .get(4..6)
            .map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
        let family = message
            .get(NLMSG_HEADER)
            .and_then(|number| Family::from_number(*number));
        let bytes = message.get(NLMSG_HEADER + NFGEN_HEADER..).unwrap_or(&[]);
        let text = |kind| find(bytes, kind).map(str_of).unwrap_or_default();
        let comment = |kind, entry| find(bytes, kind).and_then(|udata| comment_of(udata, entry));
        let (adds, table, object) = match (kind >> 8, kind & 0xff) {
            (uapi::SUBSYSTEM, kind @ (msg::NEWTABLE | msg::DELTABLE | msg::DESTROYTABLE)) => {
                (kind == msg::NEWTABLE, text(table::NAME), Object::Table)
            }
            (uapi::SUBSYSTEM, kind @ (msg::NEWCHAIN | msg::DELCHAIN | msg::DESTROYCHAIN)) => (
                kind == msg::NEWCHAIN,
                text(chain::TABLE),
                Object::Chain(text(chain::NAME)),
            ),
            (uapi::SUBSYSTEM, kind @ (msg::NEWRULE | msg::DELRULE)) => {
                let comment = comment(rule::USERDATA, udata::RULE_COMMENT);
                let rule = Object::Rule {
                    chain: text(rule::CHAIN),
                    comment,
                };
                (kind == msg::NEWRULE, text(rule::TABLE), rule)
            }
            (uapi::SUBSYSTEM, kind @ (msg::NEWSET | msg::DELSET | msg::DESTROYSET)) => (
                kind == msg::NEWSET,
                text(set::TABLE),
                Object::Set(text(set::NAME)),
            ),
            (uapi::SUBSYSTEM, kind @ (msg::NEWSETELEM | msg::DELSETELEM | msg::DESTROYSETELEM)) => {
                let object = element(message, bytes, text(elem::LIST_SET), offset);
                (kind == msg::NEWSETELEM, text(elem::LIST_TABLE), object)
            }
            _ => (true, String::new(), Object::Transaction),
        };
        Self {
            adds,
            family,
            table,
            object,
        }
    }

    /// Whether the kernel objects to a set, map or element, not to the rules around it.
    pub fn set(&self) -> Option<&str> {
        match &self.object {
            Object::Set(set) | Object::Element { set, .. } | Object::Elements { set, .. } => {
                Some(set)
            }
            _ => None,
        }
    }
}

/// The element at `offset` of the message, or all of them.
fn element(message: &[u8], bytes: &[u8], set: String, offset: Option<usize>) -> Object {
    let list = find(bytes, elem::LIST_ELEMENTS).unwrap_or(&[]);
    let start = message.as_ptr().addr();
    let mut count = 0;
    let mut only = None;
    for (_, element) in attributes(list) {
        count += 1;
        // The kernel names the attribute of the element, or one inside it.
        let at = element.as_ptr().addr() - start;
        let hit = offset.is_some_and(|offset| (at - 4..at + element.len()).contains(&offset));
        if hit || (count == 1 && only.is_none()) {
            only = Some(element);
        }
        if hit {
            count = 1;
            break;
        }
    }
    let found = only
        .filter(|_| count == 1)
        .and_then(|element| element_of(element).ok());
    match found {
        Some(found) => Object::Element {
            set,
            key: found.key,
            comment: found.element.comment,
        },
        None => Object::Elements { set, count },
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commented = |f: &mut fmt::Formatter<'_>, comment: &Option<Comment>| match comment {
            Some(comment) => write!(f, " ({comment})"),
            None => Ok(()),
        };
        if self.object == Object::Transaction {
            return f.write_str("carry out the whole transaction");
        }
        f.write_str(if self.adds { "add " } else { "delete " })?;
        let to = if self.adds { "to" } else { "from" };
        match &self.object {
            Object::Transaction => Ok(()),
            Object::Table => Ok(()),
            Object::Chain(name) => write!(f, "chain {name} {to} "),
            Object::Rule { chain, .. } if !self.adds => {
                write!(f, "all rules of chain {chain} from ")
            }
            Object::Rule { chain, comment } => {
                f.write_str("a rule")?;
                commented(f, comment)?;
                write!(f, " {to} chain {chain} of ")
            }
            Object::Set(name) => write!(f, "set {name} {to} "),
            Object::Element { set, key, comment } => {
                write!(f, "element {key:?}")?;
                commented(f, comment)?;
                write!(f, " {to} set {set} of ")
            }
            Object::Elements { set, count } => write!(f, "{count} elements {to} set {set} of "),
        }?;
        match self.family {
            Some(family) => write!(f, "table {family} {}", self.table),
            None => write!(f, "table {}", self.table),
        }
    }
}
