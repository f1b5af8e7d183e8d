//! What a test came to, for people.
//!
//! What others chose, such as names and what servers answer, is escaped: nothing of it reaches the
//! terminal as anything but text.

use std::fmt::Write;

use podwire_agent::text::printable;

use crate::test::case::{Family, Group};
use crate::test::run::{Done, Outcome, Verdict, skipped};

/// So many failures are told in full.
const TOLD: usize = 40;

/// The matrix, what failed and why, and what was not tried.
pub fn render(outcome: &Outcome) -> String {
    let mut text = String::new();
    nodes(outcome, &mut text);
    for group in Group::ALL {
        for family in [Family::V4, Family::V6] {
            matrix(outcome, group, family, &mut text);
        }
    }
    failures(outcome, &mut text);
    let skipped = skipped(outcome);
    if !skipped.is_empty() {
        line(&mut text, "\nNot tried:");
        for one in skipped {
            line(
                &mut text,
                &format!("  – {}: {}", one.group.title(), printable(&one.reason)),
            );
        }
    }
    if let Some(left) = &outcome.left {
        line(&mut text, &format!("\n✗ {}", printable(left)));
    }
    line(&mut text, &format!("\n{}", summary(outcome)));
    text
}

/// One sentence.
pub fn summary(outcome: &Outcome) -> String {
    let counts = Group::ALL.map(|group| outcome.count(group));
    let failed: usize = counts.iter().map(|(failed, _)| failed).sum();
    let tried: usize = counts.iter().map(|(_, tried)| tried).sum();
    let skipped = outcome.done.len() - tried;
    let mut text = match (outcome.passed(), failed) {
        (true, _) => format!("✓ All {tried} ways work"),
        (false, 0) if outcome.is_complete() => {
            format!("✗ All {tried} ways work, but not everything was taken away again")
        }
        (false, 0) => format!("✗ {tried} ways work, but not everything could be tried"),
        (false, _) => format!("✗ {failed} of {tried} ways do not work"),
    };
    if skipped > 0 {
        text.push_str(&format!(", {skipped} were not tried"));
    }
    text + &format!(" ({:.1} s).", outcome.took.as_secs_f64())
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// The nodes have numbers, which are the columns.
fn nodes(outcome: &Outcome, text: &mut String) {
    line(text, "Nodes:");
    for (number, node) in (1..).zip(&outcome.plan.nodes) {
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        let name = printable(&node.name);
        line(
            text,
            &format!("  {number:>3} {name}  {}", addresses.join(" ")),
        );
    }
    for (node, reason) in &outcome.plan.unfit {
        line(
            text,
            &format!("    ✗ {}  {}", printable(node), printable(reason)),
        );
    }
}

fn mark(all: &[&Done]) -> char {
    let is = |wanted: fn(&Verdict) -> bool| all.iter().any(|one| wanted(&one.verdict));
    if is(|verdict| matches!(verdict, Verdict::Failed { .. })) {
        '✗'
    } else if is(|verdict| *verdict == Verdict::Passed) {
        '✓'
    } else {
        '–'
    }
}

/// Rows are where from, columns where to; one column if that is no certain node.
fn matrix(outcome: &Outcome, group: Group, family: Family, text: &mut String) {
    let of_matrix = |one: &&Done| one.case.group == group && one.case.family == family;
    let all: Vec<&Done> = outcome.done.iter().filter(of_matrix).collect();
    if all.is_empty() {
        return;
    }
    let mut ways: Vec<_> = all.iter().map(|one| one.case.way).collect();
    ways.sort_unstable();
    ways.dedup();
    let ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
    let title = format!("{}, {family}", group.title());
    line(text, &format!("\n{title}  ({})", ways.join(", ")));
    let has_columns = all.iter().any(|one| one.case.to_node().is_some());
    let columns: Vec<Option<usize>> = match has_columns {
        true => (0..outcome.plan.nodes.len()).map(Some).collect(),
        false => vec![None],
    };
    if has_columns {
        let mut head = " ".repeat(11);
        for number in 1..=columns.len() {
            // Writing to a String cannot fail.
            let _ = write!(head, "{number:>4}");
        }
        line(text, &head);
    }
    for node in 0..outcome.plan.nodes.len() {
        let mut row = format!("  from {:>3} ", node + 1);
        for column in &columns {
            let of_cell =
                |one: &&&Done| one.case.from.node == node && one.case.to_node() == *column;
            let cell: Vec<&Done> = all.iter().filter(of_cell).copied().collect();
            let mark = match cell.is_empty() {
                true => ' ',
                false => mark(&cell),
            };
            let _ = write!(row, "{mark:>4}");
        }
        line(text, row.trim_end());
    }
}

fn failures(outcome: &Outcome, text: &mut String) {
    for (spot, reason) in &outcome.missing {
        let spot = outcome.plan.spot(*spot);
        line(
            text,
            &format!(
                "\n✗ {} does not run: {}",
                printable(&spot),
                printable(reason)
            ),
        );
    }
    let failures: Vec<&Done> = outcome.failures().collect();
    let mut last: &[String] = &[];
    for one in failures.iter().take(TOLD) {
        let Verdict::Failed { reason, why } = &one.verdict else {
            continue;
        };
        let what = format!("{}: {reason}", outcome.plan.describe(&one.case));
        line(text, &format!("\n✗ {}", printable(&what)));
        if why.as_slice() == last && !why.is_empty() {
            line(text, "    as above");
            continue;
        }
        for because in why {
            line(text, &format!("    {}", printable(because)));
        }
        last = why;
    }
    if failures.len() > TOLD {
        line(
            text,
            &format!("\n… and {} more failures", failures.len() - TOLD),
        );
    }
    if !outcome.wrong.is_empty() {
        line(text, "\nThe agents say:");
        for wrong in &outcome.wrong {
            line(text, &format!("  {}", printable(wrong)));
        }
    }
}
