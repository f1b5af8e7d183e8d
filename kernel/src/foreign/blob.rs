//! A table of iptables-legacy as the kernel hands it out: one run of bytes.
//!
//! Entries lie one behind the other: what they match, then a target. A jump is the offset of the
//! first entry of a chain. Built-in chains start at `hook_entry` and end with their policy at
//! `underflow`; every other chain starts with an entry whose target is `ERROR` and carries its
//! name, and ends with an entry that returns. The last entry is an `ERROR` that is never reached.
//! (linux/netfilter_ipv4/ip_tables.h, linux/netfilter/x_tables.h, net/ipv4/netfilter/ip_tables.c)
//!
//! Taking entries out therefore moves all offsets behind them. That is all that happens here;
//! there is no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::{offset_of, size_of};

use super::{Chain, Edit, Rule};
use crate::Cause;

/// How many hooks there are: `NF_INET_NUMHOOKS`.
pub(super) const HOOKS: usize = 5;

/// The names of built-in chains, by hook.
const BUILTIN: [&str; HOOKS] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The verdict that drops: `-NF_DROP - 1`.
const DROP: i32 = -1;

/// `XT_EXTENSION_MAXNAMELEN`: a target's name with its terminator.
const TARGET_NAME: usize = 29;
/// Where a standard target keeps its verdict and an error target its name: behind the head.
const TARGET_HEAD: usize = 32;

/// `struct ipt_entry`, for its offsets.
#[repr(C)]
struct Entry4 {
    ip: [u32; 21],
    nfcache: u32,
    target_offset: u16,
    next_offset: u16,
    comefrom: u32,
    counters: [u64; 2],
}

/// `struct ip6t_entry`, for its offsets.
#[repr(C)]
struct Entry6 {
    ip: [u32; 34],
    nfcache: u32,
    target_offset: u16,
    next_offset: u16,
    comefrom: u32,
    counters: [u64; 2],
}

/// Where the fields of an entry are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    target_offset: usize,
    next_offset: usize,
    size: usize,
}

/// The layout of IPv4 tables.
pub(super) const V4: Layout = Layout {
    target_offset: offset_of!(Entry4, target_offset),
    next_offset: offset_of!(Entry4, next_offset),
    size: size_of::<Entry4>(),
};

/// The layout of IPv6 tables.
pub(super) const V6: Layout = Layout {
    target_offset: offset_of!(Entry6, target_offset),
    next_offset: offset_of!(Entry6, next_offset),
    size: size_of::<Entry6>(),
};

/// A whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub layout: Layout,
    /// One bit per hook that the table has.
    pub valid_hooks: u32,
    /// Where each hook's chain starts, in bytes.
    pub hook_entry: [u32; HOOKS],
    /// Where each hook's policy is, in bytes.
    pub underflow: [u32; HOOKS],
    /// The entries.
    pub bytes: Vec<u8>,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<'a> {
    offset: usize,
    bytes: &'a [u8],
    target: Target<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target<'a> {
    /// A verdict if negative, else the offset at which to go on.
    Standard(i32),
    /// The head of a chain.
    Head(&'a str),
    /// Anything else.
    Other,
}

impl Entry<'_> {
    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }

    /// Where the entry sends packets, if that is not simply the next entry.
    fn jump(&self) -> Option<usize> {
        match self.target {
            Target::Standard(verdict) => usize::try_from(verdict)
                .ok()
                .filter(|offset| *offset != self.end()),
            _ => None,
        }
    }
}

/// A chain as a range of entries.
struct Span<'a> {
    name: &'a str,
    builtin: bool,
    /// Index of the head, for chains that have one.
    head: Option<usize>,
    /// Indices of the rules; the last one is the policy or the return at the end.
    rules: std::ops::Range<usize>,
}

impl Blob {
    /// The chains. The policy of a built-in chain and the return at the end of others are not
    /// shown as rules.
    pub fn chains(&self) -> Result<Vec<Chain>, Cause> {
        let entries = self.entries()?;
        let spans = self.spans(&entries)?;
        let starts = starts(&entries, &spans);
        let chain = |span: &Span<'_>| Chain {
            name: span.name.to_owned(),
            builtin: span.builtin,
            hook: span.builtin.then(|| hook_of(span.name)).flatten(),
            drops: span.builtin && entries[span.rules.end - 1].target == Target::Standard(DROP),
            rules: span
                .rules
                .clone()
                .take(span.rules.len().saturating_sub(1))
                .map(|index| Rule {
                    id: index as u64,
                    leads_to: entries[index]
                        .jump()
                        .and_then(|offset| starts.get(&offset))
                        .map(|name| (*name).to_owned()),
                    drops: entries[index].target == Target::Standard(DROP),
                })
                .collect(),
        };
        Ok(spans.iter().map(chain).collect())
    }

    /// How many entries there are.
    pub fn len(&self) -> Result<usize, Cause> {
        Ok(self.entries()?.len())
    }

    /// The table without what `edit` takes out, and for each of its entries the number that the
    /// entry had in this one.
    pub fn without(&self, edit: &Edit) -> Result<(Self, Vec<usize>), Cause> {
        let entries = self.entries()?;
        let spans = self.spans(&entries)?;
        let gone = taken_out(&spans, edit);
        let kept: Vec<usize> = (0..entries.len()).filter(|i| !gone.contains(i)).collect();
        let mut moved = BTreeMap::new();
        let mut size = 0;
        for index in &kept {
            moved.insert(entries[*index].offset, size);
            size += entries[*index].bytes.len();
        }
        // What pointed at an entry that went points at the next one that stayed.
        let new_offset = |old: usize| moved.range(old..).next().map(|(_, new)| *new);
        let mut bytes = Vec::with_capacity(size);
        for index in &kept {
            let entry = &entries[*index];
            let start = bytes.len();
            bytes.extend_from_slice(entry.bytes);
            let Target::Standard(verdict @ 0..) = entry.target else {
                continue;
            };
            let to = match entry.jump() {
                None => Some(bytes.len()),
                Some(offset) => new_offset(offset),
            };
            let to = to.and_then(|to| i32::try_from(to).ok()).ok_or_else(|| {
                Cause::Malformed(format!("entry {index} jumps to {verdict}, behind the end"))
            })?;
            let at = start + self.target_at(entry.bytes)? + TARGET_HEAD;
            bytes[at..at + 4].copy_from_slice(&to.to_ne_bytes());
        }
        let hook = |offsets: &[u32; HOOKS]| {
            offsets.map(|old| {
                let new = new_offset(old as usize).unwrap_or(0);
                u32::try_from(new).unwrap_or(old)
            })
        };
        let new = Self {
            layout: self.layout,
            valid_hooks: self.valid_hooks,
            hook_entry: self.of_valid_hooks(hook(&self.hook_entry), self.hook_entry),
            underflow: self.of_valid_hooks(hook(&self.underflow), self.underflow),
            bytes,
        };
        Ok((new, kept))
    }

    /// `new` for the hooks that the table has, `old` for the others.
    fn of_valid_hooks(&self, new: [u32; HOOKS], old: [u32; HOOKS]) -> [u32; HOOKS] {
        let mut result = old;
        for hook in 0..HOOKS {
            if self.valid_hooks & 1 << hook != 0 {
                result[hook] = new[hook];
            }
        }
        result
    }

    fn entries(&self) -> Result<Vec<Entry<'_>>, Cause> {
        let mut entries = Vec::new();
        let mut offset = 0;
        while offset < self.bytes.len() {
            let wrong = || Cause::Malformed(format!("the entry at byte {offset} does not fit"));
            let rest = &self.bytes[offset..];
            let length = usize::from(half(rest, self.layout.next_offset).ok_or_else(wrong)?);
            let bytes = rest.get(..length).ok_or_else(wrong)?;
            let target_at = self.target_at(bytes)?;
            let target = target(bytes.get(target_at..).ok_or_else(wrong)?).ok_or_else(wrong)?;
            entries.push(Entry {
                offset,
                bytes,
                target,
            });
            offset += length;
        }
        Ok(entries)
    }

    /// Where the target of an entry starts.
    fn target_at(&self, entry: &[u8]) -> Result<usize, Cause> {
        half(entry, self.layout.target_offset)
            .map(usize::from)
            .filter(|at| *at >= self.layout.size && *at < entry.len())
            .ok_or_else(|| Cause::Malformed("an entry without a target".into()))
    }

    fn spans<'a>(&self, entries: &[Entry<'a>]) -> Result<Vec<Span<'a>>, Cause> {
        let index_at: BTreeMap<usize, usize> = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (entry.offset, index))
            .collect();
        let find = |offset: u32| {
            index_at
                .get(&(offset as usize))
                .copied()
                .ok_or_else(|| Cause::Malformed(format!("no entry starts at byte {offset}")))
        };
        let mut spans = Vec::new();
        for (hook, name) in BUILTIN.into_iter().enumerate() {
            if self.valid_hooks & 1 << hook == 0 {
                continue;
            }
            spans.push(Span {
                name,
                builtin: true,
                head: None,
                rules: find(self.hook_entry[hook])?..find(self.underflow[hook])? + 1,
            });
        }
        let heads: Vec<(usize, &str)> = entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| match entry.target {
                Target::Head(name) => Some((index, name)),
                _ => None,
            })
            .collect();
        // The last head is the end of the table.
        for pair in heads.windows(2) {
            spans.push(Span {
                name: pair[0].1,
                builtin: false,
                head: Some(pair[0].0),
                rules: pair[0].0 + 1..pair[1].0,
            });
        }
        Ok(spans)
    }
}

/// The number of the hook of a built-in chain.
fn hook_of(name: &str) -> Option<u32> {
    (0..)
        .zip(BUILTIN)
        .find(|(_, builtin)| *builtin == name)
        .map(|(hook, _)| hook)
}

/// The name of each chain that can be jumped to, by the offset of its first entry.
fn starts<'a>(entries: &[Entry<'a>], spans: &[Span<'a>]) -> BTreeMap<usize, &'a str> {
    spans
        .iter()
        .filter(|span| !span.builtin)
        .filter_map(|span| Some((entries.get(span.rules.start)?.offset, span.name)))
        .collect()
}

/// The numbers of the entries that an edit takes out.
fn taken_out(spans: &[Span<'_>], edit: &Edit) -> BTreeSet<usize> {
    let named = |list: &[String], name: &str| list.iter().any(|found| found == name);
    let mut gone = BTreeSet::new();
    for span in spans {
        let last = span.rules.end.saturating_sub(1);
        if !span.builtin && named(&edit.deleted, span.name) {
            gone.extend(span.head);
            gone.extend(span.rules.clone());
        } else if named(&edit.emptied, span.name) {
            gone.extend(span.rules.start..last);
        }
        let rules = edit.rules.iter().filter(|(chain, _)| chain == span.name);
        gone.extend(
            rules
                .filter_map(|(_, id)| usize::try_from(*id).ok())
                .filter(|index| (span.rules.start..last).contains(index)),
        );
    }
    gone
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
}

/// Reads a target: its size, its name, its revision and then what belongs to it.
fn target(bytes: &[u8]) -> Option<Target<'_>> {
    let name = text(bytes.get(2..2 + TARGET_NAME)?)?;
    let data = bytes.get(TARGET_HEAD..)?;
    Some(match name {
        "" => {
            let verdict = data.first_chunk::<4>()?;
            Target::Standard(i32::from_ne_bytes(*verdict))
        }
        "ERROR" => Target::Head(text(data)?),
        _ => Target::Other,
    })
}

/// The text before the first zero.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

#[cfg(test)]
mod tests;
