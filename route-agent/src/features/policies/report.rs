//! Policies for the operator's eyes: which pods they isolate here, what they say, and what was dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Chain, Expr, NftSocket};

use crate::features::policies::desired::explain::traffic_words;
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::truth::{isolating, selecting};
use crate::features::policies::desired::wanted::Place;
use crate::features::policies::layout::skeleton::{UNDECIDED, denied, refused};
use crate::ours::POLICY_TABLE as TABLE;
use crate::report::{DeniedReport, IsolatedReport, IsolatingReport, PoliciesReport};
use crate::snapshot::{Direction, ObjectName, PolicyName, Snapshot, Tier, TierRule};

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
    let mut here = BTreeSet::new();
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
    let mut isolating = BTreeSet::new();
    report.isolated = isolated
        .into_iter()
        .map(|(pod, addresses)| isolated_report(pod, addresses, snapshot, &mut isolating))
        .collect();
    let isolating = isolating.into_iter();
    report.isolating = isolating
        .map(|name| isolating_report(name, snapshot))
        .collect();
    report
}

/// What is known of an isolated pod; the policies that isolate it are added to `all`.
fn isolated_report(
    name: &ObjectName,
    addresses: Vec<IpAddr>,
    snapshot: &Snapshot,
    all: &mut BTreeSet<PolicyName>,
) -> IsolatedReport {
    let mut by = |direction| -> Vec<String> {
        let Some(pod) = snapshot.pods.get(name) else {
            return Vec::new();
        };
        let tier = |tier| {
            let policies = selecting(snapshot, pod, tier).into_iter();
            let policies = policies.filter(|policy| !policy.rules(direction).is_empty());
            policies.map(|policy| PolicyName::Cluster(policy.name.clone()))
        };
        let network = isolating(snapshot, pod, direction);
        let network = network.map(|policy| PolicyName::Namespaced(policy.name.clone()));
        let names = tier(Tier::Admin).chain(network);
        let names: Vec<_> = names.chain(tier(Tier::Baseline)).collect();
        let texts = names.iter().map(ToString::to_string).collect();
        all.extend(names);
        texts
    };
    IsolatedReport {
        pod: name.to_string(),
        addresses,
        ingress: by(Direction::Ingress),
        egress: by(Direction::Egress),
    }
}

fn isolating_report(name: PolicyName, snapshot: &Snapshot) -> IsolatingReport {
    let rules = |direction| -> Option<Vec<String>> {
        match &name {
            PolicyName::Namespaced(name) => {
                let rules = snapshot.policies.get(name)?.rules(direction)?.iter();
                Some(rules.map(|rule| traffic_words(direction, rule)).collect())
            }
            PolicyName::Cluster(name) => {
                let rules = snapshot.cluster_policies.get(name)?.rules(direction);
                let words = |rule: &TierRule| {
                    let traffic = traffic_words(direction, &rule.traffic);
                    format!("{} {traffic}", rule.action.verb())
                };
                (!rules.is_empty()).then(|| rules.iter().map(words).collect())
            }
        }
    };
    IsolatingReport {
        ingress: rules(Direction::Ingress),
        egress: rules(Direction::Egress),
        name: name.to_string(),
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
