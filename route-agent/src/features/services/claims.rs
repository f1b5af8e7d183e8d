//! Who has what: no two Services can share a port of an address or a node port.
//!
//! Of several Services that claim the same thing the one with the ClusterIP has it, then the
//! oldest, then the first by name. The others wait, and come in when it is given up. The outcome
//! does not depend on the order in which Services were seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::service::Claim;
use crate::snapshot::ObjectName;

/// A Service that claims something, first the one that has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    /// False sorts first: a claim as ClusterIP goes before any other.
    foreign: bool,
    /// Seconds since 1970; Services without a date come last.
    created: u64,
    name: ObjectName,
}

/// Who has what, and who waits for it.
#[derive(Debug, Default)]
pub struct Claims {
    /// The only claimant of each thing, in the usual case.
    single: HashMap<Claim, Claimant>,
    /// All claimants of things that several Services want.
    several: BTreeMap<Claim, BTreeSet<Claimant>>,
}

/// What one Service claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Everything that it claims.
    pub all: BTreeSet<Claim>,
    /// Its ClusterIPs, which it claims before others.
    pub own: Vec<std::net::IpAddr>,
    /// When it was created, in seconds since 1970.
    pub created: Option<u64>,
}

impl Claimed {
    fn claimant(&self, claim: &Claim, name: &ObjectName) -> Claimant {
        let own = match claim {
            Claim::ClusterIp(_) => true,
            Claim::Vip(address, ..) => self.own.contains(address),
            Claim::NodePort(..) => true,
        };
        let created = self.created.unwrap_or(u64::MAX);
        Claimant {
            foreign: !own,
            created,
            name: name.clone(),
        }
    }
}

impl Claims {
    /// Replaces what a Service claims. Returns the other Services that win or lose something.
    pub fn replace(
        &mut self,
        name: &ObjectName,
        before: &Claimed,
        now: &Claimed,
    ) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        for claim in &before.all {
            let old = before.claimant(claim, name);
            if !now.all.contains(claim) || now.claimant(claim, name) != old {
                self.withdraw(claim, &old, &mut touched);
            }
        }
        for claim in &now.all {
            self.lodge(claim, now.claimant(claim, name), &mut touched);
        }
        touched.remove(name);
        touched
    }

    /// True if this Service has what it claims.
    pub fn has(&self, name: &ObjectName, claim: &Claim) -> bool {
        self.owner(claim) == Some(name)
    }

    /// The Service that has it.
    pub fn owner(&self, claim: &Claim) -> Option<&ObjectName> {
        let several = self.several.get(claim).and_then(|waiting| waiting.first());
        several
            .or_else(|| self.single.get(claim))
            .map(|claimant| &claimant.name)
    }

    /// The Services that must be looked at again when one of several changes: all that claim it.
    fn lodge(&mut self, claim: &Claim, new: Claimant, touched: &mut BTreeSet<ObjectName>) {
        if let Some(several) = self.several.get_mut(claim) {
            let first = several.first().map(|c| c.name.clone());
            if several.insert(new) && several.first().map(|c| &c.name) != first.as_ref() {
                touched.extend(several.iter().map(|c| c.name.clone()));
            }
            return;
        }
        match self.single.get(claim) {
            None => {
                self.single.insert(*claim, new);
            }
            Some(old) if *old == new => {}
            Some(old) => {
                let several = BTreeSet::from([old.clone(), new]);
                touched.extend(several.iter().map(|c| c.name.clone()));
                self.single.remove(claim);
                self.several.insert(*claim, several);
            }
        }
    }

    fn withdraw(&mut self, claim: &Claim, old: &Claimant, touched: &mut BTreeSet<ObjectName>) {
        let Some(several) = self.several.get_mut(claim) else {
            self.single.remove(claim);
            return;
        };
        several.remove(old);
        touched.extend(several.iter().map(|c| c.name.clone()));
        if several.len() == 1
            && let Some(last) = several.pop_first()
        {
            self.several.remove(claim);
            self.single.insert(*claim, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::Protocol;

    fn name(name: &str) -> ObjectName {
        ObjectName {
            namespace: Arc::from("default"),
            name: Arc::from(name),
        }
    }

    fn node_port(created: Option<u64>) -> Claimed {
        let all = BTreeSet::from([Claim::NodePort(Protocol::Tcp, 31000)]);
        Claimed {
            all,
            own: Vec::new(),
            created,
        }
    }

    const CLAIM: Claim = Claim::NodePort(Protocol::Tcp, 31000);

    #[test]
    fn the_oldest_has_it_and_the_next_comes_in_when_it_is_given_up() {
        let mut claims = Claims::default();
        let nothing = Claimed::default();
        let (a, b, c) = (name("a"), name("b"), name("c"));
        assert!(
            claims
                .replace(&a, &nothing, &node_port(Some(30)))
                .is_empty()
        );
        assert_eq!(
            claims.replace(&b, &nothing, &node_port(Some(20))),
            [a.clone()].into()
        );
        assert!(claims.has(&b, &CLAIM) && !claims.has(&a, &CLAIM));
        assert!(
            claims
                .replace(&c, &nothing, &node_port(Some(25)))
                .is_empty()
        );
        let touched = claims.replace(&b, &node_port(Some(20)), &nothing);
        assert_eq!(touched, [a.clone(), c.clone()].into());
        assert!(claims.has(&c, &CLAIM));
        claims.replace(&c, &node_port(Some(25)), &nothing);
        assert!(claims.has(&a, &CLAIM));
        claims.replace(&a, &node_port(Some(30)), &nothing);
        assert_eq!(claims.owner(&CLAIM), None);
    }

    #[test]
    fn without_a_date_the_name_decides_in_any_order() {
        for order in [["a", "b"], ["b", "a"]] {
            let mut claims = Claims::default();
            for one in order {
                claims.replace(&name(one), &Claimed::default(), &node_port(None));
            }
            assert!(claims.has(&name("a"), &CLAIM));
        }
    }

    #[test]
    fn a_cluster_ip_cannot_be_taken_by_an_older_external_ip() {
        let address = "10.200.1.10".parse().unwrap();
        let claim = Claim::Vip(address, Protocol::Udp, 53);
        let dns = Claimed {
            all: [claim].into(),
            own: vec![address],
            created: Some(50),
        };
        let thief = Claimed {
            all: [claim].into(),
            own: Vec::new(),
            created: Some(10),
        };
        let mut claims = Claims::default();
        claims.replace(&name("thief"), &Claimed::default(), &thief);
        claims.replace(&name("dns"), &Claimed::default(), &dns);
        assert!(claims.has(&name("dns"), &claim));
    }

    #[test]
    fn the_same_claims_again_touch_nobody() {
        let mut claims = Claims::default();
        claims.replace(&name("a"), &Claimed::default(), &node_port(None));
        claims.replace(&name("b"), &Claimed::default(), &node_port(None));
        assert!(
            claims
                .replace(&name("b"), &node_port(None), &node_port(None))
                .is_empty()
        );
        assert!(
            claims
                .replace(&name("a"), &node_port(None), &node_port(None))
                .is_empty()
        );
    }
}
