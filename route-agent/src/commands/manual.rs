//! `podwire-agent completions` and `podwire-agent man`: what a shell and a reader of manuals need,
//! made from the description of the command line.
//!
//! `make install` calls both. Only with the feature `manual`, which the image is built without:
//! no one has a shell there, and every byte of it travels to every node.

use std::path::PathBuf;

use clap::{Args, Command, ValueEnum};
use clap_complete::aot::{Bash, Fish, Zsh, generate};
use clap_mangen::Man;

use crate::config::values::absolute_path;
use crate::files::FileError;

/// The flags of `podwire-agent completions`.
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell to write for.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    /// The script for the shell, which completes this command line.
    pub fn script(&self, mut command: Command) -> Vec<u8> {
        let mut script = Vec::new();
        let name = command.get_name().to_owned();
        match self.shell {
            Shell::Bash => generate(Bash, &mut command, name, &mut script),
            Shell::Zsh => generate(Zsh, &mut command, name, &mut script),
            Shell::Fish => generate(Fish, &mut command, name, &mut script),
        }
        script
    }
}

/// The flags of `podwire-agent man`.
#[derive(Debug, Clone, Args)]
pub struct Manual {
    /// Where to; the directory must exist.
    #[arg(value_name = "DIRECTORY", value_parser = absolute_path())]
    directory: PathBuf,
}

/// Of commands for those who run a system.
const SECTION: &str = "8";

impl Manual {
    /// Writes a page for the program and one for each of its commands, as `podwire-agent-run.8`.
    pub fn write(&self, command: Command) -> Result<(), FileError> {
        // The default of --node-name is this machine's.
        let mut command = command.disable_help_subcommand(true).mut_subcommands(|it| {
            it.mut_args(|flag| {
                let is_of_this_machine = flag.get_id() == "node_name";
                flag.hide_default_value(is_of_this_machine)
            })
        });
        command.build();
        let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
        for command in shown.chain([&command]) {
            let page = Man::new(command.clone()).section(SECTION);
            page.generate_to(&self.directory)
                .map_err(FileError::of("write a page into", &self.directory))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::Write;
    use std::process::{Command as Process, Stdio};

    use super::*;
    use crate::cli::Cli;

    fn script(shell: Shell) -> String {
        String::from_utf8(Completions { shell }.script(Cli::described())).unwrap()
    }

    #[test]
    fn each_shell_is_told_of_every_command_and_every_flag_of_run() {
        let command = Cli::described();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for subcommand in command.get_subcommands().filter(|it| !it.is_hide_set()) {
                assert!(script.contains(subcommand.get_name()), "{shell:?}");
            }
            let run = command.find_subcommand("run").unwrap();
            for flag in run.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(script.contains(flag), "{flag} for {shell:?}");
            }
        }
    }

    #[test]
    fn bash_can_read_its_script() {
        let mut bash = Process::new("bash")
            .arg("-n")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = bash.stdin.take().unwrap();
        stdin.write_all(script(Shell::Bash).as_bytes()).unwrap();
        drop(stdin);
        assert!(bash.wait().unwrap().success());
    }

    #[test]
    fn bash_completes_a_flag_of_run() {
        // As bash does it: by the function that the script has named for the program.
        let asked = r#"named=$(complete -p podwire-agent); named=${named#*-F }; named=${named%% *}
            COMP_WORDS=(podwire-agent run --cni-conf-) COMP_CWORD=2
            "$named" podwire-agent --cni-conf- run; printf '%s\n' "${COMPREPLY[@]}""#;
        let said = Process::new("bash")
            .args(["-c", &format!("{}\n{asked}", script(Shell::Bash))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "--cni-conf-dir\n");
    }

    #[test]
    fn there_is_a_page_for_every_command_and_none_names_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let manual = Manual {
            directory: directory.path().to_owned(),
        };
        manual.write(Cli::described()).unwrap();
        let found: BTreeSet<String> = fs::read_dir(&manual.directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let commands = Cli::described();
        let mut wanted: BTreeSet<String> = commands
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(|command| format!("podwire-agent-{}.8", command.get_name()))
            .collect();
        wanted.insert("podwire-agent.8".to_owned());
        assert_eq!(found, wanted);

        let run = fs::read_to_string(manual.directory.join("podwire-agent-run.8")).unwrap();
        assert!(run.contains("\\-\\-cni\\-conf\\-dir"), "{run}");
        assert!(run.contains("PODWIRE_MTU"), "{run}");
        let hostname = crate::config::values::hostname().replace('-', "\\-");
        assert!(!run.contains(&format!("default: {hostname}]")), "{run}");
    }
}
