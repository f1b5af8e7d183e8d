//! The commands of `podwire-agent`.

use std::error::Error;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Config;
use crate::operator::status::Status;
use crate::operator::why::Why;
use crate::operator::{Install, preflight, takeover};
use crate::{run, uninstall};

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
    /// Try out what the kernel and the permissions of this process can do.
    Preflight(Preflight),
    /// Remove the rules that a kube-proxy left on this node, and nothing else.
    TakeOver(TakeOver),
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

impl Cli {
    /// Carries the command out.
    pub fn execute(self) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
        match self.command {
            Command::Run(config) => {
                run::start_logging(&config)?;
                run::run(*config)?;
            }
            Command::Install(install) => {
                run::log_to_stderr();
                install.run()?;
            }
            Command::Uninstall(uninstall) => {
                run::log_to_stderr();
                for removed in uninstall.run()? {
                    println!("removed {removed}");
                }
                if uninstall.stay {
                    run::runtime()?.block_on(run::stopped())?;
                }
            }
            Command::Status(status) => print!("{}", run::runtime()?.block_on(status.run())?),
            Command::Why(why) => print!("{}", run::runtime()?.block_on(why.run())?),
            Command::Preflight(flags) => {
                let preflight = preflight::run();
                match flags.output {
                    PreflightOutput::Table => println!("{preflight}"),
                    PreflightOutput::Json => println!("{}", serde_json::to_string(&preflight)?),
                }
                if preflight.refuses() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Command::TakeOver(flags) => {
                let mut said = String::new();
                let worked = takeover::run(flags.dry_run, &mut said);
                print!("{said}");
                if !worked? {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_and_flags_are_consistent() {
        Cli::command().debug_assert();
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
