//! The CNI plugin: reads a call, does it, prints the answer.
//!
//! The standard library's own start is left out. It looks for the limits of the stack in
//! `/proc/self/maps` and prepares a handler for its overflow, which takes a twentieth of the time
//! of a whole ADD, and the C library's number parsers for it are a tenth of the program.

#![no_main]

use std::io::Write;

use podwire::plugin::{Answer, Plugin};

/// What the C library calls. Its arguments are those that `std::env::args_os` knows too.
// SAFETY: no other item of the program has this name, and this is the type that it must have.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: i32, _arguments: *const *const u8) -> i32 {
    podwire_kernel::process::ignore_broken_pipes();
    let program = std::env::args_os().next().unwrap_or_default();
    let plugin = Plugin::named(&program);
    let answer = plugin.answer(|name| std::env::var_os(name), std::io::stdin());
    i32::from(!print(&answer))
}

/// Prints the answer as the reference plugins do, with four spaces for each level; says whether the
/// call succeeded and was answered.
fn print(answer: &Answer) -> bool {
    if let Some(about) = &answer.about {
        eprintln!("{about}");
    }
    if let Some(output) = &answer.output {
        let text = podwire::plugin::text(output);
        let mut out = std::io::stdout();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The runtime does not listen; the exit status is all there is left.
            eprintln!("podwire: cannot write the answer: {error}");
            return false;
        }
    }
    answer.success
}
