//! What the alerts of `conf/monitoring/alerts.yaml` say of what the agent exposes.

use std::net::SocketAddr;

use super::*;

fn alerts() -> String {
    let path = "../conf/monitoring/alerts.yaml";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(path).unwrap()
}

/// The expression of an alert.
fn expression(alert: &str) -> String {
    let alerts = alerts();
    let (_, rest) = alerts.split_once(&format!("alert: {alert}\n")).unwrap();
    let line = rest.lines().next().unwrap();
    line.trim().strip_prefix("expr: ").unwrap().to_owned()
}

/// Something that happens to the changes of Services, at a second.
#[derive(Clone, Copy)]
enum Event {
    Arrives(u64),
    Synced(u64),
}

use Event::{Arrives, Synced};

/// The value of a metric of IPv4 after what has happened until then.
fn value(metric: &str, events: &[Event], until: u64) -> Option<f64> {
    let (metrics, family) = (Metrics::default(), IpFamily::V4);
    for event in events {
        match *event {
            Arrives(second) if second <= until => metrics.proxy.queued(family, at(second * 1000)),
            Synced(second) if second <= until => {
                metrics
                    .proxy
                    .synced(family, false, Duration::ZERO, at(second * 1000));
            }
            _ => {}
        }
    }
    let text = metrics.text(TextFormat::Classic);
    let samples = samples(&text);
    let value = samples.get(&*format!("{metric}{{ip_family=\"IPv4\"}}"))?;
    Some(value.parse().unwrap())
}

/// Evaluates so much of PromQL as the expression is made of, for one label set.
fn is_true(expression: &str, events: &[Event], now: u64) -> bool {
    let of = |text: &str| match text.trim().split_once(" offset ") {
        None => value(text.trim(), events, now),
        Some((metric, offset)) => {
            let seconds: u64 = offset.strip_suffix('s').unwrap().parse().unwrap();
            value(metric, events, now.saturating_sub(seconds))
        }
    };
    let one = |text: &str| {
        if let Some((left, right)) = text.split_once(" unless ") {
            return of(left).is_some() && of(right).is_none();
        }
        let (left, right) = text.split_once(" > ").unwrap();
        of(left).zip(of(right)).is_some_and(|(l, r)| l > r)
    };
    expression.split(" or ").any(one)
}

#[test]
fn the_agent_is_behind_if_a_change_has_waited_for_more_than_half_a_minute() {
    let behind = expression("PodwireBehind");
    let steady = |seconds: std::ops::Range<u64>| seconds.step_by(10).map(Arrives);
    let busy: Vec<Event> = steady(110..400).collect();
    let failing: Vec<Event> = [Synced(100)].into_iter().chain(busy.clone()).collect();
    let keeping_up = busy.iter().flat_map(|event| match *event {
        Arrives(second) => [Arrives(second), Synced(second + 1)],
        Synced(second) => [Synced(second); 2],
    });
    let keeping_up: Vec<Event> = keeping_up.collect();
    for (what, events, now, wanted) in [
        ("nothing has come", &[][..], 500, false),
        ("all is done", &[Arrives(100), Synced(101)], 5000, false),
        ("it has just come", &[Synced(50), Arrives(100)], 129, false),
        ("it is never done", &[Synced(50), Arrives(100)], 131, true),
        ("the first has just come", &[Arrives(100)], 129, false),
        ("no sync has succeeded", &[Arrives(100)], 131, true),
        (
            "after a quiet hour",
            &[Synced(99), Arrives(3700)],
            3701,
            false,
        ),
        ("no sync succeeds among many", &failing, 161, true),
        ("each of many is done", &keeping_up, 350, false),
    ] {
        assert_eq!(is_true(&behind, events, now), wanted, "{what}: {behind}");
    }
}

#[test]
fn a_service_that_is_refused_in_both_families_is_one_service() {
    let metrics = Metrics::default();
    for family in IpFamily::ALL {
        metrics.node.set_services_refused(family, 1);
    }
    let text = metrics.text(TextFormat::Classic);
    let refused = samples(&text).into_iter();
    let refused = refused.filter(|(name, _)| name.starts_with("podwire_services_refused{"));
    let refused: Vec<u64> = refused.map(|(_, value)| value.parse().unwrap()).collect();
    let expression = expression("PodwireServicesRefused");
    let counted = match expression.split(' ').next() {
        Some("max") => refused.into_iter().max(),
        Some("sum") => Some(refused.into_iter().sum()),
        _ => None,
    };
    assert_eq!(counted, Some(1), "{expression}");
}

/// What is scraped of a host by the example's rules.
fn scraped(host: &str) -> String {
    let alerts = alerts();
    let rules = alerts.lines().filter(|line| line.contains("__address__"));
    let quoted = |rule: &str, field: &str| {
        let (_, rest) = rule.split_once(&format!("{field}: \""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let mut address = String::new();
    for rule in rules {
        let matches = match quoted(rule, "regex").as_deref() {
            None => true,
            Some("(.*:.*)") => host.contains(':'),
            Some(other) => panic!("{other} is not known here"),
        };
        if matches {
            address = quoted(rule, "replacement").unwrap().replace("$1", host);
        }
    }
    address
}

#[test]
fn the_scrape_example_asks_nodes_of_both_families() {
    for host in ["172.18.0.2", "fd00:172:18::2"] {
        let address: Result<SocketAddr, _> = scraped(host).parse();
        let wanted = SocketAddr::new(host.parse().unwrap(), 10256);
        assert_eq!(address, Ok(wanted), "{}", scraped(host));
    }
}
