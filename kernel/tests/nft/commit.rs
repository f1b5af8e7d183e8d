//! Batches: what is refused, what is counted, what survives.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use podwire_kernel::nft::{
    Batch, Chain, ChainType, CommitError, Element, Family, Field, Hook, KeyBuf, NftSocket, Object,
    Rule, Set, Source, Table, Value, Verdict, diff, priority,
};

use crate::lab::{in_netns, install, observe};

const KEY: [Field; 2] = [Field::L4Proto, Field::ThDport];

fn key(port: u16) -> KeyBuf {
    KeyBuf::new().protocol(6).port(port)
}

fn ports() -> Set {
    Set::verdict_map(&KEY).with_counters()
}

fn base(hook: Hook) -> Chain {
    Chain::base(ChainType::Filter, hook, priority::FILTER)
}

#[test]
fn one_bad_element_among_thousands_is_named_and_nothing_is_changed() {
    in_netns(|| {
        let mut socket = NftSocket::open().unwrap();
        let there = ports().with_element(key(1777), Element::verdict(Verdict::Accept));
        let before = Table::new(Family::Ip, "t").with_set("ports", there);
        install(&mut socket, &before);
        let mut batch = Batch::new();
        let mut writer = batch.table(Family::Ip, "t");
        for port in 1..=4000 {
            let comment = format!("default/web:{port}");
            let element = Element::verdict(Verdict::Drop).comment(&comment);
            writer
                .elements("ports", &ports())
                .add(&element.borrow(&key(port).finish()));
        }
        assert!(batch.len() < 10, "elements of one set share messages");
        let error = socket.commit(&mut batch).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EEXIST));
        let [culprit] = error.culprits() else {
            panic!("{error}")
        };
        let Object::Element { key: found, .. } = &culprit.change.object else {
            panic!("{error}")
        };
        assert_eq!(*found, key(1777).finish());
        assert!(
            error
                .to_string()
                .ends_with("(default/web:1777) to set ports of table ip t: File exists"),
            "{error}"
        );
        assert_eq!(observe(&mut socket, Family::Ip, "t").normalised(), before);
    });
}

#[test]
fn more_refusals_than_the_socket_can_hold_do_not_block() {
    in_netns(|| {
        let mut socket = NftSocket::open().unwrap();
        install(&mut socket, &Table::new(Family::Ip, "t"));
        let mut batch = Batch::new();
        for number in 0..20_000 {
            batch
                .table(Family::Ip, "t")
                .delete_chain(&format!("absent-{number}"));
        }
        // A socket that is full would end this with the time-out of the socket.
        let error = socket.commit(&mut batch).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert_eq!(
            error.culprits()[0].change.to_string(),
            "delete chain absent-0 from table ip t"
        );
        // The answers of the refused batch are not taken for those of the next one.
        let mut batch = Batch::new();
        batch
            .table(Family::Ip, "t")
            .add_chain("c", &Chain::regular());
        socket.commit(&mut batch).unwrap();
    });
}

#[test]
fn a_loop_of_chains_is_refused_with_the_rule_that_closes_it() {
    in_netns(|| {
        let mut socket = NftSocket::open().unwrap();
        let table = Table::new(Family::Ip, "t")
            .with_chain("a", Chain::regular().with_rule(Rule::new().jump("b")))
            .with_chain(
                "b",
                Chain::regular().with_rule(Rule::new().jump("a").comment("back")),
            )
            .with_chain("input", base(Hook::Input).with_rule(Rule::new().jump("a")));
        let error = socket.commit(&mut diff(None, &table)).unwrap_err();
        assert!(
            matches!(error.errno(), Some(libc::ELOOP | libc::EMLINK)),
            "{error}"
        );
        assert_eq!(socket.observe(Family::Ip, "t").unwrap(), None);
    });
}

#[test]
fn without_the_right_to_it_the_error_says_so() {
    in_netns(|| {
        let mut socket = NftSocket::open().unwrap();
        become_nobody();
        let error = socket
            .commit(&mut diff(None, &Table::new(Family::Ip, "t")))
            .unwrap_err();
        assert_eq!(error.errno(), Some(libc::EPERM));
        assert!(matches!(error, CommitError::Refused { .. }));
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

/// Becomes nobody, this thread only: the C library would change all threads of the process.
#[expect(unsafe_code, reason = "glibc would change the user of all threads")]
fn become_nobody() {
    const NOBODY: libc::c_long = 65534;
    // SAFETY: setresuid takes three numbers and touches no memory.
    let outcome = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(outcome, 0);
}

#[test]
fn an_empty_batch_is_not_sent_and_the_others_are_counted() {
    in_netns(|| {
        let mut socket = NftSocket::open().unwrap();
        socket.commit(&mut Batch::new()).unwrap();
        assert_eq!((socket.batches(), socket.writes()), (0, 0));
        let table = Table::new(Family::Ip, "t").with_chain("c", Chain::regular());
        let mut batch = diff(None, &table);
        socket.commit(&mut batch).unwrap();
        assert_eq!((socket.batches(), socket.writes()), (1, 2));
        // The same batch again: adding is content with what is there.
        socket.commit(&mut batch).unwrap();
        batch.clear();
        assert!(batch.is_empty());
        socket.commit(&mut batch).unwrap();
        assert_eq!((socket.batches(), socket.writes()), (2, 4));
    });
}

#[test]
fn what_rules_remember_survives_a_change_of_everything_else() {
    in_netns(|| {
        let mut routes = podwire_kernel::RouteSocket::open().unwrap();
        let lo = routes.index_of("lo").unwrap();
        routes.set_up(lo).unwrap();
        let mut socket = NftSocket::open().unwrap();
        let memory = Set::map(&[Field::IpSaddr], &[Field::Mark])
            .dynamic(100)
            .with_timeouts();
        let remember = Rule::new().l4proto(17).update_map(
            "memory",
            &[Field::IpSaddr],
            &[Source::random(1)],
            Some(Duration::from_secs(3600)),
        );
        let before = Table::new(Family::Ip, "t")
            .with_set("memory", memory)
            .with_set(
                "ports",
                ports().with_element(key(1), Element::verdict(Verdict::Drop)),
            )
            .with_chain("output", base(Hook::Output).with_rule(remember));
        install(&mut socket, &before);
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(b"x", (Ipv4Addr::LOCALHOST, 9)).unwrap();
        let mut after = before.clone();
        after.sets.remove("ports");
        let output = after.chains.get_mut("output").unwrap();
        output.rules.insert(0, Rule::new().counter());
        install(&mut socket, &after);
        let observed = observe(&mut socket, Family::Ip, "t");
        let memory = &observed.sets.get("memory").unwrap().elements;
        let localhost = KeyBuf::new().address(Ipv4Addr::LOCALHOST).finish();
        let element = memory.get(&localhost).expect("the client is still known");
        assert_eq!(element.value, Value::Data(KeyBuf::new().number(0).finish()));
        assert_eq!(element.timeout, Some(Duration::from_secs(3600)));
        assert!(element.expires.unwrap() <= Duration::from_secs(3600));
    });
}

#[test]
fn counters_of_elements_are_read_one_by_one_and_never_make_a_difference() {
    in_netns(|| {
        let mut routes = podwire_kernel::RouteSocket::open().unwrap();
        let lo = routes.index_of("lo").unwrap();
        routes.set_up(lo).unwrap();
        let mut socket = NftSocket::open().unwrap();
        let udp = |port| KeyBuf::new().protocol(17).port(port);
        let table = Table::new(Family::Ip, "t")
            .with_set(
                "ports",
                ports()
                    .with_element(udp(9), Element::verdict(Verdict::Accept).comment("nine"))
                    .with_element(udp(10), Element::verdict(Verdict::Accept)),
            )
            .with_chain(
                "output",
                base(Hook::Output).with_rule(Rule::new().verdict_map(&KEY, "ports")),
            );
        install(&mut socket, &table);
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..3 {
            sender.send_to(b"x", (Ipv4Addr::LOCALHOST, 9)).unwrap();
        }
        let headers = socket.set_headers(Family::Ip, "t").unwrap();
        let header = headers.get("ports").unwrap();
        let mut counted = Vec::new();
        socket
            .each_element(Family::Ip, "t", "ports", header, |key, element| {
                let counter = element.counter.expect("a counter in every element");
                counted.push((
                    header.display_key(&key).to_string(),
                    counter.packets,
                    counter.bytes,
                ));
            })
            .unwrap();
        counted.sort();
        assert_eq!(
            counted,
            [("udp . 10".into(), 0, 0), ("udp . 9".into(), 3, 3 * 29)]
        );
        let observed = observe(&mut socket, Family::Ip, "t");
        assert_ne!(observed, table);
        assert!(diff(Some(&observed), &table).is_empty());
    });
}

#[test]
fn a_table_is_read_as_it_was_at_one_moment_while_somebody_changes_it() {
    in_netns(|| {
        let netns = podwire_kernel::netns::Netns::current().unwrap();
        let mut socket = NftSocket::open().unwrap();
        // The two sets change together, always: what is read must hold the same in both.
        let table = |number: u16| {
            let set = ports().with_element(key(number), Element::verdict(Verdict::Drop));
            Table::new(Family::Ip, "t")
                .with_set("first", set.clone())
                .with_set("second", set)
        };
        install(&mut socket, &table(1));
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let writer = std::thread::spawn({
            let stop = stop.clone();
            move || {
                netns.switch().unwrap();
                let mut socket = NftSocket::open().unwrap();
                let mut number = 1;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut batch = diff(Some(&table(number)), &table(number % 1000 + 1));
                    socket.commit(&mut batch).unwrap();
                    number = number % 1000 + 1;
                }
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 20 && !writer.is_finished() {
            // A writer that never rests may leave no moment to read; what is read must be right.
            let Ok(table) = socket.observe(Family::Ip, "t") else {
                continue;
            };
            let table = table.expect("the table");
            let elements = |name| &table.sets.get(name).unwrap().elements;
            assert_eq!(elements("first"), elements("second"));
            assert_eq!(elements("first").len(), 1);
            seen.extend(elements("first").keys().cloned());
        }
        assert!(seen.len() >= 20, "the writer ended early");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap();
    });
}
