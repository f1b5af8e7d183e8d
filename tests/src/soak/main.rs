//! `podwire-soak`: random churn in a lab for as long as you like, and every minute a look at
//! whether all is as it should be.
//!
//! A seed decides what happens ([`churn`]); [`act`] makes it happen, [`look`] sees what came of it,
//! [`invariants`] and [`usage`] say what of that is wrong; what policies mean is in [`policy`]. At the
//! end everything is taken away, and the nodes must be as they were.

mod act;
mod churn;
mod invariants;
mod look;
mod policy;
mod usage;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use fastrand::Rng;
use podwire_lab::error::Result;
use podwire_lab::node::Node;
use podwire_lab::registry::Entry;
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Lab, wait};
use serde_json::json;

use churn::{Action, Wanted};
use invariants::OnNode;
use usage::{Trend, Usage};

/// From one check to the next.
const ROUND: Duration = Duration::from_secs(60);
/// From one progress line and one sample to the next.
const PROGRESS: Duration = Duration::from_secs(5);
/// The longest pause between two actions.
const LONGEST_PAUSE: Duration = Duration::from_millis(1200);
/// Longer than what no Service needs any more stays on a node
/// (docs/decisions/0009-services-as-map-elements.md).
const LINGERS: Duration = Duration::from_secs(3);
/// How long after the last action all must be well. Most is right in a second; a breakage may have
/// come just before, on several nodes at once, and the machine may be busy.
const SETTLED: Duration = Duration::from_secs(20);

/// Churns a lab at random and checks every minute that all is as it should be.
#[derive(Debug, Parser)]
#[command(name = "podwire-soak", version)]
struct Options {
    /// For how long, in seconds.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Decides what happens; the same one, the same things.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(soak) => soak.summary(options.seed),
        Err(error) => {
            eprintln!("podwire-soak: {error}");
            ExitCode::from(2)
        }
    }
}

/// What has happened so far.
struct Soak {
    lab: Lab,
    begun: Instant,
    random: Rng,
    wanted: Wanted,
    /// How often what happened.
    done: BTreeMap<&'static str, u64>,
    /// Of the agent that is never killed, in the order of time.
    samples: Vec<Usage>,
    checks: u32,
    /// The longest time until all was well.
    slowest: Duration,
    /// What was wrong.
    wrong: Vec<String>,
}

fn run(options: &Options) -> Result<Soak> {
    println!("Raising a lab; seed {} ...", options.seed);
    let entry = Entry::claim_free("soak")?;
    let topology = Topology::walkthrough(Families::Dual);
    let lab = Lab::up_without_agents(entry, &topology, &|_| {})?;
    lab.write_manifest(
        "servicecidr",
        &json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.200.1.0/24", "fd00:10:200:1::/112"]},
        }),
    )?;
    let nodes = lab.cluster()?;
    nodes.iter().try_for_each(act::start_agent)?;
    nodes.iter().try_for_each(Node::wait_ready)?;
    let names = nodes.iter().map(|node| node.name().to_owned()).collect();
    let mut soak = Soak {
        lab,
        begun: Instant::now(),
        random: Rng::with_seed(options.seed),
        wanted: Wanted::on(names),
        done: BTreeMap::new(),
        samples: Vec::new(),
        checks: 0,
        slowest: Duration::ZERO,
        wrong: Vec::new(),
    };
    // What was seen until then is worth having, whatever ends it.
    if let Err(error) = soak.live(Duration::from_secs(options.seconds)) {
        soak.wrong.push(format!("it ended early: {error}"));
    }
    Ok(soak)
}

impl Soak {
    fn live(&mut self, time: Duration) -> Result<()> {
        // Tables come with the first that needs them, and stay.
        self.act_all(&self.wanted.first())?;
        self.check(|soak| soak.violations())?;
        self.act_all(&self.wanted.leave())?;
        self.check(|soak| soak.violations())?;
        let before = self.at_rest()?;
        let end = self.begun + time;
        while Instant::now() < end {
            self.churn(end.min(Instant::now() + ROUND))?;
            self.act_all(&self.wanted.calm())?;
            self.check(|soak| soak.violations())?;
            self.act_all(&self.wanted.bury())?;
        }
        self.act_all(&self.wanted.leave())?;
        self.check(|soak| soak.remains(&before))
    }

    /// Lets things happen until then.
    fn churn(&mut self, until: Instant) -> Result<()> {
        let mut due = Instant::now();
        while Instant::now() < until {
            let action = self.wanted.next(&mut self.random);
            self.act(&action)?;
            if Instant::now() >= due {
                due = Instant::now() + PROGRESS;
                self.sample()?;
                self.progress(&action.to_string());
            }
            thread::sleep(LONGEST_PAUSE.mul_f64(self.random.f64()));
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<()> {
        let before = self.wanted.clone();
        self.wanted.take_in(action);
        *self.done.entry(action.kind()).or_default() += 1;
        act::act(&self.lab, &before, &self.wanted, action)
    }

    fn act_all(&mut self, actions: &[Action]) -> Result<()> {
        actions.iter().try_for_each(|action| self.act(action))
    }

    fn sample(&mut self) -> Result<()> {
        let steady = self.lab.machine(&self.wanted.nodes[0])?;
        self.samples.extend(look::usage(&steady)?);
        Ok(())
    }

    fn progress(&self, what: &str) {
        let usage = self.samples.last();
        let usage = usage.map(|usage| format!("{} KiB, {} files", usage.memory, usage.files));
        println!(
            "[{:>5} s] {} pods, {} Services, {} policies, {} actions, agent {}: {what}",
            self.begun.elapsed().as_secs(),
            self.wanted.pods.len(),
            self.wanted.services.len(),
            self.wanted.policies.len(),
            self.done.values().sum::<u64>(),
            usage.unwrap_or_else(|| "unknown".into()),
        );
    }

    /// Waits until `wrong` finds nothing, and notes what it finds to the last.
    fn check(&mut self, wrong: impl Fn(&Self) -> Result<Vec<String>>) -> Result<()> {
        self.checks += 1;
        let calm = Instant::now();
        let mut last = Vec::new();
        let well = wait::until_some(SETTLED, || match wrong(self) {
            Ok(found) if found.is_empty() => Some(()),
            Ok(found) => {
                last = found;
                None
            }
            // An agent that has just been started does not answer yet.
            Err(error) => {
                last = vec![error.to_string()];
                None
            }
        });
        let took = calm.elapsed();
        self.slowest = self.slowest.max(took);
        if well.is_some() {
            self.progress(&format!("all is well after {:.1} s", took.as_secs_f64()));
            return Ok(());
        }
        self.progress(&format!("{} things are WRONG", last.len()));
        for sentence in &last {
            println!("    {sentence}");
        }
        for node in self.lab.cluster()? {
            let log = node.agent_log();
            let lines: Vec<_> = log.lines().rev().take(5).collect();
            for line in lines.iter().rev() {
                println!("    log of {}: {line}", node.name());
            }
        }
        self.wrong.extend(last);
        Ok(())
    }

    /// What is wrong now.
    fn violations(&self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let attached = look::attached(&self.lab)?;
        for node in self.lab.cluster()? {
            wrong.extend(invariants::of_status(node.name(), &look::status(&node)?));
            let seen = look::on_node(&node)?;
            wrong.extend(invariants::of_node(
                node.name(),
                &self.wanted,
                &attached,
                &seen,
            ));
        }
        // The questions take longest: only if the rest is right.
        if wrong.is_empty() {
            let answers = look::ask_all(&self.lab, &self.wanted)?;
            wrong.extend(invariants::of_answers(&self.wanted, &answers));
        }
        Ok(wrong)
    }

    /// What is there now and was not before, and the other way round.
    fn remains(&self, before: &BTreeMap<String, OnNode>) -> Result<Vec<String>> {
        let mut wrong = self.violations()?;
        for (name, seen) in &self.all_nodes()? {
            let nothing = OnNode::default();
            let before = before.get(name).unwrap_or(&nothing);
            wrong.extend(invariants::of_end(name, before, seen));
        }
        Ok(wrong)
    }

    /// What is on the nodes once they look the same for a while.
    fn at_rest(&self) -> Result<BTreeMap<String, OnNode>> {
        let mut before = self.all_nodes()?;
        loop {
            thread::sleep(LINGERS);
            let seen = self.all_nodes()?;
            if seen == before {
                return Ok(seen);
            }
            before = seen;
        }
    }

    fn all_nodes(&self) -> Result<BTreeMap<String, OnNode>> {
        let look = |node: &Node| Ok((node.name().to_owned(), look::on_node(node)?));
        self.lab.cluster()?.iter().map(look).collect()
    }

    /// Prints what happened; the exit status says whether all was well.
    fn summary(mut self, seed: u64) -> ExitCode {
        println!("\nSeed {seed}, {} s:", self.begun.elapsed().as_secs());
        for (kind, count) in &self.done {
            println!("  {count:>6} {kind}");
        }
        let trend = Trend::of(&self.samples);
        if let Some(trend) = trend {
            println!("  agent on {}: {trend}", self.wanted.nodes[0]);
            self.wrong.extend(trend.growth());
        }
        println!(
            "  {} checks; all was well after {:.1} s at most",
            self.checks,
            self.slowest.as_secs_f64()
        );
        if self.wrong.is_empty() {
            println!("Nothing was wrong.");
            return ExitCode::SUCCESS;
        }
        println!("{} things were wrong:", self.wrong.len());
        for sentence in &self.wrong {
            println!("  {sentence}");
        }
        ExitCode::FAILURE
    }
}
