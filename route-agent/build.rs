//! Makes the static agent smaller: it is position independent, so it carries a table of its own
//! addresses, which it corrects when it starts. Written as offsets (24 bytes each) that table has
//! 385 KB; packed as a bitmap (DT_RELR) it has 9 KB. The C library that is linked in reads both
//! since glibc 2.36; a linker that does not know the option warns and writes the long form.
//!
//! What the plugin leaves out when it is linked (`small.ld` says what, and why that may go), the
//! agent does too: a tenth of it. And where lld links, which comes with rustc and is its own choice for
//! x86_64, functions of the same machine code are one: another thirtieth.

#[path = "../cni-plugin/lld.rs"]
mod lld;

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../cni-plugin/small.ld");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rerun-if-changed=../cni-plugin/lld.rs");
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
    let icf = lld::links().then_some(lld::EQUAL_FUNCTIONS_ONCE);
    for argument in arguments.into_iter().chain(icf) {
        println!("cargo::rustc-link-arg-bin=podwire-agent={argument}");
    }
}
