//! Makes the static plugin small: it is copied to every node and read for every pod.
//!
//! A static program that is position independent carries a table of 60 KB of its own addresses and
//! corrects all of them at every start. The plugin lives for a millisecond and reads only what the
//! runtime says, so it does without; the agent stays position independent. What `small.ld` leaves
//! out is said there. Where lld links, functions of the same machine code are one.

mod lld;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=small.ld");
    println!("cargo::rerun-if-changed=lld.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if !optimised || !features.split(',').any(|feature| feature == "crt-static") {
        return;
    }
    let script = format!("-Wl,-T,{}/small.ld", env!("CARGO_MANIFEST_DIR"));
    let arguments = ["-no-pie", "-static", "-Wl,--no-eh-frame-hdr", &script];
    let icf = lld::links().then_some(lld::EQUAL_FUNCTIONS_ONCE);
    for argument in arguments.into_iter().chain(icf) {
        println!("cargo::rustc-link-arg-bin=podwire={argument}");
    }
}
