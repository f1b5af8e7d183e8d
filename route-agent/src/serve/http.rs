//! A small HTTP/1 server over TCP or a Unix socket, for answers that fit into memory.
//!
//! No client can hold it up: the body of a request is not read, a connection lives
//! [`CONNECTION_TIME`] at most, and [`connections`] limits the rest. A [`Server`] that is dropped stops
//! listening at once; responses that have begun are finished.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use tokio::task::AbortHandle;

use crate::serve::connections::{self, Answers, Listener};
use crate::serve::places::{Place, Places};
use crate::text::printable;

/// How long a connection may be kept for further requests.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// A request: the parts of it that decide the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The path, for example `/healthz`.
    pub path: String,
    /// What follows the question mark; empty if there is none.
    pub query: String,
    /// The `Accept` header; empty if there is none.
    pub accept: String,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// Headers beside the length and the date.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: String,
}

impl Response {
    /// A response with a body of this content type.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static(content_type))],
            body: body.into(),
        }
    }

    /// A response of plain text.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// A response that is a JSON document.
    pub fn json(status: StatusCode, body: impl Into<String>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// With one more header.
    pub fn with(mut self, name: &'static str, value: impl Into<HeaderValue>) -> Self {
        self.headers
            .push((HeaderName::from_static(name), value.into()));
        self
    }

    /// There is no such page. A path may hold any character that is not ASCII.
    pub fn not_found(request: &Request) -> Self {
        let path = printable(&request.path);
        Self::text(StatusCode::NOT_FOUND, format!("there is no {path}\n"))
    }
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    task: AbortHandle,
}

impl Server {
    /// Starts to answer requests, on the runtime of the caller.
    pub fn start<A, F>(listener: Listener, answer: A) -> Self
    where
        A: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        Self::start_sharing(listener, Places::default(), answer)
    }

    /// As [`Server::start`], with the places of other servers.
    pub fn start_sharing<A, F>(listener: Listener, places: Places, answer: A) -> Self
    where
        A: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let answer = Arc::new(answer);
        let answers = move |place| answers(Arc::clone(&answer), place);
        let serving = connections::serve(listener, places, Some(CONNECTION_TIME), answers);
        let task = tokio::spawn(serving).abort_handle();
        Self { task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers the requests of one connection of this machine, whatever it runs over: for the fuzzer
/// only.
#[cfg(feature = "fuzzing")]
pub async fn answer<S, A, F>(stream: S, answer: A)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let answer = Arc::new(answer);
    connections::serve_one(stream, |place| answers(Arc::clone(&answer), place)).await;
}

/// What answers one connection.
fn answers<A, F>(answer: Arc<A>, place: Arc<Place>) -> impl Answers
where
    A: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    service_fn(move |request| {
        let (answer, place) = (Arc::clone(&answer), Arc::clone(&place));
        async move {
            place.answering();
            let response = respond(request, answer).await;
            place.answered();
            response
        }
    })
}

async fn respond<A, F>(
    request: hyper::Request<Incoming>,
    answer: Arc<A>,
) -> Result<hyper::Response<Full<Bytes>>, std::convert::Infallible>
where
    A: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    let answered = if matches!(*request.method(), Method::GET | Method::HEAD) {
        let accept = request
            .headers()
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok());
        let request = Request {
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            accept: accept.unwrap_or_default().to_owned(),
        };
        answer(request).await
    } else {
        let mut refused = Response::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is possible here\n",
        );
        refused
            .headers
            .push((ALLOW, HeaderValue::from_static("GET, HEAD")));
        refused
    };
    let mut response = hyper::Response::new(Full::new(Bytes::from(answered.body)));
    *response.status_mut() = answered.status;
    let headers = answered.headers.into_iter();
    let headers = headers.map(|(name, value)| (Some(name), value));
    response.headers_mut().extend(headers);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;
    use crate::serve::connections::listen;

    async fn echo(request: Request) -> Response {
        Response::text(
            StatusCode::OK,
            format!("{} {}", request.path, request.query),
        )
        .with("x-one", 1)
    }

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    async fn send(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_page_that_there_is_not_is_named_without_what_a_terminal_would_obey() {
        let listener = listen(local()).unwrap();
        let address = listener.local_addr().unwrap();
        let answer = |request: Request| async move { Response::not_found(&request) };
        let _server = Server::start(Listener::Tcp(listener), answer);
        let get = "GET /a\u{9b}31m\u{202e}ż HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let text = send(address, get).await;
        assert!(
            text.starts_with("HTTP/1.1 404 ")
                && text.ends_with("\r\n\r\nthere is no /a\\u{9b}31m\\u{202e}ż\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn requests_are_answered_and_only_get_is_allowed() {
        let listener = listen(local()).unwrap();
        let address = listener.local_addr().unwrap();
        let _server = Server::start(Listener::Tcp(listener), echo);
        let get = "GET /a?b=c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let text = send(address, get).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(
            text.contains("x-one: 1\r\n") && text.ends_with("\r\n\r\n/a b=c"),
            "{text}"
        );
        let text = send(address, &get.replace("GET", "POST")).await;
        assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
        let text = send(address, &get.replace("GET", "HEAD")).await;
        assert!(
            text.contains("content-length: 6\r\n") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        let text = send(address, "nonsense\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    }

    #[tokio::test]
    async fn a_dropped_server_closes_its_port_and_its_idle_connections() {
        let listener = listen(local()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::start(Listener::Tcp(listener), echo);
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 15];
        idle.read_exact(&mut first).await.unwrap();
        drop(server);
        let mut rest = Vec::new();
        timeout(Duration::from_secs(5), idle.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        // The listener was told to end before the connection was; the port is free a little later.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        listen(address).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_shut_out() {
        let (client, server) = tokio::io::duplex(64);
        let answer = Arc::new(echo);
        let serving = connections::serve_one(server, move |place| answers(answer.clone(), place));
        tokio::spawn(serving).await.unwrap();
        drop(client);
    }
}
