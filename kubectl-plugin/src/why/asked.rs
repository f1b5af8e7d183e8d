//! What is asked.

use std::net::{IpAddr, SocketAddr};

use podwire_agent::why::Transport;

use crate::why::places::End;

/// What is asked, found in the cluster.
pub(super) struct Asked {
    /// Who sends.
    pub source: End,
    /// Its address.
    pub from: IpAddr,
    /// To whom.
    pub destination: End,
    /// Its address.
    pub to: IpAddr,
    /// What.
    pub transport: Transport,
}

impl Asked {
    /// The source as `namespace/name`, if it is a pod.
    pub fn pod(&self) -> Option<&str> {
        let name = self.source.title.strip_prefix("pod ")?;
        name.split(" (").next()
    }
}

/// `ADDRESS[:PORT/PROTOCOL]`, as the agent takes it.
pub(super) fn target(address: IpAddr, transport: Transport) -> String {
    match transport {
        Transport::Ping => address.to_string(),
        Transport::Port(protocol, port) => {
            let socket = SocketAddr::new(address, port);
            format!("{socket}/{}", protocol.name())
        }
    }
}
