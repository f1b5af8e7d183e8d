//! Real packets: echo servers in containers, clients anywhere, a machine outside.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc;
use std::time::Duration;

use podwire_kernel::RouteSocket;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::Netns;
use podwire_kernel::route::Route;

use super::node::Node;

pub const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a packet that must not come is waited for.
pub const SILENCE: Duration = Duration::from_millis(300);

/// Starts a server in `netns` that tells every client its name and the client's address. It ends
/// with the process.
pub fn serve(netns: &Netns, name: &str, address: &str, udp: bool) {
    let (ready, is_ready) = mpsc::channel();
    let descriptor = netns.as_fd().as_raw_fd();
    let netns = Netns::open(format!("/proc/self/fd/{descriptor}")).unwrap();
    let (name, address) = (name.to_owned(), address.to_owned());
    std::thread::spawn(move || {
        netns.switch().unwrap();
        if udp {
            let socket = UdpSocket::bind(address).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
            }
        } else {
            let listener = TcpListener::bind(address).unwrap();
            ready.send(()).unwrap();
            for mut stream in listener.incoming().flatten() {
                let from = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{name} {from}").as_bytes());
            }
        }
    });
    is_ready.recv().unwrap();
}

/// What the server at `to` says to a TCP client in the namespace of this thread.
pub fn tcp(to: &str) -> Result<String, String> {
    let to: SocketAddr = to.parse().unwrap();
    let connect = TcpStream::connect_timeout(&to, TIMEOUT);
    let mut stream = connect.map_err(|error| error.kind().to_string())?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .map_err(|error| error.kind().to_string())?;
    Ok(text)
}

/// What the server at `to` says to a UDP client with the port `from` (0 is any) that has so much
/// `patience`.
pub fn udp(from: u16, to: &str, patience: Duration) -> Result<String, String> {
    let to: SocketAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0u16; 8].into()
    };
    let socket = UdpSocket::bind((any, from)).map_err(|error| error.kind().to_string())?;
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
        .connect(to)
        .map_err(|error| error.kind().to_string())?;
    socket
        .send(b"hello")
        .map_err(|error| error.kind().to_string())?;
    let mut buffer = [0; 64];
    let length = socket
        .recv(&mut buffer)
        .map_err(|error| error.kind().to_string())?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Does the same in another namespace.
pub fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                netns.switch().unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

/// A machine outside of the node, on one link with it: 192.0.2.1 and 2001:db8::1 are the node,
/// 192.0.2.9 and 2001:db8::9 the machine.
pub struct Outside {
    pub netns: Netns,
}

impl Outside {
    pub fn new(_node: &mut Node) -> Self {
        let netns = Netns::create_anonymous().unwrap();
        let mut veth = Veth::new("uplink", "uplink").unwrap();
        veth.peer_netns = Some(&netns);
        let mut near = RouteSocket::open().unwrap();
        let ends = near.create_veth(&veth).unwrap();
        let mut far = RouteSocket::open_in(&netns).unwrap();
        for (socket, index, low) in [(&mut near, ends.index, 1), (&mut far, ends.peer_index, 9)] {
            for address in [format!("192.0.2.{low}/24"), format!("2001:db8::{low}/64")] {
                let address = Address::new(index, address.parse().unwrap());
                socket.add_address(&address).unwrap();
            }
            socket.set_up(index).unwrap();
        }
        for (to, gateway) in [("0.0.0.0/0", "192.0.2.9"), ("::/0", "2001:db8::9")] {
            let mut route = Route::to(to.parse().unwrap());
            route.gateway = Some(gateway.parse().unwrap());
            near.add_route(&route).unwrap();
        }
        Self { netns }
    }

    /// Makes the machine send everything to the node.
    pub fn route_back(&self) {
        let mut far = RouteSocket::open_in(&self.netns).unwrap();
        for (to, gateway) in [("0.0.0.0/0", "192.0.2.1"), ("::/0", "2001:db8::1")] {
            let mut route = Route::to(to.parse().unwrap());
            route.gateway = Some(gateway.parse().unwrap());
            far.add_route(&route).unwrap();
        }
    }

    /// Takes the link to the machine away.
    pub fn unplug(self) {
        RouteSocket::open()
            .unwrap()
            .delete_link_named("uplink")
            .unwrap();
    }
}
