//! Policies for the operator's eyes: which pods they isolate here, and what was dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Chain, Expr, NftSocket};

use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::truth::{isolating, selecting};
use crate::features::policies::desired::wanted::Place;
use crate::features::policies::layout::skeleton::{UNDECIDED, denied, refused};
use crate::ours::POLICY_TABLE as TABLE;
use crate::report::{DeniedReport, IsolatedReport, PoliciesReport};
use crate::snapshot::{Direction, ObjectName, PolicyName, Snapshot, Tier};

/// The report about what both families' models and tables hold.
pub fn report<'a>(
    models: impl Iterator<Item = (IpFamily, &'a Model)>,
    kernel: &mut NftSocket,
    snapshot: &Snapshot,
) -> PoliciesReport {
    let mut report = PoliciesReport {
        in_cluster: snapshot.policies.len() + snapshot.cluster_policies.len(),
        ..PoliciesReport::default()
    };
    let mut here = std::collections::BTreeSet::new();
    let mut isolated: BTreeMap<&ObjectName, Vec<IpAddr>> = BTreeMap::new();
    for (family, model) in models {
        for (pod, address, policies) in model.locals() {
            here.extend(policies);
            if model.wanted().has(&Place::Isolated(address)) {
                isolated.entry(pod).or_default().push(address);
            }
        }
        // That it cannot be read is named among the differences.
        let _ = count(kernel, family, &mut report.denied);
    }
    report.here = here.len();
    report.isolated = isolated
        .into_iter()
        .map(|(pod, addresses)| isolated_report(pod, addresses, snapshot))
        .collect();
    report
}

fn isolated_report(
    name: &ObjectName,
    addresses: Vec<IpAddr>,
    snapshot: &Snapshot,
) -> IsolatedReport {
    let by = |direction| -> Vec<String> {
        let Some(pod) = snapshot.pods.get(name) else {
            return Vec::new();
        };
        let tier = |tier| {
            let policies = selecting(snapshot, pod, tier).into_iter();
            let policies = policies.filter(|policy| !policy.rules(direction).is_empty());
            policies.map(|policy| PolicyName::Cluster(policy.name.clone()).to_string())
        };
        let network = isolating(snapshot, pod, direction);
        let network = network.map(|policy| policy.name.name.to_string());
        let all = tier(Tier::Admin).chain(network);
        all.chain(tier(Tier::Baseline)).collect()
    };
    IsolatedReport {
        pod: name.to_string(),
        addresses,
        ingress: by(Direction::Ingress),
        egress: by(Direction::Egress),
    }
}

/// What the tables of these families have dropped.
pub fn denied_packets(
    kernel: &mut NftSocket,
    families: impl Iterator<Item = IpFamily>,
) -> podwire_kernel::Result<DeniedReport> {
    let mut so_far = DeniedReport::default();
    for family in families {
        count(kernel, family, &mut so_far)?;
    }
    Ok(so_far)
}

/// Adds what a table has dropped.
fn count(
    kernel: &mut NftSocket,
    family: IpFamily,
    denied_so_far: &mut DeniedReport,
) -> podwire_kernel::Result<()> {
    let Some(table) = kernel.observe_frame(family.into(), TABLE)? else {
        return Ok(());
    };
    let packets = |chain: &str| table.chains.get(chain).map_or(0, packets);
    let all = |direction| {
        let refused = [false, true].map(|reply| packets(refused(direction, reply)));
        packets(denied(direction)) + refused.iter().sum::<u64>()
    };
    denied_so_far.ingress += all(Direction::Ingress);
    denied_so_far.egress += all(Direction::Egress);
    denied_so_far.undecided += packets(UNDECIDED);
    Ok(())
}

fn packets(chain: &Chain) -> u64 {
    let exprs = chain.rules.iter().flat_map(|rule| &rule.exprs);
    let counters = exprs.filter_map(|expr| match expr {
        Expr::Counter(counter) => Some(counter.packets),
        _ => None,
    });
    counters.sum()
}
