//! The health checks that Services want answered (`spec.healthCheckNodePort`). The feature says
//! which and what; `serve::health_ports` answers them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::snapshot::ObjectName;

/// What a health check node port answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoints {
    /// The Service.
    pub service: ObjectName,
    /// How many distinct ready endpoints it has on this node.
    pub count: usize,
}

/// All health check node ports that this node must serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthPorts {
    /// The addresses on which the ports are served: those of the node ports. An unspecified
    /// address stands for all.
    pub addresses: Vec<IpAddr>,
    /// What each port answers.
    pub ports: BTreeMap<u16, LocalEndpoints>,
}
