//! What `make image` says that the image is made of, against what cargo says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::Expression;

fn run(program: &str, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let done = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(done.stdout).unwrap()
}

/// The target of this machine, which is that of its image.
fn target() -> String {
    let said = run("rustc", &["-vV"]);
    let mut lines = said.lines();
    lines
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap()
        .to_owned()
}

fn document(more: &[&str]) -> Value {
    let target = format!("--target={}", target());
    let mut arguments = vec![target.as_str(), "--created=1700000000"];
    arguments.extend(more);
    let said = run(env!("CARGO_BIN_EXE_podwire-sbom"), &arguments);
    serde_json::from_str(&said).unwrap()
}

/// Name and version of each crate that `cargo tree` prints.
fn tree(arguments: &[&str]) -> BTreeSet<(String, String)> {
    let target = format!("--target={}", target());
    let mut all = vec!["tree", "--locked", "--prefix=none", "--format={p}", &target];
    all.extend(arguments);
    let said = run("cargo", &all);
    let lines = said.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (name, rest) = line.split_once(" v").unwrap();
            let version = rest.split(' ').next().unwrap();
            (name.to_owned(), version.to_owned())
        })
        .collect()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

fn crates(document: &Value) -> BTreeMap<(String, String), &Value> {
    let packages = document["packages"].as_array().unwrap();
    let crates = packages
        .iter()
        .filter(|package| text(package, "SPDXID").starts_with("SPDXRef-crate-"));
    let identity = |it: &Value| {
        (
            text(it, "name").to_owned(),
            text(it, "versionInfo").to_owned(),
        )
    };
    crates.map(|package| (identity(package), package)).collect()
}

const IMAGE: [&str; 3] = ["-ppodwire", "-ppodwire-agent", "--no-default-features"];

#[test]
fn the_image_is_made_of_exactly_the_crates_of_its_build() {
    let document = document(&[]);
    let listed: BTreeSet<_> = crates(&document).into_keys().collect();
    let built = tree(&[&["--edges=normal"], IMAGE.as_slice()].concat());
    assert!(built.len() > 100, "{} crates", built.len());
    assert_eq!(listed, built);

    let names: BTreeSet<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    for in_tests_only in ["proptest", "tempfile", "clap_complete", "podwire-lab"] {
        assert!(
            !names.contains(in_tests_only),
            "{in_tests_only} is not in the image"
        );
    }
}

#[test]
fn every_crate_has_a_licence_and_one_from_elsewhere_its_checksum_and_address() {
    let document = document(&[]);
    for ((name, version), package) in crates(&document) {
        let licence = text(package, "licenseDeclared");
        assert!(Expression::parse(licence).is_ok(), "{name}: {licence}");
        let purl = text(&package["externalRefs"][0], "referenceLocator");
        if name.starts_with("podwire") {
            assert_eq!(purl, format!("pkg:generic/{name}@{version}"));
            continue;
        }
        assert_eq!(purl, format!("pkg:cargo/{name}@{version}"));
        let checksum = text(&package["checksums"][0], "checksumValue");
        assert_eq!(checksum.len(), 64, "{name}: {checksum:?}");
    }
}

#[test]
fn what_only_runs_in_the_compiler_is_no_part_of_a_program() {
    let document = document(&[]);
    let linked = tree(&[&["--edges=normal,no-proc-macro"], IMAGE.as_slice()].concat());
    let id_of: BTreeMap<&str, _> = crates(&document)
        .into_iter()
        .map(|(identity, package)| (text(package, "SPDXID"), identity))
        .collect();
    let mut reached = BTreeSet::new();
    let relationships = document["relationships"].as_array().unwrap();
    for relation in relationships {
        if text(relation, "relationshipType") == "DEPENDS_ON" {
            reached.insert(id_of[text(relation, "relatedSpdxElement")].clone());
        }
    }
    assert!(
        reached.is_subset(&linked),
        "{:?}",
        reached.difference(&linked)
    );
    assert!(reached.iter().any(|(name, _)| name == "tokio"));
    assert!(!reached.iter().any(|(name, _)| name == "serde_derive"));
}

#[test]
fn the_document_has_what_spdx_asks_for_and_every_name_in_it_is_defined() {
    let document = document(&["--program=podwire=Cargo.toml"]);
    for (key, value) in [
        ("spdxVersion", "SPDX-2.3"),
        ("dataLicense", "CC0-1.0"),
        ("SPDXID", "SPDXRef-DOCUMENT"),
    ] {
        assert_eq!(text(&document, key), value);
    }
    assert_eq!(
        text(&document["creationInfo"], "created"),
        "2023-11-14T22:13:20Z"
    );
    let packages = document["packages"].as_array().unwrap();
    let mut defined: BTreeSet<&str> = packages.iter().map(|it| text(it, "SPDXID")).collect();
    assert_eq!(defined.len(), packages.len(), "no name twice");
    defined.insert("SPDXRef-DOCUMENT");
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    assert!(
        defined.iter().all(|id| id.chars().all(allowed)),
        "{defined:?}"
    );
    for relation in document["relationships"].as_array().unwrap() {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            assert!(defined.contains(text(relation, end)), "{relation}");
        }
    }
    let named = |name: &str| packages.iter().find(|it| text(it, "name") == name).unwrap();
    assert_eq!(
        text(named("podwire"), "primaryPackagePurpose"),
        "APPLICATION"
    );
    assert_eq!(
        text(named("podwire-image"), "primaryPackagePurpose"),
        "CONTAINER"
    );
    assert!(!text(named("rust-std"), "versionInfo").is_empty());
}

#[test]
fn the_same_build_gives_the_same_document() {
    assert_eq!(document(&[]), document(&[]));
}

#[test]
fn every_package_that_the_release_profile_names_is_one_that_is_built() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let (manifest, lock) = (read("Cargo.toml"), read("Cargo.lock"));
    let built: BTreeSet<_> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .collect();
    let named: Vec<_> = manifest
        .lines()
        .filter_map(|line| {
            let name = line.strip_prefix("[profile.release.package.")?;
            name.strip_suffix(']')
        })
        .filter(|name| *name != "\"*\"")
        .collect();
    assert!(named.contains(&"podwire-agent"), "{named:?}");
    let unknown: Vec<_> = named.iter().filter(|name| !built.contains(*name)).collect();
    assert!(unknown.is_empty(), "cargo only warns of {unknown:?}");
}
