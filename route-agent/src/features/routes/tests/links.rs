//! Routes of others that go with their link, of which the kernel says nothing in IPv4.

use super::*;

#[test]
fn a_route_of_others_that_goes_with_its_link_is_forgotten() {
    let mut machine = Machine::new();
    let veth = Veth {
        up: true,
        ..Veth::new("vpn0", "vpn1").unwrap()
    };
    let ends = machine.socket.create_veth(&veth).unwrap();
    let theirs = Route {
        link: Some(ends.index),
        protocol: 4,
        ..Route::to("10.10.2.0/24".parse().unwrap())
    };
    let lost = |gone| KernelEvent::Link {
        index: ends.index,
        name: "vpn0".to_owned(),
        up: false,
        gone,
    };
    let other = KernelEvent::Link {
        index: ends.peer_index,
        name: "vpn1".to_owned(),
        up: false,
        gone: true,
    };
    machine.set(node("a", &["172.18.0.4"], &["10.10.2.0/24"]));
    for gone in [false, true] {
        machine.socket.set_up(ends.index).unwrap();
        machine.socket.add_route(&theirs).unwrap();
        assert!(machine.notice(&Event::Resync));
        machine.sync();
        assert_eq!(machine.warnings.iter().count(), 1, "{:?}", machine.warnings);
        assert!(!machine.notice(&Event::Kernel(&other)), "it has no routes");
        let end = match gone {
            false => "ip link set vpn0 down",
            true => "ip link delete vpn0",
        };
        run(end);
        assert!(machine.notice(&Event::Kernel(&lost(gone))));
        assert_eq!(machine.sync(), 0);
        assert!(machine.warnings.is_empty(), "{:?}", machine.warnings);
        assert!(
            !machine.notice(&Event::Kernel(&lost(gone))),
            "announced twice"
        );
    }
}

/// Runs a command in the namespace of this thread.
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = std::process::Command::new(words.next().unwrap())
        .args(words)
        .status();
    assert!(status.unwrap().success(), "{command}");
}
