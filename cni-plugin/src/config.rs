//! The network configuration on standard input: what all plugins have in common, and what `podwire`
//! and `ptp` read on top of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use podwire_kernel::Protocol;
use serde_json::Value;

use crate::attachment::{self, HostPort};
use crate::environment::{Verb, is_identifier};
use crate::error::{Error, chain};
use crate::json::{Fields, Node};
use crate::lease::Owner;
use crate::mtu::{LARGEST, SMALLEST};
use crate::policy;
use crate::result::{Attached, Dns};
use crate::streams;
use crate::version::Version;

/// The longest name of a network with which attachments are made, in bytes: the alias of a link has
/// room for it, for the name of the interface and for a container ID (`attachment/alias.rs`).
const LONGEST_NAME: usize = 128;

/// The keys of the list of attachments that a GC keeps. The second is that of an earlier text of
/// the specification, and some runtimes send it alone.
const ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// What every network configuration has.
#[derive(Debug, Clone)]
pub struct Config<'a> {
    /// All of it.
    pub fields: Fields<'a>,
    /// The name of the network.
    pub name: &'a str,
    /// The version of the result.
    pub version: Version,
}

/// The part that `portMappings` need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMappings {
    /// The ports of the node that lead to the container, as they are written.
    pub ports: Vec<HostPort>,
    /// See [`crate::attachment::Record::snat`].
    pub snat: bool,
    /// See [`crate::attachment::Record::masquerade_all`].
    pub masquerade_all: bool,
}

impl PortMappings {
    /// The ports for a container with these addresses. Leaves out mappings that others say already, and
    /// refuses two that contradict each other. Both is decided by the keys that are written: no hostIP and
    /// `0.0.0.0` are the same for IPv4, and of a family without an address there are none.
    pub fn distinct(&self, addresses: &[IpAddr]) -> Result<Vec<HostPort>, Error> {
        let mut owners = BTreeMap::new();
        let mut distinct = Vec::new();
        let mut ports = self.ports.clone();
        // Those for all addresses come before those for one family.
        ports.sort_unstable();
        for port in ports {
            let mut adds = false;
            for v4 in [true, false] {
                let Some(key) = attachment::key_of(&port, v4) else {
                    continue;
                };
                let owner = owners.entry(key).or_insert_with(|| {
                    adds = true;
                    port
                });
                if owner.container_port == port.container_port {
                    continue;
                }
                if addresses.iter().any(|address| address.is_ipv4() == v4) {
                    return Err(contradiction(owner, &port));
                }
                adds = true;
            }
            if adds {
                distinct.push(port);
            }
        }
        Ok(distinct)
    }
}

fn contradiction(one: &HostPort, other: &HostPort) -> Error {
    Error::config(format!(
        "runtimeConfig.portMappings maps {} port {} of the host to two ports of the container, {} and {}",
        other.protocol, other.host_port, one.container_port, other.container_port
    ))
}

/// Decodes standard input.
pub fn decode(stdin: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(stdin).map_err(|source| Error::NoJson { source })
}

/// The version that `document` has, or the newest if that cannot be found out: for errors.
pub fn version_for_errors(document: &Value) -> Version {
    let text = document.get("cniVersion").and_then(Value::as_str);
    text.and_then(Version::parse).unwrap_or(Version::NEWEST)
}

impl<'a> Config<'a> {
    /// Reads name and version.
    pub fn read(document: &'a Value, oldest: Version) -> Result<Self, Error> {
        let fields = Fields::of_document(document)?;
        let name = fields.string("name")?;
        if name.is_empty() {
            return Err(Error::NoName);
        }
        if !is_identifier(name) {
            return Err(Error::BadName { name: name.into() });
        }
        let text = fields.string("cniVersion")?;
        let version = Version::parse(text).filter(|version| *version >= oldest);
        let Some(version) = version else {
            let found = text.to_owned();
            return Err(Error::Version { found, oldest });
        };
        Ok(Self {
            fields,
            name,
            version,
        })
    }

    /// Fails if the configuration is not one for `verb`: its version does not know the verb yet, or
    /// its name is too long for an attachment to be made.
    pub fn allow(&self, verb: Verb) -> Result<(), Error> {
        if matches!(verb, Verb::Add | Verb::Status) && self.name.len() > LONGEST_NAME {
            return Err(Error::LongName {
                name: self.name.to_owned(),
                limit: LONGEST_NAME,
            });
        }
        let since = match verb {
            Verb::Check => Version::V0_4_0,
            Verb::Status | Verb::Gc => Version::V1_1_0,
            Verb::Add | Verb::Del | Verb::Version => Version::V0_1_0,
        };
        if self.version >= since {
            return Ok(());
        }
        Err(Error::VerbTooNew {
            verb,
            version: self.version,
            since,
        })
    }

    /// The result of the plugins before this one, if there was one.
    pub fn previous(&self) -> Result<Option<Attached>, Error> {
        let node = self.fields.get("prevResult");
        let read = |node: Node<'_>| Attached::read(&node, self.version);
        Ok(node.map(read).transpose()?)
    }

    /// The addresses in that result, for DEL: those that can be read, whatever is wrong elsewhere.
    pub fn previous_addresses(&self) -> Vec<IpAddr> {
        let error = match self.previous() {
            Ok(previous) => {
                let ips = previous.unwrap_or_default().ips;
                return ips.iter().map(|ip| ip.address.ip()).collect();
            }
            Err(error) => error,
        };
        let result = self.fields.object("prevResult").ok().flatten();
        let ips = result.and_then(|result| result.list("ips").ok());
        let read = |node: Node<'_>| {
            let address = node.object().ok()?.get("address")?;
            address.address_of_network().ok()
        };
        let addresses: Vec<_> = ips.into_iter().flatten().filter_map(read).collect();
        streams::log(format_args!(
            "prevResult is not understood, which stops no DEL: {error}; policies forget the \
             addresses that are in it, {addresses:?}",
            error = chain(&error)
        ));
        addresses
    }

    /// The MTU, if one is given; 0 is none.
    pub fn mtu(&self) -> Result<Option<u32>, Error> {
        match self.fields.integer("mtu")? {
            None | Some(0) => Ok(None),
            Some(mtu) => match u32::try_from(mtu) {
                Ok(mtu) if (SMALLEST..=LARGEST).contains(&mtu) => Ok(Some(mtu)),
                _ => Err(Error::config(format!(
                    "mtu is {mtu}, but an MTU is a number of bytes from {SMALLEST} to {LARGEST}"
                ))),
            },
        }
    }

    /// Whether the addresses of containers are hidden from the outside.
    pub fn ip_masq(&self) -> Result<bool, Error> {
        Ok(self.fields.boolean("ipMasq")?.unwrap_or_default())
    }

    /// Checks a key that chooses the reference plugins' own rules, which has no other meaning here.
    pub fn check_backend(&self, key: &str) -> Result<(), Error> {
        let backend = self.fields.get(key);
        match backend.map(|node| node.string()).transpose()? {
            None | Some("iptables" | "nftables") => Ok(()),
            Some(other) => Err(Error::config(format!("unrecognized {key} {other:?}"))),
        }
    }

    /// What the configuration itself says about names.
    pub fn dns(&self) -> Result<Dns, Error> {
        Ok(Dns::read_in(&self.fields)?)
    }

    /// Whether there is an agent, and where its files are.
    pub fn agent(&self) -> Result<policy::Agent<'a>, Error> {
        let default = policy::Agent::default();
        let run_dir = match self.fields.string("runDir")? {
            "" => default.run_dir,
            path => Path::new(path),
        };
        Ok(policy::Agent {
            run_dir,
            enforces: self.fields.boolean("networkPolicy")?.unwrap_or_default(),
        })
    }

    /// The ports that lead to the container.
    pub fn port_mappings(&self) -> Result<PortMappings, Error> {
        let fields = &self.fields;
        for key in ["conditionsV4", "conditionsV6"] {
            // An empty list is no condition.
            let given = fields.get(key);
            if let Some(node) =
                given.filter(|node| node.value().as_array().is_none_or(|all| !all.is_empty()))
            {
                return Err(Error::Unsupported {
                    key: key.into(),
                    value: node.value().to_string(),
                    reason: "host ports are elements of nftables maps, which have no conditions \
                             of their own: remove the key",
                });
            }
        }
        check_mark(fields)?;
        let mut ports = Vec::new();
        if let Some(runtime) = fields.object("runtimeConfig")? {
            for node in runtime.list("portMappings")? {
                ports.push(read_port(&node)?);
            }
        }
        Ok(PortMappings {
            ports,
            snat: fields.boolean("snat")?.unwrap_or(true),
            masquerade_all: fields.boolean("masqAll")?.unwrap_or_default(),
        })
    }

    /// The attachments that a GC keeps. The list has one key in the specification and another in an
    /// earlier text of it; if the configuration has both, what is in either list is kept.
    pub fn valid_attachments(&self) -> Result<BTreeSet<Owner>, Error> {
        let mut valid = BTreeSet::new();
        let mut keys = ATTACHMENTS.into_iter().filter(|key| self.fields.has(key));
        let Some(first) = keys.next() else {
            // Without the list there is no word about what to keep, and everything would go. `null`
            // is a list: Go writes an empty one like that, and libcni 1.3 does.
            return Err(Error::config("GC needs the key cni.dev/valid-attachments"));
        };
        let mut listed = self.fields.list(first)?;
        for key in keys {
            listed.extend(self.fields.list(key)?);
        }
        for node in listed {
            let fields = node.object()?;
            let (id, ifname) = (fields.string("containerID")?, fields.string("ifname")?);
            // Without both it would name no attachment, and the one that is meant would go.
            if id.is_empty() || ifname.is_empty() {
                return Err(node
                    .wrong("an attachment with containerID and ifname")
                    .into());
            }
            valid.insert(Owner::new(id, ifname));
        }
        Ok(valid)
    }
}

/// Checks the keys about packet marks. No mark is used, so they have no meaning, but what the
/// reference plugin refuses is refused.
fn check_mark(fields: &Fields<'_>) -> Result<(), Error> {
    let bit = fields.integer("markMasqBit")?;
    let chain = fields.string("externalSetMarkChain")?;
    if bit.is_some() && !chain.is_empty() {
        return Err(Error::config(
            "Cannot specify externalSetMarkChain and markMasqBit",
        ));
    }
    match bit {
        Some(bit) if !(0..=31).contains(&bit) => {
            Err(Error::config("MasqMarkBit must be between 0 and 31"))
        }
        _ => Ok(()),
    }
}

fn read_port(node: &Node<'_>) -> Result<HostPort, Error> {
    let fields = node.object()?;
    let port = |key: &str, what: &str| {
        let number = fields.integer(key)?.unwrap_or_default();
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(Error::config(format!(
                "Invalid {what} port number: {number}"
            ))),
        }
    };
    let container_port = port("containerPort", "container")?;
    let host_port = port("hostPort", "host")?;
    let protocol = match fields.string("protocol")? {
        "" => Protocol::Tcp,
        name => Protocol::parse(name).ok_or_else(|| Error::Unsupported {
            key: format!("{}.protocol", node.place()),
            value: format!("{name:?}"),
            reason: "ports of tcp, udp and sctp can be mapped",
        })?,
    };
    // Any address means all addresses, of its family: the container has the other one or not.
    let host_ip = read_host_ip(&fields)?;
    Ok(HostPort {
        protocol,
        host_ip,
        host_port,
        container_port,
    })
}

/// The address of the node. Leading zeros mean nothing, as for Kubernetes: `010.0.0.1` is 10.0.0.1, also in
/// IPv6 spelling, `::ffff:010.0.0.1`.
fn read_host_ip(fields: &Fields<'_>) -> Result<Option<IpAddr>, Error> {
    let text = fields.string("hostIP")?;
    let part = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        digits => digits.to_owned(),
    };
    let (start, dotted) = text.split_at(text.rfind(':').map_or(0, |colon| colon + 1));
    let parts: Vec<String> = dotted.split('.').map(part).collect();
    let spelled = format!("{start}{}", parts.join("."));
    if let ([_, _, _, _], Ok(address)) = (parts.as_slice(), spelled.parse::<IpAddr>()) {
        return Ok(Some(address.to_canonical()));
    }
    Ok(fields.address("hostIP")?)
}
