//! The plugin under ptrace: how many system calls it makes, and what is left if it dies at one.

use std::io::Write;
use std::process::Child;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::node::Call;

/// System calls after which something may be different outside of the process, by their numbers.
#[cfg(target_arch = "x86_64")]
const CHANGES: [u64; 16] = [
    1,   // write
    18,  // pwrite64
    44,  // sendto
    46,  // sendmsg
    73,  // flock
    77,  // ftruncate
    82,  // rename
    83,  // mkdir
    87,  // unlink
    257, // openat
    258, // mkdirat
    263, // unlinkat
    264, // renameat
    265, // linkat
    266, // symlinkat
    316, // renameat2
];

/// How many system calls the plugin makes from reading its input on.
pub fn system_calls(call: &Call) -> usize {
    let (child, pid) = start(call);
    let mut stops = 0;
    while let Stop::Call(_) = next(pid) {
        stops += 1;
    }
    bury(child);
    stops / 2
}

/// Runs the plugin until it has made `count` system calls that change something, and kills it.
/// Says whether it came so far; otherwise it ended by itself.
pub fn kill_after(call: &Call, count: usize) -> bool {
    let (child, pid) = start(call);
    let mut changes = 0;
    let mut entering = true;
    let killed = loop {
        let Stop::Call(number) = next(pid) else {
            break false;
        };
        // A stop on the way in and one on the way out.
        if !entering && is_change(number) {
            changes += 1;
            if changes == count {
                nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
                break true;
            }
        }
        entering = !entering;
    };
    bury(child);
    killed
}

/// What a kernel says that has no nftables.
#[derive(Debug, Clone, Copy)]
pub enum Missing {
    /// There is no netlink for netfilter at all.
    Netlink,
    /// There is, but no one in it who understands nftables.
    Subsystem,
    /// They are there, and may not be asked.
    Rights,
}

/// Runs the plugin as on a kernel that lacks something: its questions are changed on their way, and the
/// kernel answers what it answers to what it does not know. Returns what the plugin printed.
#[cfg(target_arch = "x86_64")]
pub fn run_without(missing: Missing, call: &Call) -> String {
    use std::io::Read;
    const SOCKET: u64 = 41;
    const SENDTO: u64 = 44;
    /// `NETLINK_NETFILTER`, and a number that is no protocol's.
    const NETFILTER: u64 = 12;
    const NO_PROTOCOL: u64 = 31;
    /// `NFNL_SUBSYS_NFTABLES`, and a number that is no subsystem's; the high byte of a type.
    const NFTABLES: u8 = 10;
    const NO_SUBSYSTEM: u8 = 0x7f;
    let (mut child, pid) = start(call);
    let mut entering = true;
    while let Stop::Call(number) = next(pid) {
        let mut registers = ptrace::getregs(pid).unwrap();
        match (missing, number) {
            (Missing::Netlink, SOCKET) if entering && registers.rdx == NETFILTER => {
                registers.rdx = NO_PROTOCOL;
                ptrace::setregs(pid, registers).unwrap();
            }
            (Missing::Rights, SOCKET) if !entering && registers.rdx == NETFILTER => {
                registers.rax = u64::MAX; // -EPERM
                ptrace::setregs(pid, registers).unwrap();
            }
            (Missing::Subsystem, SENDTO) if entering => {
                let at = registers.rsi as ptrace::AddressType;
                let mut word = ptrace::read(pid, at).unwrap().to_ne_bytes();
                // Length (4 bytes), type (2): the type's high byte is the subsystem.
                if word[5] == NFTABLES {
                    word[5] = NO_SUBSYSTEM;
                    let word = std::ffi::c_long::from_ne_bytes(word);
                    ptrace::write(pid, at, word).unwrap();
                }
            }
            _ => {}
        }
        entering = !entering;
    }
    let mut printed = String::new();
    let mut output = child.stdout.take().unwrap();
    output.read_to_string(&mut printed).unwrap();
    bury(child);
    printed
}

enum Stop {
    Call(u64),
    End,
}

/// Starts the plugin, stopped while it waits for its input, and then gives it that.
fn start(call: &Call) -> (Child, Pid) {
    let mut child = call.command().spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    ptrace::attach(pid).unwrap();
    waitpid(pid, None).unwrap();
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(pid, options).unwrap();
    child.stdin.take().unwrap().write_all(&call.stdin).unwrap();
    (child, pid)
}

/// Lets the plugin go on to its next system call, or to the way out of this one.
fn next(pid: Pid) -> Stop {
    let mut signal = None;
    loop {
        ptrace::syscall(pid, signal).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => return Stop::Call(number(pid)),
            // The stop of attaching is not for the plugin.
            WaitStatus::Stopped(_, Signal::SIGSTOP) => signal = None,
            WaitStatus::Stopped(_, other) => signal = Some(other),
            _ => return Stop::End,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn number(pid: Pid) -> u64 {
    ptrace::getregs(pid).unwrap().orig_rax
}

#[cfg(not(target_arch = "x86_64"))]
fn number(_: Pid) -> u64 {
    0
}

#[cfg(target_arch = "x86_64")]
fn is_change(number: u64) -> bool {
    CHANGES.contains(&number)
}

/// Where the numbers are not known, every system call counts.
#[cfg(not(target_arch = "x86_64"))]
fn is_change(_: u64) -> bool {
    true
}

/// Waits for the end, if the tracer has not seen it already.
fn bury(mut child: Child) {
    // An error says that the tracer has.
    let _ = child.wait();
}
