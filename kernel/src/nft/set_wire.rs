//! Declarations of sets as netlink attributes, and back.

use std::time::Duration;

use super::basics::Counter;
use super::expr::Expr;
use super::expr_decode::{expr_of, exprs_of};
use super::expr_encode::{millis, put_expr};
use super::field::{Fields, fields_of_typeof};
use super::set::{Data, Set};
use super::text::{comment_of, put_comment};
use super::uapi::{self, set as nfta, udata};
use super::wire::{
    self, attributes, find, missing, nest, put, put_str, put_u32, put_u64, put_udata,
    put_udata_u32, str_of, u32_of, u64_of,
};
use crate::Cause;

/// Everything that declares a set, as the kernel has it.
#[derive(Debug, PartialEq, Eq, Default)]
struct Declaration {
    flags: u32,
    key_type: u32,
    key_len: u32,
    data_type: u32,
    data_len: u32,
    timeout: u64,
    size: u32,
    /// Lengths of the fields, in a concatenation of intervals.
    concat: Vec<u32>,
    exprs: Vec<Expr>,
    udata: Vec<u8>,
}

impl Declaration {
    fn of(set: &Set) -> Self {
        let key = Fields(&set.key);
        let concat = set.interval && set.key.len() > 1;
        let (data_flag, data_type, data_len) = match &set.data {
            None => (0, 0, 0),
            Some(Data::Verdict) => (nfta::FLAG_MAP, nfta::DATA_TYPE_VERDICT, 0),
            Some(Data::Fields(fields)) => (
                nfta::FLAG_MAP,
                Fields(fields).datatype(),
                Fields(fields).len(),
            ),
        };
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        Self {
            flags: data_flag
                | flag(set.interval, nfta::FLAG_INTERVAL)
                | flag(concat, nfta::FLAG_CONCAT)
                | flag(
                    set.timeout || set.default_timeout.is_some(),
                    nfta::FLAG_TIMEOUT,
                )
                | flag(set.dynamic, nfta::FLAG_EVAL),
            key_type: key.datatype(),
            key_len: key.len(),
            data_type,
            data_len,
            timeout: set.default_timeout.map_or(0, millis),
            size: set.size.unwrap_or(0),
            concat: if concat {
                set.key.iter().map(|field| field.byte_len()).collect()
            } else {
                Vec::new()
            },
            exprs: if set.counter {
                vec![Expr::Counter(Counter::default())]
            } else {
                Vec::new()
            },
            udata: udata_of(set),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, Cause> {
        let number = |kind| find(bytes, kind).map_or(Ok(0), u32_of);
        let desc = find(bytes, nfta::DESC).unwrap_or(&[]);
        let concat = find(desc, nfta::DESC_CONCAT).unwrap_or(&[]);
        let field_len = |(_, field)| find(field, nfta::FIELD_LEN).map_or(Ok(0), u32_of);
        let mut declaration = Self {
            flags: number(nfta::FLAGS)?,
            key_type: number(nfta::KEY_TYPE)?,
            key_len: number(nfta::KEY_LEN)?,
            data_type: number(nfta::DATA_TYPE)?,
            data_len: number(nfta::DATA_LEN)?,
            timeout: find(bytes, nfta::TIMEOUT).map_or(Ok(0), u64_of)?,
            size: find(desc, nfta::DESC_SIZE).map_or(Ok(0), u32_of)?,
            concat: attributes(concat)
                .map(field_len)
                .collect::<Result<_, _>>()?,
            exprs: match (find(bytes, nfta::EXPR), find(bytes, nfta::EXPRESSIONS)) {
                (Some(one), _) => vec![expr_of(one)],
                (None, Some(many)) => exprs_of(many),
                (None, None) => Vec::new(),
            },
            udata: find(bytes, nfta::USERDATA).unwrap_or(&[]).to_vec(),
        };
        for expr in &mut declaration.exprs {
            if let Expr::Counter(counter) = expr {
                *counter = Counter::default();
            }
        }
        if declaration.data_type == nfta::DATA_TYPE_VERDICT {
            // The kernel gives the size of its own structure.
            declaration.data_len = 0;
        }
        Ok(declaration)
    }

    /// The set that is declared so; [`Set::foreign`] if there is none.
    fn set(&self) -> Set {
        let entry = |kind: u8| {
            wire::udata(&self.udata)
                .find(|(found, _)| *found == kind)
                .map(|(_, value)| value)
        };
        let flag = |flag: u32| self.flags & flag != 0;
        let fields = |kind: u8| entry(kind).and_then(fields_of_typeof).unwrap_or_default();
        let mut set = Set {
            key: fields(udata::SET_KEY_TYPEOF),
            data: match (flag(nfta::FLAG_MAP), self.data_type) {
                (false, _) => None,
                (true, nfta::DATA_TYPE_VERDICT) => Some(Data::Verdict),
                (true, _) => Some(Data::Fields(fields(udata::SET_DATA_TYPEOF))),
            },
            interval: flag(nfta::FLAG_INTERVAL),
            timeout: flag(nfta::FLAG_TIMEOUT),
            dynamic: flag(nfta::FLAG_EVAL),
            counter: self
                .exprs
                .iter()
                .any(|expr| matches!(expr, Expr::Counter(_))),
            default_timeout: (self.timeout != 0).then(|| Duration::from_millis(self.timeout)),
            size: (self.size != 0).then_some(self.size),
            comment: comment_of(&self.udata, udata::SET_COMMENT),
            ..Set::default()
        };
        set.foreign = Self::of(&set) != *self;
        set
    }
}

/// What `nft` needs to print the set well: byte order, typeof, comment.
fn udata_of(set: &Set) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    put_udata_u32(
        &mut out,
        udata::SET_KEY_BYTE_ORDER,
        Fields(&set.key).byte_order(),
    );
    let verdict = || {
        let mut out = Vec::with_capacity(8);
        put_udata_u32(&mut out, udata::TYPEOF_EXPR, udata::EXPR_VERDICT);
        put_udata(&mut out, udata::TYPEOF_DATA, &[]);
        out
    };
    let data = set.data.as_ref().map(|data| match data {
        Data::Verdict => (udata::BYTE_ORDER_NONE, verdict()),
        Data::Fields(fields) => (Fields(fields).byte_order(), Fields(fields).typeof_udata()),
    });
    if let Some((byte_order, _)) = &data {
        put_udata_u32(&mut out, udata::SET_DATA_BYTE_ORDER, *byte_order);
    }
    put_udata(
        &mut out,
        udata::SET_KEY_TYPEOF,
        &Fields(&set.key).typeof_udata(),
    );
    if let Some((_, data)) = &data {
        put_udata(&mut out, udata::SET_DATA_TYPEOF, data);
        put_udata_u32(&mut out, udata::SET_DATA_INTERVAL, 0);
    }
    if let Some(comment) = &set.comment {
        put_comment(&mut out, udata::SET_COMMENT, comment.as_str());
    }
    out
}

/// Appends the attributes of a new set. `id` names it within its batch.
pub(crate) fn put_set(out: &mut Vec<u8>, table: &str, name: &str, set: &Set, id: u32) {
    let declaration = Declaration::of(set);
    put_str(out, nfta::TABLE, table);
    put_str(out, nfta::NAME, name);
    put_u32(out, nfta::FLAGS, declaration.flags);
    put_u32(out, nfta::KEY_TYPE, declaration.key_type);
    put_u32(out, nfta::KEY_LEN, declaration.key_len);
    if declaration.flags & nfta::FLAG_MAP != 0 {
        put_u32(out, nfta::DATA_TYPE, declaration.data_type);
        put_u32(out, nfta::DATA_LEN, declaration.data_len);
    }
    put_u32(out, nfta::ID, id);
    if declaration.timeout != 0 {
        put_u64(out, nfta::TIMEOUT, declaration.timeout);
    }
    if declaration.size != 0 || !declaration.concat.is_empty() {
        nest(out, nfta::DESC, |out| put_desc(out, &declaration));
    }
    put(out, nfta::USERDATA, &declaration.udata);
    for expr in &declaration.exprs {
        put_expr(out, nfta::EXPR, expr);
    }
}

fn put_desc(out: &mut Vec<u8>, declaration: &Declaration) {
    if declaration.size != 0 {
        put_u32(out, nfta::DESC_SIZE, declaration.size);
    }
    if !declaration.concat.is_empty() {
        nest(out, nfta::DESC_CONCAT, |out| {
            for len in &declaration.concat {
                nest(out, uapi::LIST_ELEM, |out| {
                    put_u32(out, nfta::FIELD_LEN, *len)
                });
            }
        });
    }
}

/// A set as the kernel lists it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub table: String,
    pub name: String,
    /// Anonymous sets belong to a rule and come and go with it.
    pub anonymous: bool,
    pub set: Set,
}

/// The set that the attributes `bytes` declare.
pub(crate) fn set_of(bytes: &[u8]) -> Result<Listed, Cause> {
    let declaration = Declaration::parse(bytes)?;
    let text = |kind| {
        find(bytes, kind)
            .map(str_of)
            .ok_or_else(|| missing("the name of a set"))
    };
    let mut set = declaration.set();
    // A map to named counters or limits.
    set.foreign |= find(bytes, nfta::OBJ_TYPE).is_some();
    Ok(Listed {
        table: text(nfta::TABLE)?,
        name: text(nfta::NAME)?,
        anonymous: declaration.flags & nfta::FLAG_ANONYMOUS != 0,
        set,
    })
}
