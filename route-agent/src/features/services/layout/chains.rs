//! The chains that come and go with Services.

use std::time::Duration;

use podwire_kernel::nft::{Chain, DynsetOp, Expr, Family, Field, MetaKey, Rule, Source};

use crate::features::services::layout::elements::OwnChainSpec;
use crate::features::services::layout::names::{
    AffinityHolds, AffinityMap, OwnKind, Pool, SharedChain,
};
use crate::features::services::layout::words::{Words, pool_key};
use crate::snapshot::{Balancing, ObjectName};

/// The same on every node and after every restart, so that a client keeps its endpoint.
const SEED: u32 = 0x7077;

/// The chain that Services with the same number of endpoints share.
pub fn shared(chain: SharedChain, family: Family) -> Chain {
    let balancing = if chain.hash {
        Balancing::SourceHash
    } else {
        Balancing::Random
    };
    pick(chain.pool, balancing, chain.count, family)
}

/// A chain of one Service port.
pub fn own(spec: &OwnChainSpec, service: &ObjectName, family: Family) -> Chain {
    match spec.chain.kind {
        OwnKind::RoundRobin(pool) => pick(pool, Balancing::RoundRobin, spec.count, family),
        OwnKind::Affinity => affinity(spec, false, service, family),
        OwnKind::AffinityLocal => affinity(spec, true, service, family),
    }
}

/// Sends to one of `count` endpoints.
///
/// The second rule is for a packet that arrives while a change goes in: it may have found its
/// chain before and look for its endpoint after, when there are fewer. Slot 0 is always there.
fn pick(pool: Pool, balancing: Balancing, count: u32, family: Family) -> Chain {
    let words = Words::of(family);
    let rule = |slot: Source| {
        let mut key = pool_key(&words, pool);
        key.push(slot);
        Rule::new().dnat_map(family, &key, pool.map(), true)
    };
    let chain = Chain::regular().with_rule(rule(slot(&words, balancing, count)));
    if count == 1 {
        return chain;
    }
    chain.with_rule(rule(Source::random(1)).comment("the slot has just gone"))
}

/// Which endpoint a new client gets.
fn slot(words: &Words, balancing: Balancing, count: u32) -> Source {
    match balancing {
        Balancing::Random => Source::random(count),
        Balancing::RoundRobin => Source::round_robin(count),
        Balancing::SourceHash => Source::jhash(&[words.saddr], count, Some(SEED)),
    }
}

/// Sends a client to the endpoint that it had before.
///
/// Between the rules the endpoint's number lies in the packet's priority, which no routing
/// decision looks at; postrouting clears it. The last rules are for a client whose endpoint is
/// gone: it is forgotten and chooses again.
fn affinity(spec: &OwnChainSpec, local: bool, service: &ObjectName, family: Family) -> Chain {
    let words = Words::of(family);
    let name = |local, holds| {
        let (protocol, port) = (spec.chain.protocol, spec.chain.port);
        AffinityMap {
            protocol,
            port,
            local,
            holds,
        }
        .name(service)
    };
    let clients = name(false, AffinityHolds::Clients);
    let choices = name(local, AffinityHolds::Choices);
    let endpoints = name(local, AffinityHolds::Endpoints);
    let timeout = Some(Duration::from_secs(spec.timeout.into()));
    let client = [words.saddr];
    let choose = || {
        let slot = [slot(&words, spec.balancing, spec.count)];
        Rule::new().set_meta_from_map(MetaKey::Priority, &slot, &choices)
    };
    let remember = || Rule::new().update_map(&clients, &client, &[Field::Priority], timeout);
    let send = || {
        Rule::new().l4proto(spec.chain.protocol.number()).dnat_map(
            family,
            &[Field::Priority],
            &endpoints,
            true,
        )
    };
    let recall = Rule::new().set_meta_from_map(MetaKey::Priority, &client, &clients);
    Chain::regular()
        .with_rule(choose().comment("a new client gets any endpoint"))
        .with_rule(recall.comment("a known client gets the one it had"))
        .with_rule(remember().comment("from now on this client is known"))
        .with_rule(send())
        .with_rule(forget(&clients, words.saddr).comment("its endpoint is gone: choose again"))
        .with_rule(choose())
        .with_rule(remember())
        .with_rule(send())
}

/// `delete @CLIENTS { ip saddr : meta priority }`.
fn forget(clients: &str, saddr: Field) -> Rule {
    let mut rule = Rule::new().update_map(clients, &[saddr], &[Field::Priority], None);
    if let Some(Expr::Dynset { op, .. }) = rule.exprs.last_mut() {
        *op = DynsetOp::Delete;
    }
    rule
}
