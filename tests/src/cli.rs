//! The commands that people type, and the few that the lab starts by itself.

use std::path::Path;
use std::time::Instant;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use nix::sys::signal::Signal;
use podwire_desk::cli::Verb;
use podwire_desk::said::Output;
use podwire_desk::status::Status;
use podwire_desk::stream;
use podwire_desk::sysdump::Sysdump;
use podwire_desk::test::command::Flags;
use podwire_desk::top::Top;
use podwire_desk::ui;
use podwire_desk::why::Why;
use podwire_lab::error::{Error, Result};
use podwire_lab::lab::{self, Lab};
use podwire_lab::launch::{self, Launch};
use podwire_lab::node::Node;
use podwire_lab::pod::PodSpec;
use podwire_lab::registry::{self, Entry};
use podwire_lab::runtime::PortMapping;
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{binaries, connectivity, desk, init, layout, load, serve, walkthrough};

use crate::demo;
use crate::interrupt;
use crate::say::{mention, say, slowly};

/// A cluster of network namespaces on this machine, with the real Podwire in it.
#[derive(Parser)]
#[command(
    name = "podwire-lab",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Cli {
    /// Which lab, if several are up.
    #[arg(long, global = true, env = "PODWIRE_LAB", value_name = "NAME")]
    lab: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Raise a lab: four nodes, mypc beside them, internet behind a router, and the pods of the
    /// walkthrough.
    Up {
        /// Which address families it speaks.
        #[arg(long, value_enum, default_value_t = FamiliesArgument::V4)]
        families: FamiliesArgument,
        /// Without the pods.
        #[arg(long)]
        empty: bool,
    },
    /// Take a lab down. Nothing of it is left.
    Down,
    /// Open a shell on a node, on mypc or internet, in a pod, or in the lab itself (`lab`).
    Shell {
        /// Where: the name of a machine, NAME or NAMESPACE/NAME of a pod, or `lab`.
        place: String,
    },
    /// Run a command in a pod, on a node, on mypc or internet, or in the lab itself (`lab`).
    Exec {
        /// Where: the name of a machine, NAME or NAMESPACE/NAME of a pod, or `lab`.
        place: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// List the pods.
    Pods,
    /// Start a pod on a node.
    Run {
        /// The node.
        node: String,
        /// The pod's name.
        pod: String,
        /// A hostPort, for example 8080:80 or 5353:53/udp.
        #[arg(long = "port", value_name = "HOST:POD[/PROTOCOL]", value_parser = port)]
        ports: Vec<PortMapping>,
        /// Its labels, for NetworkPolicies (comma-separated).
        #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
        labels: Vec<(String, String)>,
        /// Its Kubernetes namespace. Names of pods are unique in the whole lab all the same.
        #[arg(long, default_value = "default")]
        namespace: String,
    },
    /// Stop a pod.
    Rm {
        /// The pod: NAME or NAMESPACE/NAME.
        pod: String,
    },
    /// Show what the agent of a node logged.
    Logs {
        /// The node.
        node: String,
    },
    /// Kill the agent of a node and start it again. Pods and Services go on meanwhile.
    Restart {
        /// The node.
        node: String,
        /// The signal that ends the agent: KILL, TERM, INT, ABRT, SEGV or another that does.
        #[arg(long, default_value = "KILL", value_parser = ending_signal)]
        signal: Signal,
    },
    /// Raise a lab, show the walkthrough in it, and take it down again.
    Demo {
        /// Let the lab stay up afterwards.
        #[arg(long)]
        keep: bool,
    },
    /// Show the walkthrough in a lab that is up, on IPv4 and with its pods.
    Walkthrough,
    /// Show the lab as a live page for a browser on this machine, until Ctrl-C.
    Ui(ui::Look),
    /// Show the machines, their agents and whether they are ready for pods, and then what is wrong
    /// in the network and what each node has. Fails if anything is wrong.
    Status(Status),
    /// Show the way of a packet over all nodes that it meets, there and back, and where it fails.
    Why(Why),
    /// Show what the rules of all nodes refused and dropped, who decided, and why.
    Drops(stream::Flags),
    /// Show connections as they begin and end on all nodes, with who takes part.
    Flows(stream::Flags),
    /// Show who has the most connections now: Services, pods, pairs of nodes.
    Top(Top),
    /// Write everything that a report of a fault needs into one archive.
    Sysdump(Sysdump),
    /// Put pods on every node, try every way that Podwire promises between them, and name what fails.
    Test(Flags),
    /// PID 1 of a lab.
    #[command(hide = true)]
    Init,
    /// Start a process that outlives us.
    #[command(hide = true)]
    Launch {
        /// What, as JSON.
        specification: String,
    },
    /// The process of a node, or of a pod that serves nothing.
    #[command(hide = true)]
    Pause,
    /// The process of a pod that answers.
    #[command(hide = true)]
    Serve(serve::Ports),
    /// Open connections one after another and count the answers. It sends from where it is run,
    /// by `podwire-lab exec POD`, never on this machine.
    Load(load::Plan),
}

#[derive(Clone, Copy, ValueEnum)]
enum FamiliesArgument {
    V4,
    V6,
    Dual,
}

impl From<FamiliesArgument> for Families {
    fn from(argument: FamiliesArgument) -> Families {
        match argument {
            FamiliesArgument::V4 => Families::V4,
            FamiliesArgument::V6 => Families::V6,
            FamiliesArgument::Dual => Families::Dual,
        }
    }
}

fn label(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write it as KEY=VALUE, for example app=web")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn port(text: &str) -> std::result::Result<PortMapping, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (host, pod) = ports
        .split_once(':')
        .ok_or("write it as HOST:POD, for example 8080:80")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no port"));
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(format!("{protocol:?} is none of tcp, udp, sctp"));
    }
    Ok(PortMapping::new(number(host)?, number(pod)?, protocol))
}

/// A signal by its name, with `SIG` or without, that ends a process.
fn ending_signal(text: &str) -> std::result::Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let signal: Signal = format!("SIG{name}")
        .parse()
        .map_err(|_| format!("{text:?} is no signal, as `kill -l` lists them"))?;
    match signal {
        Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => Err(format!(
            "{text} stops a process, which then goes on to be there"
        )),
        Signal::SIGCONT | Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH => {
            Err(format!("{text} ends no process"))
        }
        ends => Ok(ends),
    }
}

/// Runs the command of this process's arguments and answers with the exit status.
pub fn run() -> Result<u8> {
    let matches = Cli::command().get_matches();
    let named = matches.value_source("lab") == Some(ValueSource::CommandLine);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let open = || Lab::open(cli.lab.as_deref());
    match cli.command {
        Command::Up { families, empty } => up(cli.lab.as_deref(), families.into(), empty)?,
        Command::Down => {
            let name = lab::down(cli.lab.as_deref())?;
            say(format_args!(
                "Lab {name} is down, and nothing of it is left."
            ));
        }
        Command::Shell { place } => {
            let place = open()?.place_of(&place)?;
            return status(
                place
                    .attach("bash", &[])
                    .or_else(|_| place.attach("sh", &[]))?,
            );
        }
        Command::Exec { place, command } => {
            let place = open()?.place_of(&place)?;
            return status(place.attach(&command[0], &command[1..])?);
        }
        Command::Pods => pods(&open()?)?,
        Command::Run {
            node,
            pod,
            ports,
            labels,
            namespace,
        } => {
            let lab = open()?;
            let _lock = lab.lock(busy)?;
            for (port, rival) in lab.rivals(&node, &ports)? {
                mention(format_args!(
                    "Pod {} on {node} has port {} of the node already: it leads to only one of the \
                     two.",
                    rival.name(),
                    port.host()
                ));
            }
            let pod = lab.run(
                &node,
                &PodSpec {
                    ports,
                    labels: labels.into_iter().collect(),
                    namespace,
                    ..PodSpec::web(&pod)
                },
            )?;
            let addresses: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
            say(format_args!(
                "{} runs on {node} at {}",
                pod.name(),
                addresses.join(" and ")
            ));
        }
        Command::Rm { pod } => {
            let lab = open()?;
            let _lock = lab.lock(busy)?;
            slowly(&format!("Waiting for the end of {pod}"), || {
                lab.remove(&pod)
            })?;
        }
        Command::Logs { node } => say(open()?.node(&node)?.agent_log().trim_end()),
        Command::Restart { node, signal } => {
            let lab = open()?;
            let _lock = lab.lock(busy)?;
            restart(&lab.node(&node)?, signal)?;
        }
        Command::Ui(look) => desk::ui(&open()?, &look)?,
        Command::Status(status) => {
            let lab = open()?;
            if status.output == Output::Text {
                show(&lab)?;
                say("");
            }
            return asked(&lab, &Verb::Status(status));
        }
        Command::Why(why) => return asked(&open()?, &Verb::Why(why)),
        Command::Drops(flags) => return asked(&open()?, &Verb::Drops(flags)),
        Command::Flows(flags) => return asked(&open()?, &Verb::Flows(flags)),
        Command::Top(top) => return asked(&open()?, &Verb::Top(top)),
        Command::Sysdump(sysdump) => return asked(&open()?, &Verb::Sysdump(sysdump)),
        Command::Test(flags) => return test(open()?, &flags),
        Command::Demo { keep } => return demo::run(cli.lab.as_deref(), keep),
        Command::Walkthrough => return demo::show_in(&open()?),
        Command::Init => init::run()?,
        Command::Launch { specification } => say(launch::run(&parse_launch(&specification)?)?),
        Command::Pause => loop {
            nix::unistd::pause();
        },
        Command::Serve(ports) => serve::run(&ports)?,
        Command::Load(plan) => {
            if named || !is_inside() {
                let program = binaries::own()?.display().to_string();
                return Err(Error::Outside { program });
            }
            let summary = load::run(&plan)?;
            say(format_args!(
                "{}",
                serde_json::to_string(&summary).expect("a Summary is plain data")
            ));
            return Ok(u8::from(summary.failed > 0));
        }
    }
    Ok(0)
}

/// The exit status of a verb of the desk.
fn asked(lab: &Lab, verb: &Verb) -> Result<u8> {
    Ok(u8::from(!desk::run(lab, verb)?))
}

fn status(code: i32) -> Result<u8> {
    Ok(u8::try_from(code).unwrap_or(1))
}

fn parse_launch(text: &str) -> Result<Launch> {
    serde_json::from_str(text).map_err(|error| Error::Unreadable {
        path: "launch".into(),
        reason: error.to_string(),
    })
}

fn up(name: Option<&str>, families: Families, empty: bool) -> Result<()> {
    let others = registry::all();
    let entry = claim(name, "lab")?;
    let name = entry.name().to_owned();
    if !others.is_empty() {
        mention(beside(&others, &name));
    }
    interrupt::takes_down(&name)?;
    let start = Instant::now();
    let lab = Lab::up(entry, &Topology::walkthrough(families), &progress)?;
    let _lock = lab.lock(busy)?;
    if !empty {
        progress("the pods");
        walkthrough::start_pods(&lab)?;
        progress("the Services");
        walkthrough::start_services(&lab)?;
    }
    let invitation = walkthrough::invitation(&lab)?;
    // What is said may end this process, if no one listens.
    lab.stay()?;
    say(format_args!(
        "Lab {name} is up after {:.1} s.\n",
        start.elapsed().as_secs_f64()
    ));
    say(invitation);
    Ok(())
}

/// What is said of a lab that is not the only one: from now on commands have to be told which they mean.
fn beside(others: &[String], name: &str) -> String {
    format!(
        "Up already: {}. This one is {name}, and commands need --lab NAME while several are up.",
        others.join(", ")
    )
}

fn test(lab: Lab, flags: &Flags) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(Error::Runtime)?;
    let said = runtime.block_on(connectivity::test(lab, flags))?;
    say(said.text.trim_end());
    Ok(u8::from(!said.good))
}

fn restart(node: &Node, signal: Signal) -> Result<()> {
    let name = signal.as_str().trim_start_matches("SIG");
    let start = Instant::now();
    let ended = match node.agent() {
        Some(_) => format!("was ended with {signal}"),
        None => "was not running".to_owned(),
    };
    node.stop_agent(name)?;
    node.start_agent()?;
    node.wait_ready()?;
    say(format_args!(
        "The agent on {} {ended} and is ready again after {:.1} s.",
        node.name(),
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Takes the name that was asked for, or the first that is free.
pub fn claim(name: Option<&str>, stem: &str) -> Result<Entry> {
    match name {
        Some(name) => Entry::claim(name),
        None => Entry::claim_free(stem),
    }
}

/// Whether this process is in a lab: on a machine or in the lab itself, or in a pod, which does not see
/// the lab's files.
fn is_inside() -> bool {
    Path::new(layout::INSIDE).exists() || std::env::var_os("PODWIRE_PLACE").is_some()
}

/// Tells what is being worked on.
pub fn progress(what: &str) {
    mention(format_args!("Raising {what} ..."));
}

/// Tells why nothing happens for a while.
pub fn busy() {
    mention("Another command changes this lab; waiting until it is through ...");
}

fn pods(lab: &Lab) -> Result<()> {
    say(format_args!(
        "{:<14} {:<14} {:<14} {:<34} LINK ON THE NODE",
        "NAMESPACE", "POD", "NODE", "ADDRESS"
    ));
    for pod in lab.pods()? {
        let addresses: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" ");
        say(format_args!(
            "{:<14} {:<14} {:<14} {addresses:<34} {}",
            pod.sandbox().namespace,
            pod.name(),
            pod.node(),
            pod.host_link()
        ));
    }
    for left in lab.leftovers()? {
        let name = left.name();
        say(format_args!(
            "{:<14} {name:<14} {:<14} is being started, or a command that was killed left it: \
             `podwire-lab rm {name}` takes it away",
            left.sandbox().namespace,
            left.node()
        ));
    }
    Ok(())
}

fn show(lab: &Lab) -> Result<()> {
    say(format_args!("Lab {}", lab.name()));
    say(format_args!(
        "{:<14} {:<22} {:<18} {:<5} {:<9} NETWORK",
        "MACHINE", "ADDRESS", "POD CIDR", "PODS", "AGENT"
    ));
    for machine in lab.machines()? {
        let join = |networks: &[ipnetwork::IpNetwork]| {
            networks
                .iter()
                .map(|n| n.ip().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let cidrs: Vec<_> = machine
            .machine()
            .pod_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        let (agent, network) = if machine.is_node() {
            let agent = if machine.agent().is_some() {
                "running"
            } else {
                "stopped"
            };
            let network = match machine.runtime().status() {
                Ok(()) => "ready".to_owned(),
                Err(error) => error.to_string(),
            };
            (agent, network)
        } else {
            ("-", "-".to_owned())
        };
        say(format_args!(
            "{:<14} {:<22} {:<18} {:<5} {agent:<9} {network}",
            machine.name(),
            join(&machine.machine().addresses),
            cidrs.join(" "),
            machine.pods()?.len(),
        ));
    }
    say(format_args!(
        "\nManifests: {} in every node",
        layout::MANIFESTS
    ));
    Ok(())
}
