//! The manifests-directory source: Kubernetes manifests in one directory, watched.
//!
//! In: `*.yaml`, `*.yml` and `*.json` of the directory (or `*.YAML`), no sub-directories, no hidden files. Out:
//! changes for the snapshot. A file that goes is waited for a moment, because editors rename a file
//! away before they write it again. A directory that is a mounted ConfigMap works as well: its
//! `..data` link is what changes.

mod catalogue;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use nix::libc;

use crate::directory::{News, PAUSE, Watch};
use crate::input::Input;
use crate::source::decode::{Contents, Scope, decode};
use crate::source::manifests::catalogue::{Catalogue, Outcome};
use crate::source::objects::Names;
use crate::warnings::Warning;

/// How long a file may be away before its objects go: an editor that saves by renaming the old
/// file away writes the new one within a few milliseconds.
const AWAY: Duration = Duration::from_millis(50);

/// A larger file is refused: it is not a manifest.
const LARGEST: u64 = 256 << 20;
const TOO_LARGE: &str = "it is larger than 256 MiB";

/// What sets one state of a file apart from another without reading it.
type Stamp = (SystemTime, u64, u64);

/// Runs the source until the loop has ended. To be called on a thread of its own.
pub fn run(directory: &Path, scope: Scope, output: &Sender<Input>) {
    let mut source = Manifests {
        directory: directory.to_owned(),
        scope,
        output,
        names: Names::default(),
        catalogue: Catalogue::default(),
        stamps: BTreeMap::new(),
        away: BTreeMap::new(),
        look: None,
        trouble: None,
        reported: Vec::new(),
        listed: false,
    };
    while source.watch_until_lost().is_ok() {}
}

/// The loop has ended.
struct Closed;

struct Manifests<'a> {
    directory: PathBuf,
    scope: Scope,
    output: &'a Sender<Input>,
    names: Names,
    catalogue: Catalogue,
    stamps: BTreeMap<PathBuf, Stamp>,
    /// Files that are gone or out of reach, and when that is believed or they are looked for again.
    away: BTreeMap<PathBuf, Instant>,
    /// When links are looked at again.
    look: Option<Instant>,
    /// What is wrong with the directory itself.
    trouble: Option<String>,
    reported: Vec<Warning>,
    listed: bool,
}

impl Manifests<'_> {
    /// Reads the directory and follows it until the watch or the directory is lost.
    fn watch_until_lost(&mut self) -> Result<(), Closed> {
        // The watch comes first, so that nothing is missed between the reading and the watching.
        let watch = Watch::open(&self.directory);
        let found = self.rescan()?;
        match watch {
            Ok(watch) if found => {
                self.trouble = None;
                self.send_warnings()?;
                self.follow(&watch)
            }
            Ok(_) => self.poll(),
            Err(error) => {
                if found {
                    self.trouble = Some(format!(
                        "cannot be watched ({error}); it is read every second instead; raise \
                         fs.inotify.max_user_instances"
                    ));
                }
                self.poll()
            }
        }
    }

    fn poll(&mut self) -> Result<(), Closed> {
        self.send_warnings()?;
        std::thread::sleep(PAUSE);
        Ok(())
    }

    fn follow(&mut self, watch: &Watch) -> Result<(), Closed> {
        while let Ok(news) = watch.next(self.away.values().min().copied()) {
            let mut written = BTreeSet::new();
            for one in news {
                let (News::Written(path) | News::Gone(path)) = &one;
                if path.file_name() == Some(OsStr::new("..data")) {
                    // A mounted ConfigMap: all files are others now.
                    return Ok(());
                }
                if is_manifest(path) {
                    self.note(one, &mut written);
                }
            }
            self.read_all(written)?;
            self.believe_gone(Instant::now())?;
            let soon = Instant::now() + AWAY;
            if self.away.values().all(|due| *due > soon) {
                self.send_warnings()?;
            }
        }
        Ok(())
    }

    fn note(&mut self, news: News, written: &mut BTreeSet<PathBuf>) {
        match news {
            News::Written(path) => {
                self.away.remove(&path);
                written.insert(path);
            }
            News::Gone(path) => {
                written.remove(&path);
                self.away.insert(path, Instant::now() + AWAY);
            }
        }
    }

    /// Takes out the objects of files that have been away for long enough.
    fn believe_gone(&mut self, now: Instant) -> Result<(), Closed> {
        let due: Vec<PathBuf> = self
            .away
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(path, _)| path.clone())
            .collect();
        for path in due {
            self.away.remove(&path);
            if fs::symlink_metadata(&path).is_err() {
                self.remove(&path)?;
            } else if stamp(&path).is_none_or(|now| self.stamps.get(&path) != Some(&now)) {
                self.read_all([path].into())?;
            } else {
                self.look_again(&path);
            }
        }
        Ok(())
    }

    /// Reads every file that is new or changed and forgets those that are gone; false if the
    /// directory cannot be read.
    fn rescan(&mut self) -> Result<bool, Closed> {
        let paths = match list(&self.directory) {
            Ok(paths) => paths,
            Err(error) => {
                self.trouble = Some(format!(
                    "cannot be read ({error}); what was read before is kept; create it or fix \
                     --manifests"
                ));
                return Ok(false);
            }
        };
        self.away.clear();
        paths.iter().for_each(|path| self.look_again(path));
        let changed = paths.iter().filter(|path| {
            let stamp = stamp(path);
            stamp.is_none() || stamp != self.stamps.get(*path).copied()
        });
        let changed: BTreeSet<PathBuf> = changed.cloned().collect();
        let gone: Vec<Arc<Path>> = self
            .catalogue
            .files()
            .filter(|path| !paths.contains(&***path))
            .cloned()
            .collect();
        let files = paths.len();
        self.read_all(changed)?;
        for path in gone {
            self.remove(&path)?;
        }
        if !self.listed {
            self.listed = true;
            let objects = self.catalogue.objects();
            tracing::info!(directory = %self.directory.display(), files, objects, "read manifests");
            self.send_warnings()?;
            self.send(Input::Listed)?;
        }
        Ok(true)
    }

    /// Reads files, and then those that turn out to have been hidden by one of them.
    fn read_all(&mut self, paths: BTreeSet<PathBuf>) -> Result<(), Closed> {
        let mut hidden = BTreeSet::new();
        for path in paths {
            hidden.extend(self.read(&path)?);
        }
        for path in hidden {
            self.read(&path)?;
        }
        Ok(())
    }

    /// Looks at a link again in a while: the watch says nothing of what it leads to.
    fn look_again(&mut self, path: &Path) {
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
            // All at one time: what is away for a moment holds back what is to be said.
            let now = Instant::now();
            let look = self.look.filter(|look| *look > now);
            let look = *self.look.insert(look.unwrap_or(now + PAUSE));
            self.away.insert(path.to_owned(), look);
        }
    }

    fn read(&mut self, path: &Path) -> Result<BTreeSet<Arc<Path>>, Closed> {
        self.look_again(path);
        let before = stamp(path);
        match load(path, self.scope, &mut self.names) {
            // `> file` and then a second write: the moment between them must not remove anything, nor that
            // in which there is only a comment at the top.
            Ok(contents) if contents.documents == 0 && self.catalogue.has_objects(path) => {
                let problem = "holds no object any longer; remove the file to remove its objects";
                self.catalogue.fail(path, problem.to_owned());
                self.stamps.remove(path);
                Ok(BTreeSet::new())
            }
            Ok(contents) => {
                if let Some(stamp) = before {
                    self.stamps.insert(path.to_owned(), stamp);
                }
                let outcome = self.catalogue.load(path, contents);
                self.send_changes(outcome)
            }
            Err(error) => {
                let nowhere = error.kind() == io::ErrorKind::NotFound;
                let gone = nowhere && fs::symlink_metadata(path).is_err();
                if !gone {
                    match before {
                        // It is that as long as it is not written again.
                        Some(stamp) if error.kind() == io::ErrorKind::InvalidData => {
                            self.stamps.insert(path.to_owned(), stamp);
                        }
                        _ => _ = self.stamps.remove(path),
                    }
                    self.catalogue
                        .fail(path, format!("cannot be read: {error}"));
                }
                // Of rights the watch says nothing either.
                let denied = error.kind() == io::ErrorKind::PermissionDenied;
                if gone || denied || before.is_none() {
                    let pause = if gone { AWAY } else { PAUSE };
                    self.away.insert(path.to_owned(), Instant::now() + pause);
                }
                Ok(BTreeSet::new())
            }
        }
    }

    fn remove(&mut self, path: &Path) -> Result<(), Closed> {
        self.stamps.remove(path);
        let outcome = self.catalogue.remove(path);
        for hidden in self.send_changes(outcome)? {
            self.read(&hidden)?;
        }
        Ok(())
    }

    fn send_changes(&mut self, outcome: Outcome) -> Result<BTreeSet<Arc<Path>>, Closed> {
        if !outcome.changes.is_empty() {
            self.send(Input::Changes(outcome.changes))?;
        }
        Ok(outcome.reread)
    }

    fn send_warnings(&mut self) -> Result<(), Closed> {
        let mut warnings = self.catalogue.warnings();
        warnings.extend(
            self.trouble
                .as_ref()
                .map(|text| Warning::new(format!("directory {}", self.directory.display()), text)),
        );
        if warnings != self.reported {
            self.reported.clone_from(&warnings);
            self.send(Input::SourceWarnings(warnings))?;
        }
        Ok(())
    }

    fn send(&self, input: Input) -> Result<(), Closed> {
        self.output.send(input).map_err(|_| Closed)
    }
}

/// Manifests by their name; editors' temporary and hidden files are not.
fn is_manifest(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(OsStr::to_string_lossy)
        .unwrap_or_default();
    let extension = path.extension().map(OsStr::to_ascii_lowercase);
    let extension = extension.as_deref().and_then(OsStr::to_str);
    !name.starts_with(['.', '#']) && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn list(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest(&path) {
            paths.insert(path);
        }
    }
    Ok(paths)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

fn load(path: &Path, scope: Scope, names: &mut Names) -> io::Result<Contents> {
    // One byte more than is allowed shows that the file has grown meanwhile.
    let mut input = BufReader::new(open(path)?.take(LARGEST + 1));
    let contents = decode(&mut input, scope, names)?;
    match input.get_ref().limit() {
        0 => Err(io::Error::other(TOO_LARGE)),
        _ => Ok(contents),
    }
}

/// Opens a regular file; a pipe or device would block.
fn open(path: &Path) -> io::Result<fs::File> {
    // Before it is opened too: with some devices that alone does something.
    check(&fs::metadata(path)?)?;
    // A pipe may have taken its place by now. For regular files the flags mean nothing.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

fn check(metadata: &fs::Metadata) -> io::Result<()> {
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other(TOO_LARGE));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
