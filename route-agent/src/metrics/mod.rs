//! What Prometheus reads: kube-proxy's names, so that its dashboards and alerts go on working,
//! and ours.
//!
//! The loop and the features set plain counters and gauges; nothing is computed until a
//! scrape. The registry appends `_total` to the names of counters, so they are registered without
//! it. Values that the kernel keeps anyway (conntrack, this process) are read at each scrape.

mod drops;
mod node;
mod policy;
mod process;
mod proxy;

use std::fmt::Write as _;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::{Metric, Registry};

pub use drops::DropMetrics;
pub use node::NodeMetrics;
pub use policy::PolicyMetrics;
pub use proxy::{LocalPolicy, ProxyMetrics};

use podwire_kernel::IpFamily;

/// All metrics and their names.
#[derive(Debug)]
pub struct Metrics {
    /// Those that kube-proxy has as well.
    pub proxy: ProxyMetrics,
    /// Those of Podwire alone.
    pub node: NodeMetrics,
    /// Those of NetworkPolicies.
    pub policies: PolicyMetrics,
    /// Those of refused and dropped packets.
    pub drops: DropMetrics,
    registry: Registry,
    names: Vec<String>,
}

/// The label of a metric that is kept per IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FamilyLabel {
    /// The family's name, as Kubernetes spells it.
    ip_family: &'static str,
}

impl FamilyLabel {
    /// The label of this family.
    pub fn new(family: IpFamily) -> Self {
        Self {
            ip_family: family.name(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let mut names = Vec::new();
        let proxy = ProxyMetrics::register(&mut Group::new("kubeproxy", &mut registry, &mut names));
        let node = NodeMetrics::register(&mut Group::new("podwire", &mut registry, &mut names));
        let mut group = Group::new("podwire_policies", &mut registry, &mut names);
        let policies = PolicyMetrics::register(&mut group);
        let mut group = Group::new("podwire_drops", &mut registry, &mut names);
        let drops = DropMetrics::register(&mut group);
        registry.register_collector(Box::new(process::Kernel));
        Self {
            proxy,
            node,
            policies,
            drops,
            registry,
            names,
        }
    }
}

/// Registers metrics whose names share a prefix.
struct Group<'a> {
    prefix: &'static str,
    registry: &'a mut Registry,
    names: &'a mut Vec<String>,
}

impl<'a> Group<'a> {
    fn new(prefix: &'static str, registry: &'a mut Registry, names: &'a mut Vec<String>) -> Self {
        Self {
            prefix,
            registry: registry.sub_registry_with_prefix(prefix),
            names,
        }
    }

    fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.names.push(format!("{}_{name}", self.prefix));
        self.registry.register(name, help, metric);
    }

    /// Registers a metric and returns it.
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.register(name, help, metric.clone());
        metric
    }
}

/// A number of things as the value of a gauge.
fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How metrics are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4, which older readers expect.
    Classic,
}

impl TextFormat {
    /// What a reader with this `Accept` header gets.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Metrics {
    /// The names of all registered metrics, in the order of registration. The text leaves out those
    /// that have labels and no value yet.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// All metrics as text.
    pub fn text(&self, format: TextFormat) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        match format {
            TextFormat::OpenMetrics => text,
            TextFormat::Classic => classic(&text),
        }
    }
}

/// OpenMetrics in the older format: there the name of a counter ends with `_total` in its
/// description too, an info is a gauge that ends with `_info`, and there is no end marker.
fn classic(open_metrics: &str) -> String {
    let types: std::collections::BTreeMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|mark| {
            let (name, rest) = line.strip_prefix(mark)?.split_once(' ')?;
            let (suffix, kind) = match *types.get(name)? {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                _ => return None,
            };
            let rest = if mark == "# TYPE " { kind } else { rest };
            Some((mark, name, suffix, rest))
        });
        // Writing into a string cannot fail.
        let _ = match described {
            Some((mark, name, suffix, rest)) => writeln!(text, "{mark}{name}{suffix} {rest}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests;
