//! Makes the static agent smaller: it is position independent, so it carries a table of its own
//! addresses, which it corrects when it starts. Written as offsets (24 bytes each) that table has
//! 385 KB; packed as a bitmap (DT_RELR) it has 9 KB. The C library that is linked in reads both
//! since glibc 2.36; a linker that does not know the option warns and writes the long form.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let env = std::env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
    let optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if optimised && env == "gnu" && features.split(',').any(|one| one == "crt-static") {
        println!("cargo::rustc-link-arg-bin=podwire-agent=-Wl,-z,pack-relative-relocs");
    }
}
