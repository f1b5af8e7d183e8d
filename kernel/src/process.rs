//! The calling process itself.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe2;

use crate::{Cause, Result};

/// Makes a write to a pipe that has no reader an error (`EPIPE`) instead of the end of the process.
/// Programs that start without the standard library's own preparations call this first. Programs
/// that are started by `std::process` get the default back.
#[expect(
    unsafe_code,
    reason = "a signal disposition is set for the whole process"
)]
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid disposition, no handler is installed that could be interrupted.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// The name that a program was started by, from the arguments of its `main`; empty if it was
/// given none. `std::env::args_os` knows it only where the C library hands the arguments
/// to initialisers too, as glibc does; on others it is empty in a program with a `main` of its own.
///
/// # Safety
///
/// `count` and `arguments` are those of `main`: `arguments` is null or points to `count` strings
/// that end with a zero byte, or to null pointers.
#[expect(unsafe_code, reason = "the arguments of main are raw pointers")]
pub unsafe fn program_name(count: c_int, arguments: *const *const c_char) -> OsString {
    if count < 1 || arguments.is_null() {
        return OsString::new();
    }
    // SAFETY: there is a first argument; the caller promises that it can be read.
    let first = unsafe { *arguments };
    if first.is_null() {
        return OsString::new();
    }
    // SAFETY: the caller promises a string that ends with a zero byte.
    let name = unsafe { CStr::from_ptr(first) };
    OsStr::from_bytes(name.to_bytes()).to_owned()
}

/// The pipe that [`note`] writes into.
static SIGNALS: AtomicI32 = AtomicI32::new(-1);

/// From now on SIGINT, SIGTERM and SIGHUP do not end the process: for each, its number comes out of
/// the returned pipe, as one byte. Programs that are started by `std::process` get the default back,
/// which they would not if the signals were blocked. A SIGHUP that was ignored (as by nohup) stays
/// so, for them as well. Only one of this and [`catch_unless_ignored`] is to be called, once.
pub fn catch_interrupts() -> Result<File> {
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    catch(&signals, |signal, before| {
        signal == Signal::SIGHUP && matches!(before, SigHandler::SigIgn)
    })
}

/// As [`catch_interrupts`], for these signals, but for those that the process was started to ignore
/// (as by nohup): they stay ignored, also by the programs that it starts.
pub fn catch_unless_ignored(signals: &[Signal]) -> Result<File> {
    catch(signals, |_, before| matches!(before, SigHandler::SigIgn))
}

#[expect(unsafe_code, reason = "a signal handler is installed")]
fn catch(signals: &[Signal], stays: impl Fn(Signal, SigHandler) -> bool) -> Result<File> {
    let failed = |errno: nix::Error| Cause::from(errno).during("catch", "signals");
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    SIGNALS.store(writer.into_raw_fd(), Ordering::SeqCst);
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in signals {
        // SAFETY: the handler only does what signal-safety(7) allows: an atomic load and a write.
        let before = unsafe { sigaction(*signal, &action) }.map_err(failed)?;
        if stays(*signal, before.handler()) {
            // SAFETY: it is what was there.
            unsafe { sigaction(*signal, &before) }.map_err(failed)?;
        }
    }
    Ok(File::from(reader))
}

#[expect(
    unsafe_code,
    reason = "only system calls may be made in a signal handler"
)]
extern "C" fn note(signal: libc::c_int) {
    let number = signal as u8;
    // SAFETY: the byte lives until after the call; the descriptor is never closed.
    unsafe {
        libc::write(
            SIGNALS.load(Ordering::SeqCst),
            (&raw const number).cast(),
            1,
        );
    }
}

/// Lets the process open as many files as it may at most: the limit that it starts with, often 1,024,
/// is low for programs that use `select`, which this one does not. What it starts inherits the limit.
pub fn open_as_many_files_as_allowed() -> Result<()> {
    let failed = |errno: nix::Error| Cause::from(errno).during("raise", "the limit of open files");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(failed)
}

/// Makes the allocator keep less memory for itself, in a process that holds much for long and
/// allocates little at a time: one arena for all threads, and large buffers in mappings of their
/// own, so that they leave no holes between small things when they go. To be called first.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "nix does not know glibc's allocator")]
pub fn keep_little_memory() {
    /// Buffers from this size on, in bytes, are mapped.
    const LARGE: libc::c_int = 16 * 1024;
    // SAFETY: mallopt only changes settings of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Other allocators are left as they are.
#[cfg(not(target_env = "gnu"))]
pub fn keep_little_memory() {}

/// Gives memory back that will not be needed again: what the allocator has free, and code of the
/// start. The kernel maps the code again from its cache, page by page, as far as it is used.
#[expect(
    unsafe_code,
    reason = "nix does not know glibc's allocator; madvise takes a raw address"
)]
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim gives free pages back, under the allocator's own lock.
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(code_in) {
        // SAFETY: these are pages of a file, mapped privately, that cannot be written and never
        // could: code has no relocations. What is dropped is read from the file again.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Start and length of a mapping of code from a file, if the line of `/proc/PID/maps` is one.
fn code_in(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions) = (words.next()?, words.next()?);
    let file = words.nth(3)?;
    if permissions != "r-xp" || !file.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "the arguments of main are raw pointers")]
    fn a_program_knows_its_name_even_if_it_has_none() {
        let names = [c"/opt/cni/bin/ptp".as_ptr(), c"second".as_ptr()];
        let nothing = [std::ptr::null()];
        for (count, arguments, expected) in [
            (2, names.as_ptr(), "/opt/cni/bin/ptp"),
            (0, names.as_ptr(), ""),
            (0, nothing.as_ptr(), ""),
            (1, nothing.as_ptr(), ""),
            (1, std::ptr::null(), ""),
        ] {
            // SAFETY: the arrays outlive the call and hold zero-terminated strings or null.
            assert_eq!(unsafe { program_name(count, arguments) }, expected);
        }
        let bytes = [c"/\xff".as_ptr()];
        // SAFETY: as above.
        let name = unsafe { program_name(1, bytes.as_ptr()) };
        assert_eq!(name.as_bytes(), b"/\xff");
    }

    #[test]
    fn the_limit_of_open_files_becomes_what_is_allowed() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most - 1, most).unwrap();
        open_as_many_files_as_allowed().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (most, most));
    }

    #[test]
    fn only_code_of_files_is_given_back() {
        let line = "55d0c000-55d0e000 r-xp 00002000 fe:01 12 /usr/bin/agent";
        assert_eq!(code_in(line), Some((0x55d0_c000, 0x2000)));
        for other in [
            "55d0c000-55d0e000 r--p 00002000 fe:01 12 /usr/bin/agent",
            "55d0c000-55d0e000 rw-p 00002000 fe:01 12 /usr/bin/agent",
            "7ffd000-7ffe000 r-xp 00000000 00:00 0 [vdso]",
            "7ffd000-7ffe000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code_in(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_goes_on_after_it_has_given_memory_back() {
        keep_little_memory();
        let kept: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        drop(vec![1u8; 1 << 20]);
        release_memory();
        assert!(
            kept.iter()
                .enumerate()
                .all(|(n, text)| *text == n.to_string())
        );
    }
}
