//! Where our own programs are.

use std::env;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// The program `name`: in `PODWIRE_BIN_DIR` if that is set, else beside the running program,
/// else one directory above it (where cargo keeps programs, seen from a test).
pub fn find(name: &'static str) -> Result<PathBuf> {
    let directories = directories();
    let found = directories
        .iter()
        .map(|directory| directory.join(name))
        .find(|p| p.is_file());
    found.ok_or_else(|| Error::NoProgram {
        program: name,
        searched: directories
            .iter()
            .map(|directory| directory.display().to_string())
            .collect::<Vec<_>>()
            .join(" and "),
    })
}

/// The lab's own program, which is also what runs as PID 1, as sandboxes and as servers.
pub fn own() -> Result<PathBuf> {
    find("podwire-lab")
}

fn directories() -> Vec<PathBuf> {
    if let Some(directory) = env::var_os("PODWIRE_BIN_DIR").filter(|value| !value.is_empty()) {
        let directory = PathBuf::from(directory);
        // Absolute, because commands in the lab start in its root directory.
        return vec![std::path::absolute(&directory).unwrap_or(directory)];
    }
    let Ok(running) = env::current_exe() else {
        return Vec::new();
    };
    running
        .ancestors()
        .skip(1)
        .take(2)
        .map(PathBuf::from)
        .collect()
}
