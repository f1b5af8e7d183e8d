//! The health checks that Services want answered (`spec.healthCheckNodePort`). The feature says
//! which and what; `serve::health_ports` answers them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::features::parts::kept::Held;
use crate::features::services::desired::claims::{Claimed, Claims};
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::frontends::{self, Claim};
use crate::snapshot::{ObjectName, Protocol, Service, ServiceKind, TrafficPolicy};

/// What a health check node port answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoints {
    /// The Service.
    pub service: ObjectName,
    /// How many distinct ready endpoints it has on this node.
    pub count: usize,
}

/// The port at which a load balancer asks for a Service's endpoints, if it does.
pub fn asked_port(service: &Service) -> Option<u16> {
    let applies = service.kind == ServiceKind::LoadBalancer
        && service.external_policy == TrafficPolicy::Local
        && frontends::is_proxied(service);
    service.health_check_node_port.filter(|_| applies)
}

/// Why the health check of a Service cannot be answered at its port, if the agent itself answers there.
pub fn refused(service: &Service, externals: &Externals) -> Option<String> {
    let port = asked_port(service)?;
    let flag = externals.has_node_port(Protocol::Tcp, port)?;
    Some(format!(
        "spec.healthCheckNodePort `{port}` is left out: the agent itself answers there ({flag}); choose \
         another"
    ))
}

/// All health check node ports that this node must serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthPorts {
    /// The addresses on which the ports are served: those of the node ports. An unspecified
    /// address stands for all.
    pub addresses: Vec<IpAddr>,
    /// What each port answers.
    pub ports: BTreeMap<u16, LocalEndpoints>,
}

/// The health checks that Services ask for, and who has which port.
#[derive(Debug, Default)]
pub struct Checks {
    asked: BTreeMap<ObjectName, Asked>,
    /// Who goes first is decided as for node ports.
    claims: Claims,
    /// Those whose port another Service has.
    taken: BTreeMap<ObjectName, ObjectName>,
}

/// The health check of one Service.
#[derive(Debug)]
struct Asked {
    port: u16,
    /// The number of endpoints.
    count: usize,
    /// Its age says who goes first.
    has_date: bool,
}

impl Checks {
    /// Whoever had its port when an agent ran last has it again, if it asks for it and is as good as
    /// the others; to be called when all have asked.
    pub fn resume(&mut self, held: &Held) {
        for (service, asked) in &self.asked {
            if held.get(&asked.port.to_string()) == Some(&service.to_string()) {
                self.claims.seat(&claim(asked.port), service);
            }
        }
        self.claims.settle();
    }

    /// Who has a port and no date, for the next agent.
    pub fn held(&self) -> Held {
        let asked = self.asked.iter();
        let has_it =
            asked.filter(|(service, asked)| !asked.has_date && !self.taken.contains_key(*service));
        has_it
            .map(|(service, asked)| (asked.port.to_string(), service.to_string()))
            .collect()
    }

    /// The Service asks for a health check at a port, and has so many endpoints.
    pub fn ask(&mut self, service: &Service, port: u16, count: usize) {
        let asked = Asked {
            port,
            count,
            has_date: service.created.is_some(),
        };
        self.asked.insert(service.name.clone(), asked);
        let claimed = Claimed {
            all: Box::new([claim(port)]),
            created: service.created,
            ..Claimed::default()
        };
        self.claims.replace(&service.name, claimed);
    }

    /// The Service asks for none.
    pub fn forget(&mut self, name: &ObjectName) {
        if self.asked.remove(name).is_some() {
            self.claims.replace(name, Claimed::default());
        }
    }

    /// Finds out again who has which port; `node_port` says whose node port something is, which
    /// the kernel takes before the agent sees it. Returns the Services that lost or won theirs.
    pub fn decide<'a>(
        &mut self,
        node_port: impl Fn(&Claim) -> Option<&'a ObjectName>,
    ) -> BTreeSet<ObjectName> {
        let mut taken = BTreeMap::new();
        for (name, asked) in &self.asked {
            let claim = claim(asked.port);
            let other = |owner: &&ObjectName| *owner != name;
            let owner = node_port(&claim).or_else(|| self.claims.owner(&claim).filter(other));
            taken.extend(owner.map(|owner| (name.clone(), owner.clone())));
        }
        let before = std::mem::replace(&mut self.taken, taken);
        let all = self.taken.keys().chain(before.keys());
        all.filter(|name| before.get(*name) != self.taken.get(*name))
            .cloned()
            .collect()
    }

    /// Why a Service's health check is not answered, if it is not.
    pub fn warning(&self, name: &ObjectName) -> Option<String> {
        let port = self.asked.get(name)?.port;
        let owner = self.taken.get(name)?;
        Some(format!(
            "spec.healthCheckNodePort `{port}` is left out: Service {owner} has it; free it there, \
             or choose another"
        ))
    }

    /// What each port answers.
    pub fn ports(&self) -> BTreeMap<u16, LocalEndpoints> {
        let mut ports = BTreeMap::new();
        for (service, asked) in &self.asked {
            if !self.taken.contains_key(service) {
                let local = LocalEndpoints {
                    service: service.clone(),
                    count: asked.count,
                };
                ports.insert(asked.port, local);
            }
        }
        ports
    }
}

fn claim(port: u16) -> Claim {
    Claim::NodePort(Protocol::Tcp, port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::services::desired::samples::{named_service, object};

    fn served(checks: &Checks) -> Vec<(u16, String)> {
        let ports = checks.ports().into_iter();
        ports
            .map(|(port, local)| (port, local.service.to_string()))
            .collect()
    }

    #[test]
    fn the_service_that_has_a_health_check_port_keeps_it_and_the_other_is_named_and_comes_in() {
        let mut checks = Checks::default();
        let [a, b] = ["a", "b"].map(|name| named_service(name, ""));
        checks.ask(&b, 32000, 1);
        assert!(checks.decide(|_| None).is_empty());
        checks.ask(&a, 32000, 2);
        assert_eq!(checks.decide(|_| None), [a.name.clone()].into());
        assert_eq!(served(&checks), [(32000, "default/b".to_owned())]);
        let warning = checks.warning(&a.name).unwrap();
        assert!(
            warning.contains("`32000`") && warning.contains("default/b"),
            "{warning}"
        );
        assert_eq!(checks.warning(&b.name), None);
        checks.forget(&b.name);
        assert_eq!(checks.decide(|_| None), [a.name.clone()].into());
        assert_eq!(served(&checks), [(32000, "default/a".to_owned())]);
        assert_eq!(checks.warning(&a.name), None);
    }

    #[test]
    fn without_a_date_who_has_a_health_check_port_keeps_it_over_a_restart() {
        let [a, b] = ["a", "b"].map(|name| named_service(name, ""));
        let mut checks = Checks::default();
        checks.ask(&b, 32000, 1);
        checks.ask(&a, 32000, 1);
        checks.decide(|_| None);
        let held = checks.held();
        // The next agent sees them in the order of their names.
        let mut checks = Checks::default();
        checks.ask(&a, 32000, 1);
        checks.ask(&b, 32000, 1);
        checks.resume(&held);
        checks.decide(|_| None);
        assert_eq!(served(&checks), [(32000, "default/b".to_owned())]);
        assert_eq!(checks.held(), held);
        // Of Services with a date the age decides, and there is nothing to keep.
        let [old, young] = [(&a, 1), (&b, 2)].map(|(service, created)| {
            let mut service = service.clone();
            service.created = Some(created);
            service
        });
        let mut checks = Checks::default();
        checks.ask(&old, 32000, 1);
        checks.ask(&young, 32000, 1);
        checks.resume(&held);
        checks.decide(|_| None);
        assert_eq!(served(&checks), [(32000, "default/a".to_owned())]);
        assert!(checks.held().is_empty());
        // One with a date takes it from none without, neither later nor after a restart.
        for restarted in [false, true] {
            let mut checks = Checks::default();
            checks.ask(&b, 32000, 1);
            if restarted {
                checks.ask(&old, 32000, 1);
            }
            checks.resume(&held);
            checks.ask(&old, 32000, 1);
            checks.decide(|_| None);
            assert_eq!(served(&checks), [(32000, "default/b".to_owned())]);
            assert_eq!(checks.held(), held);
        }
    }

    #[test]
    fn a_health_check_port_that_is_a_node_port_is_named_and_not_served() {
        let mut checks = Checks::default();
        let (web, shop) = (named_service("web", ""), object("shop"));
        checks.ask(&web, 32000, 1);
        let node_port = |claim: &Claim| (*claim == super::claim(32000)).then_some(&shop);
        assert_eq!(checks.decide(node_port), [web.name.clone()].into());
        assert!(served(&checks).is_empty());
        assert!(checks.warning(&web.name).unwrap().contains("default/shop"));
        assert_eq!(checks.decide(|_| None), [web.name.clone()].into());
        assert_eq!(served(&checks).len(), 1);
    }
}
