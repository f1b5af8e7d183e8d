//! Values, and what `nft` prints of them.

use kernel::nft::{
    Chain, ChainType, CtKey, Element, Family, Field, Hook, KeyBuf, MetaKey, Rule, Set, Source,
    Table, Verdict, nat_flag, priority,
};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::{check_listing, in_netns};

const SERVICE: [Field; 3] = [Field::IpDaddr, Field::L4Proto, Field::ThDport];

fn service(last: u8, port: u16) -> KeyBuf {
    KeyBuf::new()
        .address(Ipv4Addr::new(10, 96, 0, last))
        .protocol(6)
        .port(port)
}

fn with(source: Source) -> Vec<Source> {
    SERVICE
        .iter()
        .map(|field| Source::Field(*field))
        .chain([source])
        .collect()
}

#[test]
fn a_service_proxy_in_ipv4() {
    in_netns(|| {
        let endpoint = |last, port| {
            KeyBuf::new()
                .address(Ipv4Addr::new(10, 0, 1, last))
                .port(port)
        };
        let slots = [Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::Slot];
        let table = Table::new(Family::Ip, "podwire-services")
            .with_comment("made by podwire-agent")
            .with_set(
                "services",
                Set::verdict_map(&SERVICE)
                    .with_counters()
                    .with_comment("where a Service starts")
                    .with_element(
                        service(10, 80),
                        Element::verdict(Verdict::goto("pick-2")).comment("default/web:http"),
                    )
                    .with_element(service(11, 80), Element::verdict(Verdict::Drop)),
            )
            .with_set(
                "endpoints",
                Set::map(&slots, &[Field::IpDaddr, Field::ThDport])
                    .with_counters()
                    .with_element(
                        service(10, 80).number(0),
                        Element::data(endpoint(2, 8080)).comment("default/web-0"),
                    )
                    .with_element(service(10, 80).number(1), Element::data(endpoint(3, 8080))),
            )
            .with_chain(
                "pick-2",
                Chain::regular().with_comment("two endpoints").with_rule(
                    Rule::new()
                        .dnat_map(Family::Ip, &with(Source::random(2)), "endpoints", true)
                        .comment("one of two"),
                ),
            )
            .with_chain(
                "rotate-2",
                Chain::regular()
                    .with_rule(Rule::new().dnat_map(
                        Family::Ip,
                        &with(Source::round_robin(2)),
                        "endpoints",
                        true,
                    ))
                    .with_rule(Rule::new().dnat_map(
                        Family::Ip,
                        &with(Source::jhash(&[Field::IpSaddr], 2, Some(0x1234))),
                        "endpoints",
                        true,
                    )),
            )
            .with_chain(
                "prerouting",
                Chain::base(ChainType::Nat, Hook::Prerouting, priority::DSTNAT)
                    .with_rule(Rule::new().verdict_map(&SERVICE, "services")),
            );
        check_listing(&[table], "services");
    });
}

#[test]
fn affinity_and_masquerade_in_ipv4() {
    in_netns(|| {
        let hours = Some(Duration::from_secs(3 * 3600));
        let original = |protocol| {
            Rule::new().l4proto(protocol).in_set(
                &[
                    Source::original(CtKey::DstIp),
                    Field::L4Proto.into(),
                    Source::original(CtKey::ProtoDst),
                ],
                "from-outside",
            )
        };
        let table = Table::new(Family::Ip, "t")
            .with_set(
                "clients",
                Set::map(&[Field::IpSaddr], &[Field::Priority])
                    .dynamic(65536)
                    .with_timeouts(),
            )
            .with_set("from-outside", Set::of(&SERVICE))
            .with_chain(
                "choose",
                Chain::regular()
                    .with_rule(Rule::new().set_meta_from_map(
                        MetaKey::Priority,
                        &[Field::IpSaddr],
                        "clients",
                    ))
                    .with_rule(Rule::new().update_map(
                        "clients",
                        &[Field::IpSaddr],
                        &[Source::random(3)],
                        hours,
                    )),
            )
            .with_chain(
                "postrouting",
                Chain::base(ChainType::Nat, Hook::Postrouting, priority::SRCNAT)
                    .with_rule(original(6).masquerade(nat_flag::FULLY_RANDOM))
                    .with_rule(original(17).masquerade(nat_flag::FULLY_RANDOM)),
            );
        check_listing(&[table], "affinity");
    });
}
