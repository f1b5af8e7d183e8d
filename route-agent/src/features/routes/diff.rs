//! From the routes that are there to those that should be.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use podwire_kernel::route::{Route, RouteChange};

/// What the kernel tells routes apart by: table, destination and metric.
pub(super) type Place = (u32, IpNetwork, u32);

pub(super) fn place(route: &Route) -> Place {
    (route.table, route.destination, route.metric)
}

/// The fewest changes that turn `observed` into `wanted`. A changed route is replaced in one step,
/// so that no packet finds it missing; but never where a route of others might be hit.
pub fn diff(
    observed: &BTreeSet<Route>,
    wanted: &BTreeSet<Route>,
    foreign: &BTreeSet<Route>,
) -> Vec<RouteChange> {
    let mut going: BTreeMap<Place, Vec<&Route>> = BTreeMap::new();
    for route in observed.difference(wanted) {
        going.entry(place(route)).or_default().push(route);
    }
    let theirs: BTreeSet<Place> = foreign.iter().map(place).collect();
    let mut changes = Vec::new();
    for route in wanted.difference(observed) {
        let at = place(route);
        match going.remove(&at) {
            Some(old) if old.len() == 1 && !theirs.contains(&at) && !old[0].multipath => {
                changes.push(RouteChange::Replace(route.clone()));
            }
            Some(old) => {
                changes.extend(old.into_iter().cloned().map(RouteChange::Delete));
                changes.push(RouteChange::Add(route.clone()));
            }
            None => changes.push(RouteChange::Add(route.clone())),
        }
    }
    // Last, so that a route that only changes its metric is never missing.
    let gone = going.into_values().flatten().cloned();
    changes.extend(gone.map(RouteChange::Delete));
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The kernel's rules: `Add` refuses a taken place, `Replace` takes it over.
    fn apply(changes: &[RouteChange], routes: &BTreeSet<Route>) -> BTreeSet<Route> {
        let mut routes = routes.clone();
        for change in changes {
            match change {
                RouteChange::Delete(route) => assert!(routes.remove(route), "{route} is not there"),
                RouteChange::Add(route) => {
                    assert!(
                        !routes.iter().any(|other| place(other) == place(route)),
                        "EEXIST"
                    );
                    routes.insert(route.clone());
                }
                RouteChange::Replace(route) => {
                    routes.retain(|other| place(other) != place(route));
                    routes.insert(route.clone());
                }
            }
        }
        routes
    }

    fn route() -> impl Strategy<Value = Route> {
        (
            0u8..8,
            0u8..4,
            prop_oneof![Just(112u32), Just(1_000_000)],
            1u32..3,
        )
            .prop_map(|(third, gateway, metric, link)| Route {
                gateway: Some([172, 18, 0, gateway].into()),
                link: Some(link),
                metric,
                protocol: 112,
                ..Route::to(format!("10.10.{third}.0/24").parse().unwrap())
            })
    }

    /// A state of the kernel: any place is taken once.
    fn routes() -> impl Strategy<Value = BTreeSet<Route>> {
        proptest::collection::vec(route(), 0..12).prop_map(|routes| {
            let by_place: BTreeMap<Place, Route> = routes
                .into_iter()
                .map(|route| (place(&route), route))
                .collect();
            by_place.into_values().collect()
        })
    }

    proptest! {
        #[test]
        fn applying_the_difference_leads_from_one_state_to_the_other(a in routes(), b in routes()) {
            let none = BTreeSet::new();
            prop_assert_eq!(apply(&diff(&a, &b, &none), &a), b);
        }

        #[test]
        fn equal_states_differ_in_nothing(a in routes()) {
            prop_assert!(diff(&a, &a, &BTreeSet::new()).is_empty());
        }

        #[test]
        fn one_changed_route_is_one_change(a in routes(), link in 3u32..9) {
            let mut b = a.clone();
            if let Some(first) = b.pop_first() {
                b.insert(Route { link: Some(link), ..first });
                prop_assert_eq!(diff(&a, &b, &BTreeSet::new()).len(), 1);
            }
        }

        #[test]
        fn where_a_route_of_others_is_nothing_is_replaced(a in routes(), b in routes()) {
            let foreign = a.iter().map(|r| Route { protocol: 4, ..r.clone() }).collect();
            let changes = diff(&a, &b, &foreign);
            let replaces = changes.iter().any(|c| matches!(c, RouteChange::Replace(_)));
            prop_assert!(!replaces);
            prop_assert_eq!(apply(&changes, &a), b);
        }
    }
}
