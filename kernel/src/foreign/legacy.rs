//! iptables-legacy: whole tables, read and replaced through socket options, as the iptables
//! program does it.
//!
//! The kernel makes a table when somebody first asks for it, so only those that
//! `/proc/net/ip_tables_names` lists are looked at: looking must not change anything. Packet
//! counters of the rules that stay are kept: the kernel hands out the old ones with the exchange,
//! and they are added to the new table.

#![expect(
    unsafe_code,
    reason = "iptables-legacy is read and written by socket options that nix does not know"
)]

use std::fs::{self, File};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::blob::{Blob, HOOKS, V4, V6};
use super::{Chain, Edit};
use crate::{Cause, Error, IpFamily, Result};

/// `IPT_SO_GET_INFO`, the same for IPv6 (`IPT_BASE_CTL`, linux/netfilter_ipv4/ip_tables.h).
const GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES`.
const GET_ENTRIES: libc::c_int = 65;
/// `IPT_SO_SET_REPLACE`.
const SET_REPLACE: libc::c_int = 64;
/// `IPT_SO_SET_ADD_COUNTERS`.
const SET_ADD_COUNTERS: libc::c_int = 65;
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// Somebody else may change a table between the reading and the exchange; the kernel notices if
/// the number of rules differs. Try again this often.
const ATTEMPTS: usize = 5;
/// Where programs that change tables wait for each other (iptables(8), `XTABLES_LOCKFILE`).
const LOCK: &str = "/run/xtables.lock";

/// `struct ipt_getinfo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    name: [u8; NAME],
    valid_hooks: u32,
    hook_entry: [u32; HOOKS],
    underflow: [u32; HOOKS],
    num_entries: u32,
    size: u32,
}

/// `struct ipt_get_entries` without the entries.
#[repr(C)]
struct EntriesHead {
    name: [u8; NAME],
    size: u32,
    entries: [u64; 0],
}

/// `struct ipt_replace` without the entries.
#[repr(C)]
struct ReplaceHead {
    name: [u8; NAME],
    valid_hooks: u32,
    num_entries: u32,
    size: u32,
    hook_entry: [u32; HOOKS],
    underflow: [u32; HOOKS],
    num_counters: u32,
    counters: *mut Counter,
    entries: [u64; 0],
}

/// `struct xt_counters_info` without the counters.
#[repr(C)]
struct CountersHead {
    name: [u8; NAME],
    num_counters: u32,
    counters: [Counter; 0],
}

/// `struct xt_counters`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Counter {
    packets: u64,
    bytes: u64,
}

/// The names of the tables that exist in the network namespace of this thread. Empty if the
/// kernel has no iptables.
pub fn tables(family: IpFamily) -> Result<Vec<String>> {
    let path = match family {
        IpFamily::V4 => "/proc/thread-self/net/ip_tables_names",
        IpFamily::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match fs::read_to_string(path) {
        Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Cause::from(error).during("read", path)),
    }
}

/// The chains of one of the [`tables`].
pub fn chains(family: IpFamily, table: &str) -> Result<Vec<Chain>> {
    let wrong = |cause: Cause| cause.during("read the iptables-legacy table", table);
    let socket = open(family).map_err(wrong)?;
    read(&socket, family, table)
        .and_then(|(blob, _)| blob.chains())
        .map_err(wrong)
}

/// Takes out of a table what `edit(chains)` says, chains being those that the table has then.
/// Returns what was taken out. Waits for other programs that change tables.
pub fn edit(family: IpFamily, table: &str, edit: impl Fn(&[Chain]) -> Edit) -> Result<Edit> {
    let wrong = |cause: Cause| cause.during("change the iptables-legacy table", table);
    let _lock = lock();
    let socket = open(family).map_err(wrong)?;
    for _ in 0..ATTEMPTS {
        match edit_once(&socket, family, table, &edit) {
            // The table changed meanwhile.
            Err(cause) if cause.errno() == Some(libc::EAGAIN) => {}
            result => return result.map_err(wrong),
        }
    }
    Err(Error::new(
        "change the iptables-legacy table",
        table,
        Cause::Unstable,
    ))
}

fn edit_once(
    socket: &OwnedFd,
    family: IpFamily,
    table: &str,
    edit: impl Fn(&[Chain]) -> Edit,
) -> std::result::Result<Edit, Cause> {
    let (blob, count) = read(socket, family, table)?;
    let edit = edit(&blob.chains()?);
    if edit.is_empty() {
        return Ok(edit);
    }
    let (new, kept) = blob.without(&edit)?;
    let old = replace(socket, family, table, &new, kept.len(), count)?;
    let counters: Vec<Counter> = kept
        .iter()
        .map(|index| old.get(*index).copied().unwrap_or_default())
        .collect();
    add_counters(socket, family, table, &counters)?;
    Ok(edit)
}

/// Held while a table is changed. A machine without /run is not kept from it.
fn lock() -> Option<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(LOCK)
        .ok()?;
    Flock::lock(file, FlockArg::LockExclusive).ok()
}

fn open(family: IpFamily) -> std::result::Result<OwnedFd, Cause> {
    let family = match family {
        IpFamily::V4 => AddressFamily::Inet,
        IpFamily::V6 => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Raw, flags, SockProtocol::Raw)?)
}

fn level(family: IpFamily) -> libc::c_int {
    match family {
        IpFamily::V4 => libc::IPPROTO_IP,
        IpFamily::V6 => libc::IPPROTO_IPV6,
    }
}

fn name(table: &str) -> std::result::Result<[u8; NAME], Cause> {
    let mut name = [0; NAME];
    if table.len() >= NAME {
        return Err(Cause::NotFound);
    }
    name[..table.len()].copy_from_slice(table.as_bytes());
    Ok(name)
}

/// The table, and how many entries it has.
fn read(
    socket: &OwnedFd,
    family: IpFamily,
    table: &str,
) -> std::result::Result<(Blob, usize), Cause> {
    let name = name(table)?;
    let info = info(socket, family, name)?;
    let head = offset_of!(EntriesHead, entries);
    let mut buffer = vec![0u8; head + info.size as usize];
    buffer[..NAME].copy_from_slice(&name);
    let at = offset_of!(EntriesHead, size);
    buffer[at..at + 4].copy_from_slice(&info.size.to_ne_bytes());
    get(socket, family, GET_ENTRIES, &mut buffer)?;
    buffer.drain(..head);
    let blob = Blob {
        layout: match family {
            IpFamily::V4 => V4,
            IpFamily::V6 => V6,
        },
        valid_hooks: info.valid_hooks,
        hook_entry: info.hook_entry,
        underflow: info.underflow,
        bytes: buffer,
    };
    let count = blob.len()?;
    if count != info.num_entries as usize {
        let text = format!("{count} entries instead of {}", info.num_entries);
        return Err(Cause::Malformed(text));
    }
    Ok((blob, count))
}

fn info(socket: &OwnedFd, family: IpFamily, name: [u8; NAME]) -> std::result::Result<Info, Cause> {
    let mut buffer = [0; size_of::<Info>()];
    buffer[..NAME].copy_from_slice(&name);
    get(socket, family, GET_INFO, &mut buffer)?;
    // SAFETY: `Info` is made of integers only, so any bytes are a value of it; the buffer has its
    // size, and the read does not need alignment.
    Ok(unsafe { buffer.as_ptr().cast::<Info>().read_unaligned() })
}

/// Exchanges the table; returns the counters of the old one.
fn replace(
    socket: &OwnedFd,
    family: IpFamily,
    table: &str,
    new: &Blob,
    entries: usize,
    old_entries: usize,
) -> std::result::Result<Vec<Counter>, Cause> {
    let number = |value: usize| {
        u32::try_from(value).map_err(|_| Cause::Malformed(format!("{value} bytes of rules")))
    };
    let mut counters = vec![Counter::default(); old_entries];
    let head = ReplaceHead {
        name: name(table)?,
        valid_hooks: new.valid_hooks,
        num_entries: number(entries)?,
        size: number(new.bytes.len())?,
        hook_entry: new.hook_entry,
        underflow: new.underflow,
        num_counters: number(old_entries)?,
        counters: counters.as_mut_ptr(),
        entries: [],
    };
    let mut buffer = Vec::with_capacity(size_of::<ReplaceHead>() + new.bytes.len());
    // SAFETY: the head is plain data that lives on this stack; its padding, if there is any, is
    // not looked at by the kernel.
    let bytes = unsafe {
        std::slice::from_raw_parts((&raw const head).cast::<u8>(), size_of::<ReplaceHead>())
    };
    buffer.extend_from_slice(bytes);
    buffer.extend_from_slice(&new.bytes);
    // The kernel writes `num_counters` counters through the pointer in the head before it returns.
    set(socket, family, SET_REPLACE, &buffer)?;
    Ok(counters)
}

fn add_counters(
    socket: &OwnedFd,
    family: IpFamily,
    table: &str,
    counters: &[Counter],
) -> std::result::Result<(), Cause> {
    let mut buffer = vec![0u8; offset_of!(CountersHead, counters)];
    buffer[..NAME].copy_from_slice(&name(table)?);
    let at = offset_of!(CountersHead, num_counters);
    let count = u32::try_from(counters.len()).unwrap_or(u32::MAX);
    buffer[at..at + 4].copy_from_slice(&count.to_ne_bytes());
    for counter in counters {
        buffer.extend_from_slice(&counter.packets.to_ne_bytes());
        buffer.extend_from_slice(&counter.bytes.to_ne_bytes());
    }
    set(socket, family, SET_ADD_COUNTERS, &buffer)
}

/// `getsockopt` that fills `buffer` in full.
fn get(
    socket: &OwnedFd,
    family: IpFamily,
    option: libc::c_int,
    buffer: &mut [u8],
) -> std::result::Result<(), Cause> {
    let mut length = libc::socklen_t::try_from(buffer.len())
        .map_err(|_| Cause::Malformed("a table of more than 4 GiB".into()))?;
    // SAFETY: the descriptor is open; the kernel writes at most `length` bytes to the buffer, which
    // is that long.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level(family),
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error().into());
    }
    if length as usize != buffer.len() {
        return Err(Cause::Malformed(format!(
            "{length} bytes of {}",
            buffer.len()
        )));
    }
    Ok(())
}

fn set(
    socket: &OwnedFd,
    family: IpFamily,
    option: libc::c_int,
    buffer: &[u8],
) -> std::result::Result<(), Cause> {
    let length = libc::socklen_t::try_from(buffer.len())
        .map_err(|_| Cause::Malformed("a table of more than 4 GiB".into()))?;
    // SAFETY: the descriptor is open; the kernel reads at most `length` bytes of the buffer.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level(family),
            option,
            buffer.as_ptr().cast(),
            length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
