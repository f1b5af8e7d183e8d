//! Connections that tests hold open, with both their ends.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use podwire_lab::place::Place;
use podwire_lab::pod::Pod;

use super::policies::ANSWER;
use super::sctp;

/// How long a sender waits for room before it gives up.
const ROOM: Duration = Duration::from_millis(100);

/// Where a connection is made to, and the pod and the port that it gets to.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    pub to: SocketAddr,
    pub server: &'a Pod,
    pub port: u16,
}

impl<'a> Way<'a> {
    pub fn direct(server: &'a Pod, address: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(address, port);
        Self { to, server, port }
    }

    /// What the server listens on.
    fn behind(&self) -> SocketAddr {
        let address = self.server.address(self.to.is_ipv6()).unwrap();
        SocketAddr::new(address, self.port)
    }
}

/// An open connection: both its ends.
pub enum Connection {
    /// TCP, or an association of SCTP.
    Stream(TcpStream, TcpStream),
    Udp(UdpSocket, UdpSocket),
}

/// A protocol, and how a connection of it is made.
pub type Protocol = (&'static str, fn(&Place, Way<'_>) -> Connection);

pub const TCP: Protocol = ("TCP", Connection::tcp);
pub const UDP: Protocol = ("UDP", Connection::udp);
pub const SCTP: Protocol = ("SCTP", Connection::sctp);

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Client,
    Server,
}

impl End {
    /// What is sent from and received at, if this one sends.
    fn and_to<T>(self, client: T, server: T) -> (T, T) {
        match self {
            Self::Client => (client, server),
            Self::Server => (server, client),
        }
    }

    /// Both, this one first.
    pub fn and_other(self) -> [Self; 2] {
        match self {
            Self::Client => [Self::Client, Self::Server],
            Self::Server => [Self::Server, Self::Client],
        }
    }
}

impl Connection {
    pub fn tcp(client: &Place, way: Way<'_>) -> Self {
        let bind = || TcpListener::bind(way.behind()).unwrap();
        let listener = way.server.place().inside(bind).unwrap();
        let connect = || TcpStream::connect_timeout(&way.to, ANSWER).unwrap();
        let client = client.inside(connect).unwrap();
        Self::Stream(client, listener.accept().unwrap().0)
    }

    pub fn sctp(client: &Place, way: Way<'_>) -> Self {
        sctp::insist(client);
        sctp::insist(way.server.place());
        let listener = sctp::listener(way.server.place(), way.behind());
        let client = sctp::associate(client, way.to, ANSWER).unwrap();
        Self::Stream(client, listener.accept().unwrap().0)
    }

    pub fn udp(client: &Place, way: Way<'_>) -> Self {
        let any = if way.to.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let bind = || UdpSocket::bind(way.behind()).unwrap();
        let server = way.server.place().inside(bind).unwrap();
        let client = client.inside(|| UdpSocket::bind(any).unwrap()).unwrap();
        client.connect(way.to).unwrap();
        client.send(b"first").unwrap();
        server.set_read_timeout(Some(ANSWER)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 100]).unwrap();
        server.connect(from).unwrap();
        Self::Udp(client, server)
    }

    /// Sends from the client, if there is room for it.
    pub fn send(&self, words: &[u8]) {
        // What does not go out is for `hears` to find out.
        let _ = match self {
            Self::Stream(client, _) => {
                client.set_write_timeout(Some(ROOM)).unwrap();
                (&mut &*client).write(words)
            }
            Self::Udp(client, _) => client.send(words),
        };
    }

    /// Whether the server hears something within this time.
    pub fn hears(&self, limit: Duration) -> bool {
        let mut buffer = [0; 4096];
        match self {
            Self::Stream(_, server) => {
                server.set_read_timeout(Some(limit)).unwrap();
                matches!((&mut &*server).read(&mut buffer), Ok(1..))
            }
            Self::Udp(_, server) => {
                server.set_read_timeout(Some(limit)).unwrap();
                server.recv(&mut buffer).is_ok()
            }
        }
    }

    /// Whether a word gets from one end to the other within this time. What was sent before may come
    /// first: TCP and SCTP send again what was dropped.
    pub fn carries(&mut self, from: End, word: &str, limit: Duration) -> bool {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let word = format!("{word} {};", NUMBER.fetch_add(1, Ordering::Relaxed));
        let (sent, mut receive): (_, Receive<'_>) = match self {
            Self::Stream(client, server) => {
                let (from, to) = from.and_to(client, server);
                to.set_read_timeout(Some(limit)).unwrap();
                (
                    from.write_all(word.as_bytes()),
                    Box::new(|buffer| to.read(buffer)),
                )
            }
            Self::Udp(client, server) => {
                let (from, to) = from.and_to(client, server);
                to.set_read_timeout(Some(limit)).unwrap();
                let sent = from.send(word.as_bytes()).map(drop);
                (sent, Box::new(|buffer| to.recv(buffer)))
            }
        };
        let (mut found, mut buffer) = (String::new(), [0; 4096]);
        while sent.is_ok() && !found.contains(&word) {
            match receive(&mut buffer) {
                Ok(length) if length > 0 => {
                    found.push_str(&String::from_utf8_lossy(&buffer[..length]));
                }
                _ => return false,
            }
        }
        sent.is_ok()
    }
}

/// Reads what has come.
type Receive<'a> = Box<dyn FnMut(&mut [u8]) -> std::io::Result<usize> + 'a>;
