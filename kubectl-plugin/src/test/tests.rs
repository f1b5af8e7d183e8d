//! The whole test over a ground that is data.

use std::time::Duration;

use crate::test::case::{Family, Group, Spot, Way};
use crate::test::fake::{Cleans, Fake};
use crate::test::ground::{GroundError, Ran};
use crate::test::plan::World;
use crate::test::plan::tests::cluster;
use crate::test::run::{Done, Outcome, Pace, Progress, Verdict, run};
use crate::test::{junit, report};

struct Quiet;

impl Progress for Quiet {
    fn stage(&self, _: &str) {}
    fn case(&self, _: &Done, _: usize, _: usize) {}
}

/// A cluster in which pings are everything.
fn pings() -> World {
    World {
        no_policies: Some("off".into()),
        no_dns: Some("none".into()),
        no_api: Some("none".into()),
        outside: Vec::new(),
        ..cluster(2, &[Family::V4])
    }
}

fn ok() -> Ran {
    Ran::default()
}

fn lost() -> Ran {
    Ran {
        status: 1,
        stdout: "0 received \u{1b}]0;owned\u{7}".into(),
        ..Ran::default()
    }
}

async fn outcome(fake: &Fake) -> Outcome {
    let never = std::future::pending();
    run(fake, fake, &Pace::default(), &Quiet, never)
        .await
        .unwrap()
        .unwrap()
}

fn verdicts(outcome: &Outcome, way: Way) -> Vec<(usize, Option<usize>, bool)> {
    let of_way = outcome.done.iter().filter(|done| done.case.way == way);
    of_way
        .map(|done| {
            let passed = done.verdict == Verdict::Passed;
            (done.case.from.node, done.case.to_node(), passed)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_named_with_its_why_and_everything_is_taken_away() {
    let fake = Fake::new(pings(), |pod, line, _| match (pod, line) {
        ("client-0", "ping -c 1 -W 2 10.0.0.12") => lost(),
        _ => ok(),
    });
    let outcome = outcome(&fake).await;
    assert!(!outcome.passed());
    assert_eq!(
        verdicts(&outcome, Way::Ping),
        [
            (0, Some(0), true),
            (0, Some(1), false),
            (1, Some(1), true),
            (1, Some(0), true)
        ]
    );
    let text = report::render(&outcome);
    let named = "✗ the client on node0 to the server on node1, ping, IPv4: 0 received";
    assert!(text.contains(named), "{text}");
    assert!(text.contains("    test/client-0 to 10.0.0.12"), "{text}");
    assert!(text.contains("node0: a route is missing"), "{text}");
    assert!(text.contains("DNS: none"), "{text}");
    let obeyed = text.chars().any(|c| c.is_control() && c != '\n');
    assert!(!obeyed, "a terminal would obey {text:?}");
    assert_eq!(fake.events(), ["clear", "prepare", "clean"]);
}

#[tokio::test(start_paused = true)]
async fn what_settles_passes_and_what_must_be_refused_has_to_hold() {
    let fake = Fake::new(pings(), |_, line, before| {
        let ping = line.starts_with("ping");
        match (ping, before) {
            (true, 0 | 1) => lost(),
            (true, _) => ok(),
            // Refused at first, answered later: no endpoints is not what that is.
            (false, 0) => Ran {
                status: 7,
                ..Ran::default()
            },
            (false, _) => ok(),
        }
    });
    let outcome = outcome(&fake).await;
    assert!(
        verdicts(&outcome, Way::Ping)
            .iter()
            .all(|(_, _, passed)| *passed)
    );
    let empty = outcome
        .done
        .iter()
        .filter(|done| done.case.group == Group::NoEndpoints);
    for done in empty {
        assert!(matches!(done.verdict, Verdict::Failed { .. }), "{done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_run_is_one_failure_and_what_needs_it_is_not_tried() {
    let mut fake = Fake::new(pings(), |_, _, _| ok());
    fake.change = |laid| {
        laid.spots.remove(&Spot::server(1));
        laid.missing.insert(Spot::server(1), "no such image".into());
    };
    let outcome = outcome(&fake).await;
    assert!(!outcome.passed());
    let text = report::render(&outcome);
    assert!(
        text.contains("✗ the server on node1 does not run: no such image"),
        "{text}"
    );
    assert!(text.contains("the pod that answers does not run"), "{text}");
    assert_eq!(
        verdicts(&outcome, Way::Ping)
            .iter()
            .filter(|(_, _, passed)| *passed)
            .count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn an_address_outside_that_the_node_does_not_reach_says_nothing() {
    for named in [false, true] {
        let world = World {
            outside: vec![Family::V4],
            ..pings()
        };
        let mut fake = Fake::new(world, |_, line, _| match line.contains("192.0.2.1") {
            true => lost(),
            false => ok(),
        });
        if named {
            fake.change = |laid| laid.outside.iter_mut().for_each(|one| one.named = true);
        }
        let outcome = outcome(&fake).await;
        let (failed, tried) = outcome.count(Group::Outside);
        assert_eq!((failed, tried), if named { (4, 4) } else { (0, 0) });
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_everything_is_taken_away() {
    let mut barren = Fake::new(pings(), |_, _, _| ok());
    barren.barren = true;
    let never = std::future::pending();
    let error = run(&barren, &barren, &Pace::default(), &Quiet, never).await;
    assert_eq!(error, Err(GroundError("nothing grows here".into())));
    assert_eq!(barren.events(), ["clear", "prepare", "clean"]);

    let slow = Fake::new(pings(), |_, _, _| lost());
    let soon = tokio::time::sleep(Duration::from_millis(1500));
    let interrupted = run(&slow, &slow, &Pace::default(), &Quiet, soon).await;
    assert_eq!(interrupted, Ok(None));
    assert_eq!(slow.events(), ["clear", "prepare", "clean"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_named_whatever_came_of_the_test() {
    for (cleans, left) in [
        (Cleans::Badly, "it cannot be removed"),
        (
            Cleans::Never,
            "it could not be taken away again within 30 s; what the test made may be left: the next \
             test removes it",
        ),
    ] {
        let mut fake = Fake::new(pings(), |_, _, _| ok());
        fake.cleans = cleans;
        let outcome = outcome(&fake).await;
        assert!(!outcome.passed());
        let text = report::render(&outcome);
        assert!(text.contains(&format!("\n✗ {left}\n")), "{text}");

        let now = std::future::ready(());
        let interrupted = run(&fake, &fake, &Pace::default(), &Quiet, now).await;
        assert_eq!(interrupted, Err(GroundError(left.into())));

        fake.barren = true;
        let never = std::future::pending();
        let failed = run(&fake, &fake, &Pace::default(), &Quiet, never).await;
        let both = format!("nothing grows here; and {left}");
        assert_eq!(failed, Err(GroundError(both)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_after_all_is_not_said_to_be_left() {
    let mut fake = Fake::new(pings(), |_, _, _| ok());
    fake.cleans = Cleans::Unheard;
    assert_eq!(outcome(&fake).await.left, None);
}

#[tokio::test(start_paused = true)]
async fn junit_has_what_failed_and_what_was_skipped() {
    let fake = Fake::new(pings(), |_, line, _| match line.starts_with("ping") {
        true => lost(),
        false => ok(),
    });
    let text = junit::render(&outcome(&fake).await).unwrap();
    let read = quick_junit::Report::deserialize_from_str(&text).unwrap();
    let suite = |name: &str| {
        let mut suites = read.test_suites.iter();
        suites.find(|suite| suite.name.as_str() == name).unwrap()
    };
    // An empty answer is none, so nothing but pings to nodes without a name could pass.
    assert_eq!(suite("pod to pod").failures, 4 * 6);
    assert_eq!(suite("DNS").skipped, 1);
}
