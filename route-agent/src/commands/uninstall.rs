//! `podwire-agent uninstall`: removes what the agent and the plugin have put on this node.
//!
//! Routes, tables, the CNI configuration, leases, records and the kernel settings that were
//! changed go. Links of pods stay, so that pods that still run keep their network until the
//! runtime takes them down; `--pods` removes them as well. The plugin itself stays as long as there
//! are links of its making: the runtime calls it to take their pods down. With `--dry-run` all that is
//! looked for and nothing changes, so an agent may run meanwhile.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;
use podwire::attachment::LINK_GROUP;
use podwire_kernel::RouteSocket;

use crate::commands::install::{BinDir, Install};
use crate::commands::output::print;
use crate::config::Config;
use crate::features;
use crate::features::parts::log::Logging;
use crate::files;
use crate::ours::Removal;
use crate::text::printable_lines;

/// The flags of `podwire-agent uninstall`.
#[derive(Debug, Clone, Args)]
pub struct Uninstall {
    /// Remove the links of pods too: pods that still run lose their network.
    #[arg(long, env = "PODWIRE_UNINSTALL_PODS")]
    pub pods: bool,

    /// Only name what would be removed.
    #[arg(long)]
    pub dry_run: bool,

    /// Stay until stopped after everything is removed: for a DaemonSet, which knows no end.
    #[arg(long, env = "PODWIRE_UNINSTALL_STAY", conflicts_with = "dry_run")]
    pub stay: bool,

    /// Where the plugin was installed.
    #[command(flatten)]
    pub bin_dir: BinDir,

    /// The same flags as those of `run`: where things are.
    #[command(flatten)]
    pub config: Config,
}

/// The agent would put everything back.
#[derive(Debug, thiserror::Error)]
#[error("an agent answers on {}; stop it first, or it puts everything back", socket.display())]
pub struct StillRunning {
    socket: PathBuf,
}

impl Uninstall {
    /// Removes everything; returns what, in a few words each. Goes on after an error, and returns
    /// the first one at the end.
    pub fn run(&self) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let socket = self.config.socket();
        let how = self.how();
        if how == Removal::Act && std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Err(Box::new(StillRunning { socket }));
        }
        let mut removed = Vec::new();
        let mut first_error = None;
        let mut note = |result: Result<Vec<String>, Box<dyn Error + Send + Sync>>| match result {
            Ok(texts) => removed.extend(texts),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        };
        let (health_ports, _) = tokio::sync::watch::channel(Default::default());
        for mut feature in features::all(health_ports, Logging::Off)? {
            note(feature.uninstall(&self.config, how));
        }
        if self.pods {
            note(remove_links(how));
        }
        note(self.remove_plugin());
        note(self.remove_run_dir());
        match first_error {
            Some(error) => {
                if !removed.is_empty() {
                    // The error that counts is the first.
                    let _ = print(&account(&removed, how));
                }
                Err(error)
            }
            None => Ok(removed),
        }
    }

    /// Whether it only looks.
    pub fn how(&self) -> Removal {
        match self.dry_run {
            true => Removal::Look,
            false => Removal::Act,
        }
    }

    fn remove_plugin(&self) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let how = self.how();
        let mut links = RouteSocket::open()?.links()?.into_iter();
        // Those that would be removed are still there.
        let would_go = self.pods && how == Removal::Look;
        if !would_go && links.any(|link| link.group == LINK_GROUP) {
            tracing::info!("the plugin stays for the pods that still have a link of its making");
            return Ok(Vec::new());
        }
        Ok(Install::remove(&self.bin_dir, how)?
            .into_iter()
            .map(|path| format!("file {}", path.display()))
            .collect())
    }

    fn remove_run_dir(&self) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let directory = &*self.config.run_dir;
        if self.how() == Removal::Look {
            let found = directory.exists();
            let text = || {
                format!(
                    "directory {}, if nothing else is in it",
                    directory.display()
                )
            };
            return Ok(found.then(text).into_iter().collect());
        }
        // Sockets without an agent; the directory goes only if nothing of others is in it.
        let _ = files::remove_if_there(&self.config.socket());
        let _ = files::remove_if_there(&self.config.pods_socket());
        Ok(match std::fs::remove_dir(directory) {
            Ok(()) => vec![format!("directory {}", directory.display())],
            Err(_) => Vec::new(),
        })
    }
}

/// What was removed, or would be, for people; silence would leave open whether anything was looked at.
pub fn account(removed: &[String], how: Removal) -> String {
    let (nothing, verb) = match how {
        Removal::Act => ("nothing was left to remove\n", "removed"),
        Removal::Look => ("there is nothing to remove\n", "would remove"),
    };
    if removed.is_empty() {
        return nothing.to_owned();
    }
    let lines: Vec<String> = removed
        .iter()
        .map(|what| format!("{verb} {what}"))
        .collect();
    printable_lines(&lines)
}

fn remove_links(how: Removal) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let mut socket = RouteSocket::open()?;
    let mut removed = Vec::new();
    for link in socket
        .links()?
        .into_iter()
        .filter(|link| link.group == LINK_GROUP)
    {
        if how == Removal::Act
            && let Err(error) = socket.delete_link(link.index)
            && !error.is_not_found()
        {
            return Err(error.into());
        }
        removed.push(format!("link {}", link.name));
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_listed_line_by_line_and_nothing_is_said_as_well() {
        let removed = ["a".to_owned(), "b".to_owned()];
        assert_eq!(account(&removed, Removal::Act), "removed a\nremoved b\n");
        let would = account(&removed, Removal::Look);
        assert_eq!(would, "would remove a\nwould remove b\n");
        let forged = ["link a\nremoved b\u{1b}[2J".to_owned()];
        assert_eq!(
            account(&forged, Removal::Act),
            "removed link a\\nremoved b\\u{1b}[2J\n"
        );
        assert_eq!(account(&[], Removal::Act), "nothing was left to remove\n");
        assert_eq!(account(&[], Removal::Look), "there is nothing to remove\n");
    }
}
