//! Where things are in a lab and on its nodes.

/// The lab's own directory, in the lab and on every node.
pub const ROOT: &str = "/run/podwire-lab";
/// Tells that the reader is inside a lab.
pub const INSIDE: &str = "/run/podwire-lab/.inside";
/// The cluster's objects as ordinary Kubernetes manifests; every agent watches it.
pub const MANIFESTS: &str = "/run/podwire-lab/manifests";
/// Links to our programs.
pub const PROGRAMS: &str = "/run/podwire-lab/bin";
/// What the lab knows of each node and its pods: one directory for each node.
pub const NODES: &str = "/run/podwire-lab/nodes";
/// Where a node finds its CNI configuration.
pub const NET_D: &str = "/etc/cni/net.d";
/// Where a node finds CNI plugins.
pub const CNI_BIN: &str = "/opt/cni/bin";
/// What the agent of a node logs.
pub const AGENT_LOG: &str = "/var/log/podwire-agent.log";
/// Where the agent of a node answers the operator's commands.
pub const AGENT_SOCKET: &str = "/run/podwire/agent.sock";
/// Named network namespaces of a node, as `ip netns` and runtimes expect them.
pub const NETNS: &str = "/run/netns";
