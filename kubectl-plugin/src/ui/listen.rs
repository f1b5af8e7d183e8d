//! The connections of the live page. Everyone on this machine can open some to a loopback port, with
//! or without the token, and must not keep out who has it.
//!
//! There are [`PLACES`] of them. When they are all taken, the one that has waited longest for its
//! client goes; who is being answered and has the token does not wait.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use podwire_agent::serve::connections::{self, Listener};
use podwire_agent::serve::places::{Place, Places};
use tokio::net::TcpListener;
use tower::ServiceExt;

/// Far more than browsers open for the pages that there can be, and a quarter of the files that a
/// process may usually have open.
const PLACES: usize = 256;

/// The connection that a request came on.
#[derive(Clone)]
struct Came(Arc<Place>);

/// Serves until this is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let answers = move |place: Arc<Place>| {
        let router = router.clone();
        service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Came(Arc::clone(&place)));
            router.clone().oneshot(request)
        })
    };
    let places = Places::with_own(PLACES);
    // A page listens for events as long as it is open.
    connections::serve(Listener::Tcp(listener), places, None, answers).await;
}

/// While this is there its connection does not wait for its client.
pub struct Answering(Option<Arc<Place>>);

impl Answering {
    /// This request is answered from now on.
    pub fn to(request: &Request) -> Self {
        let came = request.extensions().get::<Came>();
        let place = came.map(|came| Arc::clone(&came.0));
        if let Some(place) = &place {
            place.answering();
        }
        Self(place)
    }

    /// With this response, until all of it is on its way.
    pub fn with(self, response: Response) -> Response {
        response.map(|body| {
            let parts = body.into_data_stream().map(move |part| {
                let _until_the_end = &self;
                part
            });
            Body::from_stream(parts)
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(place) = &self.0 {
            place.answered();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    /// Events without end for who is let in, as the page's.
    async fn events(request: Request) -> Response {
        let answering = Answering::to(&request);
        let first = stream::iter([Ok::<_, std::io::Error>("first")]);
        let events = first.chain(stream::pending());
        answering.with(Response::new(Body::from_stream(events)))
    }

    async fn start() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async || "page"))
            .route("/events", get(events));
        tokio::spawn(serve(listener, router));
        address
    }

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Reads up to this text.
    async fn read_to(stream: &mut TcpStream, end: &str) {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let read = timeout(Duration::from_secs(20), stream.read_u8());
            text.push(read.await.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn idle_connections_without_end_keep_no_one_out_and_end_no_open_page() {
        let address = start().await;
        let mut open = ask(address, "/events").await;
        read_to(&mut open, "first\r\n").await;
        let mut idle = Vec::new();
        for _ in 0..PLACES + 100 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        // They are there, and do not go by themselves.
        let mut page = ask(address, "/").await;
        read_to(&mut page, "page").await;
        let mut byte = [0];
        for stream in &mut idle[..100] {
            let end = timeout(Duration::from_secs(5), stream.read(&mut byte));
            assert_eq!(end.await.expect("those that wait longest go").unwrap(), 0);
        }
        assert!(idle[PLACES + 50].try_read(&mut byte).is_err(), "it waits");
        assert!(open.try_read(&mut byte).is_err(), "the open page stays");
    }
}
