//! Associations of SCTP, one to one: they are read and written like connections of TCP.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    listen, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use podwire_kernel::sysctl;
use podwire_lab::not_run::not_run;
use podwire_lab::place::Place;

/// Whether the kernel has SCTP; if not, says that `what` is not run.
pub fn is_there(at: &Place, what: &str) -> bool {
    let made = at.inside(|| make(AddressFamily::Inet)).unwrap();
    let reason = made.as_ref().err().map(ToString::to_string);
    if let Some(reason) = &reason {
        not_run(
            what,
            &format!("this kernel makes no socket of SCTP: {reason}"),
        );
    }
    made.is_ok()
}

/// Sends again every second what is not acknowledged, however long that takes, rather than ever more
/// seldom until the association is given up. For sockets that are made from then on.
pub fn insist(at: &Place) {
    let values = [
        ("rto_min", "200"),
        ("rto_max", "1000"),
        ("association_max_retrans", "1000"),
        ("path_max_retrans", "1000"),
    ];
    at.kernel(|| {
        let write = |(key, value): (&str, &str)| sysctl::write(&format!("net/sctp/{key}"), value);
        values.into_iter().try_for_each(write)
    })
    .unwrap();
}

/// A socket that associations are made to, for the standard library like one of TCP.
pub fn listener(at: &Place, address: SocketAddr) -> TcpListener {
    let listening = || {
        let socket = make(family(address))?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        listen(&socket, Backlog::new(9)?)?;
        Ok::<_, io::Error>(TcpListener::from(socket))
    };
    at.inside(listening).unwrap().unwrap()
}

/// Makes an association within this time.
pub fn associate(from: &Place, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let associated = || {
        let socket = make(family(to))?;
        let limit = TimeVal::milliseconds(limit.as_millis().try_into().unwrap_or(i64::MAX));
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(socket))
    };
    from.inside(associated).unwrap()
}

fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Of one family: an association has all addresses of a socket, and the policies may allow some.
fn make(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Sctp,
    )?;
    if family == AddressFamily::Inet6 {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(socket)
}
