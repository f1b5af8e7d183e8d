//! What happens to the files of a directory, until the watch or the directory is lost.
//!
//! A file counts when its writer closes it or renames it in, so that one that is half written is
//! not seen. Open the watch first and read the directory then, so that nothing is missed in
//! between; after a loss, do both again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// How long to wait before a directory that was lost is looked for again.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Something that happened to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It is there, with new content.
    Written(PathBuf),
    /// It was removed or renamed away.
    Gone(PathBuf),
}

/// The directory is gone or has another name, its name leads to another one, or events were missed:
/// everything must be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// Device and inode.
type Identity = (u64, u64);

/// A directory that is watched, without those below it.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    /// What had this name when the watch began.
    identity: Option<Identity>,
    events: Receiver<notify::Result<notify::Event>>,
    /// Ends with this value.
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Begins to watch; fails if the directory does not exist or the kernel grants no watch.
    pub fn open(directory: &Path) -> notify::Result<Self> {
        let (sender, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(sender)?;
        // If it changes in between, the watch is lost and opened again.
        let identity = identity(directory);
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(Self {
            directory: directory.to_owned(),
            identity,
            events,
            _watcher: watcher,
        })
    }

    /// Waits for events, until `deadline` if there is one; returns all that have come by then, in
    /// their order. Empty if there were none, or none that says anything about a file.
    pub fn next(&self, deadline: Option<Instant>) -> Result<Vec<News>, Lost> {
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let first = loop {
            let pause = left().map_or(PAUSE, |left| left.min(PAUSE));
            match self.events.recv_timeout(pause) {
                Ok(first) => break first,
                Err(RecvTimeoutError::Disconnected) => return Err(Lost),
                // The kernel says nothing of a link in the name that leads elsewhere, or of a directory
                // above that was renamed.
                Err(RecvTimeoutError::Timeout) if identity(&self.directory) != self.identity => {
                    return Err(Lost);
                }
                Err(RecvTimeoutError::Timeout) if left() == Some(Duration::ZERO) => {
                    return Ok(Vec::new());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        let mut news = Vec::new();
        for event in std::iter::once(first).chain(self.events.try_iter()) {
            let event = event.map_err(|_| Lost)?;
            if event.need_rescan() {
                return Err(Lost);
            }
            for path in event.paths {
                if path != self.directory {
                    news.extend(news_of(event.kind, path));
                } else if is_end(event.kind) {
                    return Err(Lost);
                }
            }
        }
        Ok(news)
    }
}

fn identity(directory: &Path) -> Option<Identity> {
    let metadata = fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// True for an event of the directory itself after which its files are elsewhere.
fn is_end(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    )
}

fn news_of(kind: EventKind, path: PathBuf) -> Option<News> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(News::Written(path)),
        // A regular file that was just created is closed by its writer later. Links, and what is no
        // file at all, are complete when they appear.
        EventKind::Create(_) if is_complete(&path) => Some(News::Written(path)),
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => {
            Some(News::Gone(path))
        }
        _ => None,
    }
}

fn is_complete(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| {
        let kind = metadata.file_type();
        !kind.is_file() || metadata.nlink() > 1
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    /// How long a test waits for what must happen.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Waits until something is said.
    fn next(watch: &Watch) -> Result<Vec<News>, Lost> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match watch.next(Some(deadline)) {
                Ok(news) if news.is_empty() => {}
                news => return news,
            }
        }
        panic!("nothing was said within {PATIENCE:?}");
    }

    fn watched() -> (tempfile::TempDir, PathBuf, Watch) {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("watched");
        fs::create_dir(&directory).unwrap();
        let watch = Watch::open(&directory).unwrap();
        (parent, directory, watch)
    }

    #[test]
    fn a_file_counts_when_its_writer_closes_it() {
        let (_parent, directory, watch) = watched();
        let path = directory.join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        assert_eq!(watch.next(Some(soon)), Ok(Vec::new()));
        drop(file);
        assert_eq!(next(&watch), Ok(vec![News::Written(path)]));
    }

    #[test]
    fn what_is_no_file_is_said_when_it_appears() {
        let (_parent, directory, watch) = watched();
        let path = directory.join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(next(&watch), Ok(vec![News::Written(path)]));
        let path = directory.join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(next(&watch), Ok(vec![News::Written(path)]));
    }

    #[test]
    fn renames_links_and_removals_are_said_in_their_order() {
        let (parent, directory, watch) = watched();
        let (one, two) = (directory.join("one"), directory.join("two"));
        let outside = parent.path().join("outside");
        fs::write(&outside, "").unwrap();
        let expect = |expected: &[News]| {
            let mut seen = Vec::new();
            while seen.len() < expected.len() {
                seen.extend(next(&watch).unwrap());
            }
            assert_eq!(seen, expected);
        };
        fs::rename(&outside, &one).unwrap();
        expect(&[News::Written(one.clone())]);
        fs::rename(&one, &two).unwrap();
        expect(&[News::Gone(one.clone()), News::Written(two.clone())]);
        symlink(&two, &one).unwrap();
        expect(&[News::Written(one.clone())]);
        fs::remove_file(&one).unwrap();
        expect(&[News::Gone(one)]);
    }

    #[test]
    fn a_directory_whose_name_leads_elsewhere_is_lost() {
        let (parent, directory, _watch) = watched();
        let other = parent.path().join("other");
        fs::create_dir(&other).unwrap();
        let link = parent.path().join("link");
        symlink(&directory, &link).unwrap();
        let watch = Watch::open(&link).unwrap();
        let soon = Instant::now() + PAUSE + Duration::from_millis(100);
        assert_eq!(watch.next(Some(soon)), Ok(Vec::new()));
        let new = parent.path().join("new");
        symlink(&other, &new).unwrap();
        fs::rename(&new, &link).unwrap();
        assert_eq!(watch.next(None), Err(Lost));
        // What is above it is renamed and made anew.
        let above = parent.path().join("above");
        let below = above.join("below");
        fs::create_dir_all(&below).unwrap();
        let watch = Watch::open(&below).unwrap();
        fs::rename(&above, parent.path().join("elsewhere")).unwrap();
        fs::create_dir_all(&below).unwrap();
        assert_eq!(watch.next(None), Err(Lost));
    }

    #[test]
    fn a_directory_that_is_removed_or_renamed_is_lost() {
        let (_parent, directory, watch) = watched();
        fs::remove_dir(&directory).unwrap();
        assert_eq!(next(&watch), Err(Lost));
        assert!(Watch::open(&directory).is_err());
        let (parent, directory, watch) = watched();
        fs::rename(&directory, parent.path().join("elsewhere")).unwrap();
        assert_eq!(next(&watch), Err(Lost));
    }
}
