//! Reading tables from the kernel.

use super::basics::{ChainType, Family, Hook, Policy};
use super::change::NFGEN_HEADER;
use super::elem_wire::{self, element_of, join_ranges};
use super::expr_decode::exprs_of;
use super::key::Key;
use super::named::Named;
use super::rule::Rule;
use super::set::{Element, Layout, Ranges, Set};
use super::set_wire::set_of;
use super::socket::NftSocket;
use super::table::{Base, Chain, Table};
use super::text::comment_of;
use super::uapi::{self, chain, elem, msg, rule, set, table, udata};
use super::wire::{attributes, find, missing, nest, put_str, str_of, u32_of};
use crate::netlink::{Batch, Message, until_undisturbed};
use crate::{Cause, Error};

const OPERATION: &str = "read nftables table";

impl NftSocket {
    /// Reads a table with everything in it; `None` if it does not exist. What it returns was so at
    /// one moment: if the rule set changes while it is read, reading starts again.
    pub fn observe(&mut self, family: Family, name: &str) -> Result<Option<Table>, Error> {
        self.try_observe(family, name)
            .map_err(|cause| cause.during(OPERATION, format_args!("{family} {name}")))
    }

    /// As [`NftSocket::observe`], without the elements of its sets: for tables with many.
    pub fn observe_frame(&mut self, family: Family, name: &str) -> Result<Option<Table>, Error> {
        self.consistently(|socket| socket.read_frame(family, name))
            .map_err(|cause| cause.during(OPERATION, format_args!("{family} {name}")))
    }

    /// Whether there is a table with this name: one question, whatever is in it.
    pub fn has_table(&mut self, family: Family, name: &str) -> Result<bool, Error> {
        match self.empty_table(family, name) {
            Ok(found) => Ok(found.is_some()),
            Err(cause) => Err(cause.during(OPERATION, format_args!("{family} {name}"))),
        }
    }

    fn try_observe(&mut self, family: Family, name: &str) -> Result<Option<Table>, Cause> {
        self.consistently(|socket| socket.read_table(family, name))
    }

    /// Reads until the rule set did not change meanwhile.
    fn consistently(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<Option<Table>, Cause>,
    ) -> Result<Option<Table>, Cause> {
        let read = || {
            let before = self.generation()?;
            let found = match read(self) {
                // A set that was listed is gone when its elements are asked for.
                Err(Cause::Refused {
                    errno: libc::ENOENT,
                    ..
                }) => None,
                other => Some(other?),
            };
            if before == self.generation()? {
                Ok(found.flatten())
            } else {
                Err(Cause::Unstable)
            }
        };
        until_undisturbed(read, |cause| *cause == Cause::Unstable)
    }

    /// The number of the rule set's generation: every change raises it.
    pub fn generation(&mut self) -> Result<u32, Cause> {
        self.socket
            .query(kind(msg::GETGEN), put_header(None), |message| {
                u32_of(find(body(message)?, uapi::GEN_ID).ok_or_else(|| missing("the generation"))?)
            })
    }

    fn read_table(&mut self, family: Family, name: &str) -> Result<Option<Table>, Cause> {
        let Some(mut table) = self.read_frame(family, name)? else {
            return Ok(None);
        };
        for (set_name, set) in table.sets.iter_mut() {
            self.read_elements(family, name, set_name, set)?;
        }
        Ok(Some(table))
    }

    /// A table without what is in it.
    fn empty_table(&mut self, family: Family, name: &str) -> Result<Option<Table>, Cause> {
        let asked = |out: &mut Vec<u8>| {
            put_header(Some(family))(out);
            put_str(out, table::NAME, name);
        };
        let found = self.socket.query(kind(msg::GETTABLE), asked, |message| {
            let attributes = body(message)?;
            let udata = find(attributes, table::USERDATA).unwrap_or(&[]);
            let flags = find(attributes, table::FLAGS).map_or(Ok(0), u32_of)?;
            Ok(Table {
                comment: comment_of(udata, udata::TABLE_COMMENT),
                dormant: flags & table::DORMANT != 0,
                ..Table::new(family, name)
            })
        });
        match found {
            Err(Cause::Refused {
                errno: libc::ENOENT,
                ..
            }) => Ok(None),
            other => other.map(Some),
        }
    }

    fn read_frame(&mut self, family: Family, name: &str) -> Result<Option<Table>, Cause> {
        let Some(table) = self.empty_table(family, name)? else {
            return Ok(None);
        };
        let mut chains = self.read_chains(family, name)?;
        for (chain, rule) in self.read_rules(family, name)? {
            if let Some(chain) = chains.get_mut(&chain) {
                chain.rules.push(rule);
            }
        }
        let sets = self.read_sets(family, name)?;
        Ok(Some(Table {
            chains,
            sets,
            ..table
        }))
    }

    fn read_chains(&mut self, family: Family, name: &str) -> Result<Named<Chain>, Cause> {
        let asked = |out: &mut Vec<u8>| {
            put_header(Some(family))(out);
            put_str(out, chain::TABLE, name);
        };
        let chains = self.socket.dump(kind(msg::GETCHAIN), asked, |message| {
            let bytes = body(message)?;
            // Not every kernel filters chains by table.
            if !is_ours(message, family, bytes, chain::TABLE, name) {
                return Ok(None);
            }
            Ok(Some((text(bytes, chain::NAME)?, chain_of(bytes)?)))
        })?;
        Ok(chains.into_iter().collect())
    }

    fn read_rules(&mut self, family: Family, name: &str) -> Result<Vec<(String, Rule)>, Cause> {
        let asked = |out: &mut Vec<u8>| {
            put_header(Some(family))(out);
            put_str(out, rule::TABLE, name);
        };
        self.socket.dump(kind(msg::GETRULE), asked, |message| {
            let bytes = body(message)?;
            if !is_ours(message, family, bytes, rule::TABLE, name) {
                return Ok(None);
            }
            Ok(Some((text(bytes, rule::CHAIN)?, rule_of(bytes))))
        })
    }

    fn read_sets(&mut self, family: Family, name: &str) -> Result<Named<Set>, Cause> {
        let asked = |out: &mut Vec<u8>| {
            put_header(Some(family))(out);
            put_str(out, set::TABLE, name);
        };
        let sets = self.socket.dump(kind(msg::GETSET), asked, |message| {
            let listed = set_of(body(message)?)?;
            let ours = listed.table == name && !listed.anonymous && family_is(message, family);
            Ok(ours.then_some((listed.name, listed.set)))
        })?;
        Ok(sets.into_iter().collect())
    }

    /// The sets and maps of a table as they are declared, without their elements.
    pub fn set_headers(&mut self, family: Family, table: &str) -> Result<Named<Set>, Error> {
        self.read_sets(family, table)
            .map_err(|cause| cause.during("read the sets of", format_args!("{family} {table}")))
    }

    fn read_elements(
        &mut self,
        family: Family,
        table: &str,
        name: &str,
        set: &mut Set,
    ) -> Result<(), Cause> {
        let layout = set.layout();
        let mut listed = Vec::new();
        self.list_elements(family, table, name, |element| {
            listed.push(element);
        })?;
        set.foreign |= listed.iter().any(|entry| entry.foreign);
        for entry in joined(listed, layout) {
            set.elements.insert(entry.key, entry.element);
        }
        Ok(())
    }

    /// Hands the elements of a set to `each`, one after the other, with the counters and time-outs
    /// that the kernel has; for sets that are too large to be kept. Ends with
    /// [`Cause::Unstable`] if the rule set changes meanwhile: start again.
    pub fn each_element(
        &mut self,
        family: Family,
        table: &str,
        name: &str,
        header: &Set,
        mut each: impl FnMut(Key, Element),
    ) -> Result<(), Error> {
        let during = |cause: Cause| {
            cause.during(
                "read the elements of set",
                format_args!("{family} {table} {name}"),
            )
        };
        let layout = header.layout();
        let mut ranges = Vec::new();
        let outcome = self.list_elements(family, table, name, |entry| {
            if layout.ranges == Ranges::Pairs {
                ranges.push(entry);
            } else {
                each(entry.key, entry.element);
            }
        });
        outcome.map_err(during)?;
        for entry in joined(ranges, layout) {
            each(entry.key, entry.element);
        }
        Ok(())
    }

    /// One element of a set, without reading the others; `None` if it is not there, or the set is
    /// not. In a set of ranges that are not concatenated, the one whose range the key is in.
    pub fn element(
        &mut self,
        family: Family,
        table: &str,
        name: &str,
        header: &Set,
        key: &[u8],
    ) -> Result<Option<Element>, Error> {
        let asked = |out: &mut Vec<u8>| {
            put_header(Some(family))(out);
            put_str(out, elem::LIST_TABLE, table);
            put_str(out, elem::LIST_SET, name);
            nest(out, elem::LIST_ELEMENTS, |out| {
                elem_wire::put_sought_key(out, header.layout(), key);
            });
        };
        let found = self.socket.query(kind(msg::GETSETELEM), asked, |message| {
            let elements = find(body(message)?, elem::LIST_ELEMENTS).unwrap_or(&[]);
            let first = attributes(elements).next();
            let (_, element) = first.ok_or_else(|| missing("the element"))?;
            Ok(element_of(element)?.element)
        });
        match found {
            Err(Cause::Refused {
                errno: libc::ENOENT,
                ..
            }) => Ok(None),
            other => other.map(Some).map_err(|cause| {
                cause.during(
                    "read an element of set",
                    format_args!("{family} {table} {name}"),
                )
            }),
        }
    }

    fn list_elements(
        &mut self,
        family: Family,
        table: &str,
        name: &str,
        mut each: impl FnMut(elem_wire::Listed),
    ) -> Result<(), Cause> {
        let mut batch = Batch::new();
        batch.push(kind(msg::GETSETELEM), libc::NLM_F_DUMP as u16, |out| {
            put_header(Some(family))(out);
            put_str(out, elem::LIST_TABLE, table);
            put_str(out, elem::LIST_SET, name);
        });
        self.socket.read_dump(&mut batch, &mut |message| {
            let elements = find(body(message)?, elem::LIST_ELEMENTS).unwrap_or(&[]);
            for (_, element) in attributes(elements) {
                each(element_of(element)?);
            }
            Ok(())
        })
    }
}

pub(super) fn joined(listed: Vec<elem_wire::Listed>, layout: Layout) -> Vec<elem_wire::Listed> {
    match layout.ranges {
        Ranges::Pairs => join_ranges(listed, layout.key_len),
        Ranges::None | Ranges::KeyEnd => listed,
    }
}

const fn kind(kind: u16) -> u16 {
    uapi::SUBSYSTEM << 8 | kind
}

/// `struct nfgenmsg`: family, version 0, no resource.
fn put_header(family: Option<Family>) -> impl Fn(&mut Vec<u8>) {
    move |out| out.extend_from_slice(&[family.map_or(0, Family::number), 0, 0, 0])
}

/// The attributes of a message, behind `struct nfgenmsg`.
pub(super) fn body(message: Message<'_>) -> Result<&[u8], Cause> {
    message
        .payload
        .get(NFGEN_HEADER..)
        .ok_or_else(|| missing("the header of nfnetlink"))
}

fn family_is(message: Message<'_>, family: Family) -> bool {
    message.payload.first() == Some(&family.number())
}

fn is_ours(message: Message<'_>, family: Family, bytes: &[u8], kind: u16, table: &str) -> bool {
    family_is(message, family) && find(bytes, kind).map(str_of).as_deref() == Some(table)
}

pub(super) fn text(bytes: &[u8], kind: u16) -> Result<String, Cause> {
    find(bytes, kind)
        .map(str_of)
        .ok_or_else(|| missing("a name"))
}

/// The chain that the attributes describe, without its rules.
pub(crate) fn chain_of(bytes: &[u8]) -> Result<Chain, Cause> {
    let udata = find(bytes, chain::USERDATA).unwrap_or(&[]);
    let comment = comment_of(udata, udata::CHAIN_COMMENT);
    let Some(hook) = find(bytes, chain::HOOK) else {
        return Ok(Chain {
            base: None,
            rules: Vec::new(),
            comment,
        });
    };
    let number = |bytes, kind| find(bytes, kind).map_or(Ok(0), u32_of);
    let hook_number = number(hook, chain::HOOK_NUM)?;
    let policy = find(bytes, chain::POLICY).map_or(Ok(1), u32_of)?;
    let name = find(bytes, chain::TYPE).map(str_of).unwrap_or_default();
    let devices = find(hook, chain::HOOK_DEV)
        .or(find(hook, chain::HOOK_DEVS))
        .is_some();
    let flags = number(bytes, chain::FLAGS)? & !chain::FLAG_BASE;
    let known = Hook::from_number(hook_number).filter(|_| !devices && flags == 0);
    let base = Base {
        kind: match known {
            Some(_) => ChainType::from_name(name),
            // Hooks of links, offload: ours never have them, so it must differ from ours.
            None => ChainType::Other(format!("{name} at hook {hook_number}, flags {flags}")),
        },
        hook: known.unwrap_or(Hook::Prerouting),
        priority: number(hook, chain::HOOK_PRIORITY)? as i32,
        policy: if policy == 0 {
            Policy::Drop
        } else {
            Policy::Accept
        },
    };
    Ok(Chain {
        base: Some(base),
        rules: Vec::new(),
        comment,
    })
}

/// The rule that the attributes describe.
pub(crate) fn rule_of(bytes: &[u8]) -> Rule {
    let udata = find(bytes, rule::USERDATA).unwrap_or(&[]);
    Rule {
        exprs: find(bytes, rule::EXPRESSIONS)
            .map(exprs_of)
            .unwrap_or_default(),
        comment: comment_of(udata, udata::RULE_COMMENT),
    }
}
