//! An object of a kind that is used, read from a document.

use crate::snapshot::Object;
use crate::source::decode::kind::Kind;
use crate::source::decode::parse::{from_json, from_yaml, without_place};
use crate::source::objects::{self, Metadata, Names, Unnamed};

/// One object of a kind that is used.
pub enum Slim {
    Node(Box<objects::Node>),
    Service(Box<objects::Service>),
    EndpointSlice(objects::EndpointSlice),
    ServiceCidr(objects::ServiceCidr),
    Pod(Box<objects::Pod>),
    Namespace(objects::Namespace),
    NetworkPolicy(objects::NetworkPolicy),
    ClusterNetworkPolicy(objects::ClusterNetworkPolicy),
}

impl Slim {
    /// What all objects have.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Slim::Node(node) => &node.metadata,
            Slim::Service(service) => &service.metadata,
            Slim::EndpointSlice(slice) => &slice.metadata,
            Slim::ServiceCidr(cidr) => &cidr.metadata,
            Slim::Pod(pod) => &pod.metadata,
            Slim::Namespace(namespace) => &namespace.metadata,
            Slim::NetworkPolicy(policy) => &policy.metadata,
            Slim::ClusterNetworkPolicy(policy) => &policy.metadata,
        }
    }

    /// True if another proxy, or none, is to serve it.
    pub fn is_foreign(&self) -> bool {
        let proxied = matches!(self, Slim::Service(_) | Slim::EndpointSlice(_));
        proxied && self.metadata().is_foreign()
    }

    /// `None` for an object that another proxy serves, or none.
    pub fn into_object(self, names: &mut Names) -> Result<Option<Object>, Unnamed> {
        if self.is_foreign() {
            return Ok(None);
        }
        Ok(match self {
            Slim::Node(node) => Some(Object::Node(node.into_snapshot(names)?)),
            Slim::Service(service) => Some(Object::Service(service.into_snapshot(names)?)),
            Slim::EndpointSlice(slice) => slice.into_snapshot(names)?.map(Object::EndpointSlice),
            Slim::ServiceCidr(cidr) => Some(Object::ServiceCidr(cidr.into_snapshot(names)?)),
            Slim::Pod(pod) => Some(Object::Pod(pod.into_snapshot(names)?)),
            Slim::Namespace(one) => Some(Object::Namespace(one.into_snapshot(names)?)),
            Slim::NetworkPolicy(policy) => {
                Some(Object::NetworkPolicy(policy.into_snapshot(names)?))
            }
            Slim::ClusterNetworkPolicy(policy) => {
                Some(Object::ClusterNetworkPolicy(policy.into_snapshot(names)?))
            }
        })
    }
}

impl Kind {
    pub fn read_yaml(self, text: &str, first_line: usize) -> Result<Slim, String> {
        Ok(match self {
            Kind::Service => Slim::Service(Box::new(from_yaml(text, first_line)?)),
            Kind::EndpointSlice => Slim::EndpointSlice(from_yaml(text, first_line)?),
            Kind::ServiceCidr => Slim::ServiceCidr(from_yaml(text, first_line)?),
            Kind::Pod => Slim::Pod(Box::new(from_yaml(text, first_line)?)),
            Kind::Namespace => Slim::Namespace(from_yaml(text, first_line)?),
            Kind::NetworkPolicy => Slim::NetworkPolicy(from_yaml(text, first_line)?),
            Kind::ClusterNetworkPolicy => Slim::ClusterNetworkPolicy(from_yaml(text, first_line)?),
            _ => Slim::Node(Box::new(from_yaml(text, first_line)?)),
        })
    }

    pub fn read_json(self, text: &str) -> Result<Slim, String> {
        Ok(match self {
            Kind::Service => Slim::Service(Box::new(from_json(text)?)),
            Kind::EndpointSlice => Slim::EndpointSlice(from_json(text)?),
            Kind::ServiceCidr => Slim::ServiceCidr(from_json(text)?),
            Kind::Pod => Slim::Pod(Box::new(from_json(text)?)),
            Kind::Namespace => Slim::Namespace(from_json(text)?),
            Kind::NetworkPolicy => Slim::NetworkPolicy(from_json(text)?),
            Kind::ClusterNetworkPolicy => Slim::ClusterNetworkPolicy(from_json(text)?),
            _ => Slim::Node(Box::new(from_json(text)?)),
        })
    }

    /// By way of JSON text: a reader of its own for each type costs more room in the program than
    /// the detour costs time, which only an item of a YAML list takes.
    pub fn read_value(self, value: &serde_json::Value) -> Result<Slim, String> {
        let read = self.read_json(&value.to_string());
        read.map_err(|message| without_place(&message).to_owned())
    }
}
