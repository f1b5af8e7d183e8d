//! Cases from bug reports and configurations of other projects; docs/reliability.md lists them.

mod host_ports;
mod leases;
mod places;
mod records;
mod requests;

use serde_json::{Value, json};

use super::node::config;

const LEASES: &str = "/run/ipam/net";
const RECORDS: &str = "/run/podwire/attachments";

fn with_ports(ports: Value) -> Value {
    let mut config = config("podwire", &["10.1.2.0/24", "fd00:1::/64"]);
    config["runtimeConfig"] = json!({"portMappings": ports});
    config
}

fn mapping(host_ip: &str, protocol: &str, container_port: u16) -> Value {
    json!({
        "hostIP": host_ip, "hostPort": 8080, "protocol": protocol, "containerPort": container_port,
    })
}
