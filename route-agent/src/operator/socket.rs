//! The agent's own socket in its run directory: HTTP for `podwire-agent status` and `why`.
//!
//! Only the owner of the socket may use it. An agent that starts takes the name over from the one
//! before, so that during an upgrade the newer one answers.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};

use crate::config::RunDir;

/// The name of the socket in the run directory.
pub const NAME: &str = "agent.sock";

/// Where the agent answers, for the commands that ask it.
#[derive(Debug, Clone, Args)]
pub struct Agent {
    /// The run directory of the agent.
    #[command(flatten)]
    pub run_dir: RunDir,
}

/// Longer than the loop may be busy with a full sync.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Why the agent's socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The agent cannot make its socket.
    #[error("cannot listen on {path}; `podwire-agent status` and `why` will not work")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("no agent answers on {path}; start `podwire-agent run`, or name its --run-dir")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The agent hung up or said something that is not HTTP.
    #[error("the agent on {path} gave no proper answer")]
    Talk {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The agent is there but does not answer.
    #[error("the agent on {path} gave no answer in {} s; its log says why", ANSWER_TIME.as_secs())]
    Late {
        /// The socket.
        path: PathBuf,
    },
    /// The agent cannot do what it was asked for.
    #[error("the agent says: {}", text.trim_end())]
    Refused {
        /// The agent's words.
        text: String,
    },
}

impl Agent {
    /// Asks for `target` (a path and perhaps a query) and returns the body of the answer.
    pub async fn ask(&self, target: &str) -> Result<String, SocketError> {
        ask(&self.run_dir.join(NAME), target).await
    }
}

/// True if somebody listens on the socket `path`.
fn is_answered(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

/// Listens on the socket `path`, in place of whoever listened there before.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    if is_answered(path) {
        tracing::warn!(
            "another agent answers on {}; this one takes its place there, and both write the same \
             routes and rules: stop one of them",
            path.display()
        );
    }
    let failed = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    // Under its own name the socket appears with its permissions, in one step.
    let new = path.with_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(failed)?;
    let named = fs::set_permissions(&new, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&new, path));
    if let Err(error) = named {
        // The error that counts is the first.
        let _ = fs::remove_file(&new);
        return Err(failed(error));
    }
    Ok(listener)
}

/// Asks the agent on the socket `path` for `target` (a path and perhaps a query) and returns the
/// body of its answer.
pub async fn ask(path: &Path, target: &str) -> Result<String, SocketError> {
    match tokio::time::timeout(ANSWER_TIME, ask_patiently(path, target)).await {
        Ok(answer) => answer,
        Err(_) => Err(SocketError::Late {
            path: path.to_owned(),
        }),
    }
}

async fn ask_patiently(path: &Path, target: &str) -> Result<String, SocketError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| SocketError::Connect {
            path: path.to_owned(),
            source,
        })?;
    let failed = |source| SocketError::Talk {
        path: path.to_owned(),
        source,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // What goes wrong with the connection, the request below reports.
    let carrier = tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::get(target)
        .header(HOST, "podwire-agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| SocketError::Refused {
            text: format!("{target} cannot be asked for: {error}"),
        })?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(failed)?;
    carrier.abort();
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if status == StatusCode::OK {
        Ok(text)
    } else {
        Err(SocketError::Refused { text })
    }
}

/// A text as the value of a query: everything but letters, digits and `-._~` becomes `%XX`.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The value of `name` in a query, decoded; `None` if it is not there or not text.
pub fn value(query: &str, name: &str) -> Option<String> {
    let raw = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::operator::http::{Ask, Listener, Reply, Server};

    async fn echo(ask: Ask) -> Reply {
        match value(&ask.query, "say") {
            Some(text) => Reply::text(StatusCode::OK, text),
            None => Reply::not_found(&ask),
        }
    }

    #[tokio::test]
    async fn the_agent_answers_on_its_socket_and_the_newest_agent_wins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.sock");
        assert!(!is_answered(&path));
        let _old = Server::start(Listener::Unix(listen(&path).unwrap()), |_| {
            std::future::ready(Reply::text(StatusCode::OK, "old"))
        });
        assert!(is_answered(&path));
        assert_eq!(ask(&path, "/").await.unwrap(), "old");
        let _new = Server::start(Listener::Unix(listen(&path).unwrap()), echo);
        let text = "ns/pod a&b=c%\u{e9} [::1]:80";
        let target = format!("/x?other=1&say={}", encode(text));
        assert_eq!(ask(&path, &target).await.unwrap(), text);
        let error = ask(&path, "/nowhere").await.unwrap_err();
        assert_eq!(error.to_string(), "the agent says: there is no /nowhere");
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_missing_agent_is_named_with_its_socket() {
        let path = Path::new("/nonexistent/agent.sock");
        let error = ask(path, "/status").await.unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/agent.sock") && error.contains("run"),
            "{error}"
        );
        assert!(matches!(
            ask(path, "no url").await,
            Err(SocketError::Connect { .. })
        ));
        assert!(listen(Path::new("/proc/nowhere/agent.sock")).is_err());
    }

    #[test]
    fn broken_queries_have_no_value() {
        assert_eq!(value("a=1&b=2", "b").as_deref(), Some("2"));
        assert_eq!(value("ab=1", "a"), None);
        for broken in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%\u{e9}\u{e9}"] {
            assert_eq!(value(broken, "a"), None, "{broken}");
        }
    }
}
