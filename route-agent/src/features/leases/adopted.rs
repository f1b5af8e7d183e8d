//! Addresses of pods that an earlier plugin attached: they are leased, so that no new pod gets one.
//!
//! In: the routes of the node and its podCIDRs. Out: a lease for each address that has a route of
//! its own, if no pod of ours has one.

use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;
use podwire::files::create_directory;
use podwire::lease::{self, ADOPTED, Owner, Store};
use podwire_kernel::RouteSocket;
use podwire_kernel::route::{Route, RouteFilter, RouteKind, TABLE_MAIN};

use crate::feature::SyncError;
use crate::files::FileError;

/// Leases what is in use; returns how many addresses. Only if no pod of ours has a lease: where
/// one has, the plugin has been at work already. Leases of ours may be there from an
/// attempt that failed half-way. While the plugin is at work there it fails: no one waits for the
/// lock, and no pod starts before the loop has come back.
pub fn adopt(
    socket: &mut RouteSocket,
    pod_cidrs: &[IpNetwork],
    directory: &Path,
) -> Result<usize, SyncError> {
    if !lease::list(directory)?
        .iter()
        .all(|lease| lease.owner.is_adopted())
    {
        return Ok(0);
    }
    let found = in_use(&socket.routes(RouteFilter::default())?, pod_cidrs);
    if found.is_empty() {
        return Ok(0);
    }
    let mut count = 0;
    create_directory(directory).map_err(FileError::of("create", directory))?;
    let Some(mut store) = Store::try_open(directory)? else {
        let directory = directory.display();
        return Err(format!("the plugin is at work in {directory}").into());
    };
    for (address, set) in found {
        // A container ID has no colons.
        let name = format!("{ADOPTED}{address}").replace(':', "-");
        count += usize::from(store.take(&Owner::new(&name, "eth0"), address, set)?);
    }
    store.finish();
    tracing::info!(count, "addresses of pods of an earlier plugin are taken");
    Ok(count)
}

/// Addresses in these networks that have a route of their own to a link, with the number of the
/// network: how ptp and its like attach a pod.
fn in_use(routes: &[Route], pod_cidrs: &[IpNetwork]) -> Vec<(IpAddr, usize)> {
    let attached = |route: &&Route| {
        route.destination == IpNetwork::from(route.destination.ip())
            && route.table == TABLE_MAIN
            && route.kind == RouteKind::Unicast
            && route.link.is_some()
            && route.gateway.is_none()
    };
    let place = |address| pod_cidrs.iter().position(|cidr| cidr.contains(address));
    let addresses = routes.iter().filter(attached).map(|r| r.destination.ip());
    addresses
        .filter_map(|address| Some((address, place(address)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use podwire_kernel::Scope;
    use podwire_kernel::link::Veth;
    use podwire_kernel::netns::unshare_thread;

    use super::*;

    fn route(destination: &str) -> Route {
        let mut route = Route::to(destination.parse().unwrap());
        route.link = Some(7);
        route.scope = Scope::Link;
        route
    }

    #[test]
    fn only_addresses_with_a_route_of_their_own_in_our_networks_are_in_use() {
        let local = Route {
            kind: RouteKind::Local,
            table: 255,
            ..route("10.10.1.1/32")
        };
        let through = Route {
            gateway: Some("172.18.0.3".parse().unwrap()),
            ..route("10.10.1.9/32")
        };
        let routes = [
            local,
            through,
            route("10.10.1.0/24"),
            route("10.10.1.5/32"),
            route("10.10.2.6/32"),
            route("fd00:10:10:1::7/128"),
        ];
        let networks = [
            "10.10.1.0/24".parse().unwrap(),
            "fd00:10:10:1::/64".parse().unwrap(),
        ];
        assert_eq!(
            in_use(&routes, &networks),
            [
                ("10.10.1.5".parse().unwrap(), 0),
                ("fd00:10:10:1::7".parse().unwrap(), 1)
            ]
        );
    }

    #[test]
    fn what_an_attempt_left_out_is_leased_by_the_next_until_a_pod_of_ours_has_a_lease_and_no_one_waits()
     {
        unshare_thread().expect("needs root: it makes a network namespace");
        let mut socket = RouteSocket::open().unwrap();
        let veth = Veth {
            up: true,
            ..Veth::new("veth0", "p0").unwrap()
        };
        let index = socket.create_veth(&veth).unwrap().index;
        let attach = |socket: &mut RouteSocket, destination| {
            let mut route = route(destination);
            route.link = Some(index);
            socket.add_route(&route).unwrap();
        };
        let cidrs = ["10.10.1.0/24".parse().unwrap()];
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("podwire");

        attach(&mut socket, "10.10.1.5/32");
        let plugin = Store::create(&directory).unwrap();
        let error = adopt(&mut socket, &cidrs, &directory).unwrap_err();
        assert!(error.to_string().contains("at work"), "{error}");
        drop(plugin);
        assert_eq!(adopt(&mut socket, &cidrs, &directory).unwrap(), 1);
        attach(&mut socket, "10.10.1.6/32");
        assert_eq!(adopt(&mut socket, &cidrs, &directory).unwrap(), 1);
        assert_eq!(adopt(&mut socket, &cidrs, &directory).unwrap(), 0);
        let leases = lease::list(&directory).unwrap();
        assert_eq!(leases.len(), 2);
        assert!(leases.iter().all(|lease| lease.owner.is_adopted()));

        attach(&mut socket, "10.10.1.7/32");
        std::fs::write(directory.join("10.10.1.8"), "ours\r\neth0").unwrap();
        assert_eq!(adopt(&mut socket, &cidrs, &directory).unwrap(), 0);
    }
}
