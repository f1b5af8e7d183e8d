//! The agent's own sockets in its run directory.
//!
//! Only the owner of a socket may use it. An agent that starts takes the name over from the one
//! before, so that during an upgrade the newer one answers.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

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

/// True if an agent listens on the socket `path`.
fn is_answered(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

/// Listens on the socket `path`, in place of the agent that listened there before. `consequence` says
/// what does not work without it.
pub fn listen(path: &Path, consequence: &'static str) -> Result<UnixListener, ListenError> {
    if is_answered(path) {
        tracing::warn!(
            "another agent answers on {}; this one takes its place there, and both write the same \
             routes and rules: stop one of them",
            path.display()
        );
    }
    let failed = |source| ListenError {
        path: path.to_owned(),
        consequence,
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

/// The value of `name` in a query, decoded.
pub fn value(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_cannot_be_made_is_named() {
        let error = listen(Path::new("/proc/nowhere/agent.sock"), "no").unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere/agent.sock"));
    }

    #[test]
    fn values_are_found_by_their_whole_name() {
        assert_eq!(value("a=1&b=2", "b").as_deref(), Some("2"));
        assert_eq!(value("wide", "wide").as_deref(), Some(""));
        assert_eq!(value("ab=1", "a"), None);
    }
}
