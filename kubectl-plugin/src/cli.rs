//! The command line of `kubectl podwire`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use podwire_agent::commands::manual::{Completions, Manual};
use podwire_agent::commands::output::print;
use podwire_agent::config::values::absolute_path;
use podwire_agent::drops::Page as Drops;
use podwire_agent::flows::Page as Flows;
use podwire_agent::ours::SOCKET;
use podwire_agent::text::printable;

use crate::fleet::Fleet;
use crate::on_nodes::{Preflight, TakeOver};
use crate::reach::Reach;
use crate::reach::api::{ApiReach, Target};
use crate::reach::local::Local;
use crate::said::{DeskError, Said};
use crate::status::Status;
use crate::stream;
use crate::sysdump::Sysdump;
use crate::test::command::Test;
use crate::top::Top;
use crate::ui::Look;
use crate::uninstall::Uninstall;
use crate::why::Why;

/// What a Podwire network does: all nodes of a cluster, asked from the desk.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-podwire",
    bin_name = "kubectl podwire",
    version,
    max_term_width = 100
)]
pub struct Cli {
    /// Which cluster.
    #[command(flatten)]
    target: Target,

    /// Ask only the agent of this machine, over its socket. So it is without a kubeconfig, too.
    #[arg(long, global = true)]
    local: bool,

    /// The run directory of the agent of this machine.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/podwire",
        value_parser = absolute_path(),
        global = true
    )]
    run_dir: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Verb(Verb),
    /// Put pods on every node, try every way that Podwire promises between them, and name what fails.
    Test(Test),
    /// Show the cluster as a live page for a browser on this machine, until Ctrl-C.
    Ui(Look),
    /// Remove Podwire from every node, and from the cluster.
    Uninstall(Uninstall),
    /// Write the completions of this command line for a shell.
    Completions(Completions),
    /// Write the manual pages into a directory.
    #[command(hide = true)]
    Man(Manual),
}

/// What can be asked and done, whatever the way to the nodes is.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show all nodes on one screen, and first what is wrong. Fails if anything is.
    Status(Status),
    /// Show the way of a packet over all nodes that it meets, there and back, and where it fails.
    Why(Why),
    /// Show what the rules of all nodes refused and dropped, who decided, and why.
    Drops(stream::Flags),
    /// Show connections as they begin and end on all nodes, with who takes part.
    Flows(stream::Flags),
    /// Show who has the most connections now: Services, pods, pairs of nodes.
    Top(Top),
    /// Try out what the kernel of every node and the permissions of its agent can do.
    Preflight(Preflight),
    /// Write everything that a report of a fault needs into one archive, secrets left out.
    Sysdump(Sysdump),
    /// Remove the rules that a kube-proxy left on the nodes, and nothing else.
    TakeOver(TakeOver),
}

impl Cli {
    /// The command of this process's arguments. If they make no sense, or help was asked for, the
    /// process ends.
    pub fn read() -> Self {
        let matches = Self::command().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Carries the command out.
    pub async fn execute(self) -> Result<ExitCode, Box<dyn std::error::Error + Send + Sync>> {
        match &self.command {
            Command::Completions(completions) => {
                print(&String::from_utf8_lossy(&completions.script(Self::named())))?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Man(manual) => {
                manual.write(Self::named())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Test(test) => {
                self.not_local("test", "it makes a namespace and pods")?;
                let reach = ApiReach::new(&self.target).await?;
                let client = reach.client().clone();
                let fleet = Fleet::assemble(Arc::new(reach)).await?;
                let Said { text, good } = test.run(client, fleet).await?;
                print(&text)?;
                Ok(match good {
                    true => ExitCode::SUCCESS,
                    false => ExitCode::FAILURE,
                })
            }
            Command::Ui(look) => {
                let context = self.target.context.clone();
                let title = context.unwrap_or_else(|| "cluster".to_owned());
                look.at(self.reach().await?, title).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Uninstall(uninstall) => {
                self.not_local(
                    "uninstall",
                    "it removes Podwire from all nodes; `podwire-agent uninstall` does from this one",
                )?;
                let reach = Arc::new(ApiReach::new(&self.target).await?);
                let Said { text, good } = uninstall.run(&reach, &progress).await?;
                print(&text)?;
                Ok(match good {
                    true => ExitCode::SUCCESS,
                    false => ExitCode::FAILURE,
                })
            }
            Command::Verb(verb) => {
                let fleet = Fleet::assemble(self.reach().await?).await?;
                Ok(match verb.run(&fleet).await? {
                    true => ExitCode::SUCCESS,
                    false => ExitCode::FAILURE,
                })
            }
        }
    }

    /// The command line under the name of the program, which is what shells complete.
    fn named() -> clap::Command {
        Self::command().bin_name("kubectl-podwire")
    }

    async fn reach(&self) -> Result<Arc<dyn Reach>, DeskError> {
        if self.local || self.is_node() {
            return Ok(Arc::new(Local::new(&self.run_dir)));
        }
        Ok(Arc::new(ApiReach::new(&self.target).await?))
    }

    /// An error if this machine's agent alone was to be asked.
    fn not_local(&self, verb: &str, why: &str) -> Result<(), DeskError> {
        match self.local {
            true => Err(DeskError::Question(format!(
                "{verb} goes through the API server, and not with --local: {why}"
            ))),
            false => Ok(()),
        }
    }

    /// True on a node, for someone who has no kubeconfig.
    fn is_node(&self) -> bool {
        let given = self.target.kubeconfig.is_some() || std::env::var_os("KUBECONFIG").is_some();
        let usual = std::env::home_dir().is_some_and(|home| home.join(".kube/config").exists());
        !given && !usual && self.run_dir.join(SOCKET).exists()
    }
}

impl Verb {
    /// Asks or does it, and prints what comes of it. False if something is wrong.
    pub async fn run(&self, fleet: &Fleet) -> Result<bool, DeskError> {
        let Said { text, good } = match self {
            Self::Status(status) => status.run(fleet).await?,
            Self::Why(why) => why.run(fleet).await?,
            Self::Drops(flags) => return flags.run::<Drops>(fleet).await,
            Self::Flows(flags) => return flags.run::<Flows>(fleet).await,
            Self::Top(top) => top.run(fleet).await?,
            Self::Preflight(preflight) => preflight.run(fleet).await?,
            Self::TakeOver(take_over) => take_over.run(fleet).await?,
            Self::Sysdump(sysdump) => {
                let path = sysdump.run(fleet, &progress).await?;
                Said {
                    text: format!("{}\n", path.display()),
                    good: true,
                }
            }
        };
        print(&text)?;
        Ok(good)
    }
}

/// Says what is being done, to people only.
fn progress(what: &str) {
    // Who does not see it has the archive all the same.
    let _ = writeln!(std::io::stderr(), "{} ...", printable(what));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_and_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_about_the_cluster_are_those_of_kubectl_and_may_stand_anywhere() {
        for words in [
            "kubectl-podwire -n podwire --context c status",
            "kubectl-podwire status -n podwire --context=c --kubeconfig=/k",
            "kubectl-podwire why default/a web:80 -o json -n podwire --context c",
        ] {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            assert_eq!(cli.target.namespace, "podwire");
            assert_eq!(cli.target.context.as_deref(), Some("c"));
        }
    }
}
