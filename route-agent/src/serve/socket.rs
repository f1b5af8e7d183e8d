//! The agent's own sockets in its run directory.
//!
//! Only the owner of a socket may use it. An agent that starts takes the name over from the one
//! before, so that during an upgrade the newer one answers. A name that is removed, or whose agent has
//! ended, is taken back: otherwise this agent would be deaf for good.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podwire::files::create_own_directory;
use tokio::net::{UnixListener, UnixStream};

use crate::error::chain;
use crate::files;
use crate::warnings::Warning;

/// The agent cannot make its socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}; {consequence}")]
pub struct ListenError {
    /// The socket.
    path: PathBuf,
    /// What does not work without it.
    consequence: &'static str,
    /// What the kernel says.
    source: io::Error,
}

/// What does not work without the socket of the operator's commands.
pub const COMMANDS: &str = "`podwire-agent status`, `why` and `drops` will not work";

/// What does not work without the socket of the plugin.
pub const PODS: &str = "pods of namespaces with NetworkPolicies will not start";

/// How often it is looked at whether the name still leads here.
const LOOK: Duration = Duration::from_secs(1);

/// A name that goes again and again is not told of more often than this.
const TOLD: Duration = Duration::from_secs(60);

/// Listens on the socket `path` until dropped, in place of the agent that listened there before, and
/// serves what comes. When the name no longer leads here, and no other agent has it, it is made
/// again. `consequence` says what does not work without it; `warn` learns what is wrong.
pub async fn hold<F: Future>(
    path: &Path,
    consequence: &'static str,
    serve: impl Fn(UnixListener) -> F,
    warn: impl Fn(Vec<Warning>),
) {
    if is_answered(path).await {
        tracing::warn!(
            "another agent answers on {}; this one takes its place there, and both write the same \
             routes and rules: stop one of them",
            path.display()
        );
    }
    let (mut failed, mut told) = (false, None);
    loop {
        match listen(path, consequence) {
            Ok((listener, name)) => {
                if std::mem::take(&mut failed) {
                    warn(Vec::new());
                }
                tokio::select! {
                    _ = serve(listener) => {}
                    () = name.lost(path) => {}
                }
                if told.is_none_or(|told: Instant| told.elapsed() >= TOLD) {
                    told = Some(Instant::now());
                    tracing::warn!(
                        "{} was removed, or taken by an agent that has ended; it is made again",
                        path.display()
                    );
                }
            }
            Err(error) => {
                failed = true;
                warn(vec![Warning::new("the agent", chain(&error))]);
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// True if an agent listens on the socket `path`.
async fn is_answered(path: &Path) -> bool {
    match UnixStream::connect(path).await {
        Ok(_) => true,
        // Its queue is full.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// What tells a socket file from another one at its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Name {
    device: u64,
    inode: u64,
}

impl Name {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Waits until the name leads elsewhere, and no other agent answers there.
    async fn lost(&self, path: &Path) {
        loop {
            tokio::time::sleep(LOOK).await;
            let here = Self::of(path).is_ok_and(|found| found == *self);
            if !here && !is_answered(path).await {
                return;
            }
        }
    }
}

/// Makes the socket `path`, in place of what is there. `consequence` says what does not work without
/// it.
pub fn listen(path: &Path, consequence: &'static str) -> Result<(UnixListener, Name), ListenError> {
    let failed = |source| ListenError {
        path: path.to_owned(),
        consequence,
        source,
    };
    if let Some(directory) = path.parent() {
        create_own_directory(directory).map_err(failed)?;
    }
    // Under its own name the socket appears with its permissions, in one step.
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let new = files::free(&new).map_err(|error| failed(error.source))?;
    let listener = UnixListener::bind(&new).map_err(failed)?;
    let named = fs::set_permissions(&new, Permissions::from_mode(0o600))
        .and_then(|()| Name::of(&new))
        .and_then(|name| files::rename(&new, path).map(|()| name));
    match named {
        Ok(name) => Ok((listener, name)),
        Err(error) => {
            // The error that counts is the first.
            let _ = fs::remove_file(&new);
            Err(failed(error))
        }
    }
}

/// The value of `name` in a query, decoded.
pub fn value(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_cannot_be_made_is_named() {
        let error = listen(Path::new("/proc/nowhere/agent.sock"), "no").unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere/agent.sock"));
    }

    /// Holds the socket, and says `name` to each that comes.
    async fn say(path: PathBuf, name: &'static str) {
        let serve = |listener: UnixListener| async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.writable().await.unwrap();
                // Who only looks whether someone is there does not read.
                let _ = stream.try_write(name.as_bytes());
            }
        };
        hold(&path, "no", serve, |_| ()).await;
    }

    /// Waits until `name` answers.
    async fn answers(path: &Path, name: &str) {
        loop {
            let mut text = String::new();
            if let Ok(mut stream) = UnixStream::connect(path).await {
                stream.read_to_string(&mut text).await.unwrap();
            }
            if text == name {
                return;
            }
            // The clock stands still while any task can go on.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Time advances by itself as soon as every task waits.
    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_removed_or_whose_second_agent_ended_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.sock");
        let mut first = JoinSet::new();
        first.spawn(say(path.clone(), "first"));
        answers(&path, "first").await;
        fs::remove_file(&path).unwrap();
        answers(&path, "first").await;
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        answers(&path, "first").await;
        let mut second = JoinSet::new();
        second.spawn(say(path.clone(), "second"));
        answers(&path, "second").await;
        // As long as the second one is there it has the name.
        tokio::time::sleep(LOOK * 5).await;
        answers(&path, "second").await;
        second.shutdown().await;
        answers(&path, "first").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_could_not_be_made_is_made_when_it_can_and_the_warning_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.sock");
        fs::write(directory.path().join("run"), "in the way").unwrap();
        let (sender, mut warnings) = tokio::sync::mpsc::unbounded_channel();
        let mut holding = JoinSet::new();
        let held = path.clone();
        holding.spawn(async move {
            let serve = |listener| async move {
                let _listener = listener;
                std::future::pending::<()>().await;
            };
            hold(&held, "no", serve, |now| sender.send(now).unwrap()).await;
        });
        assert_eq!(warnings.recv().await.unwrap().len(), 1);
        fs::remove_file(directory.path().join("run")).unwrap();
        while !warnings.recv().await.unwrap().is_empty() {}
        assert!(is_answered(&path).await);
    }

    #[tokio::test]
    async fn directories_in_the_place_of_a_socket_do_not_stand_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let new = path.with_extension(format!("new-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::create_dir_all(new.join("another's")).unwrap();
        let (_listener, _) = listen(&path, "no").unwrap();
        assert!(is_answered(&path).await);
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("another's")).unwrap();
        let error = chain(&listen(&path, "no").unwrap_err());
        assert!(error.contains("move it away"), "{error}");
        assert!(path.join("another's").exists());
    }

    #[test]
    fn values_are_found_by_their_whole_name() {
        assert_eq!(value("a=1&b=2", "b").as_deref(), Some("2"));
        assert_eq!(value("wide", "wide").as_deref(), Some(""));
        assert_eq!(value("ab=1", "a"), None);
    }
}
