//! The commands of `podwire-agent`.

use std::error::Error;
use std::process::ExitCode;

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

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

const EMPTY_MEANS_NOWHERE: [&str; 2] = ["healthz_bind_address", "metrics_bind_address"];

impl Cli {
    /// The command of this process's arguments. If they make no sense, or help was asked for, the
    /// process ends.
    pub fn read() -> Self {
        let matches = Self::described().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The command line, as it is shown to people.
    pub(crate) fn described() -> clap::Command {
        let command =
            Self::command().mut_subcommands(|command| command.mut_args(without_empty_variable));
        command.mut_subcommand("uninstall", |uninstall| {
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

/// An empty variable is as none: a ConfigMap that feeds several cannot leave one out. But where an
/// empty text has a meaning of its own, it keeps that.
fn without_empty_variable(flag: Arg) -> Arg {
    let value = flag.get_env().and_then(std::env::var_os);
    let is_empty = value.is_some_and(|value| value.is_empty());
    let may_be_empty = EMPTY_MEANS_NOWHERE.contains(&flag.get_id().as_str());
    match is_empty && !may_be_empty {
        true => flag.env(None::<&'static str>),
        false => flag,
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

    /// Runs this test again in a process of its own, where the variables are.
    #[test]
    fn an_empty_variable_is_none_but_where_it_means_nowhere() {
        const AGAIN: &str = "WITH_EMPTY_VARIABLES";
        if std::env::var_os(AGAIN).is_some() {
            for command in Cli::described().get_subcommands() {
                let lenient = command.clone().mut_args(|flag| flag.required(false));
                let read = lenient.try_get_matches_from([command.get_name()]);
                let read = read.unwrap_or_else(|error| panic!("{error}"));
                if command.get_name() == "run" {
                    let config = Config::from_arg_matches(&read).unwrap();
                    assert_eq!(config.healthz_bind_address.0, None);
                    assert_eq!(config.metrics_bind_address.0, None);
                    assert!(config.services.enabled && config.mtu.is_none());
                }
            }
            return;
        }
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args([
            "--exact",
            "cli::tests::an_empty_variable_is_none_but_where_it_means_nowhere",
        ]);
        for command in Cli::command().get_subcommands() {
            let variables = command.get_arguments().filter_map(Arg::get_env);
            test.envs(variables.map(|name| (name, "")));
        }
        let output = test.env(AGAIN, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }

    /// Flags of other programs that texts and tests name.
    const OF_OTHERS: [&str; 10] = [
        "all",
        "allocate-node-cidrs",
        "clear",
        "dport",
        "handle",
        "interactive",
        "max-request-bytes",
        "request-timeout",
        "sport",
        "stateless",
    ];

    /// The flags that a text names.
    fn named(text: &str) -> impl Iterator<Item = &str> {
        let mut parts = text.split("--").peekable();
        let mut before = parts.next().unwrap_or_default();
        parts.filter_map(move |part| {
            let begins = std::mem::replace(&mut before, part).ends_with([' ', '`', '(', '"']);
            let is_of_name = |c: char| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit();
            let end = part.find(|c| !is_of_name(c)).unwrap_or(part.len());
            let name = &part[..end];
            let is_name = begins && name.starts_with(|c: char| c.is_ascii_lowercase());
            is_name.then_some(name)
        })
    }

    fn sources(directory: &std::path::Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_flag_that_a_text_names_is_there() {
        let command = Cli::described();
        let commands = command.get_subcommands().chain([&command]);
        let flags: Vec<_> = commands
            .flat_map(clap::Command::get_arguments)
            .filter_map(Arg::get_long)
            .chain(OF_OTHERS)
            .collect();
        let mut files = Vec::new();
        sources(
            std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
            &mut files,
        );
        let mut wrong = Vec::new();
        for path in files {
            let text = std::fs::read_to_string(&path).unwrap();
            let program = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            for name in named(program).filter(|name| !flags.contains(name)) {
                wrong.push(format!("--{name} in {}", path.display()));
            }
        }
        assert_eq!(wrong, [""; 0]);
    }
}
