//! Whether lld links a program, and what it can do that others cannot.

use std::path::Path;
use std::process::Command;

/// Functions of the same machine code are one: Rust promises no function an address of its own.
pub const EQUAL_FUNCTIONS_ONCE: &str = "-Wl,--icf=all";

/// Whether rustc links with the lld that it brings along, which it does for x86_64 since 1.90 unless
/// it was built or is told otherwise.
pub fn links() -> bool {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_ARCH") != "x86_64" || !variable("RUSTC_LINKER").is_empty() {
        return false;
    }
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    if ["linker", "fuse-ld"].iter().any(|one| flags.contains(one)) {
        return false;
    }
    let ask = |arguments: &[&str]| {
        let asked = Command::new(variable("RUSTC")).args(arguments).output();
        asked.map_or_else(
            |_| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let sysroot = ask(&["--print", "sysroot"]);
    let tools = Path::new(sysroot.trim()).join("lib/rustlib");
    let lld = tools.join(variable("HOST")).join("bin/gcc-ld/ld.lld");
    lld.exists() && prefers_lld(&ask(&["-vV"]))
}

/// Whether a rustc that says this of its version is 1.90 or newer: those before it bring lld along and
/// do not link with it, and GNU ld refuses its options.
fn prefers_lld(version: &str) -> bool {
    let release = version
        .lines()
        .find_map(|line| line.strip_prefix("release: "));
    let mut numbers = release.into_iter().flat_map(|one| one.split('.'));
    let mut number = || numbers.next()?.trim().parse::<u32>().ok();
    number().zip(number()).is_some_and(|found| found >= (1, 90))
}

#[cfg(test)]
mod tests {
    use super::prefers_lld;

    #[test]
    fn a_rustc_before_1_90_does_not_link_with_the_lld_that_it_brings_along() {
        let is_one = |release: &str| {
            let host = "x86_64-unknown-linux-gnu";
            prefers_lld(&format!("rustc\nhost: {host}\nrelease: {release}\nLLVM"))
        };
        for release in [
            "1.90.0",
            "1.90.0-beta.3",
            "1.95.0-nightly",
            "1.100.1",
            "2.0.0",
        ] {
            assert!(is_one(release), "{release}");
        }
        for release in [
            "1.89.0",
            "1.89.0-nightly",
            "1.9.0",
            "0.99.0",
            "1",
            "",
            "x.y",
        ] {
            assert!(!is_one(release), "{release}");
        }
        assert!(!prefers_lld(""));
    }
}
