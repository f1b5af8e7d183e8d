//! EndpointSlices.

use std::net::IpAddr;

use serde::Deserialize;

use crate::clock::milliseconds;
use crate::snapshot::{self, EndpointPort, Endpoints, Hints, ObjectName};
use crate::source::objects::{Checker, Flag, Metadata, Names, Number, Text, Unnamed, nullable};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    /// IPv4, IPv6 or FQDN.
    pub address_type: Text,
    /// Endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<Port>,
}

/// One endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Its addresses; the first counts.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<Text>,
    /// Its state.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Conditions,
    /// The Node it runs on.
    pub node_name: Text,
    /// Where it should be used from.
    #[serde(deserialize_with = "nullable")]
    pub hints: TopologyHints,
}

/// `conditions` of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// May get new connections.
    pub ready: Flag,
    /// Answers, even if it is being stopped.
    pub serving: Flag,
    /// Is being stopped.
    pub terminating: Flag,
}

/// `hints` of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopologyHints {
    /// Zones.
    #[serde(deserialize_with = "nullable")]
    pub for_zones: Vec<Hint>,
    /// Nodes.
    #[serde(deserialize_with = "nullable")]
    pub for_nodes: Vec<Hint>,
}

/// One hint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// The name of the zone or Node.
    pub name: Text,
}

/// One port of the slice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Port {
    /// Its name; a port without one (not even an empty one) is ignored.
    pub name: Text,
    /// TCP, UDP or SCTP.
    pub protocol: Text,
    /// The port on the endpoints; absent means any, which no proxy can serve.
    pub port: Number,
}

impl EndpointSlice {
    /// The Service that it belongs to; none if the label is empty, as with kube-proxy.
    pub fn service(&self) -> Option<&str> {
        let label = self.metadata.labels.get(SERVICE_LABEL)?.get();
        label.filter(|name| !name.is_empty())
    }

    /// True if its endpoints have host names in place of addresses.
    pub fn has_host_names(&self) -> bool {
        self.address_type.get() == Some("FQDN")
    }

    /// The snapshot's value of this slice; `None` for a slice of host names, or one that belongs
    /// to no Service.
    pub fn into_snapshot(
        self,
        names: &mut Names,
    ) -> Result<Option<snapshot::EndpointSlice>, Unnamed> {
        let name = self.metadata.object_name(names)?;
        let mut checker = Checker::default();
        let Some(service) = self.service() else {
            return Ok(None);
        };
        if self.has_host_names() {
            return Ok(None);
        }
        let is_v4 = match self.address_type.get() {
            Some("IPv4") => true,
            Some("IPv6") => false,
            _ => {
                checker.bad(
                    "addressType",
                    self.address_type.shown(),
                    "is not IPv4, IPv6 or FQDN",
                );
                return Ok(Some(empty(name, service, names, checker)));
            }
        };
        let endpoints = self
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.value(is_v4, names, &mut checker))
            .collect();
        let ports = ports(&self.ports, names, &mut checker);
        let last_change = self
            .metadata
            .annotations
            .get(LAST_CHANGE)
            .and_then(Text::get);
        Ok(Some(snapshot::EndpointSlice {
            ports: ports.into(),
            endpoints,
            last_change: last_change.and_then(milliseconds),
            ..empty(name, service, names, checker)
        }))
    }
}

fn empty(
    name: ObjectName,
    service: &str,
    names: &mut Names,
    checker: Checker,
) -> snapshot::EndpointSlice {
    snapshot::EndpointSlice {
        service: ObjectName {
            namespace: name.namespace.clone(),
            name: names.get(service),
        },
        name,
        ports: Box::default(),
        endpoints: Endpoints::default(),
        last_change: None,
        invalid: checker.invalid.into(),
    }
}

impl Endpoint {
    fn value(
        &self,
        is_v4: bool,
        names: &mut Names,
        checker: &mut Checker,
    ) -> Option<snapshot::Endpoint> {
        let field = "endpoints[].addresses[0]";
        let Some(text) = self.addresses.first() else {
            checker.bad("endpoints[].addresses", "[]", "is empty");
            return None;
        };
        let address = checker.address(field, text)?;
        if matches!(address, IpAddr::V4(_)) != is_v4 {
            checker.bad(field, text.shown(), "is not of the slice's addressType");
            return None;
        }
        let conditions = &self.conditions;
        let ready = checker.flag("endpoints[].conditions.ready", &conditions.ready, true);
        let terminating = "endpoints[].conditions.terminating";
        Some(snapshot::Endpoint {
            address,
            ready,
            serving: checker.flag("endpoints[].conditions.serving", &conditions.serving, true),
            terminating: checker.flag(terminating, &conditions.terminating, false),
            node: self.node_name.get().map(|node| names.get(node)),
            hints: self.hints.value(names),
        })
    }
}

impl TopologyHints {
    fn value(&self, names: &mut Names) -> Option<Box<Hints>> {
        if self.for_zones.is_empty() && self.for_nodes.is_empty() {
            return None;
        }
        let mut all = |hints: &[Hint]| {
            hints
                .iter()
                .filter_map(|hint| hint.name.get())
                .map(|name| names.get(name))
                .collect()
        };
        Some(Box::new(Hints {
            zones: all(&self.for_zones),
            nodes: all(&self.for_nodes),
        }))
    }
}

fn ports(given: &[Port], names: &mut Names, checker: &mut Checker) -> Vec<EndpointPort> {
    let mut found: Vec<EndpointPort> = Vec::new();
    for port in given {
        let Some(name) = port.name.get() else {
            checker.bad(
                "ports[].name",
                "null",
                "is missing; the API server would set it to \"\"",
            );
            continue;
        };
        if port.port.is_unset() {
            let shown = port.port.get().map_or("null", |_| "0");
            checker.bad("ports[].port", shown, "is no port that endpoints can have");
            continue;
        }
        let Some(number) = checker.port("ports[].port", &port.port) else {
            continue;
        };
        let Some(protocol) = checker.protocol("ports[].protocol", &port.protocol) else {
            continue;
        };
        found.push(EndpointPort {
            name: names.get(name),
            protocol,
            port: number,
        });
    }
    found
}
