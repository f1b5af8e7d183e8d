//! What others put into a table of ours is seen as different, and is replaced.

use podwire_kernel::nft::{
    Chain, ChainType, Element, Expr, Family, Field, Hook, KeyBuf, NftSocket, Rule, Set, Table,
    Verdict, diff, priority,
};

use crate::lab::{in_netns, install, nft, not_run, observe, try_nft};

fn ours() -> Table {
    let key = [Field::L4Proto, Field::ThDport];
    let port = KeyBuf::new().protocol(6).port(80);
    Table::new(Family::Inet, "ours")
        .with_set(
            "ports",
            Set::verdict_map(&key).with_element(port, Element::verdict(Verdict::jump("web"))),
        )
        .with_chain(
            "web",
            Chain::regular().with_rule(Rule::new().counter().accept()),
        )
        .with_chain(
            "input",
            Chain::base(ChainType::Filter, Hook::Input, priority::FILTER)
                .with_rule(Rule::new().verdict_map(&key, "ports")),
        )
}

/// Lets `nft` carry the changes out, and checks that the difference to ours is seen and taken back.
fn check(changes: &str) -> Table {
    let mut socket = NftSocket::open().unwrap();
    nft(&["flush", "ruleset"], "");
    install(&mut socket, &ours());
    nft(&["-f", "-"], changes);
    let spoiled = observe(&mut socket, Family::Inet, "ours");
    assert!(
        !diff(Some(&spoiled), &ours()).is_empty(),
        "unseen: {changes}"
    );
    install(&mut socket, &ours());
    spoiled
}

#[test]
fn every_change_by_others_is_seen_and_taken_back() {
    in_netns(|| {
        for changes in [
            "flush chain inet ours input",
            "add table inet ours { flags dormant; }",
            "flush chain inet ours input
             add table inet ours { flags dormant; }",
            "add rule inet ours web counter drop",
            "insert rule inet ours web tcp dport { 80, 81 } drop",
            "insert rule inet ours input iifname vmap { \"eth0\" : jump web }",
            "flush map inet ours ports",
            "add element inet ours ports { udp . 53 : drop }",
            "delete element inet ours ports { tcp . 80 }",
            "delete element inet ours ports { tcp . 80 }
             add element inet ours ports { tcp . 80 comment \"mine\" : jump web }",
            "add chain inet ours other { type filter hook forward priority 0; policy drop; }",
            "add chain inet ours input { policy drop; }",
            "add set inet ours words { type ipv4_addr . mark; flags interval; }",
            "add map inet ours quotas { type ipv4_addr : quota; }",
            "flush chain inet ours input
             delete chain inet ours input
             add chain inet ours input { type filter hook input priority 5; }
             add rule inet ours input meta l4proto . th dport vmap @ports",
            "flush chain inet ours input
             delete map inet ours ports
             add map inet ours ports { type inet_proto . inet_service : verdict; }
             add rule inet ours input meta l4proto . th dport vmap @ports
             add element inet ours ports { tcp . 80 : jump web }",
        ] {
            check(changes);
        }
    });
}

#[test]
fn an_element_for_all_that_others_add_is_seen_and_taken_back() {
    in_netns(|| {
        let theirs = "add table inet theirs
             add map inet theirs ports { type inet_service : verdict; elements = { * : drop }; }";
        if let Err(reason) = try_nft(&["-f", "-"], theirs) {
            return not_run("elements for all", &reason);
        }
        check("add element inet ours ports { * : drop }");
    });
}

#[test]
fn an_expression_that_is_not_known_is_kept_as_it_is() {
    in_netns(|| {
        let spoiled = check("add rule inet ours web quota 5 mbytes socket transparent 1 accept");
        let rule = spoiled.chains.get("web").unwrap().rules.last().unwrap();
        let unknown = |expr: &&Expr| matches!(expr, Expr::Unknown { .. });
        assert_eq!(rule.exprs.iter().filter(unknown).count(), 2, "{rule:?}");
    });
}

#[test]
fn tables_of_others_are_left_alone() {
    in_netns(|| {
        let theirs =
            "table ip ours {\n\tset ports {\n\t\ttype inet_service\n\t}\n\n\tchain web {\n\t}\n}\n";
        nft(&["-f", "-"], theirs);
        let mut socket = NftSocket::open().unwrap();
        install(&mut socket, &ours());
        install(&mut socket, &Table::new(Family::Inet, "ours"));
        assert_eq!(nft(&["list", "table", "ip", "ours"], ""), theirs);
        assert_eq!(socket.observe(Family::Ip6, "ours").unwrap(), None);
        assert_eq!(socket.observe(Family::Ip, "our").unwrap(), None);
    });
}
