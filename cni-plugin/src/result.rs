//! What a plugin tells the runtime about an attachment, in the shape of every CNI version.
//!
//! In the program there is one type, with everything version 1.1.0 knows. Older shapes are made
//! when it is printed, and understood when a runtime hands in what an earlier plugin of the list
//! printed (`prevResult`).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire_kernel::route::TABLE_MAIN;
use serde_json::{Map, Value, json};

use crate::json::{Fields, Node, WrongType};
use crate::version::Version;

/// The outcome of ADD: interfaces, addresses, routes and name servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// The interfaces that were made, on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// The addresses of the container.
    pub ips: Vec<Ip>,
    /// The routes of the container.
    pub routes: Vec<Route>,
    /// What the container should ask for names.
    pub dns: Dns,
}

impl Attached {
    /// The addresses of the container's interface `ifname`: all but those that the result gives to
    /// an interface of another name or on the host.
    pub fn ips_of<'a>(&'a self, ifname: &'a str) -> impl Iterator<Item = &'a Ip> {
        self.ips.iter().filter(move |ip| {
            let interface = ip.interface.and_then(|index| self.interfaces.get(index));
            interface.is_none_or(|one| one.name == ifname && !one.sandbox.is_empty())
        })
    }
}

/// An interface that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, as `02:00:00:00:00:01`; empty if unknown.
    pub mac: String,
    /// The path of the network namespace it is in; empty for the host.
    pub sandbox: String,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// The path of a socket that belongs to it.
    pub socket_path: String,
    /// Its PCI address.
    pub pci_id: String,
}

/// An address of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// The index of its interface in [`Attached::interfaces`].
    pub interface: Option<usize>,
    /// The address, with the prefix length it has on the interface.
    pub address: IpNetwork,
    /// The gateway to use with it.
    pub gateway: Option<IpAddr>,
}

/// A route of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNetwork,
    /// Through which gateway; without one, through the gateway of the address.
    pub gateway: Option<IpAddr>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// The maximal segment size to announce, in bytes.
    pub advmss: Option<u32>,
    /// Its priority (metric): the smaller number wins.
    pub priority: Option<u32>,
    /// The number of its table; see [`Route::table_number`].
    pub table: Option<u32>,
    /// Its scope, as in `RT_SCOPE_*` of linux/rtnetlink.h.
    pub scope: Option<u32>,
}

/// What a container should ask for names. `None` means that nothing was said, an empty list
/// that there are to be none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub nameservers: Option<Vec<String>>,
    /// The local domain; empty if unknown.
    pub domain: String,
    /// Domains to search.
    pub search: Option<Vec<String>>,
    /// Options of the resolver.
    pub options: Option<Vec<String>>,
}

/// A result that has no shape in the version that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot convert the result to CNI version {version}: no valid IP addresses")]
pub struct NoShape {
    /// The version that was asked for.
    pub version: Version,
}

impl Attached {
    /// Understands a result of any version. Without a `cniVersion` of its own, or with an empty one, it is
    /// taken for one of `version`, that of the network configuration around it.
    pub fn read(node: &Node<'_>, version: Version) -> Result<Self, WrongType> {
        let fields = node.object()?;
        let own = fields.get("cniVersion");
        let version = match own.filter(|own| own.value() != "") {
            None => version,
            Some(own) => {
                let known = Version::parse(own.string()?);
                known.ok_or_else(|| own.wrong("a published CNI version"))?
            }
        };
        if version < Version::V0_3_0 {
            // Of a newer result nothing would be left.
            if !fields.list("ips")?.is_empty() {
                return Err(WrongType {
                    place: format!("{}.cniVersion", node.place()),
                    expected: "0.3.0 or newer in a result with ips",
                    found: version.as_str().to_owned(),
                });
            }
            return Self::read_two_addresses(&fields);
        }
        let mut attached = Self {
            dns: Dns::read_in(&fields)?,
            ..Self::default()
        };
        let interfaces = fields.list("interfaces")?;
        for node in interfaces.iter().filter(|node| !node.is_null()) {
            attached.interfaces.push(Interface::read(node)?);
        }
        for node in fields.list("ips")? {
            let mut ip = Ip::read(&node)?;
            let index = ip.interface.take();
            ip.interface = index.and_then(|index| number_without_null(&interfaces, index));
            attached.ips.push(ip);
        }
        for node in fields.list_without_null("routes")? {
            attached.routes.push(Route::read(&node)?);
        }
        Ok(attached)
    }

    /// The shape of 0.1.0 and 0.2.0.
    fn read_two_addresses(fields: &Fields<'_>) -> Result<Self, WrongType> {
        let mut attached = Self {
            dns: Dns::read_in(fields)?,
            ..Self::default()
        };
        for key in ["ip4", "ip6"] {
            let Some(node) = fields.get(key) else {
                continue;
            };
            let half = node.object()?;
            let address = half.get("ip");
            let address = address.ok_or_else(|| missing_in(&node, "ip"))?;
            attached.ips.push(Ip {
                interface: None,
                address: address.canonical_network()?,
                gateway: half.address("gateway")?,
            });
            for node in half.list_without_null("routes")? {
                attached.routes.push(Route::read(&node)?);
            }
        }
        Ok(attached)
    }

    /// The result in the shape of `version`.
    pub fn print(&self, version: Version) -> Result<Value, NoShape> {
        let mut object = Map::new();
        object.insert("cniVersion".into(), version.as_str().into());
        if version < Version::V0_3_0 {
            self.print_two_addresses(version, &mut object)?;
        } else {
            let interfaces = self.interfaces.iter().map(|one| one.print(version));
            let ips = self.ips.iter().map(|ip| self.print_ip(ip, version));
            let routes = self.routes.iter().map(|route| route.print(version));
            insert_list(&mut object, "interfaces", interfaces);
            insert_list(&mut object, "ips", ips);
            insert_list(&mut object, "routes", routes);
        }
        if self.dns != Dns::default() {
            object.insert("dns".into(), self.dns.print());
        }
        Ok(Value::Object(object))
    }

    fn print_two_addresses(
        &self,
        version: Version,
        object: &mut Map<String, Value>,
    ) -> Result<(), NoShape> {
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let first = self.ips.iter().find(|ip| ip.address.is_ipv4() == v4);
            let Some(ip) = first else { continue };
            let mut half = Map::new();
            half.insert("ip".into(), ip.address.to_string().into());
            insert_address(&mut half, "gateway", ip.gateway);
            let routes = self.routes.iter();
            let routes = routes.filter(|route| route.destination.is_ipv4() == v4);
            insert_list(
                &mut half,
                "routes",
                routes.map(|route| route.print(version)),
            );
            object.insert(key.into(), Value::Object(half));
        }
        if object.contains_key("ip4") || object.contains_key("ip6") {
            Ok(())
        } else {
            Err(NoShape { version })
        }
    }

    fn print_ip(&self, ip: &Ip, version: Version) -> Value {
        let mut object = Map::new();
        if version < Version::V1_0_0 {
            let family = if ip.address.is_ipv4() { "4" } else { "6" };
            object.insert("version".into(), family.into());
        }
        // libcni refuses an index that names no interface.
        let interface = ip.interface.filter(|index| *index < self.interfaces.len());
        if let Some(index) = interface {
            object.insert("interface".into(), index.into());
        }
        object.insert("address".into(), ip.address.to_string().into());
        insert_address(&mut object, "gateway", ip.gateway);
        Value::Object(object)
    }
}

/// The number of an interface when those that are `null` are left out; `None` if it is one of them.
fn number_without_null(interfaces: &[Node<'_>], index: usize) -> Option<usize> {
    let is_null = |node: &&Node<'_>| node.is_null();
    let nulls = interfaces.iter().take(index).filter(is_null).count();
    let there = !interfaces.get(index).is_some_and(Node::is_null);
    there.then_some(index - nulls)
}

impl Interface {
    fn read(node: &Node<'_>) -> Result<Self, WrongType> {
        let fields = node.object()?;
        Ok(Self {
            name: fields.string("name")?.to_owned(),
            mac: fields.string("mac")?.to_owned(),
            sandbox: fields.string("sandbox")?.to_owned(),
            mtu: fields.small("mtu")?,
            socket_path: fields.string("socketPath")?.to_owned(),
            pci_id: fields.string("pciID")?.to_owned(),
        })
    }

    fn print(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), self.name.as_str().into());
        insert_text(&mut object, "mac", &self.mac);
        insert_text(&mut object, "sandbox", &self.sandbox);
        if version >= Version::V1_1_0 {
            insert_number(&mut object, "mtu", self.mtu);
            insert_text(&mut object, "socketPath", &self.socket_path);
            insert_text(&mut object, "pciID", &self.pci_id);
        }
        Value::Object(object)
    }
}

impl Ip {
    fn read(node: &Node<'_>) -> Result<Self, WrongType> {
        let fields = node.object()?;
        let address = fields.get("address");
        let address = address.ok_or_else(|| missing_in(node, "address"))?;
        let interface = fields.integer("interface")?;
        Ok(Self {
            // Negative indices come from plugins that mean "none".
            interface: interface.and_then(|index| usize::try_from(index).ok()),
            address: address.canonical_network()?,
            gateway: fields.address("gateway")?,
        })
    }
}

impl Route {
    /// A route to `destination` that has nothing else to it.
    pub fn to(destination: IpNetwork) -> Self {
        Self {
            destination,
            gateway: None,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }

    /// The number of the table that it stands in: without one, and with 0, the main table.
    pub fn table_number(&self) -> u32 {
        self.table.filter(|table| *table != 0).unwrap_or(TABLE_MAIN)
    }

    /// Understands a route of a result or of an IPAM configuration.
    pub fn read(node: &Node<'_>) -> Result<Self, WrongType> {
        let fields = node.object()?;
        let destination = fields.get("dst");
        let destination = destination.ok_or_else(|| missing_in(node, "dst"))?;
        Ok(Self {
            destination: destination.canonical_network()?,
            // Some write no gateway like that, as Go prints the address that means any.
            gateway: fields
                .address("gw")?
                .filter(|gateway| !gateway.is_unspecified()),
            mtu: fields.small("mtu")?,
            advmss: fields.small("advmss")?,
            priority: fields.small("priority")?,
            table: fields.small("table")?,
            scope: fields.small("scope")?,
        })
    }

    fn print(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("dst".into(), self.destination.to_string().into());
        insert_address(&mut object, "gw", self.gateway);
        if version >= Version::V1_1_0 {
            insert_number(&mut object, "mtu", self.mtu);
            insert_number(&mut object, "advmss", self.advmss);
            insert_number(&mut object, "priority", self.priority);
            insert_number(&mut object, "table", self.table);
            insert_number(&mut object, "scope", self.scope);
        }
        Value::Object(object)
    }
}

impl Dns {
    /// Understands the `dns` of a configuration or a result; nothing said if there is none.
    pub fn read_in(fields: &Fields<'_>) -> Result<Self, WrongType> {
        let Some(fields) = fields.object("dns")? else {
            return Ok(Self::default());
        };
        Ok(Self {
            nameservers: fields.strings("nameservers")?,
            domain: fields.string("domain")?.to_owned(),
            search: fields.strings("search")?,
            options: fields.strings("options")?,
        })
    }

    /// Whether something was said, if only that a list is to be empty.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    fn print(&self) -> Value {
        let mut object = Map::new();
        let mut insert = |key: &str, list: &Option<Vec<String>>| {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                object.insert(key.into(), json!(list));
            }
        };
        insert("nameservers", &self.nameservers);
        insert("search", &self.search);
        insert("options", &self.options);
        insert_text(&mut object, "domain", &self.domain);
        Value::Object(object)
    }
}

/// What VERSION prints: the versions that are spoken.
pub fn print_versions(oldest: Version) -> Value {
    let versions: Vec<_> = oldest.and_newer().map(Version::as_str).collect();
    json!({"cniVersion": Version::NEWEST.as_str(), "supportedVersions": versions})
}

fn insert_list(object: &mut Map<String, Value>, key: &str, values: impl Iterator<Item = Value>) {
    let values: Vec<Value> = values.collect();
    if !values.is_empty() {
        object.insert(key.into(), Value::Array(values));
    }
}

fn insert_text(object: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        object.insert(key.into(), text.into());
    }
}

fn insert_number(object: &mut Map<String, Value>, key: &str, number: Option<u32>) {
    if let Some(number) = number {
        object.insert(key.into(), number.into());
    }
}

fn insert_address(object: &mut Map<String, Value>, key: &str, address: Option<IpAddr>) {
    if let Some(address) = address {
        object.insert(key.into(), address.to_string().into());
    }
}

/// The error that says that `key` is missing in the object `node`.
fn missing_in(node: &Node<'_>, key: &str) -> WrongType {
    WrongType {
        place: format!("{}.{key}", node.place()),
        expected: "an address with a prefix length, such as 10.0.0.0/24",
        found: "missing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One of everything.
    fn full() -> Attached {
        let mut route = Route::to("0.0.0.0/0".parse().unwrap());
        route.gateway = Some("10.1.2.1".parse().unwrap());
        route.mtu = Some(1400);
        route.scope = Some(253);
        Attached {
            interfaces: vec![
                Interface {
                    name: "veth0".into(),
                    mac: "02:00:00:00:00:01".into(),
                    mtu: Some(1500),
                    ..Interface::default()
                },
                Interface {
                    name: "eth0".into(),
                    sandbox: "/run/netns/a".into(),
                    ..Interface::default()
                },
            ],
            ips: vec![ip("10.1.2.3/24"), ip("fd00::3/64")],
            routes: vec![route, Route::to("::/0".parse().unwrap())],
            dns: Dns {
                nameservers: Some(vec!["10.0.0.53".into()]),
                domain: "example.org".into(),
                search: Some(vec!["a".into(), "b".into()]),
                options: None,
            },
        }
    }

    fn ip(address: &str) -> Ip {
        Ip {
            interface: Some(1),
            address: address.parse().unwrap(),
            gateway: None,
        }
    }

    fn read(value: &Value, version: Version) -> Attached {
        Attached::read(&Node::of_document(value), version).unwrap()
    }

    #[test]
    fn the_newest_shape_keeps_everything() {
        let printed = full().print(Version::V1_1_0).unwrap();
        assert_eq!(read(&printed, Version::V1_1_0), full());
        assert_eq!(printed["routes"][0]["mtu"], 1400);
        assert_eq!(printed["interfaces"][0]["mtu"], 1500);
    }

    #[test]
    fn version_1_0_0_leaves_out_what_1_1_0_added() {
        let printed = full().print(Version::V1_0_0).unwrap();
        let route = json!({"dst": "0.0.0.0/0", "gw": "10.1.2.1"});
        assert_eq!(printed["routes"][0], route);
        let interface = json!({"name": "veth0", "mac": "02:00:00:00:00:01"});
        assert_eq!(printed["interfaces"][0], interface);
        assert!(printed["ips"][0].get("version").is_none());
    }

    #[test]
    fn versions_0_3_and_0_4_say_the_family_of_an_address() {
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let printed = full().print(version).unwrap();
            assert_eq!(printed["ips"][0]["version"], "4");
            assert_eq!(printed["ips"][1]["version"], "6");
            assert_eq!(printed["ips"][1]["interface"], 1);
        }
    }

    #[test]
    fn versions_0_1_and_0_2_have_one_address_of_each_family() {
        let mut attached = full();
        attached.ips.push(ip("10.9.9.9/24"));
        for version in [Version::V0_1_0, Version::V0_2_0] {
            let printed = attached.print(version).unwrap();
            assert_eq!(
                printed["ip4"],
                json!({
                    "ip": "10.1.2.3/24",
                    "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}],
                })
            );
            assert_eq!(printed["ip6"]["ip"], "fd00::3/64");
            assert!(printed.get("ips").is_none() && printed.get("interfaces").is_none());
        }
    }

    #[test]
    fn a_result_without_an_address_has_no_old_shape() {
        let error = Attached::default().print(Version::V0_2_0).unwrap_err();
        assert!(error.to_string().ends_with("no valid IP addresses"));
        assert!(Attached::default().print(Version::V0_3_0).is_ok());
    }

    #[test]
    fn null_among_interfaces_or_routes_is_absent() {
        let result = json!({
            "interfaces": [null, {"name": "veth0"}, null, {"name": "eth0"}],
            "ips": [
                {"address": "10.1.2.2/24", "interface": 3},
                {"address": "10.1.2.3/24", "interface": 0},
            ],
            "routes": [null, {"dst": "0.0.0.0/0"}],
        });
        let read = Attached::read(&Node::of_document(&result), Version::V1_0_0).unwrap();
        let names: Vec<_> = read.interfaces.iter().map(|one| &one.name).collect();
        assert_eq!(names, ["veth0", "eth0"]);
        let indices: Vec<_> = read.ips.iter().map(|ip| ip.interface).collect();
        assert_eq!(indices, [Some(1), None]);
        assert_eq!(read.routes.len(), 1);
    }

    #[test]
    fn an_index_that_names_no_interface_is_left_out() {
        let mut attached = full();
        attached.interfaces.truncate(1);
        let printed = attached.print(Version::V1_0_0).unwrap();
        assert!(printed["ips"][0].get("interface").is_none());
    }

    #[test]
    fn an_empty_list_of_name_servers_counts_as_said() {
        let value = json!({"dns": {"nameservers": []}});
        let dns = Dns::read_in(&Fields::of_document(&value).unwrap()).unwrap();
        assert!(dns.is_set());
        let value = json!({"dns": {}});
        let dns = Dns::read_in(&Fields::of_document(&value).unwrap()).unwrap();
        assert!(!dns.is_set());
    }

    #[test]
    fn a_result_of_another_version_than_its_own_is_an_error() {
        let value = json!({"cniVersion": "9.9.9"});
        let node = Node::of_document(&value);
        let error = Attached::read(&node, Version::V1_0_0).unwrap_err();
        assert!(error.to_string().contains("\"9.9.9\""), "{error}");
    }

    #[test]
    fn a_result_loses_nothing_to_a_version_that_is_empty_or_too_old_for_it() {
        let mut value = full().print(Version::V1_0_0).unwrap();
        value["cniVersion"] = "".into();
        assert_eq!(read(&value, Version::V1_0_0).ips, full().ips);
        for old in ["0.1.0", "0.2.0"] {
            value["cniVersion"] = old.into();
            let node = Node::of_document(&value);
            let error = Attached::read(&node, Version::V1_0_0).unwrap_err();
            assert!(error.to_string().contains("0.3.0 or newer"), "{error}");
        }
        value["ips"] = json!([]);
        assert_eq!(read(&value, Version::V1_0_0).ips, []);
    }

    #[test]
    fn versions_are_listed_from_the_oldest() {
        let value = print_versions(Version::V0_3_0);
        assert_eq!(value["cniVersion"], "1.1.0");
        let all = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        assert_eq!(value["supportedVersions"], all);
    }

    fn any_address() -> impl Strategy<Value = IpNetwork> {
        let v4 = (any::<[u8; 4]>(), 0..=32u8)
            .prop_map(|(ip, prefix)| IpNetwork::new(IpAddr::from(ip), prefix).unwrap());
        let v6 = (any::<[u8; 16]>(), 0..=128u8)
            .prop_map(|(ip, prefix)| IpNetwork::new(IpAddr::from(ip), prefix).unwrap());
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_read_and_printed_again(
            addresses in proptest::collection::vec(any_address(), 1..4),
            routes in proptest::collection::vec(any_address(), 0..4),
            version in proptest::sample::select(Version::ALL.to_vec()),
        ) {
            let attached = Attached {
                ips: addresses.iter().map(|one| ip(&one.to_string())).collect(),
                routes: routes.into_iter().map(Route::to).collect(),
                ..full()
            };
            let printed = attached.print(version).unwrap();
            let again = read(&printed, version).print(version).unwrap();
            prop_assert_eq!(printed, again);
        }
    }
}
