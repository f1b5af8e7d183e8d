//! The walkthrough holds: what `make demo` shows, as a test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Lab, walkthrough};

#[test]
fn every_observation_of_the_walkthrough_holds_twice_in_one_lab() {
    let lab = Lab::for_test(&Topology::walkthrough(Families::V4)).unwrap();
    walkthrough::start_pods(&lab).unwrap();
    walkthrough::start_services(&lab).unwrap();
    for _ in 0..2 {
        let mut page = walkthrough::Page::plain(Vec::new());
        let verdict = walkthrough::show(&lab, &mut page).unwrap();
        let text = String::from_utf8_lossy(&page.into_inner()).into_owned();
        assert_eq!(verdict.shown, walkthrough::observations().count());
        assert!(verdict.is_good(), "{text}");
    }
}

#[test]
fn observations_are_numbered_one_after_another() {
    let numbers: Vec<u8> = walkthrough::observations().map(|one| one.number).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<u8>>());
}

#[test]
fn an_observation_whose_pods_are_missing_does_not_hold() {
    let lab = Lab::for_test(&Topology::walkthrough(Families::V4)).unwrap();
    let mut page = walkthrough::Page::plain(Vec::new());
    let verdict = walkthrough::show(&lab, &mut page).unwrap();
    assert!(!verdict.is_good());
    // Only what the nodes alone show is true without pods.
    assert!(
        verdict.held <= 3,
        "{}",
        String::from_utf8_lossy(&page.into_inner())
    );
}
