//! What others want to know about Services: warnings, health checks, metrics.
//!
//! Kept per Service and brought up to date for those that were looked at, so that the cost follows
//! the size of the change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use podwire_kernel::{IpFamily, RouteSocket};
use tokio::sync::watch;

use crate::clock::Moment;
use crate::config::services::{Config, NodePortAddresses};
use crate::error::chain;
use crate::feature::{Warn, World};
use crate::features::parts::kept::Kept;
use crate::features::services::desired::endpoints::{self, Here};
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::frontends::{self, Frontend};
use crate::features::services::desired::handwritten;
use crate::features::services::desired::networks;
use crate::features::services::desired::plan::{Plan, PortPlan};
use crate::features::services::health_checks::{self, Checks, HealthPorts};
use crate::features::services::layout::limits;
use crate::features::services::table::state::Done;
use crate::features::services::table::sync::FamilyTable;
use crate::metrics::LocalPolicy;
use crate::snapshot::{ObjectName, Protocol, TrafficPolicy};

/// Who has which health-check port: a socket of the agent, of which nothing stays in the kernel.
pub const KEPT_PORTS: Kept = Kept::new("health-check-ports");

/// Keeps what others want to know about Services, and hands it on.
#[derive(Debug)]
pub struct Publisher {
    health_ports: watch::Sender<HealthPorts>,
    checks: Checks,
    kept_ports: Kept,
    /// All Services have been looked at once.
    started: bool,
    /// Services with a policy Local and no endpoint here, by family and policy.
    without_local: [[BTreeSet<ObjectName>; 2]; 2],
    /// Services that have warnings.
    warned: BTreeSet<ObjectName>,
    /// Changes before this were not made while this agent ran; milliseconds since 1970.
    since: u64,
}

impl Publisher {
    /// Nothing is known yet.
    pub fn new(health_ports: watch::Sender<HealthPorts>) -> Publisher {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Publisher {
            health_ports,
            checks: Checks::default(),
            kept_ports: KEPT_PORTS,
            started: false,
            without_local: Default::default(),
            warned: BTreeSet::new(),
            since: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// How long it took until the kernel had what changed in the cluster.
    pub fn programmed(&self, family: IpFamily, done: &Done, world: &World<'_>) {
        let now = Moment::now();
        for name in &done.written {
            let times = world
                .snapshot
                .slices_of(name)
                .filter_map(|slice| slice.last_change);
            if let Some(newest) = times.filter(|time| *time > self.since).max() {
                world.metrics.proxy.programmed(family, newest, now);
            }
        }
    }

    /// Brings everything up to date for the Services that were looked at.
    pub fn update(
        &mut self,
        names: &BTreeSet<ObjectName>,
        tables: &[FamilyTable],
        externals: &Externals,
        world: &World<'_>,
        warn: &mut Warn<'_>,
    ) {
        for name in names {
            self.check_health(name, externals, world);
            for table in tables {
                self.count_local(name, table);
            }
        }
        if !std::mem::replace(&mut self.started, true) {
            self.checks
                .resume(self.kept_ports.observe(&world.config.run_dir));
        }
        let owner = |claim: &_| tables.iter().find_map(|table| table.applied().owner(claim));
        let others = self.checks.decide(owner);
        let kept = self
            .kept_ports
            .apply(&world.config.run_dir, self.checks.held());
        warn.replace_for(
            "health-check ports",
            kept.err().map(|error| {
                let error = chain(&error);
                format!("{error}: who has one may lose it to another Service with the next restart")
            }),
        );
        for name in names.union(&others) {
            self.warn(name, tables, externals, world, warn);
        }
        for table in tables {
            let refused = table.applied().refused().len();
            let node = &world.metrics.node;
            node.set_services_refused(table.family(), refused);
            let sets = &self.without_local[table.family() as usize];
            let policies = [LocalPolicy::Internal, LocalPolicy::External];
            for (policy, set) in policies.into_iter().zip(sets) {
                let family = table.family();
                world
                    .metrics
                    .proxy
                    .set_no_local_endpoints(family, policy, set.len());
            }
        }
        self.publish(world);
    }

    /// Warnings about the networks of Services.
    pub fn networks(&self, world: &World<'_>, externals: &Externals, warn: &mut Warn<'_>) {
        let texts = networks::warnings(world.snapshot, &world.config.services, externals);
        warn.replace_for("networks of Services", texts);
    }

    /// Warnings about the flags and the machine.
    pub fn settings(&self, config: &Config, failed: &[String], warn: &mut Warn<'_>) {
        let flag = config.balancing.bad.as_ref().map(|bad| {
            format!("`{bad}` is not random, round-robin or source-hash: random is used")
        });
        warn.replace_for("flag --balancing", flag);
        warn.replace_for("kernel settings", failed.iter().cloned());
    }

    fn warn(
        &mut self,
        name: &ObjectName,
        tables: &[FamilyTable],
        externals: &Externals,
        world: &World<'_>,
        warn: &mut Warn<'_>,
    ) {
        let has_some = {
            let mut texts = self.texts(name, tables, externals, world).peekable();
            let has_some = texts.peek().is_some();
            if has_some || self.warned.contains(name) {
                warn.replace_for(&format!("Service {name}"), texts);
            }
            has_some
        };
        if has_some {
            self.warned.insert(name.clone());
        } else {
            self.warned.remove(name);
        }
    }

    /// What is wrong with a Service, what concerns the whole of it first and what others have last: of a
    /// very long list the rest is not named.
    fn texts<'a>(
        &'a self,
        name: &'a ObjectName,
        tables: &'a [FamilyTable],
        externals: &'a Externals,
        world: &'a World<'_>,
    ) -> impl Iterator<Item = String> + 'a {
        let (snapshot, settings) = (world.snapshot, &world.config.services);
        let by_hand = world.config.manifests.is_some();
        let service = snapshot.services.get(name);
        let proxied = service.filter(|service| frontends::is_proxied(service));
        let tables = tables.iter().filter(move |_| service.is_some());
        let written = proxied.filter(|_| by_hand);
        let alone = service.is_none() && by_hand;
        let slices = snapshot.slices_of(name);
        let slices = slices.filter(move |_| proxied.is_some() || alone);
        let conflicts = tables
            .clone()
            .flat_map(|table| table.applied().conflicts(name));
        let written = written
            .into_iter()
            .flat_map(|service| handwritten::warnings(service, snapshot, settings));
        let alone = alone.then(|| handwritten::of_no_service(name, snapshot));
        tables
            .flat_map(|table| of_table(name, table))
            .chain(service.and_then(|_| self.checks.warning(name)))
            .chain(service.and_then(|one| health_checks::refused(one, externals)))
            .chain(written)
            .chain(alone.into_iter().flatten())
            .chain(service.into_iter().flat_map(frontends::warnings))
            .chain(proxied.into_iter().flat_map(|one| externals.warnings(one)))
            .chain(slices.flat_map(|slice| endpoints::warnings(slice, world.uplink)))
            .chain(conflicts)
    }

    fn check_health(&mut self, name: &ObjectName, externals: &Externals, world: &World<'_>) {
        let asked = world.snapshot.services.get(name).and_then(|service| {
            let port = health_checks::asked_port(service)?;
            let is_free = externals.has_node_port(Protocol::Tcp, port).is_none();
            is_free.then_some((service, port))
        });
        match asked {
            None => self.checks.forget(name),
            Some((service, port)) => {
                let here = Here {
                    node: world.own_name(),
                    uplink: world.uplink,
                    ..Here::default()
                };
                let slices = world.snapshot.slices_of(name);
                let count = endpoints::ready_here(slices, here);
                self.checks.ask(service, port, count);
            }
        }
    }

    fn count_local(&mut self, name: &ObjectName, table: &FamilyTable) {
        let lacks = lacks_local(table.applied().plan(name));
        for (set, lacks) in self.without_local[table.family() as usize]
            .iter_mut()
            .zip(lacks)
        {
            if lacks {
                set.insert(name.clone());
            } else {
                set.remove(name);
            }
        }
    }

    /// Hands the health checks to their server, if anything differs.
    fn publish(&self, world: &World<'_>) {
        let ports = self.checks.ports();
        let addresses = match ports.is_empty() {
            true => Vec::new(),
            false => health_addresses(world),
        };
        let wanted = HealthPorts { addresses, ports };
        self.health_ports.send_if_modified(|ports| {
            let differs = *ports != wanted;
            if differs {
                *ports = wanted;
            }
            differs
        });
    }
}

/// What one family's table has to say of the whole of a Service.
fn of_table<'a>(name: &'a ObjectName, table: &'a FamilyTable) -> impl Iterator<Item = String> + 'a {
    let applied = table.applied();
    let refused = applied.refused().get(name);
    let refused = refused.map(|why| format!("the kernel refuses it: {why}; tried again"));
    let limited = applied.plan(name).into_iter().flat_map(limits::warnings);
    refused.into_iter().chain(limited)
}

/// Whether a Service with internal, and with external, policy Local has endpoints but none here.
fn lacks_local(plan: Option<&Plan>) -> [bool; 2] {
    let ports = || plan.into_iter().flat_map(|plan| &plan.ports);
    let empty = |port: &PortPlan| port.any && port.local.is_empty();
    let internal = |port: &PortPlan| port.internal == TrafficPolicy::Local && empty(port);
    let external = |port: &PortPlan| {
        let outside = |front: &Frontend| !matches!(front, Frontend::ClusterIp(_));
        port.external == TrafficPolicy::Local && empty(port) && port.frontends.iter().any(outside)
    };
    [ports().any(internal), ports().any(external)]
}

/// The addresses of node ports, on which health checks are served too.
fn health_addresses(world: &World<'_>) -> Vec<IpAddr> {
    let own = world
        .own_node()
        .map(|node| node.internal_ips.as_slice())
        .unwrap_or_default();
    match &world.config.services.node_port_addresses {
        NodePortAddresses::All => {
            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        }
        NodePortAddresses::Primary => own.to_vec(),
        NodePortAddresses::Within(networks) => {
            let all = networks.iter().filter(|network| network.prefix() == 0);
            let all: BTreeSet<IpAddr> = all.map(IpNetwork::network).collect();
            let is_listed = |a: &IpAddr| networks.iter().any(|network| network.contains(*a));
            let covered = |a: &IpAddr| all.iter().any(|one| one.is_ipv4() == a.is_ipv4());
            let local = local_addresses(world).into_iter();
            let single = local.filter(|a| is_listed(a) && !covered(a));
            let addresses: BTreeSet<IpAddr> = single.chain(all.iter().copied()).collect();
            addresses.into_iter().collect()
        }
    }
}

/// All addresses of this machine on which a program can listen without naming an interface.
fn local_addresses(world: &World<'_>) -> Vec<IpAddr> {
    let found = RouteSocket::open().and_then(|mut socket| socket.addresses(None));
    let found: Vec<IpAddr> = match found {
        Ok(found) => found.iter().map(|address| address.network.ip()).collect(),
        Err(error) => {
            tracing::warn!(%error, "health checks are served at the addresses of the uplink only");
            let uplink = world.uplink.into_iter();
            let addresses = uplink.flat_map(|uplink| &uplink.addresses);
            addresses.map(IpNetwork::ip).collect()
        }
    };
    let needs_interface = |a: &IpAddr| matches!(a, IpAddr::V6(six) if six.is_unicast_link_local());
    found.into_iter().filter(|a| !needs_interface(a)).collect()
}

/// True if health checks are served at single addresses, and this is one of them.
pub fn is_health_address(config: &crate::config::Config, address: IpAddr) -> bool {
    match &config.services.node_port_addresses {
        NodePortAddresses::All | NodePortAddresses::Primary => false,
        NodePortAddresses::Within(networks) => {
            let mut single = networks.iter().filter(|network| network.prefix() > 0);
            single.any(|network| network.contains(address))
        }
    }
}

#[cfg(test)]
mod tests {
    use podwire_kernel::address::Address;
    use podwire_kernel::monitor::Event as KernelEvent;
    use tokio::sync::watch;

    use super::*;
    use crate::feature::{Event, Feature};
    use crate::features::parts::log::Logging;
    use crate::features::services::Services;
    use crate::features::services::desired::samples::named_service;
    use crate::features::test_node::TestNode;
    use crate::snapshot::{Change, Dirty, Object};

    #[test]
    fn addresses_that_others_have_hide_no_fault_of_the_whole_service() {
        let mut node = TestNode::apart();
        let (health_ports, _) = watch::channel(HealthPorts::default());
        let mut services = Services::open(health_ports, Logging::On).unwrap();
        let addresses: Vec<_> = (1..=60).map(|n| format!("203.0.113.{n}")).collect();
        let addresses = addresses.join(" ");
        for (name, number) in [("first", 1), ("second", 2)] {
            let text = format!(
                "kind LoadBalancer; cluster-ip 10.200.1.{number}; port tcp 80 3100{number}; \
                 external-local; health 32000; external-ip {addresses}"
            );
            let mut dirty = Dirty::default();
            let object = Object::Service(named_service(name, &text));
            node.snapshot.apply(Change::Set(object), &mut dirty);
            services.notice(&Event::Objects(&dirty), &node.world());
            node.writes(&mut services);
        }
        let warnings = node.warnings();
        let health = "Service default/second: spec.healthCheckNodePort `32000` is left out";
        assert!(
            warnings.iter().any(|one| one.starts_with(health)),
            "{warnings:?}"
        );
        let lost = warnings
            .iter()
            .filter(|one| one.contains("Service default/first has it"));
        assert_eq!(lost.count(), 50, "of addresses 49, and the port");
    }

    #[test]
    fn a_health_check_port_at_which_the_agent_itself_answers_is_named_and_not_served() {
        let mut node = TestNode::apart();
        node.config.healthz_bind_address.0 = "127.0.0.1:10256".parse().ok();
        let (health_ports, wanted) = watch::channel(HealthPorts::default());
        let mut services = Services::open(health_ports, Logging::On).unwrap();
        for (port, served) in [(10256, false), (32000, true), (10256, false)] {
            let text = format!(
                "kind LoadBalancer; cluster-ip 10.200.1.1; port tcp 80 31000; external-local; health {port}"
            );
            let mut dirty = Dirty::default();
            let object = Object::Service(named_service("web", &text));
            node.snapshot.apply(Change::Set(object), &mut dirty);
            services.notice(&Event::Objects(&dirty), &node.world());
            node.writes(&mut services);
            let said = "spec.healthCheckNodePort `10256` is left out: the agent itself answers there \
                        (--healthz-bind-address); choose another";
            let warnings = node.warnings();
            let named = warnings.iter().any(|one| one.ends_with(said));
            assert_eq!(named, !served, "{warnings:?}");
            assert_eq!(wanted.borrow().ports.contains_key(&port), served);
            assert_eq!(wanted.borrow().ports.len(), usize::from(served));
        }
    }

    #[test]
    fn health_checks_are_served_at_every_address_of_the_machine_at_which_node_ports_answer() {
        let mut node = TestNode::apart();
        let mut socket = RouteSocket::open().unwrap();
        let lo = socket.index_of("lo").unwrap();
        socket.set_up(lo).unwrap();
        let add = |socket: &mut RouteSocket, network: &str| {
            let address = Address::new(lo, network.parse().unwrap());
            socket.add_address(&address).unwrap();
            address
        };
        add(&mut socket, "198.51.100.7/32");
        add(&mut socket, "2001:db8::7/128");
        add(&mut socket, "203.0.113.7/32");
        let within = |node: &mut TestNode, networks: &[&str]| {
            let networks = networks.iter().map(|one| one.parse().unwrap()).collect();
            node.config.services.node_port_addresses = NodePortAddresses::Within(networks);
            let found = health_addresses(&node.world()).into_iter();
            found.map(|one| one.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(within(&mut node, &["198.51.100.0/24"]), ["198.51.100.7"]);
        let both = ["0.0.0.0/0", "198.51.100.0/24", "2001:db8::/32"];
        assert_eq!(within(&mut node, &both), ["0.0.0.0", "2001:db8::7"]);
        assert_eq!(within(&mut node, &["::/0"]), ["::"]);
        // One that comes later is a reason to look again, and others are none.
        assert_eq!(within(&mut node, &["198.51.100.0/24"]), ["198.51.100.7"]);
        let (health_ports, _) = watch::channel(HealthPorts::default());
        let mut services = Services::open(health_ports, Logging::On).unwrap();
        for (network, is_one) in [("198.51.100.8/32", true), ("203.0.113.8/32", false)] {
            let address = add(&mut socket, network);
            let event = KernelEvent::Address {
                address,
                gone: false,
            };
            let noticed = services.notice(&Event::Kernel(&event), &node.world());
            assert_eq!(noticed, is_one, "{network}");
        }
        let found = health_addresses(&node.world());
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
