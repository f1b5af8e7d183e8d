//! Files and directories where others may write, or could if the umask of the runtime were obeyed.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// How files are opened: a name may be a link to another file of the node, or a pipe that would
/// wait for its other end.
pub const CAREFULLY: i32 = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;

/// Makes a directory, and those above it, if there is none. Whatever the umask of the runtime,
/// others may not write there.
pub fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// What the file at `path` holds, but not more than `limit` bytes. What is no file is refused: of a
/// pipe without a writer it would be nothing.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(CAREFULLY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// Makes an empty file that root alone reads; fails if its name is taken, be it by a link.
pub fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let new = options.write(true).create_new(true).mode(0o600);
    new.open(path).map(drop)
}
