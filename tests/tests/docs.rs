//! The documentation names files that are there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a path in the documentation may start, as docs/ARCHITECTURE.md says.
const STARTS: [&str; 8] = [
    "",
    "route-agent/src/",
    "route-agent/src/features/",
    "route-agent/src/features/services/",
    "route-agent/src/features/policies/",
    "cni-plugin/src/",
    "kernel/src/",
    "tests/",
];

/// Only names that end like these are taken for files of the project.
const ENDINGS: [&str; 4] = [".rs", ".sh", ".ld", ".nft"];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// All files below a folder, but those that are built.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true if name == "target" || name.starts_with('.') => {}
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// The words between backquotes that are paths.
fn paths(text: &str) -> BTreeSet<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let quoted = text.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|word| word.chars().all(is_plain) && !word.starts_with('/'));
    paths
        .filter(|word| ENDINGS.iter().any(|ending| word.ends_with(ending)))
        .collect()
}

/// A name without a folder may be anywhere; a path is where it says.
fn is_there(path: &str, all: &BTreeSet<String>) -> bool {
    match path.contains('/') {
        true => STARTS
            .iter()
            .any(|start| all.contains(&format!("{start}{path}"))),
        false => all.iter().any(|one| one.rsplit('/').next() == Some(path)),
    }
}

#[test]
fn every_file_that_the_documentation_names_is_there() {
    let root = root();
    let mut found = Vec::new();
    files(&root, &mut found);
    let below = |path: &PathBuf| {
        path.strip_prefix(&root)
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    let all: BTreeSet<String> = found.iter().map(below).collect();
    let is_page = |path: &&String| path.ends_with(".md") && !path.starts_with("docs/decisions/");
    let mut named = 0;
    let mut missing = Vec::new();
    for page in all.iter().filter(is_page) {
        let text = fs::read_to_string(root.join(page)).unwrap();
        for path in paths(&text) {
            named += 1;
            if !is_there(path, &all) {
                missing.push(format!("{page} names {path}"));
            }
        }
    }
    assert!(named > 50, "only {named} paths were found");
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_path_is_taken_at_its_word_and_a_name_may_be_anywhere() {
    let all = BTreeSet::from(["route-agent/src/why/live.rs".to_owned()]);
    assert!(is_there("why/live.rs", &all) && is_there("live.rs", &all));
    assert!(!is_there("live/why.rs", &all) && !is_there("ive.rs", &all));
    assert_eq!(
        paths("`why/live.rs` and `ip route`, `/etc/x.sh`, why/other.rs"),
        BTreeSet::from(["why/live.rs"])
    );
}
