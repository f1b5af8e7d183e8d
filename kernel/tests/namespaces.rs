//! Network namespaces and kernel parameters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::{netns, run_in};
use podwire_kernel::netns::{Netns, unshare_thread};
use podwire_kernel::{Cause, RouteSocket, sysctl};

#[test]
fn entering_a_namespace_comes_back_even_after_a_panic() {
    let home = Netns::current().unwrap().inode().unwrap();
    let elsewhere = netns();
    let inside = elsewhere
        .enter(|| Netns::current().unwrap().inode().unwrap())
        .unwrap();
    assert_eq!(inside, elsewhere.inode().unwrap());
    assert_ne!(inside, home);
    let panicked = std::panic::catch_unwind(|| elsewhere.enter(|| panic!("on purpose")));
    assert!(panicked.is_err());
    assert_eq!(Netns::current().unwrap().inode().unwrap(), home);
}

#[test]
fn a_socket_stays_in_the_namespace_it_was_opened_in() {
    let elsewhere = netns();
    let mut socket = RouteSocket::open_in(&elsewhere).unwrap();
    let links = socket.links().unwrap();
    assert_eq!(links.len(), 1);
    assert!(links[0].loopback && links[0].name == "lo" && !links[0].up);
}

#[test]
fn a_bound_namespace_lives_on_and_can_be_opened_by_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pod");
    let inode = {
        let made = netns();
        made.bind(&path).unwrap();
        made.inode().unwrap()
    };
    assert_eq!(Netns::open(&path).unwrap().inode().unwrap(), inode);
    let again = netns().bind(&path).unwrap_err();
    assert!(again.is_exists(), "{again}");
    Netns::unbind(&path).unwrap();
    assert!(!path.exists());
    let gone = Netns::open(&path).unwrap_err();
    assert_eq!(gone.errno(), Some(libc::ENOENT));
    assert!(
        gone.to_string().contains("cannot open network namespace"),
        "{gone}"
    );
}

#[test]
fn a_file_that_is_no_namespace_is_named_as_such() {
    let other = Netns::open("/proc/self/ns/mnt").unwrap();
    let error = other.enter(|| ()).unwrap_err();
    assert_eq!(error.object, "/proc/self/ns/mnt");
    assert_eq!(
        error.cause,
        Cause::Unsuitable("it is not a network namespace")
    );
    let file = Netns::open("/dev/null").unwrap();
    assert!(RouteSocket::open_in(&file).is_err());
}

#[test]
fn the_namespace_of_a_process_is_found_by_its_pid() {
    let here = Netns::of_pid(std::process::id() as i32).unwrap();
    assert_eq!(
        here.path(),
        Path::new(&format!("/proc/{}/ns/net", std::process::id()))
    );
    std::thread::spawn(|| {
        unshare_thread().unwrap();
        let own = Netns::current().unwrap().inode().unwrap();
        let of_process = Netns::of_pid(std::process::id() as i32)
            .unwrap()
            .inode()
            .unwrap();
        assert_ne!(own, of_process, "only the thread moved");
    })
    .join()
    .unwrap();
}

#[test]
fn parameters_are_those_of_the_namespace_of_the_thread() {
    let elsewhere = netns();
    let (before, wrote, again, after) = elsewhere
        .enter(|| {
            let before = sysctl::read("net/ipv4/ip_forward").unwrap();
            let value = if before == "0" { "1" } else { "0" };
            let wrote = sysctl::ensure("net/ipv4/ip_forward", value).unwrap();
            let again = sysctl::ensure("net/ipv4/ip_forward", value).unwrap();
            (
                before,
                wrote,
                again,
                sysctl::read("net/ipv4/ip_forward").unwrap(),
            )
        })
        .unwrap();
    assert_ne!(before, after);
    assert!(wrote && !again);
    let shown = run_in(&elsewhere, "cat", &["/proc/sys/net/ipv4/ip_forward"]);
    assert_eq!(shown.trim_end(), after);
}

#[test]
fn keys_that_lead_out_of_proc_sys_are_refused() {
    for key in [
        "",
        "/etc/passwd",
        "../../etc/passwd",
        "net/../../../etc/passwd",
    ] {
        let error = sysctl::read(key).unwrap_err();
        assert!(
            matches!(error.cause, Cause::Unsuitable(_)),
            "{key}: {error}"
        );
    }
    let missing = sysctl::write("net/ipv4/conf/nope/forwarding", "1").unwrap_err();
    assert_eq!(missing.errno(), Some(libc::ENOENT));
    let wrong = netns()
        .enter(|| sysctl::write("net/ipv4/ip_forward", "yes"))
        .unwrap()
        .unwrap_err();
    assert_eq!(wrong.errno(), Some(libc::EINVAL), "{wrong}");
}
