//! The kernel of this node, as the walk asks it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire_kernel::foreign::{self, Chain};
use podwire_kernel::link::Link;
use podwire_kernel::nft::{Family, NftSocket, Value};
use podwire_kernel::route::RouteKind;
use podwire_kernel::{IpFamily, RouteSocket};

use crate::features::parts::pod_links::{PodLink, pod_links};
use crate::features::policies::layout::sets::Lookup;
use crate::features::routes::refused;
use crate::ours::{POLICY_TABLE, REFUSED_TABLE, SERVICES_TABLE as TABLE};
use crate::why::Pod;
use crate::why::host_ports::{self, HostPort};
use crate::why::kernel::{Entry, Kernel, Way};

/// Sockets of the calling thread's network namespace.
#[derive(Debug)]
pub struct Live {
    routes: RouteSocket,
    tables: NftSocket,
    links: BTreeMap<u32, Link>,
}

impl Live {
    /// Opens the sockets and looks at the links.
    pub fn open() -> Result<Self, podwire_kernel::Error> {
        let mut routes = RouteSocket::open()?;
        let links = routes.links()?;
        Ok(Self {
            routes,
            tables: NftSocket::open()?,
            links: links.into_iter().map(|link| (link.index, link)).collect(),
        })
    }

    /// The pods on this node: their links, and the routes to them.
    pub fn pods(&mut self) -> Result<Vec<Pod>, podwire_kernel::Error> {
        let found = pod_links(&mut self.routes, self.links.values().cloned())?;
        Ok(found.into_iter().map(Pod::from).collect())
    }

    /// The ports of this node that lead to containers.
    pub fn host_ports(&mut self) -> Result<Vec<HostPort>, podwire_kernel::Error> {
        host_ports::read(&mut self.tables)
    }

    /// The addresses of this node.
    pub fn node_addresses(&mut self) -> Result<Vec<IpAddr>, podwire_kernel::Error> {
        let addresses = self.routes.addresses(None)?;
        Ok(addresses
            .into_iter()
            .map(|address| address.network.ip())
            .collect())
    }

    /// PodCIDRs without a Node, which are refused for a while, with whose they were.
    pub fn gone_cidrs(&mut self) -> Result<Vec<(IpNetwork, String)>, podwire_kernel::Error> {
        let table = self.tables.observe(Family::Inet, REFUSED_TABLE)?;
        let networks = table.as_ref().map(refused::networks_of).unwrap_or_default();
        Ok(networks
            .into_iter()
            .map(|(network, owner, _)| (network, owner))
            .collect())
    }

    fn link_name(&self, index: Option<u32>) -> Option<String> {
        self.links.get(&index?).map(|link| link.name.clone())
    }

    /// True if a neighbour was asked for and did not answer.
    fn is_silent(&mut self, link: Option<u32>, address: IpAddr) -> bool {
        let neighbours = self.routes.neighbours(link).unwrap_or_default();
        neighbours
            .iter()
            .any(|neighbour| neighbour.address == address && neighbour.mac.is_none())
    }
}

impl From<PodLink> for Pod {
    fn from(one: PodLink) -> Self {
        let alias = one.alias.unwrap_or_default();
        Self {
            unnamed: alias.unnamed,
            name: alias
                .pod
                .map(|(namespace, name)| format!("{namespace}/{name}")),
            container_id: alias.container_id,
            ifname: alias.ifname,
            link: one.link.name,
            up: one.link.up,
            addresses: one.addresses,
        }
    }
}

impl Kernel for Live {
    fn way(&mut self, to: IpAddr) -> Result<Way, String> {
        let route = match self.routes.route_get(to) {
            Ok(route) => route,
            // What `ip route get` calls "No route to host", "Network is unreachable" and the like.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(nix::libc::EHOSTUNREACH | nix::libc::ENETUNREACH | nix::libc::EACCES)
                ) =>
            {
                return Ok(Way::Unreachable);
            }
            Err(error) => return Err(error.to_string()),
        };
        Ok(match route.kind {
            // Where it goes besides is not what is asked.
            RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast => Way::Local,
            RouteKind::Unicast => Way::Link {
                link: self.link_name(route.link),
                gateway: route.gateway,
                silent: self.is_silent(route.link, route.gateway.unwrap_or(to)),
            },
            _ => Way::Unreachable,
        })
    }

    fn map(&mut self, family: IpFamily, map: &str) -> Result<Option<Vec<Entry>>, String> {
        let family = Family::from(family);
        let text = |error: podwire_kernel::Error| error.to_string();
        let headers = self.tables.set_headers(family, TABLE).map_err(text)?;
        let Some(header) = headers.get(map) else {
            return Ok(None);
        };
        let mut entries = Vec::new();
        self.tables
            .each_element(family, TABLE, map, header, |key, element| {
                let (chain, data) = match &element.value {
                    Value::Verdict(verdict) => (verdict.chain().map(str::to_owned), Vec::new()),
                    Value::Data(data) => (None, data.to_vec()),
                    Value::None => (None, Vec::new()),
                };
                entries.push(Entry {
                    key: key.to_vec(),
                    chain,
                    data,
                    packets: element.counter.map(|counter| counter.packets),
                    comment: None,
                });
            })
            .map_err(text)?;
        Ok(Some(entries))
    }

    fn policy_lookups(&mut self, family: IpFamily) -> Result<Option<Vec<Lookup>>, String> {
        let text = |error: podwire_kernel::Error| error.to_string();
        let family = Family::from(family);
        if !self.tables.has_table(family, POLICY_TABLE).map_err(text)? {
            return Ok(None);
        }
        let headers = self.tables.set_headers(family, POLICY_TABLE);
        let headers = headers.map_err(text)?;
        Ok(Some(headers.keys().filter_map(Lookup::of_name).collect()))
    }

    fn policy_element(
        &mut self,
        family: IpFamily,
        lookup: Lookup,
        key: &[u8],
    ) -> Result<Option<Entry>, String> {
        let (name, header) = (lookup.name(), lookup.header(family));
        let family = Family::from(family);
        let element = self
            .tables
            .element(family, POLICY_TABLE, &name, &header, key);
        let element = element.map_err(|error| error.to_string())?;
        Ok(element.map(|element| Entry {
            key: key.to_vec(),
            chain: None,
            data: match &element.value {
                Value::Data(data) => data.to_vec(),
                Value::Verdict(_) | Value::None => Vec::new(),
            },
            packets: element.counter.map(|counter| counter.packets),
            comment: element.comment.as_ref().map(ToString::to_string),
        }))
    }

    fn droppers(&mut self, family: IpFamily, hook: u32) -> Result<Vec<String>, String> {
        let text = |error: podwire_kernel::Error| error.to_string();
        let mut found = Vec::new();
        for family in [Family::from(family), Family::Inet] {
            for table in foreign::nft::tables(family).map_err(text)? {
                if is_ours(&table) {
                    continue;
                }
                let chains = foreign::nft::chains(family, &table).map_err(text)?;
                let named = |name: &str| format!("nftables chain {family} {table} {name}");
                found.extend(dropping(&chains, hook, named));
            }
        }
        for table in foreign::legacy::tables(family).map_err(text)? {
            let chains = foreign::legacy::chains(family, &table).map_err(text)?;
            let program = match family {
                IpFamily::V4 => "iptables",
                IpFamily::V6 => "ip6tables",
            };
            let named = |name: &str| format!("{program}-legacy table {table} chain {name}");
            found.extend(dropping(&chains, hook, named));
        }
        Ok(found)
    }
}

/// True for the name of a table of ours, or of the plugin's.
fn is_ours(table: &str) -> bool {
    table.starts_with("podwire-")
}

/// The chains that drop at a hook, by their policy or by a rule, there or in a chain that a rule
/// leads to.
fn dropping(
    chains: &[Chain],
    hook: u32,
    named: impl Fn(&str) -> String,
) -> impl Iterator<Item = String> {
    let mut found = Vec::new();
    let at_hook = chains.iter().filter(|chain| chain.hook == Some(hook));
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut next: Vec<&Chain> = at_hook.collect();
    while let Some(chain) = next.pop() {
        // What the kubelet has there drops only what is forged.
        if chain.name.starts_with("KUBE-") || !seen.insert(&chain.name) {
            continue;
        }
        if chain.drops && chain.hook.is_some() {
            found.push(format!(
                "{} drops what none of its rules accepts",
                named(&chain.name)
            ));
        } else if chain.rules.iter().any(|rule| rule.drops) {
            found.push(format!("{} has a rule that drops", named(&chain.name)));
        }
        let leads = chain.rules.iter().filter_map(|rule| rule.leads_to.as_ref());
        next.extend(leads.filter_map(|name| chains.iter().find(|chain| chain.name == *name)));
    }
    found.into_iter()
}
