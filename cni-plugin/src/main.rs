//! The CNI plugin: reads a call, does it, prints the answer.
//!
//! The standard library's own start is left out. It looks for the limits of the stack in
//! `/proc/self/maps` and prepares a handler for its overflow, which takes a twentieth of the time
//! of a whole ADD, and the C library's number parsers for it are a tenth of the program.

#![no_main]
#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if no process reads: `streams::log` does not"
)]

use std::ffi::{c_char, c_int};
use std::io::Write;

use podwire::plugin::{Answer, Plugin};
use podwire::streams;
use podwire_kernel::process;

/// What the C library calls.
///
/// # Safety
///
/// Only the C library may call it, with the arguments that the kernel gave to the process.
#[expect(
    unsafe_code,
    reason = "the C library finds it by its name, and hands in pointers"
)]
// SAFETY: no other item of the program has this name, and this is the type that it must have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    process::ignore_broken_pipes();
    // SAFETY: these are the arguments of `main`.
    let program = unsafe { process::program_name(count, arguments) };
    let plugin = Plugin::named(&program);
    let answer = match streams::check() {
        Ok(()) => plugin.answer(|name| std::env::var_os(name), std::io::stdin()),
        Err(error) => Answer::unheard(error),
    };
    c_int::from(!print(&answer))
}

/// Prints the answer as the reference plugins do, with four spaces for each level; says whether the
/// call succeeded and was answered.
fn print(answer: &Answer) -> bool {
    if let Some(about) = &answer.about {
        let _ = writeln!(std::io::stderr(), "{about}");
    }
    if let Some(output) = &answer.output {
        let text = podwire::plugin::text(output);
        let mut out = std::io::stdout();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The runtime does not listen; the exit status is all there is left.
            streams::log(format_args!("cannot write the answer: {error}"));
            return false;
        }
    }
    answer.success
}
