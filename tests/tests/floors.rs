//! The arrows between modules: no circle in any crate, and in the agent only downwards.
//!
//! The floors are the tables under "Floors" in `docs/ARCHITECTURE.md`. An arrow is an import or a
//! path in the code outside of tests. A module that offers a name of its child again (`pub use`)
//! does not depend on the child by that, and whoever imports the name depends on the child.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// A module's path below the crate, or that of something in it.
type Names = Vec<String>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The modules of one crate, without those of tests.
#[derive(Default)]
struct Modules {
    modules: BTreeMap<Names, Module>,
}

#[derive(Default)]
struct Module {
    /// What it names of its own crate, as whole paths.
    uses: BTreeSet<Names>,
    /// Names that it offers again, and where they come from.
    again: BTreeMap<String, Names>,
}

impl Modules {
    /// Reads the crate whose root is `file`.
    fn of_crate(file: &Path) -> Self {
        let mut modules = Self::default();
        modules.read(Names::new(), file, file.parent().unwrap());
        modules
    }

    fn read(&mut self, name: Names, file: &Path, children: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let mut reader = Reader {
            name: &name,
            children: children_of(&parsed),
            module: Module::default(),
        };
        reader.visit_file(&parsed);
        self.modules.insert(name.clone(), reader.module);
        for item in &parsed.items {
            let Item::Mod(child) = item else { continue };
            if child.content.is_some() || is_for_tests(&child.attrs) {
                continue;
            }
            let child = child.ident.to_string();
            let (flat, folder) = (children.join(format!("{child}.rs")), children.join(&child));
            let file = if flat.exists() {
                flat
            } else {
                folder.join("mod.rs")
            };
            self.read([name.clone(), vec![child]].concat(), &file, &folder);
        }
    }

    /// The module in which the thing with this path is defined.
    fn home(&self, path: &[String]) -> Names {
        let known = |length: &usize| self.modules.contains_key(&path[..*length]);
        let length = (0..=path.len()).rev().find(known).unwrap();
        let (module, rest) = path.split_at(length);
        let again = rest
            .first()
            .and_then(|name| self.modules[module].again.get(name));
        match again {
            Some(origin) if origin.as_slice() != path => self.home(origin),
            _ => module.to_vec(),
        }
    }

    /// From where to where the arrows lead.
    fn arrows(&self) -> BTreeMap<Names, BTreeSet<Names>> {
        let mut arrows = BTreeMap::new();
        for (name, module) in &self.modules {
            let mut to: BTreeSet<Names> = module.uses.iter().map(|path| self.home(path)).collect();
            to.remove(name);
            arrows.insert(name.clone(), to);
        }
        arrows
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

/// The names of the modules that a file declares. A path in it that begins with one of them leads
/// to that child, without `self::`.
fn children_of(file: &syn::File) -> BTreeSet<String> {
    let modules = file.items.iter().filter_map(|item| match item {
        Item::Mod(child) if child.content.is_none() && !is_for_tests(&child.attrs) => {
            Some(child.ident.to_string())
        }
        _ => None,
    });
    modules.collect()
}

/// Collects what one file names.
struct Reader<'a> {
    name: &'a Names,
    /// The modules that the file declares.
    children: BTreeSet<String>,
    module: Module,
}

impl Reader<'_> {
    /// A path of this crate from its root, if it is one.
    fn whole(&self, path: &[String]) -> Option<Names> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([self.name, rest].concat()),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let kept = self.name.len().checked_sub(ups)?;
                Some([&self.name[..kept], &path[ups..]].concat())
            }
            // One name alone is a variable of the same name.
            child if path.len() > 1 && self.children.contains(child) => {
                Some([self.name, path].concat())
            }
            _ => None,
        }
    }

    fn import(&mut self, tree: &UseTree, before: &Names, public: bool) {
        match tree {
            UseTree::Path(path) => {
                let before = [before.clone(), vec![path.ident.to_string()]].concat();
                self.import(&path.tree, &before, public);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before, public);
                }
            }
            UseTree::Name(name) => self.name_is_used(&name.ident, &name.ident, before, public),
            UseTree::Rename(name) => self.name_is_used(&name.ident, &name.rename, before, public),
            UseTree::Glob(_) => self.module.uses.extend(self.whole(before)),
        }
    }

    fn name_is_used(&mut self, name: &syn::Ident, here: &syn::Ident, before: &Names, public: bool) {
        let path = match name == "self" {
            true => before.clone(),
            false => [before.clone(), vec![name.to_string()]].concat(),
        };
        // `use child::Name` without `self::` is of this module or of another crate.
        let whole = self.whole(&path);
        if public {
            let origin = whole.unwrap_or_else(|| [self.name.clone(), path].concat());
            self.module.again.insert(here.to_string(), origin);
        } else {
            self.module.uses.extend(whole);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let public = !matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, &Names::new(), public);
    }

    /// What stands in a macro's brackets is not parsed: whole paths are looked for in its text.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let text = call.tokens.to_string().replace(' ', "");
        for (start, _) in text.match_indices("crate::") {
            let is_name = |c: char| c == '_' || c.is_alphanumeric();
            let path = text[start..].split(|c| !is_name(c) && c != ':').next();
            let names: Names = path.unwrap().split("::").map(str::to_owned).collect();
            self.module.uses.extend(self.whole(&names));
        }
    }

    /// `pub(super)` names the parent and needs nothing of it.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        self.module.uses.extend(self.whole(&names));
        visit::visit_path(self, path);
    }
}

/// The groups of modules that depend on each other in a circle.
fn circles(arrows: &BTreeMap<Names, BTreeSet<Names>>) -> Vec<BTreeSet<Names>> {
    let reach = |from: &Names| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Names> = arrows[from].iter().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(&arrows[module]);
            }
        }
        seen
    };
    let reached: BTreeMap<&Names, BTreeSet<Names>> =
        arrows.keys().map(|from| (from, reach(from))).collect();
    let mut circles: Vec<BTreeSet<Names>> = Vec::new();
    for (from, to) in &reached {
        let circle: BTreeSet<Names> = to
            .iter()
            .filter(|other| reached[other].contains(*from))
            .cloned()
            .collect();
        if !circle.is_empty() && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

/// The rooms of the agent with their floors, from the tables of the page.
fn floors() -> BTreeMap<Names, u32> {
    let text = fs::read_to_string(repository().join("docs/ARCHITECTURE.md")).unwrap();
    let (_, part) = text.split_once("\n## Floors").unwrap();
    let part = part.split("\n## ").next().unwrap();
    let mut floors = BTreeMap::new();
    for line in part.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(floor) = cells.get(1).and_then(|cell| cell.parse().ok()) else {
            continue;
        };
        for room in cells[2].split('`').skip(1).step_by(2) {
            let room = room.trim_end_matches(".rs").trim_end_matches('/');
            let names = room.split('/').map(str::to_owned).collect();
            assert_eq!(floors.insert(names, floor), None, "{room} stands twice");
        }
    }
    floors
}

/// The room of a module: the longest that is named.
fn room<'a>(floors: &'a BTreeMap<Names, u32>, module: &Names) -> Option<&'a Names> {
    (1..=module.len()).rev().find_map(|length| {
        floors
            .get_key_value(&module[..length])
            .map(|(room, _)| room)
    })
}

/// The arrows that the floors do not allow, in words.
fn forbidden(
    floors: &BTreeMap<Names, u32>,
    arrows: &BTreeMap<Names, BTreeSet<Names>>,
) -> Vec<String> {
    let mut forbidden = Vec::new();
    for (from, to) in arrows {
        // The crate's root only lists the modules.
        if from.is_empty() {
            continue;
        }
        let Some(source) = room(floors, from) else {
            forbidden.push(format!("{} has no floor", from.join("::")));
            continue;
        };
        for target in to {
            let Some(destination) = room(floors, target) else {
                continue;
            };
            let ground = floors[source] == 1 && floors[destination] == 1;
            if source != destination && !ground && floors[destination] >= floors[source] {
                forbidden.push(format!("{} -> {}", from.join("::"), target.join("::")));
            }
        }
    }
    forbidden
}

fn agent() -> Modules {
    Modules::of_crate(&repository().join("route-agent/src/lib.rs"))
}

#[test]
fn no_modules_of_a_crate_depend_on_each_other_in_a_circle() {
    let mut found = Vec::new();
    for root in [
        "kernel",
        "cni-plugin",
        "route-agent",
        "kubectl-plugin",
        "tests",
    ] {
        let modules = Modules::of_crate(&repository().join(root).join("src/lib.rs"));
        assert!(modules.modules.len() > 10, "{root} was not read");
        for circle in circles(&modules.arrows()) {
            let names: Vec<String> = circle.iter().map(|name| name.join("::")).collect();
            found.push(format!("{root}: {}", names.join(" <-> ")));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn arrows_of_the_agent_point_only_downwards() {
    let (modules, floors) = (agent(), floors());
    let arrows = modules.arrows();
    assert!(floors.len() > 20 && arrows.len() > 80, "not all was read");
    let forbidden = forbidden(&floors, &arrows);
    assert!(forbidden.is_empty(), "{forbidden:#?}");
    let known = |room: &&Names| !modules.modules.contains_key(*room);
    let gone: Vec<_> = floors.keys().filter(known).collect();
    assert!(gone.is_empty(), "rooms that do not exist: {gone:?}");
}

/// Plants one arrow in what was read.
fn plant(modules: &mut Modules, from: &str, to: &str) {
    let names = |text: &str| text.split("::").map(str::to_owned).collect::<Names>();
    let module = modules.modules.get_mut(&names(from)).unwrap();
    module.uses.insert(names(to));
}

#[test]
fn one_planted_arrow_is_found() {
    for (from, to) in [
        ("config", "features::routes::Routes"),
        ("snapshot", "source::objects::Node"),
        ("features::masquerade", "features::routes::Routes"),
        (
            "features::services::desired::plan",
            "features::services::layout::names::Map",
        ),
        ("features::routes", "reconcile::Reconcile"),
        ("reconcile", "why::walk"),
    ] {
        let mut modules = agent();
        plant(&mut modules, from, to);
        let found = forbidden(&floors(), &modules.arrows());
        assert_eq!(found.len(), 1, "{from} -> {to}: {found:?}");
        assert!(found[0].starts_with(&format!("{from} -> ")), "{found:?}");
    }
    let mut modules = agent();
    plant(&mut modules, "snapshot::few", "snapshot::Endpoints");
    assert_eq!(circles(&modules.arrows()).len(), 1);
}

#[test]
fn a_path_that_begins_with_a_child_is_an_arrow_and_a_variable_or_visibility_is_none() {
    let text = "mod child; use child::Thing; fn f(child: u8) -> u8 { child::g(child) } \
                pub(super) fn h() {}";
    let parsed = syn::parse_file(text).unwrap();
    let name = vec!["parent".to_owned()];
    let mut reader = Reader {
        name: &name,
        children: children_of(&parsed),
        module: Module::default(),
    };
    reader.visit_file(&parsed);
    let uses: Vec<String> = reader
        .module
        .uses
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(uses, ["parent::child::Thing", "parent::child::g"]);
}
