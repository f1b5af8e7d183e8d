//! Leases from ranges of addresses, with host-local's configuration, results and words.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::resolv_conf;
use crate::arguments::Arguments;
use crate::error::Error;
use crate::json::{Fields, Node};
use crate::lease::{AllocationError, DEFAULT_DATA_DIR, Lease, Owner, Store};
use crate::range::{Range, RangeSet};
use crate::result::{Attached, Dns, Ip, Route};
use crate::streams;
use crate::version::Version;

/// Where the leases of a network are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The directory.
    pub directory: PathBuf,
}

/// The `ipam` part of a network configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLocal {
    location: Location,
    sets: Vec<RangeSet>,
    routes: Vec<Route>,
    resolv_conf: Option<PathBuf>,
    requested: Vec<IpAddr>,
}

impl Location {
    /// Reads where the leases of `network` are.
    pub fn read(fields: &Fields<'_>, network: &str) -> Result<Self, Error> {
        let ipam = fields.object("ipam")?;
        let configured = match &ipam {
            Some(ipam) => ipam.string("dataDir")?,
            None => "",
        };
        let data_dir = if configured.is_empty() {
            DEFAULT_DATA_DIR
        } else {
            configured
        };
        let directory = PathBuf::from(data_dir).join(network);
        Ok(Self { directory })
    }

    /// Releases what is leased to `owner`, if anything is.
    pub fn release(&self, owner: &Owner) -> Result<(), Error> {
        if let Some(mut store) = Store::open(&self.directory)? {
            let released = store.release(owner);
            store.finish();
            released?;
        }
        Ok(())
    }

    /// Takes these addresses away from `owner` again, and leaves it what else it has.
    pub fn give_back(&self, owner: &Owner, addresses: &[IpAddr]) -> Result<(), Error> {
        if let Some(mut store) = Store::open(&self.directory)? {
            let given = addresses
                .iter()
                .try_for_each(|address| store.give_back(owner, *address));
            store.finish();
            given?;
        }
        Ok(())
    }

    /// The addresses that [`Location::release`] would release.
    pub fn addresses(&self, owner: &Owner) -> Result<Vec<IpAddr>, Error> {
        let Some(mut store) = Store::open(&self.directory)? else {
            return Ok(Vec::new());
        };
        let found = store.addresses_of(owner);
        store.finish();
        Ok(found?)
    }

    /// Fails if nothing is leased to `owner`.
    pub fn check(&self, owner: &Owner) -> Result<(), Error> {
        let mut leased = false;
        if let Some(mut store) = Store::open(&self.directory)? {
            let found = store.has_lease(owner);
            store.finish();
            leased = found?;
        }
        if !leased {
            let container_id = owner.container_id.clone();
            return Err(AllocationError::NoLease { container_id }.into());
        }
        Ok(())
    }

    /// Releases every lease whose owner `keep` does not want kept; goes on after a failure. Leases
    /// of pods of an earlier plugin stay: no list of ours names those pods, and they may run still.
    pub fn collect(
        &self,
        keep: &dyn Fn(&Owner) -> bool,
        part: &mut dyn FnMut(&[Lease]),
    ) -> Result<(), Error> {
        let Some(mut store) = Store::open(&self.directory)? else {
            return Ok(());
        };
        store.refresh()?;
        let mut leases = store.leases()?;
        leases.retain(|lease| !lease.owner.is_adopted() && !keep(&lease.owner));
        part(&leases);
        let mut failures = Vec::new();
        // Each by its file, not by its owner: the index need not know of all that an owner has.
        for lease in &leases {
            failures.extend(store.release_lease(lease).err().map(Error::from));
        }
        failures.extend(store.refresh().err().map(Error::from));
        store.finish();
        Error::collect(failures)
    }
}

impl HostLocal {
    /// Reads `ipam`, and from outside of it what the runtime asks for: ranges and addresses.
    pub fn read(
        fields: &Fields<'_>,
        network: &str,
        version: Version,
        arguments: &Arguments,
    ) -> Result<Self, Error> {
        let Some(ipam) = fields.object("ipam")? else {
            return Err(Error::config("IPAM config missing 'ipam' key"));
        };
        arguments.refuse_unknown()?;
        let mut routes = Vec::new();
        for node in ipam.list_without_null("routes")? {
            routes.push(read_route(&node)?);
        }
        let resolv_conf = ipam.string("resolvConf")?;
        let host_local = Self {
            location: Location::read(fields, network)?,
            sets: read_sets(fields, &ipam)?,
            routes,
            resolv_conf: (!resolv_conf.is_empty()).then(|| resolv_conf.into()),
            requested: read_requests(fields, arguments)?,
        };
        host_local.check_sets(version)?;
        Ok(host_local)
    }

    /// Where the leases are.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Leases an address of each range set to `owner`.
    pub fn add(&self, owner: &Owner) -> Result<Attached, Error> {
        let dns = match &self.resolv_conf {
            None => Dns::default(),
            Some(path) => resolv_conf::read(path)?,
        };
        let mut store = Store::create(&self.location.directory)?;
        let mut taken = Vec::new();
        let leased = self.lease_all(&mut store, owner, &mut taken);
        if leased.is_err() {
            // The error that stopped us is the one to tell.
            for (address, _) in taken.drain(..) {
                let _ = store.give_back(owner, address);
            }
        }
        store.finish();
        leased?;
        let ips = taken.into_iter().map(|(address, range)| Ip {
            interface: None,
            address: with_prefix(address, range.subnet),
            gateway: Some(range.gateway),
        });
        Ok(Attached {
            ips: ips.collect(),
            routes: self.routes.clone(),
            dns,
            ..Attached::default()
        })
    }

    /// Fails if there can be no leases, because their directory cannot be made or read. That all
    /// addresses are in use is no failure: runtimes take one for a node without a network, whose pods
    /// lose their place in Services and then on the node. ADD says it for the pod that finds none.
    pub fn status(&self) -> Result<(), Error> {
        Store::create(&self.location.directory)?.finish();
        Ok(())
    }

    fn lease_all<'a>(
        &'a self,
        store: &mut Store,
        owner: &Owner,
        taken: &mut Vec<(IpAddr, &'a Range)>,
    ) -> Result<(), Error> {
        let mut requested = self.requested.clone();
        let before = store.indexed_addresses_of(owner)?;
        for (number, set) in self.sets.iter().enumerate() {
            let wanted = requested
                .iter()
                .position(|one| set.range_of(*one).is_some());
            let address = match wanted.map(|position| requested.remove(position)) {
                Some(address) => self.lease_requested(store, owner, number, address)?,
                None => self.lease_free(store, owner, number, &before)?,
            };
            // It came out of this set.
            taken.extend(set.range_of(address).map(|range| (address, range)));
        }
        if requested.is_empty() {
            return Ok(());
        }
        let addresses = requested;
        Err(AllocationError::Unused { addresses }.into())
    }

    fn lease_requested(
        &self,
        store: &mut Store,
        owner: &Owner,
        set: usize,
        address: IpAddr,
    ) -> Result<IpAddr, Error> {
        let range = self.sets[set].range_of(address);
        if range.is_some_and(|range| range.gateway == address) {
            return Err(AllocationError::Gateway { set, address }.into());
        }
        if store.take(owner, address, set)? {
            return Ok(address);
        }
        let ranges = self.sets[set].to_string();
        Err(AllocationError::Taken {
            set,
            address,
            ranges,
        }
        .into())
    }

    fn lease_free(
        &self,
        store: &mut Store,
        owner: &Owner,
        set: usize,
        before: &[IpAddr],
    ) -> Result<IpAddr, Error> {
        let ranges = &self.sets[set];
        let mut before = before.iter();
        if let Some(address) = before.find(|address| ranges.range_of(**address).is_some()) {
            return Err(AllocationError::Duplicate {
                set,
                address: *address,
                container_id: owner.container_id.clone(),
            }
            .into());
        }
        let free = store.take_free(owner, &self.sets, set)?;
        free.ok_or_else(|| {
            let ranges = ranges.to_string();
            AllocationError::Exhausted { set, ranges }.into()
        })
    }

    /// Checks what the range sets must be to each other.
    fn check_sets(&self, version: Version) -> Result<(), Error> {
        let v4 = self.sets.iter().filter(|set| set.is_ipv4()).count();
        if version < Version::V0_3_0 && (v4 > 1 || self.sets.len() - v4 > 1) {
            return Err(Error::config(format!(
                "CNI version {version} does not support more than 1 address per family"
            )));
        }
        for (number, set) in self.sets.iter().enumerate() {
            let mut later = self.sets[number + 1..].iter();
            if let Some(position) = later.position(|other| set.overlaps(other)) {
                let other = number + 1 + position;
                let reason = format!("range set {number} overlaps with {other}");
                return Err(Error::config(reason));
            }
        }
        Ok(())
    }
}

/// The range sets: those of the runtime first, then the single range, then the list.
fn read_sets(fields: &Fields<'_>, ipam: &Fields<'_>) -> Result<Vec<RangeSet>, Error> {
    let runtime = fields.object("runtimeConfig")?;
    let mut lists = match &runtime {
        Some(runtime) => runtime.list("ipRanges")?,
        None => Vec::new(),
    };
    let mut sets = read_lists(&lists, 0)?;
    if let Some(subnet) = ipam.network("subnet")? {
        let set = sets.len();
        let single = Range::read(ipam, subnet).and_then(|range| RangeSet::new(vec![range]));
        sets.push(single.map_err(|source| Error::Range { set, source })?);
    }
    lists = ipam.list("ranges")?;
    let more = read_lists(&lists, sets.len())?;
    sets.extend(more);
    if sets.is_empty() {
        return Err(Error::config("no IP ranges specified"));
    }
    Ok(sets)
}

/// Reads range sets, of which the first has the number `first`.
fn read_lists(lists: &[Node<'_>], first: usize) -> Result<Vec<RangeSet>, Error> {
    let sets = lists.iter().enumerate().map(|(index, node)| {
        let set = first + index;
        RangeSet::read(node).map_err(|source| Error::Range { set, source })
    });
    sets.collect()
}

/// The addresses that the runtime asks for, by `CNI_ARGS`, `args.cni.ips` and `runtimeConfig.ips`.
fn read_requests(fields: &Fields<'_>, arguments: &Arguments) -> Result<Vec<IpAddr>, Error> {
    let mut requested: Vec<IpAddr> = arguments.ip.into_iter().collect();
    let mut read = |outer: Option<Fields<'_>>| -> Result<(), Error> {
        let Some(outer) = outer else { return Ok(()) };
        for node in outer.list("ips")? {
            if node.value() == "" {
                continue;
            }
            let address = node.address_of_network()?;
            if !requested.contains(&address) {
                requested.push(address);
            }
        }
        Ok(())
    };
    if let Some(args) = fields.object("args")? {
        read(args.object("cni")?)?;
    }
    read(fields.object("runtimeConfig")?)?;
    Ok(requested)
}

/// Reads a route. The kernel takes no IPv4 network with host bits, and clears those of an IPv6 one,
/// so with the reference plugin such a route of IPv6 is made.
fn read_route(node: &Node<'_>) -> Result<Route, Error> {
    let mut route = Route::read(node)?;
    let given = route.destination;
    route.destination = with_prefix(given.network(), given);
    if route.destination == given {
        return Ok(route);
    }
    let text = format!(
        "{}.dst is {given}, which has host bits set: the network is {}",
        node.place(),
        route.destination
    );
    if given.is_ipv4() {
        return Err(Error::config(text));
    }
    streams::log(format_args!("{text}, and that is used"));
    Ok(route)
}

/// The address with the prefix length of its subnet.
fn with_prefix(address: IpAddr, subnet: IpNetwork) -> IpNetwork {
    // The prefix length fits: a range has addresses of its subnet only.
    IpNetwork::new(address, subnet.prefix()).unwrap_or_else(|_| IpNetwork::from(address))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn who_parts_from_leases_does_so_before_another_can_have_them() {
        let directory = tempfile::tempdir().unwrap();
        for (address, container_id) in [("10.10.1.3", "kept"), ("10.10.1.4", "gone")] {
            let file = directory.path().join(address);
            fs::write(file, format!("{container_id}\r\neth0")).unwrap();
        }
        let location = Location {
            directory: directory.path().into(),
        };
        let mut parted = Vec::new();
        let mut part = |leases: &[Lease]| {
            for lease in leases {
                let file = location.directory.join(lease.address.to_string());
                parted.push((lease.address.to_string(), file.exists()));
            }
        };
        let keep = |owner: &Owner| owner.container_id == "kept";
        location.collect(&keep, &mut part).unwrap();
        assert_eq!(parted, [("10.10.1.4".to_owned(), true)]);
        let left = location.directory.join("10.10.1.4");
        assert!(!left.exists());
    }
}
