//! The figures and the verdicts as a person reads them.

use std::fs;

use crate::statistics::Times;
use crate::world::World;

/// A measured line.
struct Line {
    name: String,
    add: Times,
    del: Option<Times>,
}

/// A target and what became of it.
struct Target {
    text: String,
    value: String,
    met: bool,
}

/// Everything that was measured.
pub struct Report {
    machine: String,
    sections: Vec<(String, Vec<Line>)>,
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

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.sections.push((title.to_owned(), Vec::new()));
    }

    /// Adds a line to the section.
    pub fn line(&mut self, name: &str, add: Times, del: Option<Times>) {
        if let Some((_, lines)) = self.sections.last_mut() {
            lines.push(Line {
                name: name.to_owned(),
                add,
                del,
            });
        }
    }

    /// A ratio that must be at least `bound`.
    pub fn at_least(&mut self, text: &str, value: f64, bound: f64) {
        self.target(
            format!("{text}: at least {bound}"),
            format!("{value:.2}"),
            value >= bound,
        );
    }

    /// A number that must be at most `bound`.
    pub fn at_most(&mut self, text: &str, value: f64, bound: f64) {
        self.target(
            format!("{text}: at most {bound}"),
            format!("{value:.2}"),
            value <= bound,
        );
    }

    fn target(&mut self, text: String, value: String, met: bool) {
        self.targets.push(Target { text, value, met });
    }

    /// Prints all; says whether every target was met.
    pub fn print(&self) -> bool {
        println!("{}\n", self.machine);
        for (title, lines) in &self.sections {
            println!("{title}");
            let head = ["", "n", "ADD median", "p90", "DEL median", "p90"];
            println!(
                "  {:<44}{:>5}{:>12}{:>9}{:>12}{:>9}",
                head[0], head[1], head[2], head[3], head[4], head[5]
            );
            lines.iter().for_each(print_line);
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

fn print_line(line: &Line) {
    let milliseconds =
        |times: &Times, share| format!("{:.2} ms", times.quantile(share).as_secs_f64() * 1000.0);
    let (add, add90) = (milliseconds(&line.add, 0.5), milliseconds(&line.add, 0.9));
    let del = line
        .del
        .as_ref()
        .map(|del| (milliseconds(del, 0.5), milliseconds(del, 0.9)));
    let (del, del90) = del.unwrap_or_default();
    println!(
        "  {:<44}{:>5}{add:>12}{add90:>9}{del:>12}{del90:>9}",
        line.name,
        line.add.count()
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
