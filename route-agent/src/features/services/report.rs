//! Services for the operator's eyes: where they answer, by which endpoints, and how often.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::NftSocket;

use crate::features::parts::log::counted;
use crate::features::services::desired::endpoints::Backend;
use crate::features::services::desired::frontends::Frontend;
use crate::features::services::desired::plan::{Plan, PortPlan};
use crate::features::services::layout::elements::{Key, endpoint_number};
use crate::features::services::layout::names::{AffinityHolds, AffinityMap, FixedMap};
use crate::features::services::layout::portals;
use crate::features::services::table::observed::{place, where_slots_are};
use crate::features::services::table::sync::FamilyTable;
use crate::ours::SERVICES_TABLE as TABLE;
use crate::report::{EndpointReport, Report, ServicePortReport, ServiceReport};
use crate::snapshot::{Balancing, ObjectName};

/// Adds the Services of a family to the report; with their endpoints if it is a wide one.
pub fn report(table: &FamilyTable, kernel: &mut NftSocket, report: &mut Report) {
    let counters = Counters::read(table, kernel, report.wide);
    if let Ok(Some(rules)) = kernel.observe_frame(table.family().into(), TABLE) {
        report.add_refused(counted(&rules));
    }
    let mut services: BTreeMap<&ObjectName, &Plan> = table.applied().plans().collect();
    // Services of the other family are there already.
    for known in &mut report.services {
        let name = services
            .keys()
            .find(|name| name.to_string() == known.name)
            .copied();
        if let Some((name, plan)) = name.and_then(|name| services.remove_entry(name)) {
            known
                .ports
                .extend(ports(name, plan, &counters, report.wide));
        }
    }
    report.services.extend(
        services
            .into_iter()
            .filter(|(_, plan)| !plan.ports.is_empty())
            .map(|(name, plan)| ServiceReport {
                name: name.to_string(),
                ports: ports(name, plan, &counters, report.wide).collect(),
            }),
    );
    report.services.sort_unstable_by(|a, b| a.name.cmp(&b.name));
}

fn ports<'a>(
    name: &'a ObjectName,
    plan: &'a Plan,
    counters: &'a Counters,
    wide: bool,
) -> impl Iterator<Item = ServicePortReport> + 'a {
    plan.ports.iter().map(move |port| ServicePortReport {
        name: port.name.to_string(),
        protocol: port.protocol.name().to_owned(),
        fronts: port
            .frontends
            .iter()
            .map(|front| front_text(front, port.port))
            .collect(),
        balancing: balancing_name(port.balancing).to_owned(),
        affinity: port.affinity,
        endpoint_count: port.cluster.len(),
        endpoints: if wide {
            endpoints(name, port, counters)
        } else {
            Vec::new()
        },
        connections: counters.of_port(port),
    })
}

fn endpoints(name: &ObjectName, port: &PortPlan, counters: &Counters) -> Vec<EndpointReport> {
    port.cluster
        .iter()
        .map(|backend| EndpointReport {
            address: SocketAddr::new(backend.address, backend.port),
            here: port.local.contains(backend),
            connections: counters.of_endpoint(name, port, backend),
        })
        .collect()
}

fn front_text(front: &Frontend, port: u16) -> String {
    match front {
        Frontend::NodePort(port) => format!("*:{port}"),
        Frontend::ClusterIp(a) | Frontend::LoadBalancer(a) | Frontend::ExternalIp(a) => {
            SocketAddr::new(*a, port).to_string()
        }
    }
}

fn balancing_name(balancing: Balancing) -> &'static str {
    match balancing {
        Balancing::Random => "random",
        Balancing::RoundRobin => "round-robin",
        Balancing::SourceHash => "source-hash",
    }
}

/// What the elements counted, by where they lie.
#[derive(Debug, Default)]
struct Counters {
    packets: HashMap<u64, u64>,
    /// False if nothing is counted or nothing could be read.
    known: bool,
}

impl Counters {
    fn read(table: &FamilyTable, kernel: &mut NftSocket, wide: bool) -> Counters {
        match Counters::try_read(table.family(), kernel, wide) {
            Ok(counters) => counters,
            Err(error) => {
                tracing::debug!(%error, "no counters for the report");
                Counters::default()
            }
        }
    }

    fn try_read(
        family: IpFamily,
        kernel: &mut NftSocket,
        wide: bool,
    ) -> Result<Counters, podwire_kernel::Error> {
        let family = podwire_kernel::nft::Family::from(family);
        let mut counters = Counters::default();
        let ways_in = [FixedMap::Services, FixedMap::NodePorts].map(FixedMap::name);
        let headers = kernel.set_headers(family, TABLE)?;
        for (name, header) in headers.iter() {
            let portal = ways_in.contains(&name);
            if !header.counter || (!portal && !wide) {
                continue;
            }
            kernel.each_element(family, TABLE, name, header, |key, element| {
                if let Some(counter) = element.counter {
                    counters.known = true;
                    counters.packets.insert(place(name, &key), counter.packets);
                }
            })?;
        }
        Ok(counters)
    }

    fn at(&self, set: &str, key: &Key) -> u64 {
        self.packets
            .get(&place(set, key.as_bytes()))
            .copied()
            .unwrap_or_default()
    }

    /// New connections over all fronts of a port.
    fn of_port(&self, port: &PortPlan) -> Option<u64> {
        let at_front = |front: &Frontend| {
            let (map, key) = portals::portal(port, front);
            self.at(map.name(), &key)
        };
        self.known
            .then(|| port.frontends.iter().map(at_front).sum())
    }

    /// New connections that one endpoint got, over all fronts and policies.
    fn of_endpoint(&self, name: &ObjectName, port: &PortPlan, backend: &Backend) -> Option<u64> {
        let mut sum = 0;
        for (local, list) in [(false, &port.cluster), (true, &port.local)] {
            let Some(slot) = list.iter().position(|other| other == backend) else {
                continue;
            };
            if port.affinity.is_some() {
                let holds = AffinityHolds::Endpoints;
                let (protocol, number) = (port.protocol, port.port);
                let map = AffinityMap {
                    protocol,
                    port: number,
                    local,
                    holds,
                };
                let key = Key::new().number(endpoint_number(backend));
                sum += self.at(&map.name(name), &key);
                continue;
            }
            for (set, key) in where_slots_are(name, port, local) {
                sum += self.at(&set, &key.number(slot as u32));
            }
        }
        self.known.then_some(sum)
    }
}
