//! `podwire-agent status`: the agent's report, written for people and for programs.
//!
//! The agent answers with plain values; everything about their looks is here. The short form lists
//! everything that matters and cuts long lists; `wide` leaves nothing out and adds endpoints.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};

use crate::commands::agent::{Agent, AskError};
use crate::commands::table::Table;
use crate::report::{CniConfReport, DeniedReport, PoliciesReport, Report, ServicePortReport};
use crate::text::{is_unprintable, printable, printable_json, printable_lines};

/// The short form shows this many rows of each list.
const SHORT: usize = 20;

/// The flags of `podwire-agent status`.
#[derive(Debug, Args)]
pub struct Status {
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "short")]
    pub output: Output,

    /// Which agent to ask.
    #[command(flatten)]
    pub agent: Agent,
}

/// How to write the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people; long lists are cut.
    Short,
    /// For people; everything, with endpoints.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The agent cannot be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The agent's answer makes no sense to this program.
    #[error("the agent's answer is not understood; is it of another version than this program?")]
    Answer(#[source] serde_json::Error),
    /// The status cannot be written as JSON.
    #[error("cannot write the status as JSON")]
    Json(#[source] serde_json::Error),
    /// The status cannot be written as YAML.
    #[error("cannot write the status as YAML")]
    Yaml(#[source] serde_saphyr::SerializeError),
}

impl Status {
    /// Asks the agent and returns what is to be printed.
    pub async fn run(&self) -> Result<String, StatusError> {
        let target = match self.output {
            Output::Short => "/status",
            Output::Wide | Output::Json | Output::Yaml => "/status?wide=1",
        };
        let answer = self.agent.ask(target).await?;
        let report: Report = serde_json::from_str(&answer).map_err(StatusError::Answer)?;
        render(&report, self.output)
    }
}

/// Writes a report.
pub fn render(report: &Report, output: Output) -> Result<String, StatusError> {
    match output {
        Output::Short => Ok(for_people(report, false)),
        Output::Wide => Ok(for_people(report, true)),
        Output::Json => json(report),
        Output::Yaml => match serde_saphyr::to_string(report).map_err(StatusError::Yaml)? {
            // Marks that turn the direction of writing are written as they are; JSON is YAML too.
            text if text.contains(|c| c != '\n' && is_unprintable(c)) => json(report),
            text => Ok(text),
        },
    }
}

fn json(report: &Report) -> Result<String, StatusError> {
    let text = serde_json::to_string_pretty(report).map_err(StatusError::Json)?;
    Ok(printable_json(&text).into_owned() + "\n")
}

fn for_people(report: &Report, wide: bool) -> String {
    let rows = if wide { usize::MAX } else { SHORT };
    let mut text = head(report);
    let mut section = |title: &str, table: &Table| {
        if !table.is_empty() {
            let _ = write!(text, "\n{title}\n{}", table.text(rows, "-o wide"));
        }
    };
    section("Routes to the pods of other nodes", &routes(report));
    section("Pods on this node", &pods(report));
    section("Pods that policies isolate", &isolated(report));
    section("Services", &services(report, wide));
    if wide {
        section("Parts of the agent", &features(report));
    }
    section("Warnings", &warnings(report));
    for failed in report
        .features
        .iter()
        .filter(|feature| feature.error.is_some())
    {
        let error = failed.error.as_deref().unwrap_or_default();
        let line = format!("{} fails and will be tried again: {error}", failed.name);
        let _ = writeln!(text, "\n{}", printable(&line));
    }
    if !report.differences.is_empty() {
        text.push_str("\nDifferences between what is wanted and what is there\n");
        for difference in report.differences.iter().take(rows) {
            let _ = writeln!(text, "  {}", printable(difference));
        }
        let more = report.differences.len().saturating_sub(rows);
        if more > 0 {
            let _ = writeln!(text, "  ... and {more} more; -o wide shows all");
        }
    }
    text
}

/// What can be said in three lines.
fn head(report: &Report) -> String {
    let mut lines = vec![format!("Node {}: {}", report.node, summary(report))];
    lines.push(match &report.uplink {
        Some(uplink) => {
            let state = if uplink.up { "up" } else { "down" };
            let addresses: Vec<_> = uplink.addresses.iter().map(ToString::to_string).collect();
            format!(
                "Uplink {}: {state}, MTU {}, {}",
                uplink.name,
                uplink.mtu,
                addresses.join(", ")
            )
        }
        None => "Uplink: not found yet".into(),
    });
    lines.extend(report.cni_conf.as_ref().map(cni_conf));
    match &report.policies {
        Some(found) if found.in_cluster > 0 => {
            lines.push(format!("Policies: {}", policies(found)));
        }
        Some(_) | None => {}
    }
    lines.extend(refused(report));
    printable_lines(&lines)
}

/// What rules refused and dropped, if anything.
fn refused(report: &Report) -> Option<String> {
    let counted = report.refused.iter().filter(|(_, packets)| **packets > 0);
    let counted: Vec<_> = counted
        .map(|(reason, packets)| format!("{packets} {reason}"))
        .collect();
    (!counted.is_empty()).then(|| {
        let counted = counted.join(", ");
        format!("Packets refused and dropped so far: {counted} (podwire-agent drops names them)")
    })
}

/// How many policies there are, and what they did.
fn policies(found: &PoliciesReport) -> String {
    let DeniedReport {
        ingress,
        egress,
        undecided,
    } = &found.denied;
    let mut text = format!(
        "{} in the cluster, {} of them for pods here; isolated pods: {}; packets denied so far: \
         {ingress} ingress, {egress} egress",
        found.in_cluster,
        found.here,
        found.isolated.len(),
    );
    if *undecided > 0 {
        let _ = write!(text, ", {undecided} of pods that were not known yet");
    }
    text
}

/// Whether the container runtime uses the plugin, and if not, why.
fn cni_conf(conf: &CniConfReport) -> String {
    let mut state = match (conf.present, conf.current, &conf.waits) {
        (false, _, Some(what)) => format!("not there yet ({what})"),
        (false, _, None) => "not there yet".into(),
        (true, true, _) => "in place".into(),
        (true, false, Some(what)) => format!("left as it was ({what})"),
        (true, false, None) => "differs from what is wanted".into(),
    };
    if !conf.before.is_empty() {
        let _ = write!(
            state,
            "; NOT USED: {} sorts before it",
            conf.before.join(", ")
        );
    } else if conf.present {
        state.push_str(", first in its directory");
    }
    if !conf.after.is_empty() {
        let _ = write!(state, "; other files, not used: {}", conf.after.join(", "));
    }
    format!("CNI configuration {}: {state}", conf.path.display())
}

/// The whole state in one sentence.
fn summary(report: &Report) -> String {
    if !report.listed {
        return "waiting for the first complete list of cluster objects; nothing is written yet"
            .into();
    }
    let failing = report
        .features
        .iter()
        .filter(|feature| feature.error.is_some())
        .count();
    let counts = [
        (failing, "part fails", "parts fail"),
        (report.warnings.len(), "warning", "warnings"),
        (report.differences.len(), "difference", "differences"),
    ];
    let wrong: Vec<String> = counts
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }))
        .collect();
    if wrong.is_empty() {
        "all is as it should be".into()
    } else {
        wrong.join(", ")
    }
}

fn routes(report: &Report) -> Table {
    let mut table = Table::new(&["NODE", "POD CIDR", "NEXT HOP", "LINK", "IN KERNEL"]);
    for route in &report.routes {
        let next_hop = match route.gateway {
            Some(gateway) => gateway.to_string(),
            None if route.refused => {
                "refused: its Node is gone (a route of yours ends that)".into()
            }
            None if route.unreachable => "none: unused pod addresses".into(),
            None => "on the link".into(),
        };
        table.row([
            route.node.clone(),
            route.destination.to_string(),
            next_hop,
            route.link.clone().unwrap_or_else(|| "-".into()),
            yes_no(route.present),
        ]);
    }
    table
}

fn pods(report: &Report) -> Table {
    let mut table = Table::new(&["POD", "ADDRESSES", "LINK", "LINK EXISTS"]);
    for pod in &report.pods {
        let id: String = pod.container_id.chars().take(12).collect();
        let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
        table.row([
            pod.pod.clone().unwrap_or_else(|| format!("container {id}")),
            addresses.join(" "),
            pod.link.clone(),
            yes_no(pod.present),
        ]);
    }
    table
}

fn isolated(report: &Report) -> Table {
    let mut table = Table::new(&["POD", "ADDRESSES", "INGRESS BY", "EGRESS BY"]);
    let list = |names: &[String]| match names.is_empty() {
        true => "-".to_owned(),
        false => names.join(" "),
    };
    for pod in report.policies.iter().flat_map(|found| &found.isolated) {
        let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
        table.row([
            pod.pod.clone(),
            addresses.join(" "),
            list(&pod.ingress),
            list(&pod.egress),
        ]);
    }
    table
}

fn services(report: &Report, wide: bool) -> Table {
    let counted = |connections: Option<u64>| match connections {
        Some(number) => number.to_string(),
        None => "-".into(),
    };
    let mut table = Table::new(&[
        "SERVICE",
        "PORT",
        "ANSWERS AT",
        "ENDPOINTS",
        "CONNECTIONS",
        "BALANCING",
    ]);
    for service in &report.services {
        for port in &service.ports {
            table.row([
                service.name.clone(),
                port_name(port),
                port.fronts.join(" "),
                match port.endpoint_count {
                    0 => "none".into(),
                    count => count.to_string(),
                },
                counted(port.connections),
                balancing(port),
            ]);
            for endpoint in port.endpoints.iter().filter(|_| wide) {
                let place = if endpoint.here { " (this node)" } else { "" };
                table.row([
                    String::new(),
                    String::new(),
                    format!("  to {}{place}", endpoint.address),
                    String::new(),
                    counted(endpoint.connections),
                    String::new(),
                ]);
            }
        }
    }
    table
}

fn port_name(port: &ServicePortReport) -> String {
    if port.name.is_empty() {
        port.protocol.clone()
    } else {
        format!("{}/{}", port.name, port.protocol)
    }
}

fn balancing(port: &ServicePortReport) -> String {
    match port.affinity {
        Some(seconds) => format!("{}, affinity {seconds} s", port.balancing),
        None => port.balancing.clone(),
    }
}

fn features(report: &Report) -> Table {
    let mut table = Table::new(&["PART", "STATE", "SYNCS", "WRITES"]);
    for feature in &report.features {
        let state = if feature.error.is_some() {
            "fails"
        } else {
            "works"
        };
        table.row([
            feature.name.clone(),
            state.into(),
            feature.syncs.to_string(),
            feature.writes.to_string(),
        ]);
    }
    table
}

fn warnings(report: &Report) -> Table {
    let mut table = Table::new(&["ABOUT", "WHAT IS WRONG"]);
    for warning in &report.warnings {
        table.row([warning.object.clone(), warning.text.clone()]);
    }
    table
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "NO" }.into()
}

#[cfg(test)]
mod tests;
