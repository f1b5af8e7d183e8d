//! nftables tables of others: those of iptables-nft (`ip nat`, `ip filter`, ...) and whole tables.
//!
//! Only names, handles and jumps are read, so it does not matter which expressions the rules
//! consist of (iptables-nft wraps its own in `match` and `target`).

use std::collections::BTreeMap;

use super::{Chain, Edit, Rule};
use crate::netlink::{Message, Protocol, Socket, attributes};
use crate::nft::{Batch, CommitError, Family, NftSocket};
use crate::{Cause, Result};

/// `NFNL_SUBSYS_NFTABLES << 8` (linux/netfilter/nfnetlink.h).
const SUBSYSTEM: u16 = 10 << 8;
/// `NFT_MSG_GETTABLE`, and so on (linux/netfilter/nf_tables.h).
const GETTABLE: u16 = SUBSYSTEM | 1;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const GETRULE: u16 = SUBSYSTEM | 7;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE`.
const TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
/// `NFTA_HOOK_HOOKNUM`.
const HOOK_NUMBER: u16 = 1;
/// `NF_DROP` (linux/netfilter.h).
const DROP: u32 = 0;
/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`, `NFTA_IMMEDIATE_DATA`, `NFTA_DATA_VERDICT`,
/// `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`.
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// `struct nfgenmsg` is four bytes (linux/netfilter/nfnetlink.h).
const HEADER: usize = 4;

/// The names of all tables of a family, whatever program made them. Empty if the kernel has no
/// nftables.
pub fn tables(family: Family) -> Result<Vec<String>> {
    let found = Socket::open(Protocol::Netfilter).and_then(|mut socket| {
        dump(&mut socket, GETTABLE, family, None, |bytes| {
            text(bytes, TABLE)
        })
    });
    match found {
        // No nftables in this kernel.
        Err(cause) if cause.errno() == Some(libc::EPROTONOSUPPORT) => Ok(Vec::new()),
        Err(Cause::Refused {
            errno: libc::EINVAL | libc::EOPNOTSUPP,
            ..
        }) => Ok(Vec::new()),
        result => result.map_err(|cause| cause.during("list the nftables tables of", family)),
    }
}

/// The chains of a table; empty if it does not exist.
pub fn chains(family: Family, table: &str) -> Result<Vec<Chain>> {
    let read = || {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let chains = dump(&mut socket, GETCHAIN, family, Some(table), |bytes| {
            let hook = find(bytes, CHAIN_HOOK);
            Some(Chain {
                name: text(bytes, CHAIN_NAME)?,
                builtin: hook.is_some(),
                hook: hook.and_then(|hook| number(hook, HOOK_NUMBER)),
                drops: number(bytes, CHAIN_POLICY) == Some(DROP),
                rules: Vec::new(),
            })
        })?;
        let rules = dump(&mut socket, GETRULE, family, Some(table), |bytes| {
            let id = u64::from_be_bytes(*find(bytes, RULE_HANDLE)?.first_chunk()?);
            let rule = Rule {
                id,
                leads_to: leads_to(bytes),
                drops: verdicts(bytes).any(|verdict| number(verdict, VERDICT_CODE) == Some(DROP)),
            };
            Some((text(bytes, RULE_CHAIN)?, rule))
        })?;
        let mut rules_of: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        for (chain, rule) in rules {
            rules_of.entry(chain).or_default().push(rule);
        }
        let chain = |chain: Chain| Chain {
            rules: rules_of.remove(&chain.name).unwrap_or_default(),
            ..chain
        };
        Ok::<_, Cause>(chains.into_iter().map(chain).collect())
    };
    read().map_err(|cause| cause.during("read nftables table", format_args!("{family} {table}")))
}

/// Takes out of a table what `edit` says, in one transaction.
pub fn edit(family: Family, table: &str, edit: &Edit) -> std::result::Result<(), CommitError> {
    let mut batch = Batch::new();
    let mut writer = batch.table(family, table);
    for (chain, id) in &edit.rules {
        writer.delete_rule(chain, *id);
    }
    // Chains lead to each other: first all rules, then the chains.
    for chain in edit.emptied.iter().chain(&edit.deleted) {
        writer.flush_chain(chain);
    }
    for chain in &edit.deleted {
        writer.delete_chain(chain);
    }
    commit(&mut batch)
}

/// Deletes a table with everything in it.
pub fn delete_table(family: Family, table: &str) -> std::result::Result<(), CommitError> {
    let mut batch = Batch::new();
    batch.table(family, table).delete();
    commit(&mut batch)
}

fn commit(batch: &mut Batch) -> std::result::Result<(), CommitError> {
    let mut socket = NftSocket::open().map_err(|error| CommitError::Failed(error.cause))?;
    socket.commit(batch)
}

/// Asks for all objects of a kind in one family, and perhaps one table, and hands the attributes
/// of each to `parse`; one that it cannot read is left out.
fn dump<T>(
    socket: &mut Socket,
    kind: u16,
    family: Family,
    table: Option<&str>,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> std::result::Result<Vec<T>, Cause> {
    let body = |out: &mut Vec<u8>| out.extend_from_slice(&[family.number(), 0, 0, 0]);
    socket.dump(kind, body, |message: Message<'_>| {
        let (Some(header), Some(bytes)) = (
            message.payload.first_chunk::<HEADER>(),
            message.payload.get(HEADER..),
        ) else {
            return Err(Cause::Malformed("a message without a header".into()));
        };
        // The kernel does not filter everything by family and table.
        let wanted = header[0] == family.number()
            && table.is_none_or(|table| text(bytes, TABLE).as_deref() == Some(table));
        Ok(wanted.then(|| parse(bytes)).flatten())
    })
}

/// The chain that a rule jumps or goes to.
pub(super) fn leads_to(rule: &[u8]) -> Option<String> {
    verdicts(rule).find_map(|verdict| text(verdict, VERDICT_CHAIN))
}

/// The verdicts of a rule.
fn verdicts(rule: &[u8]) -> impl Iterator<Item = &[u8]> {
    let expressions = find(rule, RULE_EXPRESSIONS).into_iter();
    expressions
        .flat_map(attributes)
        .filter_map(|(_, expression)| {
            if text(expression, EXPR_NAME)? != "immediate" {
                return None;
            }
            let data = find(find(expression, EXPR_DATA)?, IMMEDIATE_DATA)?;
            find(data, DATA_VERDICT)
        })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// A number in network byte order.
fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    find(bytes, wanted)?
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

/// A text attribute, up to its terminator.
fn text(bytes: &[u8], wanted: u16) -> Option<String> {
    let value = find(bytes, wanted)?;
    let end = value.iter().position(|byte| *byte == 0);
    Some(String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned())
}
