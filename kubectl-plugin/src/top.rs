//! `top`: who has the most connections now, over all nodes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use podwire_agent::commands::top::text;
use podwire_agent::flows::top::{Line, Sum, Top as Sums};
use podwire_agent::text::printable;

use crate::fleet::Fleet;
use crate::said::{DeskError, Output, Said, for_programs};

/// The flags of `top`.
#[derive(Debug, Clone, Args)]
pub struct Top {
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

impl Top {
    /// Asks all nodes and sums up. What gives no answer is named.
    pub async fn run(&self, fleet: &Fleet) -> Result<Said, DeskError> {
        let mut sums = Vec::new();
        let mut silent = String::new();
        for (node, answer) in fleet.get_all::<Sums>("/top").await {
            match answer {
                Ok(top) => sums.push(top),
                // Writing to a String cannot fail.
                Err(error) => {
                    let line = format!("node {node} is not in it: {error}");
                    let _ = writeln!(silent, "{}", printable(&line));
                }
            }
        }
        let all = joined(&sums);
        let said = match self.output {
            Output::Text => text(&all) + &silent,
            output => for_programs(&all, output)?,
        };
        Ok(Said {
            text: said,
            good: silent.is_empty(),
        })
    }
}

/// The sums of all nodes. A connection between two nodes is known to both: what a pod has is known best
/// by its own node, which knows the most of it, and what two nodes have by either. Only the client's node
/// knows of the Service.
fn joined(nodes: &[Sums]) -> Sums {
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

fn sorted(sums: BTreeMap<String, Sum>) -> Vec<Line> {
    let lines = sums.into_iter().map(|(name, sum)| Line { name, sum });
    let mut lines: Vec<Line> = lines.collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.sum.connections));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

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
