//! `top`: who has the most connections now, over all nodes.

use std::collections::BTreeMap;

use clap::Args;
use podwire_agent::commands::top::text;
use podwire_agent::flows::top::{Sum, Top as Sums, sorted};
use podwire_agent::text::printable_lines;
use serde::Serialize;

use crate::fleet::Fleet;
use crate::said::{DeskError, Output, Said, for_programs};

/// The flags of `top`.
#[derive(Debug, Clone, Args)]
pub struct Top {
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// What programs get.
#[derive(Serialize)]
struct Known<'a> {
    #[serde(flatten)]
    sums: &'a Sums,
    /// Which nodes are not in it, and why, one sentence each.
    missing: &'a [String],
}

impl Top {
    /// Asks all nodes and sums up. What gives no answer is named.
    pub async fn run(&self, fleet: &Fleet) -> Result<Said, DeskError> {
        let mut sums = Vec::new();
        let mut missing = Vec::new();
        for (node, answer) in fleet.get_all::<Sums>("/top").await {
            match answer {
                Ok(top) => sums.push(top),
                Err(error) => missing.push(format!("node {node} is not in it: {error}")),
            }
        }
        let all = joined(&sums);
        let said = match self.output {
            Output::Text => {
                text(&all) + &printable_lines(&missing) + &printable_lines(fleet.remarks())
            }
            output => for_programs(
                &Known {
                    sums: &all,
                    missing: &missing,
                },
                output,
            )?,
        };
        Ok(Said {
            text: said,
            good: missing.is_empty(),
        })
    }
}

/// The sums of all nodes. A connection between two nodes is known to both: what a pod has is known best
/// by its own node, which knows the most of it, and what two nodes have by either. Only the client's node
/// knows of the Service.
pub fn joined<'a>(nodes: impl IntoIterator<Item = &'a Sums>) -> Sums {
    let mut all = Sums::default();
    let (mut services, mut pods, mut pairs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for node in nodes {
        all.counted |= node.counted;
        all.all = added(all.all, node.all);
        for line in &node.services {
            let sum = services.entry(line.name.clone()).or_default();
            *sum = added(*sum, line.sum);
        }
        for (known, lines) in [(&mut pods, &node.pods), (&mut pairs, &node.nodes)] {
            for line in lines {
                let sum: &mut Sum = known.entry(line.name.clone()).or_default();
                if line.sum.connections > sum.connections {
                    *sum = line.sum;
                }
            }
        }
    }
    all.services = sorted(services);
    all.pods = sorted(pods);
    all.nodes = sorted(pairs);
    all
}

fn added(one: Sum, other: Sum) -> Sum {
    Sum {
        connections: one.connections + other.connections,
        sent: one.sent + other.sent,
        received: one.received + other.received,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podwire_agent::flows::top::Line;

    use super::*;
    use crate::reach::fake::Fake;

    #[tokio::test]
    async fn a_node_that_is_not_in_it_is_named_in_every_form_and_no_name_is_obeyed() {
        let hostile = "default/a\u{1b}[2J\nforged";
        let one = Sums {
            pods: vec![Line {
                name: hostile.into(),
                sum: Sum::default(),
            }],
            ..Sums::default()
        };
        for output in [Output::Text, Output::Json, Output::Yaml] {
            let fake = Fake::of(&["one", "t\u{9b}wo"]).tells("one", "/top", &one);
            let fleet = Fleet::assemble(Arc::new(fake)).await.unwrap();
            let said = Top { output }.run(&fleet).await.unwrap();
            assert!(!said.good);
            let obeyed = |c: char| c != '\n' && c.is_control();
            assert!(!said.text.contains(obeyed), "{}", said.text);
            let value: serde_json::Value = match output {
                Output::Text => {
                    assert!(
                        said.text.contains(r"node t\u{9b}wo is not in it: "),
                        "{}",
                        said.text
                    );
                    continue;
                }
                Output::Json => serde_json::from_str(&said.text).unwrap(),
                Output::Yaml => serde_saphyr::from_str(&said.text).unwrap(),
            };
            assert_eq!(value["pods"][0]["name"], hostile);
            assert!(value["missing"][0].is_string(), "{value}");
        }
    }

    #[test]
    fn what_two_nodes_know_of_is_counted_once_and_services_are_summed_up() {
        let line = |name: &str, connections| Line {
            name: name.into(),
            sum: Sum {
                connections,
                sent: 1,
                received: 2,
            },
        };
        let one = Sums {
            services: vec![line("default/web:80", 3)],
            pods: vec![line("default/a", 3), line("default/b", 2)],
            nodes: vec![line("one -> two", 3)],
            ..Sums::default()
        };
        let two = Sums {
            services: vec![line("default/web:80", 4)],
            pods: vec![line("default/b", 9)],
            nodes: vec![line("one -> two", 3)],
            ..Sums::default()
        };
        let all = joined(&[one, two]);
        let counts = |lines: &[Line]| -> Vec<(String, u64)> {
            let lines = lines.iter();
            lines
                .map(|line| (line.name.clone(), line.sum.connections))
                .collect()
        };
        assert_eq!(counts(&all.services), [("default/web:80".into(), 7)]);
        assert_eq!(
            counts(&all.pods),
            [("default/b".into(), 9), ("default/a".into(), 3)]
        );
        assert_eq!(counts(&all.nodes), [("one -> two".into(), 3)]);
    }
}
