//! A node with an agent and two pods that talk: a client, and a server with two addresses.
//!
//! The client is pinned to one processor and the server to another.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::Netns;
use podwire_kernel::route::Route;
use podwire_kernel::sysctl;
use podwire_kernel::{RouteSocket, Scope};

use crate::services::agent::{self, Agent};
use crate::services::cluster::{Cluster, TARGET};
use crate::world::World;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
/// The server.
pub const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 88, 0, 3), Ipv4Addr::new(10, 88, 0, 4)];

/// Where the servers answer those who do not go through a Service. Not the endpoints' port, so
/// that no connection's addresses collide with those of a translated one.
pub const DIRECT: u16 = TARGET + 1;

/// Where they send back what they get.
pub const ECHO: u16 = TARGET + 2;

/// Each with each of the servers is a pair that speaks once in a turn. Not one range: a rule about
/// them names each.
pub const PAIRS: [u16; CONNECTIONS / SERVERS.len()] = {
    let mut ports = [0; CONNECTIONS / SERVERS.len()];
    let mut number = 0;
    while number < ports.len() {
        ports[number] = ECHO + 2 * (number as u16 + 1);
        number += 1;
    }
    ports
};

/// Links of pods, for which the agent has rules.
const POD_GROUP: u32 = 112;

/// Turns of each side, and connections in one turn where connections are timed one by one.
pub const TURNS: usize = 400;
/// See [`TURNS`].
pub const CONNECTIONS: usize = 50;

/// The length of a turn in which as much as possible is done.
pub const TURN: Duration = Duration::from_millis(50);

/// One of the addresses of the server.
pub fn directly(server: u32) -> SocketAddr {
    SocketAddrV4::new(SERVERS[server as usize % 2], DIRECT).into()
}

/// One of the [`CONNECTIONS`] pairs.
pub fn of_pair(number: u32) -> SocketAddr {
    let port = PAIRS[number as usize / SERVERS.len() % PAIRS.len()];
    SocketAddrV4::new(SERVERS[number as usize % SERVERS.len()], port).into()
}

/// A new connection, and how long the first packet and its answer took.
pub fn connect(target: SocketAddr) -> std::io::Result<(TcpStream, Duration)> {
    let start = Instant::now();
    let stream = TcpStream::connect(target)?;
    Ok((stream, start.elapsed()))
}

/// Sends as much as it can through a new connection for a [`TURN`], in Gbit/s.
pub fn throughput(target: SocketAddr) -> std::io::Result<f64> {
    let bytes = vec![0u8; 256 << 10];
    let (mut stream, _) = connect(target)?;
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < TURN {
        stream.write_all(&bytes)?;
        sent += bytes.len();
    }
    let rate = sent as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9;
    wait_for_end(stream)?;
    Ok(rate)
}

/// Says that nothing more comes, and waits until the server ends the connection: with a reset, so
/// that nothing of it is left at either end.
pub fn wait_for_end(mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0; 16]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

/// A node with an agent, a client and a server.
pub struct Lab {
    client: Netns,
    /// The node.
    pub node: Netns,
    /// Its agent.
    pub agent: Option<Agent>,
}

impl Lab {
    /// A node whose agent has these flags and is ready.
    pub fn with_agent(world: &World, cluster: &Cluster, flags: &[&str]) -> Result<Self, String> {
        let failed = |error: podwire_kernel::Error| error.to_string();
        let node = agent::node()?;
        let client = pod(&node, "vethclient", &[CLIENT]).map_err(failed)?;
        let server = pod(&node, "vethserver", &SERVERS).map_err(failed)?;
        let mut agent = Agent::start_with(world, &node, cluster, flags)?;
        agent.await_ready()?;
        agent.await_idle()?;
        // Ended connections are forgotten before their number fills the table.
        node.enter(|| sysctl::write("net/netfilter/nf_conntrack_tcp_timeout_close", "1"))
            .map_err(failed)?
            .map_err(failed)?;
        for port in [TARGET, DIRECT, ECHO].into_iter().chain(PAIRS) {
            serve(&server, port)?;
        }
        Ok(Self {
            client,
            node,
            agent: Some(agent),
        })
    }

    /// The same node, whose agent has ended: its rules stay.
    pub fn without_agent(mut self) -> Self {
        self.agent = None;
        self
    }

    /// Runs `work` in the client's namespace, on the first processor.
    pub fn in_client<T>(&self, work: impl FnOnce() -> std::io::Result<T>) -> Result<T, String> {
        pin(0);
        self.client
            .enter(work)
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("a connection of the bench failed: {error}"))
    }
}

/// A pod as the plugin makes it: a link of its own, and the node as its gateway.
fn pod(node: &Netns, link: &str, addresses: &[Ipv4Addr]) -> podwire_kernel::Result<Netns> {
    let netns = Netns::create_anonymous()?;
    let host = |address: Ipv4Addr| IpNetwork::from(std::net::IpAddr::from(address));
    node.enter(|| {
        let mut socket = RouteSocket::open()?;
        let ends = socket.create_veth(&Veth {
            peer_netns: Some(&netns),
            group: POD_GROUP,
            ..Veth::new(link, "eth0")?
        })?;
        netns.enter(|| {
            let mut inside = RouteSocket::open()?;
            inside.set_up(1)?;
            inside.set_up(ends.peer_index)?;
            for address in addresses {
                inside.add_address(&Address::new(ends.peer_index, host(*address)))?;
            }
            inside.add_route(&Route {
                link: Some(ends.peer_index),
                scope: Scope::Link,
                ..Route::to(host(GATEWAY))
            })
        })??;
        socket.set_up(ends.index)?;
        socket.add_address(&Address::new(ends.index, host(GATEWAY)))?;
        for address in addresses {
            socket.add_route(&Route {
                link: Some(ends.index),
                scope: Scope::Link,
                ..Route::to(host(*address))
            })?;
        }
        podwire_kernel::Result::Ok(())
    })??;
    netns.enter(|| {
        let mut inside = RouteSocket::open()?;
        let everything = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let to = everything.expect("every address has a network of no bits");
        inside.add_route(&Route {
            gateway: Some(GATEWAY.into()),
            ..Route::to(to)
        })
    })??;
    Ok(netns)
}

/// Takes connections at a port, one after the other, and what comes through them; at [`ECHO`] it goes
/// back.
fn serve(netns: &Netns, port: u16) -> Result<(), String> {
    let listen = || -> std::io::Result<TcpListener> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        // Accepted connections inherit it: closing one resets it.
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&listener, sockopt::Linger, &linger)?;
        Ok(listener)
    };
    let listener = netns
        .enter(listen)
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("cannot listen at port {port}: {error}"))?;
    std::thread::spawn(move || {
        pin(1);
        let mut buffer = vec![0; 256 << 10];
        for mut stream in listener.incoming().flatten() {
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if port == ECHO && stream.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
        }
    });
    Ok(())
}

/// Keeps the calling thread on one processor. With fewer processors it stays where it is.
fn pin(processor: usize) {
    let mut set = CpuSet::new();
    if set.set(processor).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}
