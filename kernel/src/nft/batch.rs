//! Changes to tables, as the messages that one transaction sends.

use super::Policy;
use super::basics::Family;
use super::elem_wire::{put_element, put_element_key};
use super::expr_encode::put_exprs;
use super::rule::Rule;
use super::set::{ElementRef, Layout, Set};
use super::set_wire::put_set;
use super::table::Chain;
use super::text::{Comment, put_comment};
use super::uapi::{self, chain, elem, msg, rule, table, udata};
use super::wire::{nest, put, put_str, put_u32};
use crate::netlink;

/// A list of elements grows up to this many bytes before a new message starts: the 16-bit length of
/// its attribute ends at 64 KiB, and one element has less than 1 KiB.
const LIST_MAX: usize = 60 * 1024;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// Changes that take effect together, or not at all.
///
/// Everything is encoded at once, so a batch with 100,000 elements takes no more memory than its
/// bytes. It may touch several tables. Order matters as it does for the kernel: what is referred
/// to must exist, what is deleted must not be referred to any more. So: delete elements that lead
/// to a chain, then flush the chain, then delete it.
///
/// What is deleted is freed after a grace period of the kernel (16 ms or so), however much it is.
/// The commit does not wait for that, but closing the socket does: who deletes and ends, as the
/// plugin in DEL, should commit early, in one batch, and close late.
#[derive(Debug, Clone)]
pub struct Batch {
    messages: netlink::Batch,
    /// The list of elements that the next element may join.
    open: Option<OpenList>,
    /// Memory of the last list, kept for the next one.
    spare: Vec<u8>,
    sets: u32,
    destroys: bool,
}

#[derive(Debug, Clone)]
struct OpenList {
    kind: u16,
    flags: u16,
    family: Family,
    table: Box<str>,
    set: Box<str>,
    elements: Vec<u8>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// A batch without changes.
    pub fn new() -> Self {
        let mut batch = Self {
            messages: netlink::Batch::new(),
            open: None,
            spare: Vec::new(),
            sets: 0,
            destroys: false,
        };
        batch.begin();
        batch
    }

    fn begin(&mut self) {
        self.messages.push(uapi::BATCH_BEGIN, 0, put_batch_header);
    }

    /// Removes all changes and keeps the memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.open = None;
        self.destroys = false;
        self.begin();
    }

    /// Writes changes to the table `name`.
    pub fn table<'a>(&'a mut self, family: Family, name: &'a str) -> TableWriter<'a> {
        TableWriter {
            batch: self,
            family,
            table: name,
        }
    }

    /// How many messages there are; elements of one set that were added one after the other share
    /// a message.
    pub fn len(&self) -> usize {
        self.messages.len() - 1 + usize::from(self.open.is_some())
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes will be sent, within a few: to decide where to split.
    pub fn byte_len(&self) -> usize {
        self.messages.byte_len()
            + self
                .open
                .as_ref()
                .map_or(0, |open| open.elements.len() + 64)
    }

    /// Whether one of the changes is content if its object is not there.
    pub(crate) fn destroys(&self) -> bool {
        self.destroys
    }

    /// All messages, the first being the start of the batch.
    pub(crate) fn messages(&mut self) -> &mut netlink::Batch {
        self.close();
        &mut self.messages
    }

    /// Writes the end of the batch, or takes it away again.
    pub(crate) fn end(&mut self) {
        self.close();
        self.messages.push(uapi::BATCH_END, 0, put_batch_header);
    }

    fn push(&mut self, kind: u16, flags: u16, family: Family, body: impl FnOnce(&mut Vec<u8>)) {
        self.close();
        self.push_message(kind, flags, family, body);
    }

    fn push_message(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        self.messages
            .push(uapi::SUBSYSTEM << 8 | kind, flags, |out| {
                out.extend_from_slice(&[family.number(), 0, 0, 0]);
                body(out);
            });
    }

    /// Sends the open list of elements on its way.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.push_message(open.kind, open.flags, open.family, |out| {
            put_str(out, elem::LIST_TABLE, &open.table);
            put_str(out, elem::LIST_SET, &open.set);
            nest(out, elem::LIST_ELEMENTS, |out| {
                out.extend_from_slice(&open.elements)
            });
        });
        self.spare = open.elements;
    }

    /// The list to which an element can be added.
    fn list(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        table: &str,
        set: &str,
    ) -> &mut Vec<u8> {
        let fits = self.open.as_ref().is_some_and(|open| {
            open.kind == kind
                && *open.set == *set
                && *open.table == *table
                && open.family == family
                && open.elements.len() < LIST_MAX
        });
        if !fits {
            self.close();
            self.spare.clear();
        }
        let spare = &mut self.spare;
        &mut self
            .open
            .get_or_insert_with(|| OpenList {
                kind,
                flags,
                family,
                table: table.into(),
                set: set.into(),
                elements: std::mem::take(spare),
            })
            .elements
    }
}

/// `struct nfgenmsg` that starts and ends a batch: no family, version 0, and the subsystem.
fn put_batch_header(out: &mut Vec<u8>) {
    let [high, low] = uapi::SUBSYSTEM.to_be_bytes();
    out.extend_from_slice(&[0, 0, high, low]);
}

/// Writes changes to one table into a [`Batch`].
///
/// `add_*` creates what is not there and is content with what is. `delete_*` fails if the object
/// is not there (`ENOENT`); `destroy_*` does not.
#[derive(Debug)]
pub struct TableWriter<'a> {
    batch: &'a mut Batch,
    family: Family,
    table: &'a str,
}

impl TableWriter<'_> {
    /// Adds the table, or wakes one that is dormant.
    pub fn add(&mut self, comment: Option<&Comment>) -> &mut Self {
        let name = self.table;
        self.batch.push(msg::NEWTABLE, CREATE, self.family, |out| {
            put_str(out, table::NAME, name);
            put_u32(out, table::FLAGS, 0);
            put_comment_in(out, table::USERDATA, udata::TABLE_COMMENT, comment);
        });
        self
    }

    /// Deletes the table with everything in it.
    pub fn delete(&mut self) -> &mut Self {
        self.remove_table(msg::DELTABLE)
    }

    /// Deletes the table if it is there.
    pub fn destroy(&mut self) -> &mut Self {
        self.batch.destroys = true;
        self.remove_table(msg::DESTROYTABLE)
    }

    fn remove_table(&mut self, kind: u16) -> &mut Self {
        let name = self.table;
        self.batch
            .push(kind, 0, self.family, |out| put_str(out, table::NAME, name));
        self
    }

    /// Adds a chain without its rules. For a base chain that is there, changes the policy.
    pub fn add_chain(&mut self, name: &str, chain: &Chain) -> &mut Self {
        let table = self.table;
        self.batch.push(msg::NEWCHAIN, CREATE, self.family, |out| {
            put_str(out, chain::TABLE, table);
            put_str(out, chain::NAME, name);
            if let Some(base) = &chain.base {
                put_str(out, chain::TYPE, base.kind.name());
                nest(out, chain::HOOK, |out| {
                    put_u32(out, chain::HOOK_NUM, base.hook as u32);
                    put(out, chain::HOOK_PRIORITY, &base.priority.to_be_bytes());
                });
                let accept = base.policy == Policy::Accept;
                put_u32(out, chain::POLICY, u32::from(accept));
            }
            put_comment_in(
                out,
                chain::USERDATA,
                udata::CHAIN_COMMENT,
                chain.comment.as_ref(),
            );
        });
        self
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) -> &mut Self {
        let table = self.table;
        self.batch.push(msg::DELRULE, 0, self.family, |out| {
            put_str(out, rule::TABLE, table);
            put_str(out, rule::CHAIN, name);
        });
        self
    }

    /// Deletes one rule of a chain by the handle that the kernel gave it.
    pub fn delete_rule(&mut self, chain: &str, handle: u64) -> &mut Self {
        let table = self.table;
        self.batch.push(msg::DELRULE, 0, self.family, |out| {
            put_str(out, rule::TABLE, table);
            put_str(out, rule::CHAIN, chain);
            put(out, rule::HANDLE, &handle.to_be_bytes());
        });
        self
    }

    /// Deletes a chain. Nothing may lead to it any more (`EBUSY`).
    pub fn delete_chain(&mut self, name: &str) -> &mut Self {
        self.remove_named(msg::DELCHAIN, chain::TABLE, chain::NAME, name)
    }

    /// Deletes a chain if it is there.
    pub fn destroy_chain(&mut self, name: &str) -> &mut Self {
        self.batch.destroys = true;
        self.remove_named(msg::DESTROYCHAIN, chain::TABLE, chain::NAME, name)
    }

    fn remove_named(&mut self, kind: u16, table_is: u16, name_is: u16, name: &str) -> &mut Self {
        let table = self.table;
        self.batch.push(kind, 0, self.family, |out| {
            put_str(out, table_is, table);
            put_str(out, name_is, name);
        });
        self
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule) -> &mut Self {
        let table = self.table;
        self.batch
            .push(msg::NEWRULE, CREATE | APPEND, self.family, |out| {
                put_str(out, rule::TABLE, table);
                put_str(out, rule::CHAIN, chain);
                put_exprs(out, rule::EXPRESSIONS, &rule.exprs);
                put_comment_in(
                    out,
                    rule::USERDATA,
                    udata::RULE_COMMENT,
                    rule.comment.as_ref(),
                );
            });
        self
    }

    /// Adds a set without its elements. What is declared differently must be deleted first.
    pub fn add_set(&mut self, name: &str, set: &Set) -> &mut Self {
        let table = self.table;
        self.batch.sets += 1;
        let id = self.batch.sets;
        let body = |out: &mut Vec<u8>| put_set(out, table, name, set, id);
        self.batch.push(msg::NEWSET, CREATE, self.family, body);
        self
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, name: &str) -> &mut Self {
        self.remove_named(msg::DELSETELEM, elem::LIST_TABLE, elem::LIST_SET, name)
    }

    /// Deletes a set with its elements. No rule may use it any more (`EBUSY`).
    pub fn delete_set(&mut self, name: &str) -> &mut Self {
        self.remove_named(msg::DELSET, uapi::set::TABLE, uapi::set::NAME, name)
    }

    /// Deletes a set if it is there.
    pub fn destroy_set(&mut self, name: &str) -> &mut Self {
        self.batch.destroys = true;
        self.remove_named(msg::DESTROYSET, uapi::set::TABLE, uapi::set::NAME, name)
    }

    /// Writes changes to the elements of the set `name`, which is declared as `header`.
    pub fn elements<'a>(&'a mut self, name: &'a str, header: &Set) -> ElementWriter<'a> {
        ElementWriter {
            batch: self.batch,
            family: self.family,
            table: self.table,
            set: name,
            layout: header.layout(),
        }
    }
}

/// Writes changes to the elements of one set into a [`Batch`].
#[derive(Debug)]
pub struct ElementWriter<'a> {
    batch: &'a mut Batch,
    family: Family,
    table: &'a str,
    set: &'a str,
    layout: Layout,
}

impl ElementWriter<'_> {
    /// Adds an element. One with the same key must say the same (`EEXIST`): delete it first.
    pub fn add(&mut self, element: &ElementRef<'_>) -> &mut Self {
        let list = self
            .batch
            .list(msg::NEWSETELEM, CREATE, self.family, self.table, self.set);
        put_element(list, self.layout, element);
        self
    }

    /// Deletes an element.
    pub fn delete(&mut self, key: &[u8], key_end: Option<&[u8]>) -> &mut Self {
        let list = self
            .batch
            .list(msg::DELSETELEM, 0, self.family, self.table, self.set);
        put_element_key(list, self.layout, key, key_end);
        self
    }

    /// Deletes an element if it is there.
    pub fn destroy(&mut self, key: &[u8], key_end: Option<&[u8]>) -> &mut Self {
        self.batch.destroys = true;
        // One message each, so that the older kernels' "not found" hits no other element.
        self.batch.close();
        let list = self
            .batch
            .list(msg::DESTROYSETELEM, 0, self.family, self.table, self.set);
        put_element_key(list, self.layout, key, key_end);
        self
    }
}

fn put_comment_in(out: &mut Vec<u8>, kind: u16, entry: u8, comment: Option<&Comment>) {
    if let Some(comment) = comment {
        let mut bytes = Vec::with_capacity(comment.as_str().len() + 3);
        put_comment(&mut bytes, entry, comment.as_str());
        put(out, kind, &bytes);
    }
}
