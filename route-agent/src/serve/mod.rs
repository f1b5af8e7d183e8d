//! What the daemon answers: its pages, its socket, and the health checks of Services.

pub mod connections;
pub mod health_ports;
pub mod http;
pub mod places;
pub mod pods;
pub mod site;
pub mod socket;
