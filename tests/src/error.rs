//! What can go wrong in the lab, as sentences for the person in front of it.

use std::path::PathBuf;

use ipnetwork::IpNetworkError;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The live page cannot be shown.
    #[error("{reason}")]
    Ui {
        /// Why not, and what to do.
        reason: String,
    },
    /// The agents of the lab cannot be asked.
    #[error(transparent)]
    Reach(podwire_desk::reach::ReachError),
    /// The connectivity test has no result.
    #[error(transparent)]
    Test(podwire_desk::test::command::TestError),
    /// Something of a test is still in the lab.
    #[error("these are left in the lab: {left}")]
    Left {
        /// What, and why.
        left: String,
    },
    /// Nothing can be waited for.
    #[error("cannot wait for answers")]
    Runtime(#[source] std::io::Error),
    /// Namespaces can only be made by root.
    #[error("the lab makes network namespaces, which needs root: run it again with sudo")]
    NotRoot,
    /// A lab with this name is up.
    #[error("a lab named {name} is up already: take it down first, or choose another --lab name")]
    AlreadyUp {
        /// The lab's name.
        name: String,
    },
    /// No lab with this name is up.
    #[error("no lab named {name} is up: `podwire-lab up --lab {name}` raises it")]
    NoSuchLab {
        /// The name asked for.
        name: String,
    },
    /// No lab with this name is there to be taken down.
    #[error("no lab named {name} is up{others}")]
    NothingToEnd {
        /// Which are up, in words.
        others: String,
        /// The name asked for.
        name: String,
    },
    /// The agents cannot be asked, or give no answer.
    #[error(transparent)]
    Desk(podwire_desk::said::DeskError),
    /// No lab is up at all.
    #[error("no lab is up: `podwire-lab up` raises one")]
    NoLab,
    /// More than one lab is up and none was named.
    #[error("several labs are up ({names}): say which one with --lab NAME")]
    SeveralLabs {
        /// Their names.
        names: String,
    },
    /// A lab name that cannot be a directory name.
    #[error("{name:?} cannot name a lab: use up to 32 letters, digits and dashes")]
    BadLabName {
        /// The name asked for.
        name: String,
    },
    /// A name that cannot be a host name and an interface name.
    #[error(
        "{name:?} cannot name a {kind}: use up to {limit} lower-case letters, digits and dashes"
    )]
    BadName {
        /// What was to be named.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The most characters it may have.
        limit: usize,
    },
    /// The lab has no such node.
    #[error("the lab has no node named {name}; it has {known}")]
    NoSuchNode {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A machine on which no pod runs.
    #[error("{name} is not a node of the cluster, so no pod and no agent runs there")]
    NotANode {
        /// The machine.
        name: String,
    },
    /// The name of a pod is that of another place.
    #[error("a pod cannot be named {name}: that is a machine of the lab, or the lab itself")]
    NameOfMachine {
        /// The name.
        name: String,
    },
    /// A label that Kubernetes would not take.
    #[error(
        "{label:?} is no label: key and value are up to 63 letters, digits, dashes, underscores and \
         dots that begin and end with a letter or digit; the value may be empty, and the key may \
         have a domain and / before it"
    )]
    BadLabel {
        /// The label.
        label: String,
    },
    /// The walkthrough would not hold in this lab.
    #[error(
        "the walkthrough does not fit lab {lab}: {reason}; `podwire-lab demo` has one that fits"
    )]
    DoesNotFit {
        /// The lab.
        lab: String,
        /// Why.
        reason: String,
    },
    /// The lab has neither a machine nor a pod of that name.
    #[error(
        "the lab has no machine or pod named {name}; its machines are {known}, and `podwire-lab \
         pods` lists the pods"
    )]
    NoSuchPlace {
        /// The name asked for.
        name: String,
        /// The machines there are.
        known: String,
    },
    /// The lab has a node of that name already.
    #[error("the lab has a node named {name} already")]
    NodeExists {
        /// The name.
        name: String,
    },
    /// No node runs such a pod.
    #[error("no node runs a pod named {name}; `podwire-lab pods` lists them")]
    NoSuchPod {
        /// The name asked for.
        name: String,
    },
    /// A pod of that name runs already.
    #[error("a pod named {name} runs on {node} already")]
    PodExists {
        /// The pod's name.
        name: String,
        /// The node it runs on.
        node: String,
    },
    /// What sends from where it is run was started beside the labs, or is to be in one of its own
    /// choice.
    #[error(
        "load sends from where it is run, and takes no --lab: `podwire-lab exec POD {program} load \
         TARGET` runs it in a lab"
    )]
    Outside {
        /// This program, as every place of a lab finds it.
        program: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was to be done, for example `write`.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file of the lab's own holds something unexpected.
    #[error("{path} is not what the lab wrote: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A mount failed.
    #[error("cannot mount {what} on {path}: {source}")]
    Mount {
        /// What was to be mounted.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: nix::Error,
    },
    /// A namespace could not be made or entered.
    #[error("cannot {action} the namespaces of {place}: {source}")]
    Namespace {
        /// `make` or `enter`.
        action: &'static str,
        /// Whose namespaces.
        place: String,
        /// Why it failed.
        source: nix::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program} in {place}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Where it was to run.
        place: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` in {place} failed: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// Where it ran.
        place: String,
        /// What it said.
        reason: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds:.1} s{detail}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: f64,
        /// What is known about the cause; empty, or starts with `: `.
        detail: String,
    },
    /// The kernel refused something.
    #[error("{place}: {source}")]
    Kernel {
        /// In which namespace.
        place: String,
        /// Why it failed.
        source: podwire_kernel::Error,
    },
    /// One of our own programs is missing.
    #[error("{program} was not found in {searched}: `make build` builds it")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// The directories that were searched.
        searched: String,
    },
    /// Programs of the distribution that the walkthrough shows are missing.
    #[error("missing on this machine: {programs}; install the packages {packages}")]
    NoTools {
        /// The programs.
        programs: String,
        /// The Debian packages that have them.
        packages: String,
    },
    /// The node has no CNI configuration.
    #[error("{node} has no usable CNI configuration in /etc/cni/net.d: {reason}")]
    NoNetwork {
        /// The node.
        node: String,
        /// What is wrong.
        reason: String,
    },
    /// A plugin answered with an error.
    #[error("{plugin} {verb} for {pod} on {node} failed with code {code}: {message}")]
    Plugin {
        /// The plugin's type.
        plugin: String,
        /// The CNI verb.
        verb: &'static str,
        /// The pod it was called for, or `the node`.
        pod: String,
        /// The node it ran on.
        node: String,
        /// The CNI error code; 0 if it gave none.
        code: u32,
        /// What it said.
        message: String,
    },
    /// A CIDR that cannot be read.
    #[error("{text:?} is no CIDR: {source}")]
    Cidr {
        /// What was given.
        text: String,
        /// Why it is none.
        source: IpNetworkError,
    },
}

impl Error {
    /// A [`Error::File`] from an I/O error, for use in `map_err`.
    pub fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File {
            action,
            path,
            source,
        }
    }
}
