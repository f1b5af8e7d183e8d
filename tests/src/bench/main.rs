//! `podwire-bench`: what an ADD and a DEL cost, beside the reference plugins and beside a floor
//! program that does the kernel operations and nothing else.
//!
//! All sides run alternated in one run, so the machine's moods hit them alike; what counts is the
//! ratio of the medians. It works in network and mount namespaces of its own and leaves nothing.

mod api;
mod call;
mod cases;
mod flows;
mod policies;
mod report;
mod services;
mod sides;
mod statistics;
mod talk;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Measures the CNI plugin; prints medians, ratios and a verdict for each target.
#[derive(Debug, Parser)]
#[command(name = "podwire-bench", version)]
pub struct Options {
    /// How often each side is measured in each case.
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// How many rounds of parallel ADDs are run.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Directory with the `podwire` binary; default: $PODWIRE_BIN_DIR, or that of this program.
    #[arg(long, env = "PODWIRE_BIN_DIR")]
    binaries: Option<PathBuf>,
    /// Directory with the reference plugins `ptp`, `host-local` and `portmap`.
    #[arg(long, default_value = "/usr/lib/cni")]
    reference: PathBuf,
    /// Runs only the cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("podwire-bench: {reason}");
            ExitCode::from(2)
        }
    }
}

/// Runs all cases; says whether every target was met.
fn run(options: &Options) -> Result<bool, String> {
    let world = world::World::create(options)?;
    let mut report = report::Report::new(&world);
    cases::run(options, &world, &mut report)?;
    Ok(report.print())
}
