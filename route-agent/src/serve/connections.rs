//! Connections of an HTTP/1 server, over TCP or a Unix socket, whatever it answers.
//!
//! No client can hold the server up: the header of a request must come within `HEADER_TIME`, and
//! when there are too many connections, the one that has waited longest goes ([`Places`]).

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::serve::places::{Place, Places, Source};

/// How long a client may take to send a request's header.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long a response that has begun may still take when its connection is to end.
const FAREWELL_TIME: Duration = Duration::from_secs(10);
/// Connections that the kernel keeps until they are accepted, which is at once.
const BACKLOG: u32 = 1024;
/// The pause after the kernel refused to hand over a connection (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where requests come in.
#[derive(Debug)]
pub enum Listener {
    /// From the network.
    Tcp(TcpListener),
    /// From this machine.
    Unix(UnixListener),
}

/// Listens on a TCP address. `[::]` takes IPv4 as well, and becomes `0.0.0.0` on a machine without
/// IPv6; any other IPv6 address takes IPv6 only.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match listen_exactly(address) {
        Err(error)
            if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
                && address.ip().is_unspecified() =>
        {
            listen_exactly(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        result => result,
    }
}

fn listen_exactly(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        setsockopt(
            &socket,
            sockopt::Ipv6V6Only,
            &!address.ip().is_unspecified(),
        )?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    // A restart must not wait for connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What answers the requests of one connection. It says to the connection's [`Place`] when it makes an
/// answer.
pub trait Answers:
    Service<
        Request<Incoming>,
        Response = Response<Self::Payload>,
        Error: Into<Box<dyn Error + Send + Sync>>,
        Future: Send,
    > + Send
    + 'static
{
    /// The body of a response.
    type Payload: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
}

impl<S, B> Answers for S
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Payload = B;
}

/// Takes connections until this is dropped, which also ends those that are there, once what they are
/// being answered is sent. `lifetime` is how long one may be kept for further requests, if not for
/// ever; `answers` makes what answers one.
pub async fn serve<A: Answers>(
    listener: Listener,
    places: Places,
    lifetime: Option<Duration>,
    answers: impl Fn(Arc<Place>) -> A,
) {
    // All connections end with it.
    let (_alive, stopped) = watch::channel(());
    loop {
        let Ok((stream, source)) = next(&listener).await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (place, go) = places.take(source);
        let end = End {
            go,
            stopped: stopped.clone(),
            lifetime,
        };
        let service = answers(Arc::new(place));
        match stream {
            Stream::Tcp(stream) => tokio::spawn(converse(stream, service, end)),
            Stream::Unix(stream) => tokio::spawn(converse(stream, service, end)),
        };
        // Of many that come at once each is looked at first: one whose request is there already waits
        // for no client, and has to go for no other.
        tokio::task::yield_now().await;
    }
}

/// Answers one connection of this machine, whatever it runs over: for the fuzzer, and for tests.
#[cfg(any(test, feature = "fuzzing"))]
pub async fn serve_one<S, A: Answers>(stream: S, answers: impl Fn(Arc<Place>) -> A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (_alive, stopped) = watch::channel(());
    let (place, go) = Places::default().take(Source::Own);
    let end = End {
        go,
        stopped,
        lifetime: None,
    };
    converse(stream, answers(Arc::new(place)), end).await;
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn next(listener: &Listener) -> io::Result<(Stream, Source)> {
    Ok(match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            let source = Source::of(peer, stream.local_addr()?);
            (Stream::Tcp(stream), source)
        }
        Listener::Unix(listener) => (Stream::Unix(listener.accept().await?.0), Source::Own),
    })
}

/// What ends a connection from outside.
struct End {
    /// Another connection needs the place.
    go: oneshot::Receiver<()>,
    /// The server is gone.
    stopped: watch::Receiver<()>,
    /// It may be kept for so long.
    lifetime: Option<Duration>,
}

/// Answers the requests of one connection.
async fn converse<S, A: Answers>(stream: S, answers: A, mut end: End)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        // Who has said everything may close its sending side (`nc -N`) and is answered. Who follows
        // without end and goes would not be noticed then.
        .half_close(end.lifetime.is_some())
        .serve_connection(TokioIo::new(stream), answers);
    let mut connection = std::pin::pin!(connection);
    // A client that breaks the protocol or goes away is not an error of the server.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = &mut end.go => return,
        _ = end.stopped.changed() => {}
        () = passed(end.lifetime) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = timeout(FAREWELL_TIME, connection) => {}
        _ = end.go => {}
    }
}

async fn passed(lifetime: Option<Duration>) {
    match lifetime {
        Some(lifetime) => tokio::time::sleep(lifetime).await,
        None => std::future::pending().await,
    }
}
