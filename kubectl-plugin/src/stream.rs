//! What agents keep a list of, from many nodes at a time: drops, and what else comes as pages.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use podwire_agent::commands::output::print;
use podwire_agent::config::values::duration;
use podwire_agent::flows::filter::is_named;
use podwire_agent::flows::flow::protocol_number;
use podwire_agent::text::{printable, printable_json, printable_lines};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::fleet::Fleet;
use crate::reach::ReachError;
use crate::said::DeskError;

/// The pause before an agent that gave no answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// No agent keeps more records. Once so many were read, all that there were at the first question are
/// among them, and who only asks for these would else never have the last one.
pub(crate) const ENOUGH: usize = 10_000;

/// Which records, from which nodes, and how.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Go on with what comes from now on, until stopped.
    #[arg(short, long)]
    pub follow: bool,

    /// Only what is younger, for example 90s or 5m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,

    /// How to write it; as JSON one object in each line.
    #[arg(short, long, value_parser = ["text", "json"], default_value = "text")]
    pub output: String,

    /// Only of this node; may be given more than once.
    #[arg(long = "node", value_name = "NODE")]
    pub nodes: Vec<String>,

    /// Only from or to this pod.
    #[arg(long, value_name = "NAMESPACE/POD")]
    pub pod: Option<String>,

    /// Only from or to pods of this namespace.
    #[arg(long, value_name = "NAMESPACE")]
    pub pod_namespace: Option<String>,

    /// Only what is about this Service.
    #[arg(long, value_name = "NAMESPACE/SERVICE")]
    pub service: Option<String>,

    /// Only with this verdict: of drops refused or dropped, of flows new or end.
    #[arg(long, value_name = "VERDICT", value_parser = ["refused", "dropped", "new", "end"], hide_possible_values = true)]
    pub verdict: Option<String>,

    /// Only to this port.
    #[arg(long)]
    pub port: Option<u16>,

    /// Only of this protocol: tcp, udp, sctp, icmp, icmpv6 or a number.
    #[arg(long, value_parser = protocol)]
    pub protocol: Option<u8>,
}

/// A page of records, as agents give it.
pub trait Page: DeserializeOwned + Send + 'static {
    /// What it is a page of.
    type Record: Record;
    /// Where it is asked for.
    const PATH: &'static str;
    /// What is said if there is nothing.
    const NOTHING: &'static str;
    /// What can become of a record.
    const VERDICTS: [&'static str; 2];

    /// The number of the newest record.
    fn newest(&self) -> u64;
    /// What is to be known beside the records.
    fn remarks(&self) -> Vec<String>;
    /// True if there are more, to be had with the next question.
    fn is_cut(&self) -> bool {
        false
    }
    /// The records, oldest first.
    fn records(self) -> Vec<Self::Record>;
}

/// One record.
pub trait Record: Serialize + Display + Send + 'static {
    /// When, as RFC 3339 has it.
    fn time(&self) -> Cow<'_, str>;
    /// The pods at its ends, as `namespace/name`.
    fn pods(&self) -> Vec<&str>;
    /// True if it is about this Service (`namespace/name`).
    fn is_of_service(&self, service: &str) -> bool;
    /// What became of it.
    fn verdict(&self) -> &str;
    /// The port of the destination.
    fn port(&self) -> Option<u16>;
    /// The protocol.
    fn protocol(&self) -> Cow<'_, str>;
}

/// A record with its node, for programs.
#[derive(Serialize)]
struct OfNode<'a, T> {
    node: &'a str,
    #[serde(flatten)]
    record: &'a T,
}

/// What a node's list came to.
enum News<T> {
    Records(String, Vec<T>),
    /// What is to be known beside the records, with its node.
    Remark(String, String),
    /// Why a node gave no answer.
    Failed(String, String),
}

impl Flags {
    /// Prints what the agents have, and with `--follow` what comes. False if an agent gave no answer.
    pub async fn run<P: Page>(&self, fleet: &Fleet) -> Result<bool, DeskError> {
        let nodes = self.chosen(fleet)?;
        if let Some(other) = self.verdict.as_deref()
            && !P::VERDICTS.contains(&other)
        {
            let [one, two] = P::VERDICTS;
            let text = format!("nothing here has the verdict {other}: it is {one} or {two}");
            return Err(DeskError::Question(text));
        }
        let (sender, mut news) = mpsc::channel(64);
        for node in nodes {
            let (fleet, sender, follow) = (fleet.clone(), sender.clone(), self.follow);
            tokio::spawn(async move { read::<P>(fleet, &node, follow, &sender).await });
        }
        drop(sender);
        // What may be missing.
        let _ = write!(std::io::stderr(), "{}", printable_lines(fleet.remarks()));
        let mut all = Vec::new();
        let (mut good, mut complete, mut read) = (true, true, 0);
        while let Some(news) = news.recv().await {
            good &= !matches!(news, News::Failed(..));
            complete &= matches!(news, News::Records(..));
            match news {
                News::Records(node, records) => {
                    read += records.len();
                    let kept = records.into_iter().filter(|one| self.wants(one));
                    let lines =
                        kept.map(|one| Ok((one.time().into_owned(), self.line(&node, &one)?)));
                    all.extend(lines.collect::<Result<Vec<_>, DeskError>>()?);
                }
                News::Remark(node, text) | News::Failed(node, text) => {
                    let line = format!("node {node}: {text}");
                    // Not among the records, which a program may read.
                    let _ = writeln!(std::io::stderr(), "{}", printable(&line));
                }
            }
            if self.follow {
                show(&mut all)?;
            }
        }
        if all.is_empty() && complete && self.output == "text" {
            let nothing = match read {
                0 => P::NOTHING.to_owned(),
                1 => "The one that there is was not asked for.".to_owned(),
                many => format!("None of the {many} that there are is what was asked for."),
            };
            print(&format!("{nothing}\n"))?;
        }
        show(&mut all)?;
        Ok(good)
    }

    fn chosen(&self, fleet: &Fleet) -> Result<Vec<String>, DeskError> {
        if let Some(unknown) = self.nodes.iter().find(|name| fleet.node(name).is_none()) {
            let text = format!("there is no node {unknown}");
            return Err(DeskError::Question(printable(&text).into_owned()));
        }
        let chosen = |name: &String| self.nodes.is_empty() || self.nodes.contains(name);
        let names = fleet.nodes().map(|node| node.name.clone());
        Ok(names.filter(chosen).collect())
    }

    pub(crate) fn wants(&self, one: &impl Record) -> bool {
        let pods = one.pods();
        let named = |pod: &String| pods.iter().any(|known| is_named(known, pod));
        let of_namespace = |namespace: &String| {
            let of = |known: &&str| known.split_once('/').is_some_and(|(of, _)| of == namespace);
            pods.iter().any(of)
        };
        self.pod.as_ref().is_none_or(named)
            && self.pod_namespace.as_ref().is_none_or(of_namespace)
            && self
                .service
                .as_ref()
                .is_none_or(|name| one.is_of_service(name))
            && self
                .verdict
                .as_ref()
                .is_none_or(|verdict| one.verdict() == verdict)
            && self.port.is_none_or(|port| one.port() == Some(port))
            && self
                .protocol
                .is_none_or(|protocol| number(&one.protocol()) == Some(protocol))
            && self
                .since
                .is_none_or(|since| is_younger(&one.time(), since))
    }

    /// Names in it may be of anyone's choice: what is not printable is escaped.
    fn line(&self, node: &str, record: &impl Record) -> Result<String, DeskError> {
        if self.output == "text" {
            return Ok(printable(&format!("{node}: {record}")).into_owned());
        }
        match serde_json::to_string(&OfNode { node, record }) {
            Ok(text) => Ok(printable_json(&text).into_owned()),
            Err(error) => Err(DeskError::Write {
                format: "JSON",
                source: error.into(),
            }),
        }
    }
}

/// A protocol by its name or number.
fn protocol(text: &str) -> Result<u8, String> {
    protocol_number(text)
        .ok_or_else(|| "give tcp, udp, sctp, icmp, icmpv6, or a number up to 255".to_owned())
}

/// The number of a record's protocol. Older agents call one without a name `protocol 47`.
fn number(protocol: &str) -> Option<u8> {
    protocol_number(protocol.strip_prefix("protocol ").unwrap_or(protocol))
}

/// True if a moment is no longer ago than that; a clock that cannot be read hides nothing.
pub(crate) fn is_younger(time: &str, since: Duration) -> bool {
    let Ok(time) = time.parse::<Timestamp>() else {
        return true;
    };
    Timestamp::now().duration_since(time).as_secs_f64() <= since.as_secs_f64()
}

/// Prints lines in the order of their time, and forgets them.
fn show(lines: &mut Vec<(String, String)>) -> Result<(), DeskError> {
    lines.sort_by(|(one, _), (other, _)| one.cmp(other));
    let text: String = lines
        .drain(..)
        .flat_map(|(_, line)| [line, "\n".into()])
        .collect();
    Ok(print(&text)?)
}

/// Reads one node's list, once or for as long as someone listens.
async fn read<P: Page>(
    mut fleet: Fleet,
    node: &str,
    follow: bool,
    sender: &mpsc::Sender<News<P::Record>>,
) {
    let mut target = P::PATH.to_owned();
    let mut said: Vec<String> = Vec::new();
    let mut read = 0;
    loop {
        let answer: Result<P, ReachError> = fleet.get(node, &target).await;
        let failed = answer.is_err();
        let (remarks, cut, records) = match answer {
            Ok(page) => {
                let wait = if follow { "follow=1&" } else { "" };
                target = format!("{}?{wait}after={}", P::PATH, page.newest());
                (page.remarks(), page.is_cut(), page.records())
            }
            Err(error) => (vec![error.to_string()], false, Vec::new()),
        };
        for remark in remarks.iter().filter(|remark| !said.contains(remark)) {
            let (node, text) = (node.to_owned(), remark.clone());
            let news = match failed {
                true => News::Failed(node, text),
                false => News::Remark(node, text),
            };
            if sender.send(news).await.is_err() {
                return;
            }
        }
        said = remarks;
        read += records.len();
        let sent = sender.send(News::Records(node.to_owned(), records)).await;
        if sent.is_err() || !(follow || cut && read < ENOUGH) {
            return;
        }
        if failed {
            tokio::time::sleep(AGAIN).await;
            // The agent may be another pod by now.
            if let Ok(now) = fleet.again().await
                && now.node(node).is_some()
            {
                fleet = now;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use podwire_agent::drops::Page as Drops;
    use podwire_agent::flows::{AT_ONCE, Flow, Page as Flows};
    use serde_json::{Value, json};

    use super::*;
    use crate::reach::fake::{Fake, Says};

    const HOSTILE: &str = "default/a\u{1b}[2J\n<b>forged";

    fn page(newest: u64, numbers: &[u64]) -> Value {
        let drop = |number: &u64| {
            json!({
                "number": number, "time": format!("2026-11-28T00:00:0{number}Z"),
                "reason": "policy", "verdict": "dropped", "decided_by": "NetworkPolicy default/deny",
                "because": "b", "protocol": "tcp", "port": 80,
                "source": {"address": "10.10.1.2", "pod": HOSTILE},
                "destination": {"address": "10.10.2.2"},
                "reply": false, "isolated_by": [], "allowed_by_now": false,
            })
        };
        let drops: Vec<Value> = numbers.iter().map(drop).collect();
        let page = Drops {
            newest,
            ..Drops::default()
        };
        let mut page = serde_json::to_value(page).unwrap();
        page["drops"] = drops.into();
        page
    }

    async fn fleet(fake: Fake) -> Fleet {
        Fleet::assemble(Arc::new(fake)).await.unwrap()
    }

    #[tokio::test]
    async fn what_comes_is_asked_for_after_the_newest_that_is_known() {
        let fake = Fake::of(&["one"])
            .tells("one", "/drops", &page(2, &[1, 2]))
            .tells("one", "/drops?follow=1&after=2", &page(3, &[3]))
            .says("one", "/drops?follow=1&after=3", Says::Nothing);
        let fleet = fleet(fake).await;
        let (sender, mut news) = mpsc::channel(8);
        let reading = tokio::spawn(async move { read::<Drops>(fleet, "one", true, &sender).await });
        let mut seen = Vec::new();
        while seen.len() < 3 {
            match news.recv().await.unwrap() {
                News::Records(_, records) => seen.extend(records.iter().map(|one| one.number)),
                News::Remark(node, text) | News::Failed(node, text) => panic!("{node}: {text}"),
            }
        }
        assert_eq!(seen, [1, 2, 3]);
        reading.abort();
    }

    /// A full page of an agent that has as many new ones for the next question, after number 9.
    pub(crate) fn full_page() -> Flows {
        let flow: Flow = serde_json::from_value(json!({
            "number": 9, "time": "2026-11-28T00:00:00Z", "event": "new", "protocol": "tcp",
            "source": {"address": "10.10.1.2"}, "destination": {"address": "10.10.2.2"},
        }))
        .unwrap();
        Flows {
            newest: 9,
            flows: vec![flow; AT_ONCE],
            ..Flows::default()
        }
    }

    #[tokio::test]
    async fn what_comes_faster_than_it_is_read_is_not_read_without_end() {
        let fake = Fake::of(&["one"])
            .tells("one", "/flows", &full_page())
            .tells("one", "/flows?after=9", &full_page());
        let fleet = fleet(fake).await;
        let (sender, mut news) = mpsc::channel(8);
        let reading =
            tokio::spawn(async move { read::<Flows>(fleet, "one", false, &sender).await });
        let mut seen = 0;
        while let Some(News::Records(_, records)) = news.recv().await {
            seen += records.len();
            assert!(seen <= ENOUGH, "it goes on");
        }
        assert_eq!(seen, ENOUGH);
        reading.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_cannot_answer_is_named_once_and_asked_again() {
        let busy = Says::Badly(503, "busy".into());
        let fleet = fleet(Fake::of(&["one"]).says("one", "/drops", busy)).await;
        let (sender, mut news) = mpsc::channel(8);
        let reading = tokio::spawn(async move { read::<Drops>(fleet, "one", true, &sender).await });
        let (mut remarks, mut asked) = (Vec::new(), 0);
        while asked < 3 {
            match news.recv().await.unwrap() {
                News::Records(..) => asked += 1,
                News::Failed(_, text) => remarks.push(text),
                News::Remark(_, text) => panic!("{text}"),
            }
        }
        assert_eq!(remarks, ["the agent on node one says: busy"]);
        reading.abort();
    }

    #[test]
    fn a_record_is_one_line_and_obeys_no_name() {
        let page: Drops = serde_json::from_value(page(1, &[1])).unwrap();
        let record = &page.drops[0];
        for output in ["text", "json"] {
            let flags = Flags {
                output: output.into(),
                ..Flags::default()
            };
            let line = flags.line("n\u{9b}ode", record).unwrap();
            assert!(!line.contains(char::is_control), "{line:?}");
            if output == "json" {
                let value: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(value["source"]["pod"], HOSTILE);
                assert_eq!(value["node"], "n\u{9b}ode");
            }
        }
    }

    #[test]
    fn a_drop_is_found_by_every_protocol_that_the_help_offers() {
        let mut page: Drops = serde_json::from_value(page(1, &[1])).unwrap();
        let record = &mut page.drops[0];
        for (given, named) in [
            ("icmp", "icmp"),
            ("icmpv6", "icmpv6"),
            ("58", "icmpv6"),
            ("47", "47"),
            ("47", "protocol 47"),
        ] {
            let flags = Flags {
                protocol: Some(protocol(given).unwrap()),
                ..Flags::default()
            };
            record.protocol = named.into();
            assert!(flags.wants(record), "{given} finds {named}");
            record.protocol = "tcp".into();
            assert!(!flags.wants(record), "{given} finds no tcp");
        }
    }

    #[tokio::test]
    async fn a_node_that_there_is_not_is_named_and_nothing_is_asked() {
        let fake = Arc::new(Fake::of(&["one"]));
        let fleet = Fleet::assemble(fake.clone()).await.unwrap();
        let flags = Flags {
            nodes: vec!["tw\u{1b}o".into()],
            ..Flags::default()
        };
        let error = flags.run::<Drops>(&fleet).await.unwrap_err();
        assert_eq!(error.to_string(), r"there is no node tw\u{1b}o");
        assert_eq!(fake.made(), 0);
    }
}
