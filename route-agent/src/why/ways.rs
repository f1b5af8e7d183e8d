//! The ways from this node to the endpoints of a Service. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::features::services::desired::endpoints::Backend;
use crate::why::facts::Facts;
use crate::why::routes::NextHop;
use crate::why::{Check, End, Hop, Lost};

/// More endpoints than this are not looked at one by one.
pub(super) const SHOWN: usize = 8;

/// Each way once, with those that it leads to.
pub(super) struct Ways(BTreeMap<NextHop, Vec<IpAddr>>);

impl Ways {
    /// The ways to these endpoints.
    pub fn to(facts: &Facts<'_>, list: &[Backend]) -> Self {
        let mut ways: BTreeMap<NextHop, Vec<IpAddr>> = BTreeMap::new();
        for backend in list {
            let next = NextHop::to(facts, backend.address);
            ways.entry(next).or_default().push(backend.address);
        }
        Self(ways)
    }

    /// Those of the endpoints that the ways lead to, in their order.
    pub fn reached(&self, list: &[Backend]) -> Vec<Backend> {
        let lost = self.0.iter().filter(|(next, _)| next.leads_nowhere());
        let lost: BTreeSet<IpAddr> = lost.flat_map(|(_, to)| to).copied().collect();
        let reached = list.iter().filter(|one| !lost.contains(&one.address));
        reached.copied().collect()
    }

    /// Those of the endpoints that no way leads to.
    pub fn lost(&self) -> impl Iterator<Item = Lost> {
        let lost = self.0.iter().filter(|(next, _)| next.leads_nowhere());
        lost.map(|(next, to)| Lost {
            endpoints: to.clone(),
            why: text(next, to),
        })
    }

    /// How they end: where one goes on, that counts.
    pub fn end(&self) -> End {
        let goes_on = self.0.keys().filter(|next| !next.leads_nowhere());
        let furthest = goes_on.map(|next| next.end).max();
        let worst = || self.0.keys().map(|next| next.end).max();
        furthest.or_else(worst).unwrap_or(End::Refused)
    }

    /// The hop at which they are told.
    pub fn hop(&self) -> Hop {
        let mut hop = Hop::new("The way to the endpoints");
        for (next, to) in &self.0 {
            hop = hop.because(text(next, to));
            for to in to.iter().take(SHOWN) {
                let (to, wanted) = (*to, next.wanted.clone());
                hop = hop.ask(Check::Route { to, wanted });
            }
        }
        hop
    }
}

/// Whom a way leads to, and how.
fn text(next: &NextHop, to: &[IpAddr]) -> String {
    let shown = &to[..to.len().min(SHOWN)];
    let names: Vec<_> = shown.iter().map(ToString::to_string).collect();
    let more = match to.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}: {}.", names.join(", "), next.text)
}
