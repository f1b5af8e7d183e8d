//! Who has what, over a restart, where nothing else says it.
//!
//! Of several that claim the same thing and have no date, as in manifests, the one that has it keeps
//! it. What the kernel holds tells the next agent who that is, if it tells one claimant from another;
//! where it does not, it is written down. Of those with a date the age decides, so that with an API
//! server there is nothing to write.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use podwire::files::{create_directory, read_own};

use crate::files::{self, Durability, FileError};
use crate::ours::Removal;

/// More than the longest list with the longest names.
const LONGEST: u64 = 1 << 24;

/// Who has what. A thing is a word without blanks, its owner what else is on a line.
pub type Held = BTreeMap<String, String>;

/// A file below the agent's directory, with a line `THING OWNER` for each.
#[derive(Debug)]
pub struct Kept {
    file: &'static str,
    /// What it holds, once it has been looked at.
    held: Option<Held>,
    /// It could not be read, or only in part, and must be written again whatever it should hold.
    is_doubtful: bool,
}

impl Kept {
    /// The file of this name, not looked at yet.
    pub const fn new(file: &'static str) -> Kept {
        Kept {
            file,
            held: None,
            is_doubtful: false,
        }
    }

    /// Who had what at the last write, also by an agent before this one. What cannot be read says
    /// nothing of anyone.
    pub fn observe(&mut self, run_dir: &Path) -> &Held {
        if self.held.is_none() {
            let text = read_own(&self.path(run_dir), LONGEST);
            self.is_doubtful = match &text {
                Ok(text) => text.is_none(),
                Err(error) => error.kind() != ErrorKind::NotFound,
            };
            let text = text.ok().flatten().unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let mut held = Held::new();
            for line in text.lines() {
                match line.split_once(' ') {
                    Some((thing, owner)) => _ = held.insert(thing.to_owned(), owner.to_owned()),
                    None => self.is_doubtful = true,
                }
            }
            self.held = Some(held);
        }
        self.held.get_or_insert_default()
    }

    /// Writes who has what now, if it differs. Without anything there is no file.
    pub fn apply(&mut self, run_dir: &Path, now: Held) -> Result<(), FileError> {
        if *self.observe(run_dir) == now && !self.is_doubtful {
            return Ok(());
        }
        let path = self.path(run_dir);
        if now.is_empty() {
            files::remove(&path)?;
        } else {
            let lines = now
                .iter()
                .map(|(thing, owner)| format!("{thing} {owner}\n"));
            create_directory(run_dir).map_err(FileError::of("create", run_dir))?;
            let text: String = lines.collect();
            files::replace(&path, text.as_bytes(), 0o644, Durability::UntilBoot)?;
        }
        self.held = Some(now);
        self.is_doubtful = false;
        Ok(())
    }

    /// Takes the file out, or says that it is there.
    pub fn uninstall(&self, run_dir: &Path, how: Removal) -> Result<Vec<String>, FileError> {
        let paths = files::uninstall(&self.path(run_dir), how)?;
        Ok(paths
            .iter()
            .map(|path| path.display().to_string())
            .collect())
    }

    fn path(&self, run_dir: &Path) -> PathBuf {
        run_dir.join(self.file)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_another_user_has_written_says_nothing_and_is_replaced() {
        use std::os::unix::fs::{MetadataExt, chown};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some");
        fs::write(&path, "32000 default/b\n").unwrap();
        chown(&path, Some(1000), None).unwrap();
        let mut kept = Kept::new("some");
        assert_eq!(*kept.observe(directory.path()), Held::new());
        let same = Held::from([("32000".to_owned(), "default/b".to_owned())]);
        kept.apply(directory.path(), same).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().uid(), 0);
    }

    #[test]
    fn what_is_written_is_read_by_the_next_agent_and_written_again_only_if_it_differs() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        let path = run_dir.join("some");
        let held = |pairs: &[(&str, &str)]| -> Held {
            let pairs = pairs.iter();
            pairs
                .map(|(thing, owner)| ((*thing).to_owned(), (*owner).to_owned()))
                .collect()
        };
        let mut kept = Kept::new("some");
        kept.apply(&run_dir, Held::new()).unwrap();
        assert!(!run_dir.exists());
        let two = held(&[("32000", "default/b"), ("32001", "shop/web")]);
        kept.apply(&run_dir, two.clone()).unwrap();
        let mut next = Kept::new("some");
        assert_eq!(*next.observe(&run_dir), two);
        // It is right, so no one looks at what lies there.
        fs::remove_file(&path).unwrap();
        next.apply(&run_dir, two.clone()).unwrap();
        assert!(!path.exists());
        next.apply(&run_dir, held(&[("32000", "default/b")]))
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "32000 default/b\n");
        fs::write(&path, "\n1\n32000 default/b\n").unwrap();
        let mut next = Kept::new("some");
        assert_eq!(*next.observe(&run_dir), held(&[("32000", "default/b")]));
        next.apply(&run_dir, Held::new()).unwrap();
        assert!(!path.exists());
        // What says nothing of anyone is taken out as well.
        fs::write(&path, "nonsense").unwrap();
        let mut next = Kept::new("some");
        next.apply(&run_dir, Held::new()).unwrap();
        assert!(!path.exists());
    }
}
