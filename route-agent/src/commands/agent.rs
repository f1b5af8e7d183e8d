//! Asking the agent of this node, over the socket in its run directory.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::config::RunDir;
use crate::ours::SOCKET;

/// Where the agent answers, for the commands that ask it.
#[derive(Debug, Clone, Args)]
pub struct Agent {
    /// The run directory of the agent.
    #[command(flatten)]
    pub run_dir: RunDir,
}

/// Longer than the loop may be busy with a full sync.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Why the agent gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent listens.
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
    pub async fn ask(&self, target: &str) -> Result<String, AskError> {
        ask(&self.run_dir.join(SOCKET), target).await
    }
}

/// Asks the agent on the socket `path` for `target` (a path and perhaps a query) and returns the
/// body of its answer.
pub async fn ask(path: &Path, target: &str) -> Result<String, AskError> {
    match get(path, target).await? {
        (StatusCode::OK, text) => Ok(text),
        (_, text) => Err(AskError::Refused { text }),
    }
}

/// Asks the agent on the socket `path` for `target` and returns its answer, whatever it is.
pub async fn get(path: &Path, target: &str) -> Result<(StatusCode, String), AskError> {
    match tokio::time::timeout(ANSWER_TIME, get_patiently(path, target)).await {
        Ok(answer) => answer,
        Err(_) => Err(AskError::Late {
            path: path.to_owned(),
        }),
    }
}

async fn get_patiently(path: &Path, target: &str) -> Result<(StatusCode, String), AskError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| AskError::Connect {
            path: path.to_owned(),
            source,
        })?;
    let failed = |source| AskError::Talk {
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
        .map_err(|error| AskError::Refused {
            text: format!("{target} cannot be asked for: {error}"),
        })?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(failed)?;
    carrier.abort();
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((status, text))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::serve::connections::Listener;
    use crate::serve::http::{Request, Response, Server};
    use crate::serve::socket::{COMMANDS, listen, value};

    async fn echo(request: Request) -> Response {
        match value(&request.query, "say") {
            Some(text) => Response::text(StatusCode::OK, text),
            None => Response::not_found(&request),
        }
    }

    #[tokio::test]
    async fn the_agent_answers_on_its_socket_and_the_newest_agent_wins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.sock");
        let listener = || Listener::Unix(listen(&path, COMMANDS).unwrap().0);
        let _old = Server::start(listener(), |_| {
            std::future::ready(Response::text(StatusCode::OK, "old"))
        });
        assert_eq!(ask(&path, "/").await.unwrap(), "old");
        let _new = Server::start(listener(), echo);
        let text = "ns/pod a&b=c%\u{e9} [::1]:80";
        let target = format!(
            "/x?other=1&say={}",
            form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
        );
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
            Err(AskError::Connect { .. })
        ));
    }
}
