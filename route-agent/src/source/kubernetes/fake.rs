//! A scripted API server on a real socket, for tests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::source::kubernetes::server::{Limits, Timing};
use crate::source::kubernetes::{FOR_POLICIES, RESOURCES};

/// What the server does with one request.
pub enum Reply {
    /// This status and body.
    Full(u16, String),
    /// A list of nothing, of the kind that is asked for.
    Nothing,
    /// The beginning of an endless answer.
    Bytes(Vec<u8>),
    /// An endless answer: these lines, and then the end.
    Lines(Vec<String>, End),
    /// These bytes again and again, with this pause.
    Endless(Vec<u8>, Duration),
    /// Nothing is said and the connection stays open.
    Hang,
    /// The connection is closed at once.
    Hangup,
}

#[derive(Clone, Copy)]
pub enum End {
    Clean,
    Cut,
    /// After this time of silence.
    CutAfter(Duration),
    Silence,
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub target: String,
    pub authorization: String,
    pub body: String,
}

#[derive(Default)]
pub struct Script {
    pub replies: VecDeque<Reply>,
    pub asked: Vec<Asked>,
}

/// A server that answers request after request with its script, and with silence at its end.
pub struct Fake {
    pub port: u16,
    pub script: Arc<Mutex<Script>>,
}

impl Fake {
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let replies = replies.into_iter().collect();
        let script = Arc::new(Mutex::new(Script {
            replies,
            asked: Vec::new(),
        }));
        let shared = script.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { port, script }
    }

    pub fn targets(&self) -> Vec<String> {
        self.script
            .lock()
            .unwrap()
            .asked
            .iter()
            .map(|asked| asked.target.clone())
            .collect()
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    // What is written in pieces must not wait for the client's acknowledgement.
    stream.set_nodelay(true).unwrap();
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let authorization = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: "))
            .unwrap_or_default()
            .to_owned();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let body = String::from_utf8(body).unwrap();
        let reply = {
            let mut script = script.lock().unwrap();
            let reply = match script.replies.pop_front() {
                Some(Reply::Nothing) => Reply::Full(200, nothing_of(&target)),
                reply => reply.unwrap_or(Reply::Hang),
            };
            script.asked.push(Asked {
                target,
                authorization,
                body,
            });
            reply
        };
        if !answer(&mut stream, reply).await {
            return;
        }
    }
}

/// A list of nothing, of the kind that has this path.
fn nothing_of(target: &str) -> String {
    let path = target.split('?').next().unwrap();
    let mut resources = RESOURCES.iter().chain(&FOR_POLICIES);
    let kind = resources
        .find(|one| one.paths.contains(&path))
        .unwrap()
        .kind;
    format!(r#"{{"kind":"{kind}List","metadata":{{"resourceVersion":"1"}},"items":[]}}"#)
}

/// Answers; false if the connection is done.
async fn answer(stream: &mut TcpStream, reply: Reply) -> bool {
    match reply {
        Reply::Hangup => false,
        Reply::Hang | Reply::Nothing => std::future::pending().await,
        Reply::Bytes(bytes) => {
            stream.write_all(CHUNKED.as_bytes()).await.unwrap();
            let head = format!("{:x}\r\n", bytes.len());
            let chunk = [head.as_bytes(), &bytes, b"\r\n"].concat();
            stream.write_all(&chunk).await.unwrap();
            std::future::pending().await
        }
        Reply::Full(code, body) => {
            let text = format!(
                "HTTP/1.1 {code} X\r\nRetry-After: 0\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(text.as_bytes()).await.is_ok()
        }
        Reply::Endless(bytes, pause) => {
            stream.write_all(CHUNKED.as_bytes()).await.unwrap();
            let head = format!("{:x}\r\n", bytes.len());
            let chunk = [head.as_bytes(), &bytes, b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
            false
        }
        Reply::Lines(lines, end) => {
            stream.write_all(CHUNKED.as_bytes()).await.unwrap();
            for line in lines {
                let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
                stream.write_all(chunk.as_bytes()).await.unwrap();
            }
            match end {
                End::Clean => stream.write_all(b"0\r\n\r\n").await.is_ok(),
                End::Cut => false,
                End::CutAfter(time) => {
                    tokio::time::sleep(time).await;
                    false
                }
                End::Silence => std::future::pending().await,
            }
        }
    }
}

/// Small limits for tests. A whole list may take as long as it does on a machine that has other work.
pub fn small() -> Limits {
    Limits {
        page_bytes: 10_000,
        page_time: Duration::from_millis(900),
        list_bytes: 15_000,
        list_time: Duration::from_secs(60),
        event_bytes: 6000,
        object_bytes: 4000,
    }
}

/// Time-outs for tests.
pub fn fast() -> Timing {
    Timing {
        connect: Duration::from_secs(2),
        answer: Duration::from_millis(700),
        silence: Duration::from_millis(500),
        watch: Duration::from_secs(290),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(20),
        missing: Duration::from_millis(10),
        event_pause: Duration::from_millis(1),
    }
}
