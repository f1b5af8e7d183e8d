//! The flags of `podwire-agent run`, as the chart has to know them.

use clap::{Arg, CommandFactory};
use podwire_agent::cli::Cli;

/// Those that say where things are on a node: values under `paths`.
const PATHS: [&str; 3] = ["cni-conf-dir", "run-dir", "kubelet-kubeconfig"];

/// Those that no one sets in a cluster: the Node is the pod's, and the cluster is read through its
/// ServiceAccount.
const NOT_IN_A_CLUSTER: [&str; 3] = ["node-name", "manifests", "kubeconfig"];

/// All flags of `run` but `--help`.
pub fn all() -> Vec<Arg> {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let flags = run.get_arguments().filter(|flag| flag.get_id() != "help");
    flags.cloned().collect()
}

/// Names of those that are values under `agent`.
pub fn of_the_agent() -> Vec<Arg> {
    let mut flags = all();
    flags.retain(|flag| {
        let name = flag.get_long().unwrap();
        !PATHS.contains(&name) && !NOT_IN_A_CLUSTER.contains(&name)
    });
    flags
}

/// `--cni-conf-dir` as a value: `cniConfDir`.
pub fn camel_case(flag: &str) -> String {
    let mut words = flag.split('-');
    let mut name = words.next().unwrap().to_owned();
    for word in words {
        name += &word[..1].to_uppercase();
        name += &word[1..];
    }
    name
}

pub fn paths() -> Vec<String> {
    PATHS.iter().map(|flag| camel_case(flag)).collect()
}
