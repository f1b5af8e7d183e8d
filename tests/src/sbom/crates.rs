//! What cargo says of the two programs: which crates, in which versions, under which licences.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

/// The packages in the image, and the features with which it is built.
const PROGRAMS: [&str; 5] = [
    "--package=podwire",
    "--package=podwire-agent",
    "--no-default-features",
    "--locked",
    "--color=never",
];

/// What identifies a crate here: its name and version.
pub type Identity = (String, String);

/// What the image is made of.
pub struct MadeOf {
    /// By name and version, our own included.
    pub crates: BTreeMap<Identity, Crate>,
    /// The compiler's version, which is that of the standard library.
    pub rust: String,
    /// The C library that is linked in: its name, and its version if this machine's is used.
    pub c_library: (&'static str, Option<String>),
}

/// One crate.
pub struct Crate {
    /// As its manifest has it.
    pub licence: String,
    /// SHA-256 of the archive, in hex; none for our own.
    pub checksum: Option<String>,
    /// False if it only runs in the compiler, as a procedural macro or below one.
    pub is_linked: bool,
    /// What it depends on.
    pub needs: BTreeSet<Identity>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_root: String,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None for a normal dependency.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Asks cargo in the current directory.
pub fn of_the_image(target: &str) -> Result<MadeOf, Box<dyn Error>> {
    let all = tree(target, "normal")?;
    let linked = tree(target, "normal,no-proc-macro")?;
    let platform = format!("--filter-platform={target}");
    let metadata: Metadata = serde_json::from_str(&output(
        "cargo",
        &["metadata", "--format-version=1", "--locked", &platform],
    )?)?;
    let checksums = checksums(Path::new(&metadata.workspace_root))?;

    let identities: BTreeMap<&str, Identity> = metadata
        .packages
        .iter()
        .map(|it| (it.id.as_str(), (it.name.clone(), it.version.clone())))
        .collect();
    let mut crates = BTreeMap::new();
    for package in &metadata.packages {
        let identity = &identities[package.id.as_str()];
        if !all.contains(identity) {
            continue;
        }
        let licence = package.license.clone();
        crates.insert(
            identity.clone(),
            Crate {
                licence: licence.ok_or_else(|| format!("{} names no licence", package.id))?,
                checksum: checksums.get(identity).cloned(),
                is_linked: linked.contains(identity),
                needs: BTreeSet::new(),
            },
        );
    }
    for node in &metadata.resolve.nodes {
        let normal = |edge: &&Edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
        let needs = node.deps.iter().filter(normal);
        let needs = needs.map(|edge| identities[edge.pkg.as_str()].clone());
        if let Some(found) = crates.get_mut(&identities[node.id.as_str()]) {
            // A dependency for other features than the image's is not in the tree.
            found.needs = needs.filter(|it| all.contains(it)).collect();
        }
    }
    if let Some(missing) = all.iter().find(|it| !crates.contains_key(*it)) {
        return Err(format!("cargo tree names {missing:?}, cargo metadata does not").into());
    }
    let (rust, host) = compiler()?;
    let c_library = c_library(target, target == host);
    Ok(MadeOf {
        crates,
        rust,
        c_library,
    })
}

/// The crates that `cargo tree` names for the image, along edges of this kind.
fn tree(target: &str, edges: &str) -> Result<BTreeSet<Identity>, Box<dyn Error>> {
    let target = format!("--target={target}");
    let edges = format!("--edges={edges}");
    let mut arguments = vec!["tree", "--prefix=none", "--format={p}", &target, &edges];
    arguments.extend(PROGRAMS);
    let said = output("cargo", &arguments)?;
    let mut found = BTreeSet::new();
    for line in said.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let (name, version) = (
            words.next(),
            words.next().and_then(|word| word.strip_prefix('v')),
        );
        let (Some(name), Some(version)) = (name, version) else {
            return Err(format!("cargo tree says {line:?}, which is no crate").into());
        };
        found.insert((name.to_owned(), version.to_owned()));
    }
    Ok(found)
}

fn checksums(root: &Path) -> Result<BTreeMap<Identity, String>, Box<dyn Error>> {
    let lock: Lock = toml::from_str(&fs::read_to_string(root.join("Cargo.lock"))?)?;
    Ok(lock
        .package
        .into_iter()
        .filter_map(|it| Some(((it.name, it.version), it.checksum?)))
        .collect())
}

/// The compiler's version and its own target.
fn compiler() -> Result<(String, String), Box<dyn Error>> {
    let said = output("rustc", &["-vV"])?;
    let value = |key: &str| {
        let mut lines = said.lines().filter_map(|line| line.strip_prefix(key));
        lines
            .next()
            .map(str::to_owned)
            .ok_or_else(|| format!("rustc -vV does not say {key}"))
    };
    Ok((value("release: ")?, value("host: ")?))
}

/// Both programs are static, so the C library is in them.
fn c_library(target: &str, is_native: bool) -> (&'static str, Option<String>) {
    if target.contains("musl") {
        return ("musl", None);
    }
    let said = output("getconf", &["GNU_LIBC_VERSION"])
        .ok()
        .filter(|_| is_native);
    let version = said.and_then(|said| said.trim().strip_prefix("glibc ").map(str::to_owned));
    ("glibc", version)
}

/// What a program writes to standard output.
fn output(program: &str, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let done = Command::new(program).args(arguments).output();
    let done = done.map_err(|error| format!("cannot run {program}: {error}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{program} {} failed: {}", arguments.join(" "), said.trim()).into());
    }
    Ok(String::from_utf8(done.stdout)?)
}
