//! The node on which a call is made: `lo`, one container, and an empty root directory.
//!
//! Most calls change nothing, and to look at everything after each takes longer than the call. So
//! the kernel is asked first whether anything changed at all: it tells of links and rules, and a
//! file system knows how many files it has.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use nix::sys::statvfs::statvfs;
use nix::unistd::{chdir, chroot};
use podwire::attachment::{FAMILY, HOSTPORTS, IPMASQ};
use podwire_kernel::RouteSocket;
use podwire_kernel::netns::Netns;
use podwire_kernel::nft::NftSocket;

/// The network namespace of the container, by the name that the seeds use.
const CONTAINER: &str = "/run/netns/a";

/// The corpus and what was found, which libFuzzer reads and writes.
const KEPT: &str = env!("CARGO_MANIFEST_DIR");

/// What is in the root directory before a call.
const SKELETON: [&str; 2] = ["proc", "run"];

/// Moves this process to where it can do no harm. libFuzzer runs its inputs on this thread.
pub fn prepare() {
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    unshare(flags).expect("this makes namespaces: run it as root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount_on(None, "/", private);
    let root = Path::new("/run");
    mount_on(Some("tmpfs"), "/run", MsFlags::empty());
    let kept = root.join(KEPT.trim_start_matches('/'));
    for directory in [&root.join("proc"), &root.join("run/netns"), &kept] {
        fs::create_dir_all(directory).expect("a tmpfs takes directories");
    }
    let none: Option<&str> = None;
    mount(Some(KEPT), &kept, none, MsFlags::MS_BIND, none).expect("the corpus is there");
    mount_on(Some("proc"), "/run/proc", MsFlags::empty());
    chroot(root)
        .and_then(|()| chdir("/"))
        .expect("root may change its root");
    restrict_proc();
    Netns::create_anonymous()
        .and_then(|netns| netns.bind(Path::new(CONTAINER)))
        .expect("root may make a namespace");
    let mut socket = RouteSocket::open().expect("a netlink socket");
    let lo = socket.index_of("lo").expect("every namespace has lo");
    socket.set_up(lo).expect("lo can be set up");
}

fn mount_on(kind: Option<&str>, target: &str, flags: MsFlags) {
    let none: Option<&str> = None;
    mount(kind, target, kind, flags, none).expect("root may mount");
}

/// Leaves `/proc` for reading, but for the settings of this network namespace.
fn restrict_proc() {
    let none: Option<&str> = None;
    let settings = Some("/proc/sys/net");
    mount(settings, "/proc/sys/net", none, MsFlags::MS_BIND, none).expect("root may mount");
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, "/proc", none, read_only, none).expect("root may mount");
    // Who reads this waits for the kernel to say something.
    fs::write("/run/empty", "").expect("a tmpfs takes files");
    let empty = Some("/run/empty");
    mount(empty, "/proc/kmsg", none, MsFlags::MS_BIND, none).expect("root may mount");
}

/// The node. Everything on it is as it was when it was made, but during a call.
pub struct Node {
    /// Hear of every link of the node and of the container, and of every change of rules.
    changes: [OwnedFd; 3],
    /// How many files there could still be.
    free_files: u64,
}

impl Node {
    /// The node that [`prepare`] has made.
    pub fn new() -> Self {
        /// `RTMGRP_LINK` (linux/rtnetlink.h).
        const LINKS: u32 = 1;
        /// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h), as a bit.
        const RULES: u32 = 1 << 6;
        let container = Netns::open(CONTAINER).expect("it is bound there");
        let there = container
            .enter(|| listen(SockProtocol::NetlinkRoute, LINKS))
            .expect("root may enter it");
        let here = listen(SockProtocol::NetlinkRoute, LINKS);
        let rules = listen(SockProtocol::NetlinkNetFilter, RULES);
        Self {
            changes: [here, there, rules],
            free_files: free_files(),
        }
    }

    /// Whether anything may be other than it was when this was asked last.
    fn has_changed(&self) -> bool {
        // All of them: each is emptied.
        let told = self.changes.iter().filter(|socket| has_said(socket));
        told.count() > 0 || free_files() != self.free_files
    }

    /// Fails if anything is left of an attachment: links, leases, records, elements of nftables.
    pub fn assert_clean(&self, when: &str) {
        if !self.has_changed() {
            return;
        }
        let only_lo = BTreeSet::from(["lo".to_owned()]);
        assert_eq!(links(None), only_lo, "links of the node {when}");
        let container = Netns::open(CONTAINER).expect("it is bound there");
        let found = links(Some(&container));
        assert_eq!(found, only_lo, "links of the container {when}");
        let mut left = Vec::new();
        files(Path::new("/"), &mut left);
        left.retain(|path| !stays(path));
        assert_eq!(left, [""; 0].map(PathBuf::from), "files {when}");
        let mut nftables = NftSocket::open().expect("a netlink socket");
        for name in [HOSTPORTS, IPMASQ] {
            let table = nftables.observe(FAMILY, name).expect("it can be read");
            for (set, content) in table.iter().flat_map(|table| table.sets.iter()) {
                assert_eq!(content.elements.len(), 0, "elements of {name} {set} {when}");
            }
        }
    }

    /// Makes the files as they were before the call.
    pub fn tidy(&self) {
        if free_files() == self.free_files {
            return;
        }
        for entry in fs::read_dir("/").into_iter().flatten().flatten() {
            if !SKELETON.iter().any(|name| entry.file_name() == *name) && !is_kept(&entry.path()) {
                remove(&entry.path());
            }
        }
        for entry in fs::read_dir("/run").into_iter().flatten().flatten() {
            if !["netns", "empty"]
                .iter()
                .any(|name| entry.file_name() == *name)
            {
                remove(&entry.path());
            }
        }
    }
}

/// A socket that hears what the kernel tells these groups in the namespace of this thread.
fn listen(protocol: SockProtocol, groups: u32) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol);
    let socket = socket.expect("a netlink socket");
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).expect("root may listen");
    socket
}

/// Whether the kernel has told something; empties the socket.
fn has_said(socket: &OwnedFd) -> bool {
    let mut said = false;
    loop {
        match recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => return said,
            // Also if it told more than it could keep.
            _ => said = true,
        }
    }
}

/// How many files there could still be in the root directory's file system.
fn free_files() -> u64 {
    statvfs("/").expect("it is there").files_free()
}

fn links(netns: Option<&Netns>) -> BTreeSet<String> {
    let socket = netns.map_or_else(RouteSocket::open, RouteSocket::open_in);
    let links = socket.and_then(|mut socket| socket.links());
    let links = links.expect("links can be listed").into_iter();
    links.map(|link| link.name).collect()
}

/// Whether the kept files are at or below `path`, or the other way round.
fn is_kept(path: &Path) -> bool {
    Path::new(KEPT).starts_with(path) || path.starts_with(KEPT)
}

/// The files below `directory` that a call may have written.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if path == Path::new("/proc") || path == Path::new(KEPT) || path == Path::new(CONTAINER) {
            continue;
        }
        if is_directory {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Whether a file stays when the last attachment is gone, so that the next one is quick.
fn stays(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let exact = ["lock", "empty", ".podwire"];
    let starts = ["last_reserved_ip.", ".podwire.free."];
    exact.contains(&name) || starts.iter().any(|start| name.starts_with(start))
}

fn remove(path: &Path) {
    // The next call finds out if it is still there.
    let _ = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
}
