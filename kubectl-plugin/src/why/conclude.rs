//! One conclusion from the halves of a way: the first hop that fails, or what may fail all the same.
//! Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_agent::report::Report;
use podwire_agent::why::{End, Trace};
use serde::{Deserialize, Serialize};

use crate::why::part::{Part, Way};

/// Where a way fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The part, counted from 0.
    pub part: usize,
    /// The hop, as it is numbered in the joined walk; none if the part has no hops.
    pub hop: Option<usize>,
    /// The node.
    pub node: String,
    /// What is wrong.
    pub cause: String,
}

/// What comes of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub good: bool,
    pub conclusion: String,
    pub failure: Option<Failure>,
}

/// The MTUs that a packet meets, each with what has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mtus {
    /// The sender's link.
    pub sender: Option<(u32, String)>,
    /// The links between nodes.
    pub between: Vec<(u32, String)>,
}

impl Mtus {
    /// Those between a sender and a receiver, each with its node's report. Without another node
    /// there is nothing between.
    pub fn of(from: (IpAddr, &Report), to: Option<&Report>) -> Self {
        let (address, report) = from;
        let mut pods = report.pods.iter();
        let pod = pods.find(|pod| pod.addresses.contains(&address));
        let uplink = |report: &Report| {
            let uplink = report.uplink.as_ref()?;
            let title = format!("uplink {} of node {}", uplink.name, report.node);
            Some((uplink.mtu, title))
        };
        let sender = match pod {
            Some(pod) => pod
                .mtu
                .map(|mtu| (mtu, format!("the pod's link {}", pod.link))),
            None => uplink(report),
        };
        let reports = to.into_iter().flat_map(|to| [report, to]);
        Self {
            sender,
            between: reports.filter_map(uplink).collect(),
        }
    }

    /// Why large packets do not arrive, if that is so.
    fn lost(&self) -> Option<String> {
        let (sent, link) = self.sender.as_ref()?;
        let (least, narrow) = self.between.iter().min_by_key(|(mtu, _)| mtu)?;
        let largest = self.between.iter().map(|(mtu, _)| mtu).max()?;
        if least >= sent && least == largest {
            return None;
        }
        let (wide, wide_title) = match least < sent {
            true => (sent, link),
            false => {
                let (mtu, title) = self.between.iter().max_by_key(|(mtu, _)| mtu)?;
                (mtu, title)
            }
        };
        Some(format!(
            "packets of more than {least} bytes may not: {wide_title} has MTU {wide}, {narrow} has \
             {least}"
        ))
    }
}

/// The conclusion. `dropped` is what was seen to be dropped of late.
pub(super) fn conclude(parts: &[Part], mtus: &Mtus, dropped: &[String]) -> Verdict {
    if let Some(failure) = first_failure(parts) {
        let at = match failure.hop {
            Some(hop) => format!(" at hop {hop}"),
            None => String::new(),
        };
        let way = match parts[failure.part].way {
            Way::There => "The packet does not arrive",
            Way::Back => "The packet arrives, and the answer does not come back",
        };
        let whose = whose(parts);
        let cause = sentence(&failure.cause);
        return Verdict {
            good: false,
            conclusion: format!(
                "{way}{whose}: it fails on node {}{at}. {cause}",
                failure.node
            ),
            failure: Some(failure),
        };
    }
    let arrival = arrival(parts);
    if let Some(lost) = mtus.lost() {
        return Verdict {
            good: false,
            conclusion: format!("{arrival} Small packets do; {lost}."),
            failure: None,
        };
    }
    if let Some(seen) = dropped.first() {
        return Verdict {
            good: false,
            conclusion: format!("As it is asked about, it arrives, but of late {seen}"),
            failure: None,
        };
    }
    let suspects = suspects(parts);
    match suspects.is_empty() {
        true => Verdict {
            good: true,
            conclusion: arrival,
            failure: None,
        },
        false => Verdict {
            good: false,
            conclusion: format!(
                "Nothing of Podwire's stops it. If it fails all the same, look here: {}.",
                suspects.join("; ")
            ),
            failure: None,
        },
    }
}

fn first_failure(parts: &[Part]) -> Option<Failure> {
    let mut before = 0;
    let mut silent: Option<Failure> = None;
    for (index, part) in parts.iter().enumerate() {
        let failed = |hop, cause: &str| Failure {
            part: index,
            hop,
            node: part.node.clone(),
            cause: cause.to_owned(),
        };
        let trace = match &part.trace {
            Ok(trace) => trace,
            // That a node is gone explains why it is silent.
            Err(why) => return Some(failed(None, why)),
        };
        let differs = trace.hops.iter().position(|hop| !hop.differs.is_empty());
        if let Some(place) = differs {
            let cause = &trace.hops[place].differs[0];
            let failure = failed(Some(before + place + 1), cause);
            if !cause.contains("does not answer to ARP") {
                return Some(silent.unwrap_or(failure));
            }
            silent.get_or_insert(failure);
        }
        if fails(trace.end) {
            let hop = (!trace.hops.is_empty()).then(|| before + trace.hops.len());
            return Some(silent.unwrap_or_else(|| failed(hop, &trace.conclusion)));
        }
        before += trace.hops.len();
    }
    silent
}

/// The parts of each endpoint that the packet may go to: from where it arrives there to where the
/// answer arrives. None if one node sees all of it.
fn endpoints(parts: &[Part]) -> Vec<&[Part]> {
    let starts = |part: &Part| part.way == Way::There;
    let mut starts: Vec<usize> = (1..parts.len()).filter(|at| starts(&parts[*at])).collect();
    starts.push(parts.len());
    starts
        .windows(2)
        .map(|ends| &parts[ends[0]..ends[1]])
        .collect()
}

/// For which of several endpoints a failure is; empty if it is for all.
fn whose(parts: &[Part]) -> String {
    let endpoints = endpoints(parts);
    let failing = endpoints
        .iter()
        .filter(|part| first_failure(part).is_some())
        .count();
    match failing == 0 || failing == endpoints.len() {
        true => String::new(),
        false => format!(
            " (at {failing} of the {} endpoints that were walked to)",
            endpoints.len()
        ),
    }
}

fn fails(end: End) -> bool {
    match end {
        End::Refused | End::Dropped | End::Elsewhere => true,
        End::Arrives | End::Leaves => false,
    }
}

/// What may stop a packet and is not Podwire's, each once, at the first hop of its node that meets it.
fn suspects(parts: &[Part]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let hops = parts.iter().flat_map(|part| {
        let hops = part.trace.iter().flat_map(|trace: &Trace| &trace.hops);
        hops.map(|hop| (part.node.as_str(), hop))
    });
    for (number, (node, hop)) in (1..).zip(hops) {
        for suspect in &hop.suspects {
            if seen.insert((node, suspect)) {
                found.push(format!("on node {node} at hop {number}, {suspect}"));
            }
        }
    }
    found
}

fn arrival(parts: &[Part]) -> String {
    let back = parts.iter().any(|part| part.way == Way::Back);
    let last = parts.iter().rfind(|part| part.way == Way::There);
    let there = match (endpoints(parts).len(), last.map(|part| &part.trace)) {
        (many @ 2.., _) => {
            format!("It arrives at each of the {many} endpoints that were walked to.")
        }
        (_, Some(Ok(trace))) => sentence(&trace.conclusion),
        _ => "It arrives.".to_owned(),
    };
    match back {
        true => format!("{there} The answer comes back."),
        false => there,
    }
}

/// With a capital letter in front and a full stop behind.
fn sentence(text: &str) -> String {
    let mut letters = text.trim().chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    let text = first.unwrap_or_default() + letters.as_str();
    match text.ends_with(['.', '?', '!']) {
        true => text,
        false => text + ".",
    }
}
