//! What the agent keeps right, one file or folder each. Features never call each other.

pub mod cniconf;
pub mod connections;
pub mod forwarding;
pub mod hostports;
pub mod leases;
pub mod masquerade;
pub mod parts;
pub mod policies;
pub mod routes;
pub mod services;
#[cfg(test)]
pub(crate) mod test_node;

use tokio::sync::watch;

use crate::feature::Feature;
use crate::features::parts::log::Logging;
use crate::features::services::health_checks::HealthPorts;

/// All features, in the order in which they are synced. Each opens its sockets in the network
/// namespace of the calling thread.
pub fn all(
    health_ports: watch::Sender<HealthPorts>,
    logging: Logging,
) -> podwire_kernel::Result<Vec<Box<dyn Feature>>> {
    Ok(vec![
        Box::new(forwarding::Forwarding),
        Box::new(routes::Routes::open(logging)?),
        Box::new(masquerade::Masquerade::open(logging)?),
        // Before Services: what leads to a new endpoint is judged from its first packet on.
        Box::new(policies::Policies::open(logging)?),
        Box::new(connections::Connections::open(logging)?),
        Box::new(services::Services::open(health_ports, logging)?),
        Box::new(hostports::HostPorts::open()?),
        Box::new(leases::Leases::open()?),
        // Last: it appears when the others are done.
        Box::new(cniconf::CniConf::default()),
    ])
}
