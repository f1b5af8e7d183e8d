//! Which file brought which object, and what is wrong with the files.
//!
//! In: the contents of a file, or that it is gone. Out: the changes for the snapshot. Rules:
//! - a file of which some part cannot be read keeps what it last brought;
//! - an object whose shape is wrong keeps its last good value, the others of its file go on;
//! - of two files with the same object the first in sorted order counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use crate::snapshot::{Change, Key};
use crate::source::decode::Contents;
use crate::warnings::Warning;

/// All files, and who brought what.
#[derive(Debug, Default)]
pub struct Catalogue {
    files: BTreeMap<Arc<Path>, File>,
    /// The file whose value of an object counts, by a hash of the object's key: of 64 bits, so that
    /// no two of a million objects meet, and a third of the size.
    owners: HashMap<u64, Arc<Path>>,
    /// Objects that are in more than one file, with all files that have them.
    shared: BTreeMap<Key, BTreeSet<Arc<Path>>>,
}

#[derive(Debug, Default)]
struct File {
    /// Sorted.
    keys: Box<[Key]>,
    problems: Vec<String>,
    /// Of the contents that count.
    notes: Vec<String>,
}

const FIX: &str = "fix the file";
const KEPT: &str = "its last good state is kept; fix the file";
const UNUSED: &str = "nothing of it is used; fix the file";

/// What follows from a changed file.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// What to tell the snapshot.
    pub changes: Vec<Change>,
    /// Files to read again: an object of theirs was hidden by the changed file and no longer is.
    pub reread: BTreeSet<Arc<Path>>,
}

impl Catalogue {
    /// A file was read.
    pub fn load(&mut self, path: &Path, mut contents: Contents) -> Outcome {
        let path: Arc<Path> = Arc::from(path);
        let mut file = self.files.remove(&path).unwrap_or_default();
        // Half a file says nothing about what is missing from it. If nothing is known yet, what
        // can be read is better than nothing.
        let keep = contents.unreadable;
        if keep && !file.keys.is_empty() {
            for (_, problem) in contents.spoilt {
                contents.problems.push(problem);
            }
            file.problems = said(contents.problems, KEPT);
            self.files.insert(path, file);
            return Outcome::default();
        }
        file.problems = said(contents.problems, FIX);
        file.notes = contents.notes;
        let mut outcome = Outcome::default();
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        for object in contents.objects {
            let key = object.key();
            if !keys.insert(key.clone()) {
                file.problems.push(format!(
                    "{key} is in the file twice; the last one counts; {FIX}"
                ));
            }
            if self.claim(&key, &path) {
                outcome.changes.push(Change::Set(object));
            }
        }
        for (key, problem) in contents.spoilt {
            let known = file.keys.binary_search(&key).is_ok();
            let what = if known { KEPT } else { UNUSED };
            file.problems.push(format!("{problem}; {what}"));
            if known {
                keys.insert(key);
            }
        }
        for gone in file.keys.iter().filter(|key| !keys.contains(key)) {
            self.release(gone, &path, &mut outcome);
        }
        file.keys = keys.into_iter().collect();
        self.files.insert(path, file);
        outcome
    }

    /// A file could not be opened or read: it keeps what it last brought.
    pub fn fail(&mut self, path: &Path, problem: String) {
        let file = self.files.entry(Arc::from(path)).or_default();
        let what = if file.keys.is_empty() { FIX } else { KEPT };
        file.problems = vec![format!("{problem}; {what}")];
    }

    /// A file is gone, and its objects with it.
    pub fn remove(&mut self, path: &Path) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some((path, file)) = self.files.remove_entry(path) {
            for key in &file.keys {
                self.release(key, &path, &mut outcome);
            }
        }
        outcome
    }

    /// True if a file has brought anything that still counts.
    pub fn has_objects(&self, path: &Path) -> bool {
        self.files
            .get(path)
            .is_some_and(|file| !file.keys.is_empty())
    }

    /// The files that are known.
    pub fn files(&self) -> impl Iterator<Item = &Arc<Path>> {
        self.files.keys()
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.owners.len()
    }

    /// Everything that is wrong now.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut all = Vec::new();
        for (path, file) in &self.files {
            let object = format!("file {}", path.display());
            for texts in [&file.problems, &file.notes] {
                all.extend(texts.iter().map(|text| Warning::new(&object, text)));
            }
        }
        for (key, files) in &self.shared {
            let mut files = files.iter().map(|path| path.display().to_string());
            let first = files.next().unwrap_or_default();
            let others: Vec<String> = files.collect();
            all.push(Warning::new(
                key.to_string(),
                format!(
                    "is in several files: {first} counts, {} does not",
                    others.join(", ")
                ),
            ));
        }
        all
    }

    /// Notes that a file has an object; true if its value counts.
    fn claim(&mut self, key: &Key, path: &Arc<Path>) -> bool {
        let Some(owner) = self.owners.get_mut(&hash(key)) else {
            self.owners.insert(hash(key), path.clone());
            return true;
        };
        if owner == path {
            return true;
        }
        let files = self
            .shared
            .entry(key.clone())
            .or_insert_with(|| [owner.clone()].into());
        files.insert(path.clone());
        let counts = *path < *owner;
        if counts {
            *owner = path.clone();
        }
        counts
    }

    /// Notes that a file no longer has an object.
    fn release(&mut self, key: &Key, path: &Arc<Path>, outcome: &mut Outcome) {
        let next = match self.shared.get_mut(key) {
            Some(files) => {
                files.remove(path);
                let next = files.first().cloned();
                if files.len() < 2 {
                    self.shared.remove(key);
                }
                next
            }
            None => None,
        };
        if self.owners.get(&hash(key)) != Some(path) {
            return;
        }
        match next {
            Some(next) => {
                self.owners.insert(hash(key), next.clone());
                outcome.reread.insert(next);
            }
            None => {
                self.owners.remove(&hash(key));
                outcome.changes.push(Change::Gone(key.clone()));
            }
        }
    }
}

/// What is wrong, and what follows from it.
fn said(mut problems: Vec<String>, what: &str) -> Vec<String> {
    for problem in &mut problems {
        problem.push_str("; ");
        problem.push_str(what);
    }
    problems
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Dirty, Snapshot};
    use crate::source::decode::{Scope, decode};
    use crate::source::objects::Names;

    fn node(name: &str, address: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
        )
    }

    #[derive(Default)]
    struct Cluster {
        catalogue: Catalogue,
        snapshot: Snapshot,
        reread: BTreeSet<Arc<Path>>,
    }

    impl Cluster {
        fn write(&mut self, path: &str, text: &str) {
            let contents = decode(text.as_bytes(), Scope::All, &mut Names::default()).unwrap();
            let outcome = self.catalogue.load(Path::new(path), contents);
            self.take(outcome);
        }

        fn remove(&mut self, path: &str) {
            let outcome = self.catalogue.remove(Path::new(path));
            self.take(outcome);
        }

        fn take(&mut self, outcome: Outcome) {
            let mut dirty = Dirty::default();
            for change in outcome.changes {
                self.snapshot.apply(change, &mut dirty);
            }
            self.reread = outcome.reread;
        }

        fn nodes(&self) -> Vec<String> {
            let nodes = self.snapshot.nodes.values();
            nodes
                .map(|node| format!("{}={}", node.name, node.internal_ips[0]))
                .collect()
        }
    }

    #[test]
    fn a_file_that_goes_takes_its_objects_with_it() {
        let mut cluster = Cluster::default();
        cluster.write("a", &(node("one", "10.0.0.1") + &node("two", "10.0.0.2")));
        cluster.write("b", &node("three", "10.0.0.3"));
        cluster.remove("a");
        assert_eq!(cluster.nodes(), ["three=10.0.0.3"]);
        cluster.write("b", "# nothing left\n");
        assert!(cluster.nodes().is_empty());
        assert!(cluster.catalogue.warnings().is_empty());
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_state_as_a_whole_and_is_named() {
        let mut cluster = Cluster::default();
        cluster.write("a", &(node("one", "10.0.0.1") + &node("two", "10.0.0.2")));
        cluster.write("a", &(node("one", "10.0.0.9") + "---\nkind: [\n"));
        assert_eq!(cluster.nodes(), ["one=10.0.0.1", "two=10.0.0.2"]);
        let warnings = cluster.catalogue.warnings();
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].object, "file a");
        assert!(
            warnings[0].text.contains("last good state is kept"),
            "{}",
            warnings[0].text
        );
        cluster.write("a", &node("one", "10.0.0.9"));
        assert_eq!(cluster.nodes(), ["one=10.0.0.9"]);
        assert!(cluster.catalogue.warnings().is_empty());
    }

    #[test]
    fn a_file_that_was_never_good_brings_what_can_be_read() {
        let mut cluster = Cluster::default();
        cluster.write(
            "a",
            &(node("one", "10.0.0.1") + "---\nkind: [\n" + &node("two", "10.0.0.2")),
        );
        assert_eq!(cluster.nodes(), ["one=10.0.0.1", "two=10.0.0.2"]);
        assert_eq!(cluster.catalogue.warnings().len(), 1);
    }

    #[test]
    fn an_object_of_the_wrong_shape_keeps_its_last_value_and_stops_no_other() {
        let mut cluster = Cluster::default();
        cluster.write("a", &(node("one", "10.0.0.1") + &node("two", "10.0.0.2")));
        let wrong = "---\napiVersion: v1\nkind: Node\nmetadata: {name: one}\nstatus: [1]\n";
        cluster.write("a", &(wrong.to_owned() + &node("two", "10.0.0.3")));
        assert_eq!(cluster.nodes(), ["one=10.0.0.1", "two=10.0.0.3"]);
        assert!(
            cluster.catalogue.warnings()[0]
                .text
                .starts_with("Node one: line")
        );
    }

    #[test]
    fn what_never_had_a_good_state_is_not_said_to_keep_it() {
        let mut cluster = Cluster::default();
        let wrong = "---\napiVersion: v1\nkind: Node\nmetadata: {name: two}\nstatus: [1]\n";
        let said = |cluster: &Cluster| cluster.catalogue.warnings()[0].text.clone();
        cluster.write("a", &(node("one", "10.0.0.1") + wrong));
        assert!(said(&cluster).ends_with("; nothing of it is used; fix the file"));
        cluster.write("a", &(node("one", "10.0.0.1") + &node("two", "10.0.0.2")));
        cluster.write("a", &(node("one", "10.0.0.1") + wrong));
        let kept = "; its last good state is kept; fix the file";
        assert!(said(&cluster).ends_with(kept));
        cluster.write("a", &(node("one", "10.0.0.1") + wrong));
        assert!(said(&cluster).ends_with(kept), "still");
        let problems = |cluster: &Cluster| cluster.catalogue.warnings().len();
        cluster.write("a", &(wrong.to_owned() + "---\nkind: [\n"));
        assert_eq!(problems(&cluster), 2, "each is named");
        cluster.write("b", &(node("three", "10.0.0.1") + "---\nkind: [\n"));
        let warnings = cluster.catalogue.warnings();
        let last = &warnings.last().unwrap().text;
        assert!(!last.contains("is kept"), "{last}");
    }

    #[test]
    fn of_two_files_with_one_object_the_first_counts_until_it_goes() {
        let mut cluster = Cluster::default();
        cluster.write("b", &node("one", "10.0.0.2"));
        cluster.write("a", &node("one", "10.0.0.1"));
        cluster.write("c", &node("one", "10.0.0.3"));
        assert_eq!(cluster.nodes(), ["one=10.0.0.1"]);
        assert_eq!(
            cluster.catalogue.warnings()[0].text,
            "is in several files: a counts, b, c does not"
        );
        cluster.remove("a");
        assert_eq!(
            cluster
                .reread
                .iter()
                .next()
                .map(|path| path.to_str().unwrap()),
            Some("b")
        );
        cluster.write("b", &node("one", "10.0.0.2"));
        assert_eq!(cluster.nodes(), ["one=10.0.0.2"]);
        cluster.remove("c");
        assert!(cluster.catalogue.warnings().is_empty());
        assert_eq!(cluster.nodes(), ["one=10.0.0.2"]);
        cluster.remove("b");
        assert!(cluster.nodes().is_empty());
    }

    #[test]
    fn the_same_object_twice_in_one_file_is_named() {
        let mut cluster = Cluster::default();
        cluster.write("a", &(node("one", "10.0.0.1") + &node("one", "10.0.0.2")));
        assert_eq!(cluster.nodes(), ["one=10.0.0.2"]);
        assert_eq!(cluster.catalogue.warnings().len(), 1);
    }
}
