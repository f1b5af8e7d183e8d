//! Putting back what a walkthrough changed that did not get to its end.

use std::fs;
use std::time::Duration;

use super::written::manifests;
use super::{pods, stage};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::node::Node;
use crate::{layout, wait};

/// How long the agents may take to see that these are gone. Policies of a person's own stay.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether the rules of a node have something of policies or of affinity.
const RULES: &str = "nft list ruleset | grep -qE 'podwire-policy|update @'";

/// Takes away what a walkthrough that was interrupted has left: policies, and the affinity of
/// svc-clusterip. Answers whether there was anything.
pub fn restore(lab: &Lab) -> Result<bool> {
    // What is being run may be what leaves something.
    let _performing = stage::performing();
    let holds = |line: &str| Ok(lab.place().sh(line)?.status == 0);
    let (ours, _) = manifests(lab)?;
    let service = format!("{}/svc-clusterip.yaml", layout::MANIFESTS);
    let has_affinity = holds(&format!("grep -q 'sessionAffinity: ClientIP' {service}"))?;
    for path in &ours {
        let remove = || fs::remove_file(path).map_err(Error::file("remove", *path));
        lab.place().inside(remove)??;
    }
    if has_affinity {
        pods::write_services(lab)?;
    }
    let changed = !ours.is_empty() || has_affinity;
    if changed {
        let nodes = lab.cluster()?;
        let is_free = |node: &Node| node.place().sh(RULES).is_ok_and(|ran| ran.status != 0);
        let gone = || nodes.iter().all(is_free);
        // What is still there then is not the walkthrough's.
        let _ = wait::until("", LIMIT, gone);
    }
    Ok(changed)
}
