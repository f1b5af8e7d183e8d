//! The figures and the verdicts as a person reads them.

use std::fs;

use crate::statistics::Times;
use crate::world::World;

/// A measured line.
struct Line {
    name: String,
    add: Times,
    cpu: Option<Times>,
    del: Option<Times>,
}

/// A target and what became of it.
struct Target {
    text: String,
    value: String,
    met: bool,
}

/// What a section shows.
enum Content {
    /// ADDs and DELs of several sides.
    Lines(Vec<Line>),
    /// Any figures: the heads of the columns, then rows; the first cell of each is its name.
    Table(Vec<Vec<String>>),
}

/// Everything that was measured.
pub struct Report {
    machine: String,
    sections: Vec<(String, Content)>,
    targets: Vec<Target>,
}

impl Report {
    /// An empty report about `world`.
    pub fn new(world: &World) -> Self {
        Self {
            machine: machine(world),
            sections: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Begins a section about ADDs and DELs.
    pub fn section(&mut self, title: &str) {
        self.sections
            .push((title.to_owned(), Content::Lines(Vec::new())));
    }

    /// Begins a section with columns of any kind.
    pub fn table(&mut self, title: &str, heads: &[&str]) {
        let heads = heads.iter().map(|head| (*head).to_owned()).collect();
        self.sections
            .push((title.to_owned(), Content::Table(vec![heads])));
    }

    /// Adds a row to the table.
    pub fn row<const N: usize>(&mut self, cells: [&str; N]) {
        if let Some((_, Content::Table(rows))) = self.sections.last_mut() {
            rows.push(cells.map(str::to_owned).to_vec());
        }
    }

    /// Adds a line to the section.
    pub fn line(&mut self, name: &str, add: Times, cpu: Option<Times>, del: Option<Times>) {
        if let Some((_, Content::Lines(lines))) = self.sections.last_mut() {
            lines.push(Line {
                name: name.to_owned(),
                add,
                cpu,
                del,
            });
        }
    }

    /// A ratio that must be at least `bound`.
    pub fn at_least(&mut self, text: &str, value: f64, bound: f64) {
        self.target(
            format!("{text}: at least {bound}"),
            format!("{value:.3}"),
            value >= bound,
        );
    }

    /// A number that must be at most `bound`.
    pub fn at_most(&mut self, text: &str, value: f64, bound: f64) {
        self.target(
            format!("{text}: at most {bound}"),
            format!("{value:.3}"),
            value <= bound,
        );
    }

    fn target(&mut self, text: String, value: String, met: bool) {
        self.targets.push(Target { text, value, met });
    }

    /// Prints all; says whether every target was met.
    pub fn print(&self) -> bool {
        println!("{}\n", self.machine);
        for (title, content) in &self.sections {
            println!("{title}");
            match content {
                Content::Lines(lines) => {
                    println!(
                        "  {:<40}{:>5}{:>13}{:>10}{:>10}{:>13}{:>10}",
                        "", "n", "ADD median", "p90", "CPU", "DEL median", "p90"
                    );
                    lines.iter().for_each(print_line);
                }
                Content::Table(rows) => rows.iter().for_each(|row| print_row(row)),
            }
            println!();
        }
        println!("Targets");
        for target in &self.targets {
            let mark = if target.met { "✓" } else { "✗" };
            println!("  {mark} {:<72}{:>8}", target.text, target.value);
        }
        self.targets.iter().all(|target| target.met)
    }
}

fn print_row(row: &[String]) {
    let (name, cells) = row
        .split_first()
        .map_or(("", row), |(name, cells)| (name, cells));
    let cells: String = cells.iter().map(|cell| format!("{cell:>14}")).collect();
    println!("  {name:<58}{cells}");
}

fn print_line(line: &Line) {
    let cell = |times: Option<&Times>, share| {
        times.map_or(String::new(), |times| {
            format!("{:.2} ms", times.quantile(share).as_secs_f64() * 1000.0)
        })
    };
    println!(
        "  {:<40}{:>5}{:>13}{:>10}{:>10}{:>13}{:>10}",
        line.name,
        line.add.count(),
        cell(Some(&line.add), 0.5),
        cell(Some(&line.add), 0.9),
        cell(line.cpu.as_ref(), 0.5),
        cell(line.del.as_ref(), 0.5),
        cell(line.del.as_ref(), 0.9),
    );
}

/// One line about the machine and the programs.
fn machine(world: &World) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpus = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown processor");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "{cpus} x {model}, Linux {}, load {load} at the start\n{} against {}",
        read("/proc/sys/kernel/osrelease").trim(),
        world.podwire.display(),
        world.reference.display(),
    )
}
