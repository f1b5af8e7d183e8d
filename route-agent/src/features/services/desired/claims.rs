//! Which Service has what: no two Services can share a port of an address or a node port.
//!
//! Of several Services that claim the same thing the one with the ClusterIP has it, then one that
//! has the address from its load balancer, then the oldest, then the first by name. The others
//! wait, and come in when it is given up. The outcome does not depend on the order in which Services
//! were seen, but for those without a date, as manifests are: who came first has it, and whichever
//! has it keeps it, also from those with a date, because what works must not stop when another one
//! comes.
//!
//! Of an address that is the ClusterIP of a Service no other one has any port, not even one that the
//! Service does not have: what is sent there is not meant for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::frontends::{self, Claim};
use crate::snapshot::{ObjectName, Service, ServiceKind};

/// A Service that claims something, first the one that has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    right: Right,
    /// Seconds since 1970; Services without a date come last, and first if they have it.
    created: u64,
    /// Among Services without a date, who came first: 0 had it before this agent started.
    turn: u64,
    name: ObjectName,
}

/// By what a Service claims something, first what goes before the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    /// It is part of its ClusterIP, or no address.
    Own,
    /// Its load balancer has the address.
    Balanced,
    /// It says that it has the address.
    Foreign,
}

/// Who has what, and who waits for it.
#[derive(Debug, Default)]
pub struct Claims {
    /// What each Service claims.
    claimed: HashMap<ObjectName, Claimed>,
    /// The only claimant of each thing, in the usual case.
    single: HashMap<Claim, ObjectName>,
    /// All claimants of things that several Services want.
    several: BTreeMap<Claim, BTreeSet<Claimant>>,
    /// Who claims ports of an address that is not its ClusterIP.
    guests: HashMap<IpAddr, BTreeSet<ObjectName>>,
    /// The turn of the last Service that had to wait.
    turn: u64,
    /// It is known who had what when the agent started: from now on who has something keeps it.
    settled: bool,
}

/// What one Service claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Everything that it claims, sorted.
    pub all: Box<[Claim]>,
    /// The addresses of its load balancer, sorted.
    pub balanced: Box<[IpAddr]>,
    /// When it was created, in seconds since 1970.
    pub created: Option<u64>,
}

impl Claimed {
    /// Everything that a Service claims in one family, but for what is refused.
    pub fn of(service: &Service, family: IpFamily, externals: &Externals) -> Claimed {
        let all = frontends::claims(service, family, externals);
        let balanced: BTreeSet<IpAddr> = match service.kind {
            ServiceKind::LoadBalancer => service.load_balancer_vips.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        Claimed {
            all: all.into_iter().collect(),
            balanced: balanced.into_iter().collect(),
            created: service.created,
        }
    }

    fn claims(&self, claim: &Claim) -> bool {
        self.all.binary_search(claim).is_ok()
    }

    /// The addresses of which it claims ports, and which are not its ClusterIPs.
    fn visited(&self) -> impl Iterator<Item = IpAddr> {
        self.all.iter().filter_map(|claim| match claim {
            Claim::Vip(address, ..) if !self.claims(&Claim::ClusterIp(*address)) => Some(*address),
            _ => None,
        })
    }

    /// Its ClusterIPs that the other does not have.
    fn only_here(&self, other: &Claimed) -> impl Iterator<Item = IpAddr> {
        self.all.iter().filter_map(|claim| match claim {
            Claim::ClusterIp(address) if !other.claims(claim) => Some(*address),
            _ => None,
        })
    }

    fn claimant(&self, claim: &Claim, name: &ObjectName) -> Claimant {
        let right = match claim {
            Claim::ClusterIp(_) | Claim::NodePort(..) => Right::Own,
            Claim::Vip(address, ..) if self.claims(&Claim::ClusterIp(*address)) => Right::Own,
            Claim::Vip(address, ..) if self.balanced.binary_search(address).is_ok() => {
                Right::Balanced
            }
            Claim::Vip(..) => Right::Foreign,
        };
        Claimant {
            right,
            created: self.created.unwrap_or(u64::MAX),
            turn: 1,
            name: name.clone(),
        }
    }
}

impl Claims {
    /// No claims yet, with room for those of this many Services.
    pub fn with_room(services: usize) -> Claims {
        Claims {
            claimed: HashMap::with_capacity(services),
            // The ClusterIP, and one port of it.
            single: HashMap::with_capacity(2 * services),
            several: BTreeMap::new(),
            guests: HashMap::new(),
            turn: 0,
            settled: false,
        }
    }

    /// True if no Service claims anything.
    pub fn is_empty(&self) -> bool {
        self.claimed.is_empty()
    }

    /// The Services that claim something.
    pub fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.claimed.keys()
    }

    /// The Services that claim what others claim too, where their age does not decide.
    pub fn undecided(&self) -> impl Iterator<Item = &ObjectName> {
        let several = self.several.values();
        let undecided = several.filter(|several| several.iter().any(Claimant::has_no_date));
        undecided.flatten().map(|one| &one.name)
    }

    /// A Service has this already: if it has no date, it goes before those that have the same right.
    pub fn seat(&mut self, claim: &Claim, name: &ObjectName) {
        if let Some(several) = self.several.get_mut(claim)
            && let Some(mut one) = take(several, name)
        {
            one.seat();
            several.insert(one);
        }
    }

    /// All Services have said what they claim, and those that had something have been seated.
    pub fn settle(&mut self) {
        self.settled = true;
        self.several.values_mut().for_each(seat_first);
    }

    /// Replaces what a Service claims. Returns the other Services that win or lose something.
    pub fn replace(&mut self, name: &ObjectName, now: Claimed) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        if self
            .claimed
            .get(name)
            .map_or(now.all.is_empty(), |before| *before == now)
        {
            return touched;
        }
        let before = self.claimed.remove(name).unwrap_or_default();
        for claim in &before.all {
            let old = before.claimant(claim, name);
            if !now.claims(claim) || now.claimant(claim, name) != old {
                self.withdraw(claim, name, &mut touched);
            }
        }
        for claim in &now.all {
            let new = now.claimant(claim, name);
            if !before.claims(claim) || before.claimant(claim, name) != new {
                self.lodge(claim, new, &mut touched);
            }
        }
        self.receive(name, &before, &now);
        for address in before.only_here(&now).chain(now.only_here(&before)) {
            touched.extend(self.guests.get(&address).into_iter().flatten().cloned());
        }
        if !now.all.is_empty() {
            self.claimed.insert(name.clone(), now);
        }
        touched.remove(name);
        touched
    }

    /// Keeps who claims ports of addresses of others.
    fn receive(&mut self, name: &ObjectName, before: &Claimed, now: &Claimed) {
        for address in before.visited() {
            if let Some(guests) = self.guests.get_mut(&address) {
                guests.remove(name);
                if guests.is_empty() {
                    self.guests.remove(&address);
                }
            }
        }
        for address in now.visited() {
            self.guests.entry(address).or_default().insert(name.clone());
        }
    }

    /// What a Service claims and another has.
    pub fn lost<'a>(
        &'a self,
        name: &'a ObjectName,
    ) -> impl Iterator<Item = (&'a Claim, &'a ObjectName)> {
        let claimed = self.claimed.get(name).into_iter();
        let owned = claimed
            .flat_map(|claimed| &claimed.all)
            .filter_map(|claim| Some((claim, self.owner(claim)?)));
        owned.filter(move |(_, owner)| *owner != name)
    }

    /// What a Service claims in vain, and why, one sentence each.
    pub fn conflicts<'a>(&'a self, name: &'a ObjectName) -> impl Iterator<Item = String> {
        let claims = |claim| self.claimed.get(name).is_some_and(|one| one.claims(&claim));
        self.lost(name).filter_map(move |(claim, owner)| {
            let of_its_address = match claim {
                Claim::Vip(address, ..) => Some(*address),
                Claim::ClusterIp(_) | Claim::NodePort(..) => None,
            };
            let address = of_its_address
                .filter(|address| self.owner(&Claim::ClusterIp(*address)) == Some(owner));
            match address {
                // The address itself is named.
                Some(address) if claims(Claim::ClusterIp(address)) => None,
                Some(_) => Some(format!(
                    "{claim} is left out: the address is the ClusterIP of Service {owner}, which alone \
                     has its ports; choose another"
                )),
                None => Some(format!(
                    "{claim} is left out: Service {owner} has it; free it there, or choose another"
                )),
            }
        })
    }

    /// True if this Service has what it claims.
    pub fn has(&self, name: &ObjectName, claim: &Claim) -> bool {
        self.owner(claim) == Some(name)
    }

    /// The Service that has it.
    pub fn owner(&self, claim: &Claim) -> Option<&ObjectName> {
        if let Claim::Vip(address, ..) = claim
            && let Some(owner) = self.owner(&Claim::ClusterIp(*address))
        {
            return Some(owner);
        }
        let several = self.several.get(claim).and_then(|waiting| waiting.first());
        several
            .map(|claimant| &claimant.name)
            .or_else(|| self.single.get(claim))
    }

    /// The Services that must be looked at again when one of several changes: all that claim it.
    fn lodge(&mut self, claim: &Claim, mut new: Claimant, touched: &mut BTreeSet<ObjectName>) {
        if let Some(several) = self.several.get_mut(claim) {
            self.turn += 1;
            new.wait(self.turn);
            let first = several.first().map(|c| c.name.clone());
            if several.insert(new) && several.first().map(|c| &c.name) != first.as_ref() {
                touched.extend(several.iter().map(|c| c.name.clone()));
            }
            if self.settled {
                seat_first(several);
            }
            return;
        }
        match self.single.get(claim) {
            None => {
                self.single.insert(*claim, new.name);
            }
            Some(old) => {
                let known = self.claimed.get(old);
                let first = known.map(|known| known.claimant(claim, old));
                self.turn += 1;
                new.wait(self.turn);
                let mut several: BTreeSet<_> = first.into_iter().collect();
                if self.settled {
                    seat_first(&mut several);
                }
                several.insert(new);
                if self.settled {
                    seat_first(&mut several);
                }
                touched.extend(several.iter().map(|c| c.name.clone()));
                self.single.remove(claim);
                self.several.insert(*claim, several);
            }
        }
    }

    fn withdraw(&mut self, claim: &Claim, name: &ObjectName, touched: &mut BTreeSet<ObjectName>) {
        let Some(several) = self.several.get_mut(claim) else {
            self.single.remove(claim);
            return;
        };
        take(several, name);
        if self.settled {
            seat_first(several);
        }
        touched.extend(several.iter().map(|c| c.name.clone()));
        if several.len() == 1
            && let Some(last) = several.pop_first()
        {
            self.several.remove(claim);
            self.single.insert(*claim, last.name);
        }
    }
}

impl Claimant {
    fn has_no_date(&self) -> bool {
        self.created == u64::MAX
    }

    /// Without a date it comes after those that are there.
    fn wait(&mut self, turn: u64) {
        if self.has_no_date() {
            self.turn = 1 + turn;
        }
    }

    /// It has what it claims: without a date it is as old as can be.
    fn seat(&mut self) {
        if self.has_no_date() {
            (self.created, self.turn) = (0, 0);
        }
    }
}

/// Who comes first has it.
fn seat_first(several: &mut BTreeSet<Claimant>) {
    if let Some(mut first) = several.pop_first() {
        first.seat();
        several.insert(first);
    }
}

/// Takes a Service out of those that claim one thing.
fn take(several: &mut BTreeSet<Claimant>, name: &ObjectName) -> Option<Claimant> {
    let one = several.iter().find(|one| one.name == *name)?.clone();
    several.take(&one)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::features::services::desired::samples::service;
    use crate::snapshot::Protocol;

    fn name(name: &str) -> ObjectName {
        ObjectName {
            namespace: Arc::from("default"),
            name: Arc::from(name),
        }
    }

    fn node_port(created: Option<u64>) -> Claimed {
        let all = Box::new([CLAIM]);
        Claimed {
            all,
            created,
            ..Claimed::default()
        }
    }

    const CLAIM: Claim = Claim::NodePort(Protocol::Tcp, 31000);

    #[test]
    fn the_oldest_has_it_and_the_next_comes_in_when_it_is_given_up() {
        let mut claims = Claims::default();
        let (a, b, c) = (name("a"), name("b"), name("c"));
        assert!(claims.replace(&a, node_port(Some(30))).is_empty());
        assert_eq!(claims.replace(&b, node_port(Some(20))), [a.clone()].into());
        assert!(claims.has(&b, &CLAIM) && !claims.has(&a, &CLAIM));
        assert!(claims.replace(&c, node_port(Some(25))).is_empty());
        let touched = claims.replace(&b, Claimed::default());
        assert_eq!(touched, [a.clone(), c.clone()].into());
        assert!(claims.has(&c, &CLAIM));
        claims.replace(&c, Claimed::default());
        assert!(claims.has(&a, &CLAIM));
        claims.replace(&a, Claimed::default());
        assert_eq!(claims.owner(&CLAIM), None);
    }

    #[test]
    fn without_a_date_who_has_it_keeps_it_and_the_next_is_who_came_next() {
        let [a, b, c, dated] = ["a", "b", "c", "dated"].map(name);
        let mut claims = Claims::default();
        claims.replace(&b, node_port(None));
        for newcomer in [&c, &a] {
            assert!(!claims.replace(newcomer, node_port(None)).contains(newcomer));
            assert!(claims.has(&b, &CLAIM));
        }
        // Other fields change, and other ports.
        let all = Box::new([CLAIM, Claim::NodePort(Protocol::Tcp, 31001)]);
        claims.replace(
            &b,
            Claimed {
                all,
                ..Claimed::default()
            },
        );
        assert!(claims.has(&b, &CLAIM));
        // Who left comes last when it is back.
        claims.replace(&b, Claimed::default());
        assert!(claims.has(&c, &CLAIM));
        claims.replace(&b, node_port(None));
        claims.replace(&c, Claimed::default());
        assert!(claims.has(&a, &CLAIM));
        // Before it is known who had what, a date goes before none.
        claims.replace(&dated, node_port(Some(5)));
        assert!(claims.has(&dated, &CLAIM));
    }

    #[test]
    fn who_has_something_and_no_date_keeps_it_from_those_with_a_date() {
        let [undated, other, dated, older] = ["undated", "other", "dated", "older"].map(name);
        let mut claims = Claims::default();
        claims.settle();
        claims.replace(&undated, node_port(None));
        for newcomer in [&dated, &older] {
            claims.replace(newcomer, node_port(Some(5)));
            assert!(claims.has(&undated, &CLAIM));
        }
        claims.replace(&undated, Claimed::default());
        assert!(claims.has(&dated, &CLAIM));
        claims.replace(&other, node_port(None));
        assert!(claims.has(&dated, &CLAIM));
        for gone in [&dated, &older] {
            claims.replace(gone, Claimed::default());
        }
        claims.replace(&dated, node_port(Some(5)));
        assert!(claims.has(&other, &CLAIM));

        // At a start it is who had it, in whatever order they come.
        for order in [[&undated, &dated], [&dated, &undated]] {
            for had in order {
                let mut claims = Claims::default();
                for one in order {
                    let created = (one == &dated).then_some(5);
                    claims.replace(one, node_port(created));
                }
                assert_eq!(claims.undecided().count(), 2);
                claims.seat(&CLAIM, had);
                claims.settle();
                assert!(claims.has(had, &CLAIM));
                claims.replace(&older, node_port(Some(1)));
                let keeps = if had == &undated { had } else { &older };
                assert!(claims.has(keeps, &CLAIM));
            }
        }
    }

    #[test]
    fn an_address_that_a_load_balancer_gives_is_taken_from_who_only_says_so_and_has_no_date() {
        let externals = Externals::default();
        let of = |text| Claimed::of(&service(text), IpFamily::V4, &externals);
        let claim = Claim::Vip("192.0.2.9".parse().unwrap(), Protocol::Tcp, 80);
        let mut claims = Claims::default();
        claims.settle();
        claims.replace(
            &name("undated"),
            of("cluster-ip 10.200.1.1; port tcp 80; external-ip 192.0.2.9"),
        );
        let balanced =
            of("created 9; kind LoadBalancer; cluster-ip 10.200.1.2; port tcp 80; vip 192.0.2.9");
        claims.replace(&name("balanced"), balanced);
        assert!(claims.has(&name("balanced"), &claim));
    }

    #[test]
    fn what_a_load_balancer_gave_goes_before_an_older_external_ip() {
        let externals = Externals::default();
        let of = |text| Claimed::of(&service(text), IpFamily::V4, &externals);
        let old = of("created 1; cluster-ip 10.200.1.1; port tcp 80; external-ip 192.0.2.9");
        let new = of(
            "created 9; kind LoadBalancer; cluster-ip 10.200.1.2; port tcp 80; \
                      vip 192.0.2.9",
        );
        let claim = Claim::Vip("192.0.2.9".parse().unwrap(), Protocol::Tcp, 80);
        let mut claims = Claims::default();
        claims.replace(&name("old"), old.clone());
        assert_eq!(claims.replace(&name("new"), new), [name("old")].into());
        assert!(claims.has(&name("new"), &claim));
        // The address is taken from the load balancer, and stays as an external IP.
        let taken = of("created 9; cluster-ip 10.200.1.2; port tcp 80; external-ip 192.0.2.9");
        claims.replace(&name("new"), taken);
        assert!(claims.has(&name("old"), &claim));
        // Two load balancers: the older one.
        let older = of(
            "created 2; kind LoadBalancer; cluster-ip 10.200.1.3; port tcp 80; \
                        vip 192.0.2.9",
        );
        claims.replace(&name("older"), older);
        assert!(claims.has(&name("older"), &claim));
    }

    #[test]
    fn a_cluster_ip_cannot_be_taken_by_an_older_external_ip() {
        let address = "10.200.1.10".parse().unwrap();
        let claim = Claim::Vip(address, Protocol::Udp, 53);
        let dns = Claimed {
            all: Box::new([Claim::ClusterIp(address), claim]),
            created: Some(50),
            ..Claimed::default()
        };
        let thief = Claimed {
            all: Box::new([claim]),
            created: Some(10),
            ..Claimed::default()
        };
        let mut claims = Claims::default();
        claims.replace(&name("thief"), thief);
        claims.replace(&name("dns"), dns);
        assert!(claims.has(&name("dns"), &claim));
    }

    #[test]
    fn no_port_of_a_cluster_ip_goes_to_another_service_and_it_comes_in_when_that_is_gone() {
        let address = "10.200.1.10".parse().unwrap();
        let [query, other] = [53, 9999].map(|port| Claim::Vip(address, Protocol::Udp, port));
        let dns = Claimed {
            all: Box::new([Claim::ClusterIp(address), query]),
            created: Some(50),
            ..Claimed::default()
        };
        let thief = Claimed {
            all: Box::new([other]),
            created: Some(10),
            ..Claimed::default()
        };
        let mut claims = Claims::default();
        assert!(claims.replace(&name("thief"), thief).is_empty());
        assert!(claims.has(&name("thief"), &other));
        let touched = claims.replace(&name("dns"), dns);
        assert_eq!(touched, [name("thief")].into());
        assert!(!claims.has(&name("thief"), &other) && claims.has(&name("dns"), &query));
        let lost: Vec<_> = claims
            .lost(&name("thief"))
            .map(|(_, owner)| owner.clone())
            .collect();
        assert_eq!(lost, [name("dns")]);
        let said: Vec<_> = claims.conflicts(&name("thief")).collect();
        assert_eq!(
            said,
            [
                "port 9999/udp of 10.200.1.10 is left out: the address is the ClusterIP of Service \
                 default/dns, which alone has its ports; choose another"
            ]
        );
        let touched = claims.replace(&name("dns"), Claimed::default());
        assert_eq!(touched, [name("thief")].into());
        assert!(claims.has(&name("thief"), &other));
        claims.replace(&name("thief"), Claimed::default());
        assert!(claims.guests.is_empty());
    }

    #[test]
    fn of_two_services_with_one_cluster_ip_the_address_is_named_and_not_each_port() {
        let address = "10.200.1.10".parse().unwrap();
        let with_port = |port, created| Claimed {
            all: Box::new([
                Claim::ClusterIp(address),
                Claim::Vip(address, Protocol::Tcp, port),
            ]),
            created: Some(created),
            ..Claimed::default()
        };
        let mut claims = Claims::default();
        claims.replace(&name("old"), with_port(80, 10));
        claims.replace(&name("young"), with_port(81, 20));
        let said: Vec<_> = claims.conflicts(&name("young")).collect();
        assert_eq!(
            said,
            [
                "ClusterIP 10.200.1.10 is left out: Service default/old has it; free it there, or \
                 choose another"
            ]
        );
    }

    #[test]
    fn the_same_claims_again_touch_no_one() {
        let mut claims = Claims::default();
        claims.replace(&name("a"), node_port(None));
        claims.replace(&name("b"), node_port(None));
        assert!(claims.replace(&name("b"), node_port(None)).is_empty());
        assert!(claims.replace(&name("a"), node_port(None)).is_empty());
    }
}
