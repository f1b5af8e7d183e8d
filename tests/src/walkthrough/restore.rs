//! Putting back what a walkthrough changed that did not get to its end.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use super::step::Step;
use super::{pods, policies, stage};
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

/// The files that observations write, each with its content.
fn written() -> impl Iterator<Item = (&'static str, &'static str)> {
    let steps = policies::OBSERVATIONS.iter().flat_map(|one| one.steps);
    steps.filter_map(|step| match step {
        Step::Run { command, .. } => {
            let (path, content) = command.strip_prefix("cat >")?.split_once(" <<END\n")?;
            Some((path, content.strip_suffix("END")?))
        }
        _ => None,
    })
}

/// Of the files that observations write, those that are there: the walkthrough's, perhaps not to their
/// end, and those that hold something else.
pub(super) fn manifests(lab: &Lab) -> Result<(BTreeSet<&'static str>, BTreeSet<&'static str>)> {
    let (mut ours, mut others) = (BTreeSet::new(), BTreeSet::new());
    for (path, content) in written() {
        let Ok(text) = lab.place().inside(|| fs::read_to_string(path))? else {
            continue;
        };
        match content.starts_with(&text) {
            true => ours.insert(path),
            false => others.insert(path),
        };
    }
    // One file is written twice.
    others.retain(|path| !ours.contains(path));
    Ok((ours, others))
}
