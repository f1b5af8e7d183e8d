//! A cluster of any objects, as one node sees it.

use std::sync::LazyLock;

use clap::Parser;
use podwire_agent::config::Config;
use podwire_agent::snapshot::{Change, Dirty, Object, Snapshot};

/// The Node that the agent runs on. The seeds have it.
pub const NODE: &str = "worker2";

/// The flags alone, as a program.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// The flags that every agent needs, and no other.
pub static CONFIG: LazyLock<Config> =
    LazyLock::new(|| Flags::parse_from(["fuzz", "--node-name", NODE]).config);

/// A cluster of these objects, the later of those with one name.
pub fn of(objects: Vec<Object>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for object in objects {
        let _ = snapshot.apply(Change::Set(object), &mut Dirty::default());
    }
    snapshot
}
