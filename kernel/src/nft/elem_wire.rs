//! Elements as netlink attributes, and back.

use std::time::Duration;

use super::expr::Expr;
use super::expr_decode::{expr_of, exprs_of, verdict_of};
use super::expr_encode::{millis, put_data, put_verdict};
use super::key::Key;
use super::set::{Element, ElementRef, Layout, Ranges, Value, ValueRef};
use super::text::{comment_of, put_comment};
use super::uapi::{self, elem as nfta, udata};
use super::wire::{find, missing, nest, put_u32, put_u64, u32_of, u64_of};
use crate::Cause;

/// Appends a new element; a range in a set without concatenation takes two.
pub(crate) fn put_element(out: &mut Vec<u8>, layout: Layout, element: &ElementRef<'_>) {
    nest(out, uapi::LIST_ELEM, |out| {
        put_keys(out, layout, element.key, element.key_end);
        match element.value {
            ValueRef::None => {}
            ValueRef::Data(data) => put_data(out, nfta::DATA, cut(data, layout.data_len)),
            ValueRef::Verdict(verdict) => put_verdict(out, nfta::DATA, verdict),
        }
        if let Some(timeout) = element.timeout {
            put_u64(out, nfta::TIMEOUT, millis(timeout));
        }
        if let Some(comment) = element.comment {
            put_comment_attribute(out, comment);
        }
    });
    put_end_of_range(out, layout, element.key, element.key_end);
}

/// Appends what identifies an element, to delete it.
pub(crate) fn put_element_key(
    out: &mut Vec<u8>,
    layout: Layout,
    key: &[u8],
    key_end: Option<&[u8]>,
) {
    nest(out, uapi::LIST_ELEM, |out| {
        put_keys(out, layout, key, key_end)
    });
    put_end_of_range(out, layout, key, key_end);
}

/// Appends the key of the one element that is asked for.
pub(crate) fn put_sought_key(out: &mut Vec<u8>, layout: Layout, key: &[u8]) {
    nest(out, uapi::LIST_ELEM, |out| put_keys(out, layout, key, None));
}

fn put_keys(out: &mut Vec<u8>, layout: Layout, key: &[u8], key_end: Option<&[u8]>) {
    put_data(out, nfta::KEY, cut(key, layout.key_len));
    if layout.ranges == Ranges::KeyEnd {
        put_data(
            out,
            nfta::KEY_END,
            cut(key_end.unwrap_or(key), layout.key_len),
        );
    }
}

fn put_end_of_range(out: &mut Vec<u8>, layout: Layout, key: &[u8], key_end: Option<&[u8]>) {
    if layout.ranges != Ranges::Pairs {
        return;
    }
    let mut next = cut(key_end.unwrap_or(key), layout.key_len).to_vec();
    if !add_one(&mut next) {
        return; // The range goes up to the last key there is.
    }
    nest(out, uapi::LIST_ELEM, |out| {
        put_data(out, nfta::KEY, &next);
        put_u32(out, nfta::FLAGS, nfta::FLAG_INTERVAL_END);
    });
}

/// Keys are padded, a lone field in the kernel is not.
fn cut(bytes: &[u8], len: usize) -> &[u8] {
    &bytes[..len.min(bytes.len())]
}

/// Adds one to a number in network byte order; false if it was the largest.
fn add_one(bytes: &mut [u8]) -> bool {
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return true;
        }
    }
    false
}

/// Subtracts one from a number in network byte order.
fn subtract_one(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 255 {
            return;
        }
    }
}

fn put_comment_attribute(out: &mut Vec<u8>, comment: &str) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    put_comment(out, udata::ELEM_COMMENT, comment);
    let length = out.len() - start;
    if length == 4 {
        out.truncate(start);
        return;
    }
    out[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    out[start + 2..start + 4].copy_from_slice(&nfta::USERDATA.to_ne_bytes());
    out.resize(super::wire::align(out.len()), 0);
}

/// An element as the kernel lists it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub key: Key,
    pub element: Element,
    /// The end of a range in a set of [`Ranges::Pairs`], not an element of its own.
    pub end: bool,
    /// It says something that [`Element`] cannot.
    pub foreign: bool,
}

/// The element that the attributes `bytes` describe.
pub(crate) fn element_of(bytes: &[u8]) -> Result<Listed, Cause> {
    let flags = find(bytes, nfta::FLAGS).map_or(Ok(0), u32_of)?;
    let key_at = |kind| find(bytes, kind).and_then(|key| find(key, uapi::DATA_VALUE));
    let key = match key_at(nfta::KEY) {
        Some(key) => Key::from_bytes(key),
        None if flags & nfta::FLAG_CATCHALL != 0 => Key::from_bytes(&[]),
        None => return Err(missing("the key of an element")),
    };
    let key_end = key_at(nfta::KEY_END)
        .map(Key::from_bytes)
        .filter(|end| *end != key);
    let value = match find(bytes, nfta::DATA) {
        None => Value::None,
        Some(data) => match (find(data, uapi::DATA_VALUE), find(data, uapi::DATA_VERDICT)) {
            (Some(data), _) => Value::Data(Key::from_bytes(data)),
            (None, Some(verdict)) => Value::Verdict(verdict_of(verdict)?),
            (None, None) => return Err(missing("the data of an element")),
        },
    };
    let time = |kind| find(bytes, kind).map(u64_of).transpose();
    let exprs = match (find(bytes, nfta::EXPR), find(bytes, nfta::EXPRESSIONS)) {
        (Some(one), _) => vec![expr_of(one)],
        (None, Some(many)) => exprs_of(many),
        (None, None) => Vec::new(),
    };
    let counter = exprs.iter().find_map(|expr| match expr {
        Expr::Counter(counter) => Some(*counter),
        _ => None,
    });
    let counters = usize::from(counter.is_some());
    Ok(Listed {
        key,
        element: Element {
            key_end,
            value,
            timeout: time(nfta::TIMEOUT)?
                .filter(|ms| *ms != 0)
                .map(Duration::from_millis),
            expires: time(nfta::EXPIRATION)?.map(Duration::from_millis),
            comment: find(bytes, nfta::USERDATA)
                .and_then(|udata| comment_of(udata, udata::ELEM_COMMENT)),
            counter,
        },
        end: flags & nfta::FLAG_INTERVAL_END != 0,
        foreign: flags & !nfta::FLAG_INTERVAL_END != 0 || exprs.len() != counters,
    })
}

/// Joins the starts and ends of ranges that the kernel lists one by one. `len` is the length of a
/// key in bytes, as the kernel counts it.
pub(crate) fn join_ranges(mut listed: Vec<Listed>, len: usize) -> Vec<Listed> {
    // Where one range ends and the next one starts, the end comes first.
    listed.sort_unstable_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end)));
    let mut ranges: Vec<Listed> = Vec::with_capacity(listed.len() / 2 + 1);
    let mut open = false;
    for entry in listed {
        if !entry.end {
            ranges.push(entry);
            open = true;
            continue;
        }
        // nft writes an end before the first range; it closes nothing.
        let Some(range) = ranges.last_mut().filter(|_| open) else {
            continue;
        };
        let mut last = cut(&entry.key, len).to_vec();
        subtract_one(&mut last);
        let last = Key::from_bytes(&last);
        range.element.key_end = (last != range.key).then_some(last);
        open = false;
    }
    if open && let Some(range) = ranges.last_mut() {
        let last = Key::from_bytes(&vec![255; len]);
        range.element.key_end = (last != range.key).then_some(last);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_or_reach_the_last_key_survive() {
        let layout = Layout {
            key_len: 4,
            data_len: 0,
            ranges: Ranges::Pairs,
        };
        let wanted = [
            ([10, 0, 0, 0], Some([10, 0, 0, 255])),
            ([10, 0, 1, 0], Some([10, 0, 1, 255])),
            ([11, 0, 0, 1], None),
            ([240, 0, 0, 0], Some([255, 255, 255, 255])),
        ];
        let mut out = Vec::new();
        for (key, end) in &wanted {
            let element = ElementRef {
                key,
                key_end: end.as_ref().map(|end| &end[..]),
                value: ValueRef::None,
                timeout: None,
                comment: None,
            };
            put_element(&mut out, layout, &element);
        }
        let listed = super::super::wire::attributes(&out)
            .map(|(_, element)| element_of(element).unwrap())
            .rev_for_test();
        let joined = join_ranges(listed, 4);
        let found: Vec<_> = joined
            .iter()
            .map(|entry| {
                (
                    entry.key.to_vec(),
                    entry.element.key_end.as_ref().map(|end| end.to_vec()),
                )
            })
            .collect();
        let wanted: Vec<_> = wanted
            .iter()
            .map(|(key, end)| (key.to_vec(), end.map(|end| end.to_vec())))
            .collect();
        assert_eq!(found, wanted);
    }

    trait Reversed: Iterator + Sized {
        /// The kernel lists ranges from the last to the first.
        fn rev_for_test(self) -> Vec<Self::Item> {
            let mut all: Vec<_> = self.collect();
            all.reverse();
            all
        }
    }

    impl<I: Iterator> Reversed for I {}
}
