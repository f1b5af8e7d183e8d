//! The archive while it is written, file by file: there is none in the end unless all of it was.

use std::fs::{File, OpenOptions, remove_file};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use crate::said::DeskError;

/// An archive to which files are added.
pub(super) struct Archive {
    entries: tar::Builder<GzEncoder<File>>,
    /// All files are in it.
    folder: String,
    /// The time of all files, in seconds since 1970.
    time: u64,
    file: Unfinished,
}

/// A file that is removed with this, unless it is to be kept.
struct Unfinished {
    path: PathBuf,
    keep: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.keep {
            // Half an archive is of no use, and in the way of the next one. If it stays, that one says so.
            let _ = remove_file(&self.path);
        }
    }
}

impl Archive {
    /// A new archive. Names and addresses of a cluster are not for everyone on this machine; what is
    /// there already, or is a link, is not written over.
    pub(super) fn create(path: PathBuf, folder: String, now: Timestamp) -> Result<Self, DeskError> {
        let mut new = OpenOptions::new();
        new.write(true).create_new(true).mode(0o600);
        match new.open(&path) {
            Ok(file) => Ok(Self {
                entries: tar::Builder::new(GzEncoder::new(file, Compression::default())),
                folder,
                time: u64::try_from(now.as_second()).unwrap_or_default(),
                file: Unfinished { path, keep: false },
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = io::Error::other("it is there already; choose another --file");
                Err(unwritten(&path, there))
            }
            Err(error) => Err(unwritten(&path, error)),
        }
    }

    /// One more file.
    pub(super) fn add(&mut self, path: &str, text: &str) -> Result<(), DeskError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let path = format!("{}/{path}", self.folder);
        let added = self.entries.append_data(&mut header, path, text.as_bytes());
        added.map_err(|error| self.failed(error))
    }

    /// Nothing more is added: it is whole, and stays.
    pub(super) fn finish(self) -> Result<(), DeskError> {
        let Self {
            entries, mut file, ..
        } = self;
        let ended = entries.into_inner().and_then(GzEncoder::finish);
        match ended.and_then(|mut out| out.flush()) {
            Ok(()) => {
                file.keep = true;
                Ok(())
            }
            Err(error) => Err(unwritten(&file.path, error)),
        }
    }

    /// Why it is not written.
    pub(super) fn failed(&self, why: io::Error) -> DeskError {
        unwritten(&self.file.path, why)
    }
}

fn unwritten(path: &Path, source: io::Error) -> DeskError {
    DeskError::File {
        path: path.display().to_string(),
        source,
    }
}
