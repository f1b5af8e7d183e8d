//! The tables of rows in `docs/services.md` and `docs/policies.md`, and the tests that they name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The behaviour of a Service proxy has so many rows.
const ROWS: u32 = 27;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The tests that the table names, by row.
fn table() -> BTreeMap<u32, BTreeSet<String>> {
    let text = fs::read_to_string(repository().join("docs/services.md")).unwrap();
    let (_, part) = text.split_once("## Rows of the behaviour table").unwrap();
    let part = part.split("\n## ").next().unwrap();
    let mut table: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for line in part.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, row, _, tests, _] = cells[..] else {
            continue;
        };
        let Ok(row) = row.parse() else { continue };
        let names = tests.split('`').skip(1).step_by(2).map(str::to_owned);
        table.entry(row).or_default().extend(names);
    }
    table
}

/// Names of all tests in a folder.
fn tests_below(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(tests_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let after = text.split("#[test]").skip(1);
            names.extend(after.filter_map(|text| {
                let (_, name) = text.split_once("fn ")?;
                Some(name.split('(').next()?.to_owned())
            }));
        }
    }
    names
}

#[test]
fn every_row_has_tests_and_every_test_that_is_named_is_there() {
    let table = table();
    let rows: Vec<u32> = table.keys().copied().collect();
    assert_eq!(rows, (1..=ROWS).collect::<Vec<_>>());
    let mut tests = tests_below(&repository().join("tests/tests"));
    tests.extend(tests_below(&repository().join("route-agent/src")));
    for (row, names) in &table {
        assert!(!names.is_empty(), "row {row} names no test");
        let unknown: Vec<_> = names.difference(&tests).collect();
        assert!(unknown.is_empty(), "row {row} names {unknown:?}");
    }
}

#[test]
fn every_test_that_is_named_after_a_row_stands_in_it() {
    let table = table();
    for name in tests_below(&repository().join("tests/tests")) {
        let Some(rest) = name.strip_prefix("row_") else {
            continue;
        };
        let row: u32 = rest.split('_').next().unwrap().parse().unwrap();
        assert!(
            table[&row].contains(&name),
            "row {row} does not name {name}"
        );
    }
}

/// A name may be cut at its end: `a_pod_that_...`.
#[test]
fn every_row_of_policies_has_tests_that_are_there() {
    let text = fs::read_to_string(repository().join("docs/policies.md")).unwrap();
    let (_, part) = text.split_once("## Semantics").unwrap();
    let part = part.split("\n## ").next().unwrap();
    let mut tests = tests_below(&repository().join("tests/tests"));
    for folder in ["route-agent/src", "cni-plugin/src", "cni-plugin/tests"] {
        tests.extend(tests_below(&repository().join(folder)));
    }
    let mut rows = 0;
    let is_row = |line: &&str| {
        line.starts_with("| ") && !line.starts_with("| row |") && !line.starts_with("| --- |")
    };
    for line in part.lines().filter(is_row) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, row, _, unit, packets, _] = cells[..] else {
            panic!("{line}");
        };
        let names: Vec<&str> = [unit, packets]
            .into_iter()
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .filter(|name| !name.ends_with(".rs"))
            .collect();
        assert!(!names.is_empty(), "{row} names no test");
        for name in names {
            let found = match name.strip_suffix("...") {
                Some(start) => tests.iter().any(|test| test.starts_with(start)),
                None => tests.contains(name),
            };
            assert!(found, "{row} names {name}, which is not there");
        }
        rows += 1;
    }
    assert!(rows > 25, "{rows}");
}
