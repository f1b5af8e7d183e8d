//! How fast things go, out of numbers that only grow: new connections of Services and their endpoints,
//! and bytes. Pure: the time comes from outside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use podwire_agent::flows::top::{Sum, Top};
use podwire_agent::report::{ServicePortReport, ServiceReport};
use serde::Serialize;
use tokio::time::Instant;

use crate::top::joined;

/// Connections are counted over so long: a second alone would be nothing or a lot.
const WINDOW: Duration = Duration::from_secs(10);

/// A node that is missing at so many looks is late; at more it is silent, and what its connections
/// carried meanwhile belongs to no look.
const LATE: u64 = 1;

/// How fast a Service goes, as the page gets it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ServiceRate {
    /// `namespace/name`.
    pub id: String,
    /// New connections a second.
    pub connections: f64,
    /// Bytes a second, both ways; none if no node counts them.
    pub bytes: Option<f64>,
    /// The connections that the nodes keep now.
    pub kept: u64,
    /// New connections a second of each endpoint that has any, by address and port.
    pub endpoints: BTreeMap<String, f64>,
}

/// Connections that Services got lately.
#[derive(Debug, Default)]
pub struct Lately {
    began: Option<Instant>,
    /// What came with each look; only what is more than nothing.
    looks: VecDeque<(Instant, BTreeMap<Got, u64>)>,
}

/// Who got a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Got {
    service: String,
    /// None for the Service as a whole.
    endpoint: Option<SocketAddr>,
}

impl Lately {
    /// What a node counted before and counts now.
    pub fn add(&mut self, before: &[ServiceReport], now: &[ServiceReport], at: Instant) {
        self.began.get_or_insert(at);
        let before: BTreeMap<&str, &ServiceReport> =
            before.iter().map(|one| (&*one.name, one)).collect();
        let mut more = BTreeMap::new();
        for service in now {
            // Of a Service that was not there all connections are new.
            let ports = before.get(&*service.name).map_or(&[][..], |one| &one.ports);
            for port in &service.ports {
                // By what names it within the Service: one may have come or gone before it.
                let same = |one: &&ServicePortReport| {
                    one.name == port.name && one.protocol == port.protocol
                };
                let known = ports.iter().find(same);
                let known_endpoints = known.map_or(&[][..], |one| &one.endpoints);
                let known_endpoints: BTreeMap<SocketAddr, Option<u64>> = known_endpoints
                    .iter()
                    .map(|one| (one.address, one.connections))
                    .collect();
                let mut add = |endpoint, before: Option<u64>, now: Option<u64>| {
                    let grown = grown(before.unwrap_or(0), now.unwrap_or(0));
                    if grown > 0 {
                        let service = service.name.clone();
                        *more.entry(Got { service, endpoint }).or_insert(0) += grown;
                    }
                };
                add(
                    None,
                    known.and_then(|one| one.connections),
                    port.connections,
                );
                for endpoint in &port.endpoints {
                    let known = known_endpoints.get(&endpoint.address).copied();
                    add(
                        Some(endpoint.address),
                        known.flatten(),
                        endpoint.connections,
                    );
                }
            }
        }
        self.looks.push_back((at, more));
        while self
            .looks
            .front()
            .is_some_and(|(then, _)| at - *then > WINDOW)
        {
            self.looks.pop_front();
        }
    }

    /// Connections a second, of each Service and each endpoint.
    fn rates(&self, at: Instant) -> BTreeMap<&Got, f64> {
        let Some(began) = self.began else {
            return BTreeMap::new();
        };
        let seconds = (at - began).clamp(Duration::from_secs(1), WINDOW);
        let mut sums = BTreeMap::new();
        for (got, more) in self.looks.iter().flat_map(|(_, more)| more) {
            *sums.entry(got).or_insert(0.0) += *more as f64 / seconds.as_secs_f64();
        }
        sums
    }
}

/// By how much a counter grew. One that was made again counts from the beginning.
pub fn grown(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// What connections have carried, those that ended included.
#[derive(Debug, Default)]
pub struct Carried {
    /// What each node said last, and at which look: one that is late takes nothing away.
    said: BTreeMap<String, (u64, Top)>,
    /// The number of the last look.
    look: u64,
    /// What connections had carried when they ended, by Service, and all.
    ended: BTreeMap<Whose, u64>,
    /// The most that each had carried.
    most: BTreeMap<Whose, u64>,
    /// Of these less was found at the last look.
    less: BTreeSet<Whose>,
    /// When was looked.
    at: Option<Instant>,
    rates: BTreeMap<Whose, f64>,
    kept: BTreeMap<String, u64>,
}

/// A Service by its name, or all.
type Whose = Option<String>;

impl Carried {
    /// A connection ended that had carried so many bytes.
    pub fn end(&mut self, service: Option<&str>, bytes: u64) {
        *self.ended.entry(None).or_default() += bytes;
        if let Some(service) = service {
            *self.ended.entry(Some(service.to_owned())).or_default() += bytes;
        }
    }

    /// What the nodes say of the connections that there are.
    pub fn look(&mut self, said: BTreeMap<String, Top>, at: Instant) {
        self.look += 1;
        let look = self.look;
        self.said.retain(|_, (last, _)| look - *last <= LATE + 1);
        let is_new = said.keys().any(|node| !self.said.contains_key(node));
        let said = said.into_iter().map(|(node, top)| (node, (look, top)));
        self.said.extend(said);
        let all = joined(self.said.values().map(|(_, top)| top));
        let passed = |sum: &Sum| sum.sent + sum.received;
        // Of a connection between two nodes only this counts once.
        let pairs = all.nodes.iter().map(|line| passed(&line.sum)).sum();
        let mut now: BTreeMap<Whose, u64> = BTreeMap::from([(None, pairs)]);
        self.kept.clear();
        for line in &all.services {
            let service = service_of(&line.name);
            *now.entry(Some(service.to_owned())).or_default() += passed(&line.sum);
            *self.kept.entry(service.to_owned()).or_default() += line.sum.connections;
        }
        for (whose, bytes) in &self.ended {
            *now.entry(whose.clone()).or_default() += bytes;
        }
        let seconds = self.at.map_or(0.0, |before| (at - before).as_secs_f64());
        self.at = Some(at);
        self.rates.clear();
        // What a node that is new here had carried before says nothing of now.
        let is_rate = !is_new && seconds > 0.0 && all.counted;
        for (whose, bytes) in now {
            let more = self.more(&whose, bytes);
            if is_rate {
                self.rates.insert(whose, more as f64 / seconds);
            }
        }
    }

    /// By how much it grew. That a connection ended may be told a little later than it is gone; what
    /// is still missing at the next look will not be told.
    fn more(&mut self, whose: &Whose, bytes: u64) -> u64 {
        let most = self.most.entry(whose.clone()).or_default();
        if bytes < *most {
            if !self.less.insert(whose.clone()) {
                self.less.remove(whose);
                *most = bytes;
            }
            return 0;
        }
        self.less.remove(whose);
        let more = bytes - *most;
        *most = bytes;
        more
    }

    /// Bytes a second of all connections, since the look before the last; none if no node counts.
    pub fn rate(&self) -> Option<f64> {
        self.rates.get(&None).copied()
    }
}

/// `namespace/name:port` is a port of the Service `namespace/name`.
fn service_of(port: &str) -> &str {
    port.split_once(':').map_or(port, |(name, _)| name)
}

/// Both together, of each Service with which something happens.
pub fn service_rates(lately: &Lately, carried: &Carried, at: Instant) -> Vec<ServiceRate> {
    let mut all: BTreeMap<&str, ServiceRate> = BTreeMap::new();
    for (got, rate) in lately.rates(at) {
        let service = all.entry(&got.service).or_default();
        match got.endpoint {
            None => service.connections = rounded(rate),
            Some(address) => {
                service.endpoints.insert(address.to_string(), rounded(rate));
            }
        }
    }
    for (service, kept) in &carried.kept {
        all.entry(service).or_default().kept = *kept;
    }
    for (service, rate) in &carried.rates {
        if let Some(service) = service {
            all.entry(service).or_default().bytes = Some(rate.round());
        }
    }
    let named = |(id, rate): (&str, ServiceRate)| ServiceRate {
        id: id.to_owned(),
        ..rate
    };
    all.into_iter().map(named).collect()
}

/// As exact as the page shows it: so the same is the same.
fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use podwire_agent::flows::top::Line;
    use podwire_agent::report::EndpointReport;

    use super::*;

    fn web(connections: u64) -> Vec<ServiceReport> {
        let endpoint = EndpointReport {
            address: "10.10.1.2:80".parse().unwrap(),
            here: true,
            connections: Some(connections),
        };
        let port = ServicePortReport {
            connections: Some(connections),
            endpoints: vec![endpoint],
            ..ServicePortReport::default()
        };
        vec![ServiceReport {
            name: "default/web".into(),
            ports: vec![port],
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_all_nodes_make_a_rate_that_fades_and_no_flood_at_the_start() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut lately = Lately::default();
        for _node in 0..2 {
            lately.add(&web(1000), &web(1000), start);
            lately.add(&web(1000), &web(1010), after(2));
        }
        lately.add(&web(1010), &web(4), after(4));
        let rates = service_rates(&lately, &Carried::default(), after(4));
        assert_eq!(rates[0].id, "default/web");
        assert_eq!(rates[0].connections, 6.0, "20 + 4 in 4 s");
        assert_eq!(rates[0].endpoints["10.10.1.2:80"], 6.0);
        lately.add(&web(4), &web(4), after(30));
        assert_eq!(service_rates(&lately, &Carried::default(), after(30)), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_goes_gives_its_count_to_no_other() {
        let start = Instant::now();
        let port = |name: &str, protocol: &str, connections| ServicePortReport {
            name: name.into(),
            protocol: protocol.into(),
            connections: Some(connections),
            ..ServicePortReport::default()
        };
        let with = |ports: &[ServicePortReport]| {
            vec![ServiceReport {
                name: "kube-system/dns".into(),
                ports: ports.into(),
            }]
        };
        let before = [
            port("metrics", "tcp", 5),
            port("dns", "tcp", 100),
            port("dns", "udp", 9000),
        ];
        let now = [port("dns", "udp", 9004), port("dns", "tcp", 100)];
        let mut lately = Lately::default();
        lately.add(&with(&before), &with(&now), start);
        let rates = service_rates(&lately, &Carried::default(), start);
        assert_eq!(rates[0].connections, 4.0);
    }

    fn top(services: u64, pairs: u64) -> Top {
        let line = |name: &str, sent| Line {
            name: name.into(),
            sum: Sum {
                connections: 2,
                sent,
                received: 0,
            },
        };
        Top {
            counted: true,
            services: vec![line("default/web:http", services)],
            nodes: vec![line("a -> b", pairs)],
            ..Top::default()
        }
    }

    fn of_both(services: u64, pairs: u64) -> BTreeMap<String, Top> {
        let other = Top {
            services: Vec::new(),
            ..top(0, pairs)
        };
        BTreeMap::from([("a".into(), top(services, pairs)), ("b".into(), other)])
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_once_whether_connections_live_or_end_or_their_end_is_told_late() {
        let start = Instant::now();
        let mut turn = 0;
        let mut at = || {
            turn += 1;
            start + Duration::from_secs(10 * turn)
        };
        let mut carried = Carried::default();
        carried.look(of_both(500, 9000), at());
        assert_eq!(carried.rate(), None, "what was before has no time");
        carried.look(of_both(600, 9200), at());
        assert_eq!(carried.rate(), Some(20.0));
        let rates = service_rates(&Lately::default(), &carried, start);
        assert_eq!((rates[0].bytes, rates[0].kept), (Some(10.0), 2));
        // One of 9,000 bytes is gone, and no one told of it yet.
        carried.look(of_both(600, 300), at());
        assert_eq!(carried.rate(), Some(0.0));
        carried.end(Some("default/web"), 9000);
        carried.look(of_both(600, 400), at());
        assert_eq!(carried.rate(), Some(20.0), "9400 now, 9200 before");
        // One is gone of which no one ever tells.
        carried.look(of_both(600, 100), at());
        carried.look(of_both(600, 100), at());
        carried.look(of_both(600, 200), at());
        assert_eq!(carried.rate(), Some(10.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_late_takes_nothing_away_and_a_new_one_brings_no_flood() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut carried = Carried::default();
        let one = BTreeMap::from([("b".to_owned(), top(0, 100))]);
        carried.look(one.clone(), start);
        carried.look(of_both(0, 5000), after(10));
        assert_eq!(carried.rate(), None);
        carried.look(one, after(20));
        assert_eq!(carried.rate(), Some(0.0));
        carried.look(of_both(0, 5100), after(30));
        assert_eq!(carried.rate(), Some(10.0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_passed_while_a_node_was_silent_did_not_pass_when_it_came_back() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut carried = Carried::default();
        carried.look(of_both(0, 100), start);
        carried.look(of_both(0, 200), after(10));
        assert_eq!(carried.rate(), Some(10.0));
        for seconds in [20, 30, 40] {
            carried.look(BTreeMap::new(), after(seconds));
            assert!(carried.rate().is_none_or(|rate| rate == 0.0));
        }
        carried.look(of_both(0, 90_000), after(50));
        assert_eq!(carried.rate(), None);
        carried.look(of_both(0, 90_100), after(60));
        assert_eq!(carried.rate(), Some(10.0));
    }
}
