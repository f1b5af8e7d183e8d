//! The commands of `podwire-agent`.

use std::error::Error;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::commands::drops::Drops;
use crate::commands::flows::Flows;
use crate::commands::install::Install;
#[cfg(feature = "manual")]
use crate::commands::manual::{Completions, Manual};
use crate::commands::output::print;
use crate::commands::relay::Relay;
use crate::commands::status::Status;
use crate::commands::top::Top;
use crate::commands::why::Why;
use crate::commands::{preflight, takeover, uninstall};
use crate::config::Config;
use crate::run;

/// Routes, masquerade, Services and CNI configuration of a Kubernetes node.
#[derive(Debug, Parser)]
#[command(name = "podwire-agent", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep this node's network right until stopped. On exit everything stays in place.
    Run(Box<Config>),
    /// Put the CNI plugin where the container runtime looks for it.
    Install(Install),
    /// Remove everything of Podwire's from this node. Stop the agent first.
    Uninstall(Box<uninstall::Uninstall>),
    /// Show what the agent on this node does: routes, pods, Services, what is wrong.
    Status(Status),
    /// Show the way of a packet hop by hop, with what decides at each.
    Why(Why),
    /// Show what rules of this node refused and dropped last: who sent it, to whom, and why.
    Drops(Drops),
    /// Show connections as they begin and end on this node, with who takes part.
    Flows(Box<Flows>),
    /// Show who has the most connections on this node now: Services, pods, pairs of nodes.
    Top(Top),
    /// Try out what the kernel and the permissions of this process can do.
    Preflight(Preflight),
    /// Answer many questions over standard input and output, one in each line: how `kubectl podwire`
    /// asks the agent.
    Relay(Relay),
    /// Remove the rules that a kube-proxy left on this node, and nothing else.
    TakeOver(TakeOver),
    /// Write the completions of this command line for a shell.
    #[cfg(feature = "manual")]
    Completions(Completions),
    /// Write the manual pages into a directory.
    #[cfg(feature = "manual")]
    #[command(hide = true)]
    Man(Manual),
}

#[derive(Debug, Args)]
struct Preflight {
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "table")]
    output: PreflightOutput,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PreflightOutput {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
struct TakeOver {
    /// Only name what would be removed.
    #[arg(long)]
    dry_run: bool,
}

/// The flags of `uninstall` that are shown: it takes all flags of `run`, so that it can be called in
/// the same way, but only reads where things are.
const UNINSTALL: [&str; 6] = [
    "pods",
    "dry_run",
    "stay",
    "bin_dir",
    "cni_conf_dir",
    "run_dir",
];

impl Cli {
    /// The command of this process's arguments. If they make no sense, or help was asked for, the
    /// process ends.
    pub fn read() -> Self {
        let matches = Self::described().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The command line, as it is shown to people.
    pub(crate) fn described() -> clap::Command {
        Self::command().mut_subcommand("uninstall", |uninstall| {
            uninstall
                .mut_args(|flag| {
                    let shown = UNINSTALL.contains(&flag.get_id().as_str());
                    flag.hide(!shown)
                })
                .after_help("All flags of `run` are taken as well, and have no further meaning.")
        })
    }

    /// Carries the command out.
    pub fn execute(self) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
        match self.command {
            Command::Run(config) => {
                run::start_logging(&config);
                run::run(*config)?;
            }
            Command::Install(install) => {
                run::log_to_stderr();
                install.run()?;
            }
            Command::Uninstall(uninstall) => {
                run::log_to_stderr();
                let removed = uninstall.run()?;
                print(&uninstall::account(&removed, uninstall.how()))?;
                if uninstall.stay {
                    run::runtime()?.block_on(run::stopped())?;
                }
            }
            Command::Status(status) => print(&run::runtime()?.block_on(status.run())?)?,
            Command::Why(why) => print(&run::runtime()?.block_on(why.run())?)?,
            Command::Drops(drops) => run::runtime()?.block_on(drops.run())?,
            Command::Flows(flows) => run::runtime()?.block_on(flows.run())?,
            Command::Top(top) => print(&run::runtime()?.block_on(top.run())?)?,
            Command::Relay(relay) => {
                let runtime = run::runtime()?;
                runtime.block_on(relay.run());
                // The thread that reads may wait for a line that never comes.
                runtime.shutdown_background();
            }
            Command::Preflight(flags) => {
                let preflight = preflight::run();
                let text = match flags.output {
                    PreflightOutput::Table => preflight.to_string(),
                    PreflightOutput::Json => serde_json::to_string(&preflight)?,
                };
                print(&(text + "\n"))?;
                if preflight.refuses() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Command::TakeOver(flags) => {
                let mut said = String::new();
                let worked = takeover::run(flags.dry_run, &mut said);
                let printed = print(&said);
                let worked = worked?;
                printed?;
                if !worked {
                    return Ok(ExitCode::FAILURE);
                }
            }
            #[cfg(feature = "manual")]
            Command::Completions(completions) => {
                print(&String::from_utf8_lossy(
                    &completions.script(Self::described()),
                ))?;
            }
            #[cfg(feature = "manual")]
            Command::Man(manual) => manual.write(Self::described())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_commands_and_flags_are_consistent() {
        Cli::described().debug_assert();
    }

    #[test]
    fn uninstall_takes_the_flags_of_run_and_shows_those_that_matter() {
        let mut command = Cli::described();
        let uninstall = command.find_subcommand_mut("uninstall").unwrap();
        let help = uninstall.render_help().to_string();
        for flag in ["--pods", "--dry-run", "--cni-conf-dir", "--run-dir"] {
            assert!(help.contains(flag), "{help}");
        }
        assert!(!help.contains("--mtu"), "{help}");
        let words = ["podwire-agent", "uninstall", "--mtu=1400", "--pods"];
        assert!(Cli::described().try_get_matches_from(words).is_ok());
    }

    #[test]
    fn a_relative_path_is_meant_from_where_the_command_was_started() {
        let here = std::env::current_dir().unwrap();
        let mut seen = Vec::new();
        for command in Cli::described().get_subcommands() {
            let is_path = |flag: &&clap::Arg| {
                let names = flag.get_value_names().unwrap_or_default();
                names.iter().any(|name| name == "DIR" || name == "FILE")
            };
            for flag in command.get_arguments().filter(is_path) {
                let (id, long) = (flag.get_id().as_str(), flag.get_long().unwrap());
                for path in ["one/two", "./one/two"] {
                    let words = [command.get_name(), &format!("--{long}"), path];
                    let lenient = command.clone().mut_args(|flag| flag.required(false));
                    let matches = lenient.try_get_matches_from(words).unwrap();
                    let read = matches.get_one::<PathBuf>(id).unwrap();
                    assert_eq!(*read, here.join("one/two"), "{words:?}");
                }
                seen.push(long.to_owned());
            }
        }
        for flag in ["manifests", "run-dir", "cni-conf-dir", "kubeconfig"] {
            assert!(seen.iter().any(|seen| seen == flag), "{flag} in {seen:?}");
        }
    }

    #[test]
    fn every_flag_of_run_has_an_environment_variable_and_help() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for flag in run.get_arguments().filter(|flag| flag.get_id() != "help") {
            assert!(
                flag.get_env().is_some(),
                "{} has no variable",
                flag.get_id()
            );
            assert!(
                flag.get_help().is_some(),
                "{} is not explained",
                flag.get_id()
            );
        }
    }
}
