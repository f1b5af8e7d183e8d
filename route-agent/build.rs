//! Makes the static agent smaller: it is position independent, so it carries a table of its own
//! addresses, which it corrects when it starts. Written as offsets (24 bytes each) that table has
//! 385 KB; packed as a bitmap (DT_RELR) it has 9 KB. The C library that is linked in reads both
//! since glibc 2.36; a linker that does not know the option warns and writes the long form.
//!
//! What the plugin leaves out when it is linked (`small.ld` says what, and why that may go), the
//! agent does too: a tenth of it. And where lld links, which comes with rustc and is its own choice for
//! x86_64, functions of the same machine code are one: another thirtieth.

use std::path::Path;
use std::process::Command;

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../cni-plugin/small.ld");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={script}");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let env = std::env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
    let optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if !optimised || env != "gnu" || !features.split(',').any(|one| one == "crt-static") {
        return;
    }
    let script = format!("-Wl,-T,{script}");
    let arguments = [
        "-Wl,-z,pack-relative-relocs",
        "-Wl,--no-eh-frame-hdr",
        &script,
    ];
    let icf = links_with_lld().then_some("-Wl,--icf=all");
    for argument in arguments.into_iter().chain(icf) {
        println!("cargo::rustc-link-arg-bin=podwire-agent={argument}");
    }
}

/// Whether rustc links with the lld that it brings along, which it does for x86_64 since 1.90 unless
/// it was built or is told otherwise.
fn links_with_lld() -> bool {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_ARCH") != "x86_64" || !variable("RUSTC_LINKER").is_empty() {
        return false;
    }
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    if ["linker", "fuse-ld"].iter().any(|one| flags.contains(one)) {
        return false;
    }
    let asked = Command::new(variable("RUSTC"))
        .args(["--print", "sysroot"])
        .output();
    let Ok(sysroot) = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    else {
        return false;
    };
    let tools = Path::new(sysroot.trim()).join("lib/rustlib");
    tools
        .join(variable("HOST"))
        .join("bin/gcc-ld/ld.lld")
        .exists()
}
