//! One conclusion from the halves of a way: the first hop that fails, or what may fail all the same.
//! Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_agent::report::Report;
use podwire_agent::text::some_of;
use podwire_agent::why::{End, Hop, Trace};
use serde::{Deserialize, Serialize};

use crate::why::part::{Part, Way};

/// So many endpoints or nodes are named in one sentence.
pub(super) const NAMED: usize = 8;

/// Where a way fails, for sure or perhaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The part, counted from 0.
    pub part: usize,
    /// The hop, as it is numbered in the joined walk: that of the node, or the last one before a node
    /// that says nothing. None if there is no hop yet.
    pub hop: Option<usize>,
    /// The node.
    pub node: String,
    /// What is wrong.
    pub cause: String,
    /// False if the node says nothing and may yet do what it should.
    pub certain: bool,
}

/// What comes of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub good: bool,
    pub conclusion: String,
    pub failure: Option<Failure>,
}

/// An MTU that a packet meets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mtu {
    bytes: u32,
    /// What has it, in words.
    link: String,
    /// The node of the link.
    node: String,
}

/// The MTUs that a packet meets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mtus {
    /// The sender's link.
    sender: Option<Mtu>,
    /// The links between nodes.
    between: Vec<Mtu>,
}

impl Mtus {
    /// Those between a sender and a receiver, each with its node's report. Without another node
    /// there is nothing between.
    pub fn of(from: (IpAddr, &Report), to: Option<&Report>) -> Self {
        let (address, report) = from;
        let mut pods = report.pods.iter();
        let pod = pods.find(|pod| pod.addresses.contains(&address));
        let mtu = |bytes, link, report: &Report| Mtu {
            bytes,
            link,
            node: report.node.clone(),
        };
        let uplink = |report: &Report| {
            let uplink = report.uplink.as_ref()?;
            let title = format!("uplink {} of node {}", uplink.name, report.node);
            Some(mtu(uplink.mtu, title, report))
        };
        let sender = match pod {
            Some(pod) => pod
                .mtu
                .map(|bytes| mtu(bytes, format!("the pod's link {}", pod.link), report)),
            None => uplink(report),
        };
        let reports = to.into_iter().flat_map(|to| [report, to]);
        Self {
            sender,
            between: reports.filter_map(uplink).collect(),
        }
    }

    /// Why large packets do not arrive, if that is so: the link that is too narrow, and the sentence.
    fn lost(&self) -> Option<(&Mtu, String)> {
        let sender = self.sender.as_ref()?;
        let narrow = self.between.iter().min_by_key(|mtu| mtu.bytes)?;
        let widest = self.between.iter().max_by_key(|mtu| mtu.bytes)?;
        let wide = match narrow.bytes < sender.bytes {
            true => sender,
            false if narrow.bytes < widest.bytes => widest,
            false => return None,
        };
        let text = format!(
            "{} has MTU {}, {} has {}",
            wide.link, wide.bytes, narrow.link, narrow.bytes
        );
        Some((narrow, text))
    }
}

/// What a node was seen to drop of late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The node.
    pub node: String,
    /// The drop, in words.
    pub what: String,
    /// True if a pod of the node sent it with a source that is not its own: the first hop, where it
    /// comes out of the pod's link.
    pub spoofed: bool,
}

/// The conclusion. `dropped` is what was seen to be dropped of late.
pub(super) fn conclude(parts: &[Part], mtus: &Mtus, dropped: &[Seen]) -> Verdict {
    let mut verdict = verdict(parts, mtus, dropped);
    let lost = noted(parts, |hop| hop.lost.iter().map(|lost| &lost.why));
    if !lost.is_empty() {
        let lost = lost.join(" ");
        verdict.conclusion += &format!(" Some endpoints cannot be reached: {lost}");
    }
    verdict
}

/// The conclusion, but for endpoints that are lost.
fn verdict(parts: &[Part], mtus: &Mtus, dropped: &[Seen]) -> Verdict {
    let fails = |conclusion, failure| Verdict {
        good: false,
        conclusion,
        failure,
    };
    if let Some(failure) = first_failure(parts) {
        return fails(said(parts, &failure), Some(failure));
    }
    let arrival = arrival(parts);
    if let Some((narrow, cause)) = mtus.lost() {
        let failure = too_narrow(parts, narrow, &cause);
        let at = place(failure.as_ref());
        let least = narrow.bytes;
        let text = format!(
            "Small packets arrive; packets of more than {least} bytes may not{at}: {cause}."
        );
        return fails(text, failure);
    }
    if let Some(seen) = dropped.first() {
        let failure = seen.spoofed.then(|| where_it_began(parts, seen)).flatten();
        let at = place(failure.as_ref());
        let text = format!(
            "As it is asked about, it arrives, but of late node {} dropped this{at}: {}",
            seen.node, seen.what
        );
        return fails(text, failure);
    }
    // What may stop a packet and is not Podwire's.
    let suspects = noted(parts, |hop| hop.suspects.iter());
    match suspects.is_empty() {
        true => Verdict {
            good: true,
            conclusion: arrival,
            failure: None,
        },
        false => {
            let text = format!(
                "Nothing of Podwire's stops it. If it fails all the same, look here: {}.",
                suspects.join("; ")
            );
            fails(text, None)
        }
    }
}

/// ` at hop 3`, if the hop is known.
fn place(failure: Option<&Failure>) -> String {
    let hop = failure.and_then(|failure| failure.hop);
    hop.map_or(String::new(), |hop| format!(" at hop {hop}"))
}

/// A failure in a sentence.
fn said(parts: &[Part], failure: &Failure) -> String {
    let part = &parts[failure.part];
    if let Some(denied) = denied_at(parts, failure) {
        return not_at_all(parts, failure, &denied);
    }
    let way = match part.way {
        Way::There => "The packet does not arrive",
        Way::Back => "The packet arrives, and the answer does not come back",
    };
    let whose = whose(parts);
    let node = &failure.node;
    let at = match (&part.trace, failure.hop) {
        (Ok(_), Some(hop)) => format!("on node {node} at hop {hop}"),
        // No one knows what happens there.
        (Err(_), Some(hop)) => format!("after hop {hop}, on node {node} or on the way to it"),
        (_, None) => format!("on node {node}"),
    };
    let what = match failure.certain {
        true => format!("{way}{whose}: it fails {at}"),
        false => {
            let comma = if failure.hop.is_some() { "," } else { "" };
            format!("What happens{whose} {at}{comma} is not known")
        }
    };
    format!("{what}. {}", sentence(&failure.cause))
}

/// The endpoints that policies deny at the hop of a failure, if that is what fails there.
fn denied_at(parts: &[Part], failure: &Failure) -> Option<String> {
    let before = hops(&parts[..failure.part]);
    let trace = parts[failure.part].trace.as_ref().ok()?;
    let hop = trace.hops.get(failure.hop? - before - 1)?;
    let is_so = hop.differs.is_empty() && !hop.denied.is_empty();
    is_so.then(|| some_of(&hop.denied, NAMED, ", "))
}

/// What is said where policies drop what goes to some endpoints, and of those that fail by themselves.
fn not_at_all(parts: &[Part], failure: &Failure, denied: &str) -> String {
    let (node, hop) = (&failure.node, place(Some(failure)));
    let text = format!(
        "Not every endpoint gets it: on node {node}{hop} policies drop what goes to {denied}."
    );
    let endpoints = endpoints(parts);
    let failures = failures(&endpoints);
    match failures.first() {
        None => text,
        Some(first) => format!(
            "{text} It fails at {} of the {} endpoints that were walked to, too: {}",
            failures.len(),
            endpoints.len(),
            sentence(&first.cause)
        ),
    }
}

/// The hop at which large packets meet a link that is too narrow: on the sender's node where they
/// leave it, on another where they arrive.
fn too_narrow(parts: &[Part], narrow: &Mtu, cause: &str) -> Option<Failure> {
    let part = parts.iter().position(|part| part.node == narrow.node)?;
    let before = hops(&parts[..part]);
    let hop = match part {
        0 => before + hops(&parts[..1]),
        _ => before + 1,
    };
    Some(Failure {
        part,
        hop: Some(hop),
        node: narrow.node.clone(),
        cause: cause.to_owned(),
        certain: true,
    })
}

/// The hop at which a packet came out of its pod, if the way begins on the node that saw it.
fn where_it_began(parts: &[Part], seen: &Seen) -> Option<Failure> {
    let first = parts.first().filter(|part| part.node == seen.node)?;
    (hops(std::slice::from_ref(first)) > 0).then(|| Failure {
        part: 0,
        hop: Some(1),
        node: seen.node.clone(),
        cause: seen.what.clone(),
        certain: true,
    })
}

/// How many hops these parts have.
fn hops(parts: &[Part]) -> usize {
    let traces = parts.iter().flat_map(|part| &part.trace);
    traces.map(|trace| trace.hops.len()).sum()
}

/// The first hop that fails, or the first node that says nothing.
pub(super) fn first_failure(parts: &[Part]) -> Option<Failure> {
    let mut before = 0;
    let mut silent: Option<Failure> = None;
    for (index, part) in parts.iter().enumerate() {
        let failed = |hop, cause: &str| Failure {
            part: index,
            hop,
            node: part.node.clone(),
            cause: cause.to_owned(),
            certain: true,
        };
        let trace = match &part.trace {
            Ok(trace) => trace,
            // That a node is gone explains why it does not answer to ARP either.
            Err(why) => {
                return Some(Failure {
                    certain: part.gone || silent.is_some(),
                    ..failed(last_before(parts, index), why)
                });
            }
        };
        let wrong = |hop: &Hop| !hop.differs.is_empty() || !hop.denied.is_empty();
        if let Some(place) = trace.hops.iter().position(wrong) {
            let hop = &trace.hops[place];
            let cause = hop.differs.first().unwrap_or(&hop.what);
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

/// The last hop before a part.
fn last_before(parts: &[Part], index: usize) -> Option<usize> {
    // Every way begins with the first part, and at a node's port with the second one as well,
    // whatever endpoints were walked to meanwhile.
    let shared = 1 + parts.iter().filter(|part| part.goes_on).count();
    let led_here = match parts[index].way {
        Way::There => &parts[..index.min(shared)],
        Way::Back => &parts[..index],
    };
    Some(hops(led_here)).filter(|hop| *hop > 0)
}

/// The parts of each endpoint that the packet may go to: from where it arrives there to where the
/// answer arrives. None if one node sees all of it.
fn endpoints(parts: &[Part]) -> Vec<&[Part]> {
    let starts = |part: &Part| part.way == Way::There && !part.goes_on;
    let mut starts: Vec<usize> = (1..parts.len()).filter(|at| starts(&parts[*at])).collect();
    starts.push(parts.len());
    starts
        .windows(2)
        .map(|ends| &parts[ends[0]..ends[1]])
        .collect()
}

/// How each endpoint fails that does.
fn failures(endpoints: &[&[Part]]) -> Vec<Failure> {
    let failures = endpoints.iter().filter_map(|parts| first_failure(parts));
    failures.collect()
}

/// For which of several endpoints a failure is; empty if it is for all.
fn whose(parts: &[Part]) -> String {
    let endpoints = endpoints(parts);
    let failing = failures(&endpoints).len();
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

/// What is noted at hops, each once, at the first hop of its node that meets it.
fn noted<'a, I>(parts: &'a [Part], of: impl Fn(&'a Hop) -> I) -> Vec<String>
where
    I: Iterator<Item = &'a String>,
{
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let hops = parts.iter().flat_map(|part| {
        let hops = part.trace.iter().flat_map(|trace: &Trace| &trace.hops);
        hops.map(|hop| (part.node.as_str(), hop))
    });
    for (number, (node, hop)) in (1..).zip(hops) {
        for note in of(hop) {
            if seen.insert((node, note)) {
                found.push(format!("on node {node} at hop {number}, {note}"));
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
