//! Parsers of single values of flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use ipnetwork::IpNetwork;
use podwire_kernel::link::broken_name_rule;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindAddress(pub Option<SocketAddr>);

/// Parses a file or directory, which is meant from where this process was started: the container
/// runtime reads our paths elsewhere, and the kernel's notices name the whole path.
pub fn absolute_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(std::path::absolute)
}

/// Parses a duration such as `500ms`, `90s`, `5m` or `1h`.
// Not jiff's friendly format, which takes many more texts (`1h 30m`, `5 mins ago`).
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| "not a duration such as 500ms, 90s, 5m or 1h".to_owned())?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("give a unit: ms, s, m or h".to_owned()),
    };
    number
        .checked_mul(milliseconds)
        .filter(|total| *total <= 365 * 24 * 3_600_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "longer than a year".to_owned())
}

/// Parses a duration that is none or at least a second, for what counts in seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        some if !some.is_zero() && some.as_secs() == 0 => {
            Err("shorter than a second, which would count as no time at all".to_owned())
        }
        time => Ok(time),
    }
}

/// Parses a CIDR; an address without a prefix or with host bits is refused.
pub fn cidr(text: &str) -> Result<IpNetwork, String> {
    if !text.contains('/') {
        return Err("not a CIDR such as 192.168.0.0/16".to_owned());
    }
    let network: IpNetwork = text
        .trim()
        .parse()
        .map_err(|_| "not a CIDR such as 192.168.0.0/16".to_owned())?;
    if network.network() != network.ip() {
        return Err(format!(
            "has host bits set; meant is {}/{}?",
            network.network(),
            network.prefix()
        ));
    }
    Ok(network)
}

/// Parses an address and port; an empty text is none.
pub fn bind_address(text: &str) -> Result<BindAddress, String> {
    if text.is_empty() {
        return Ok(BindAddress(None));
    }
    let mut address: SocketAddr = text
        .parse()
        .map_err(|_| "not an address and port such as 0.0.0.0:10256 or [::]:10256".to_owned())?;
    // A socket of IPv6 alone refuses an IPv4 address.
    address.set_ip(address.ip().to_canonical());
    Ok(BindAddress(Some(address)))
}

/// Parses levels of log lines: one for all, others for single modules. A text without any leaves
/// errors. A word alone that is not a level would be a module to `Targets`: a level with a typo would
/// silence everything.
pub fn log_filter(text: &str) -> Result<Targets, String> {
    let mut filter = Targets::new().with_default(LevelFilter::ERROR);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (module, level) = match part.split_once('=') {
            Some((module, level)) => (Some(module), level),
            None => (None, part),
        };
        let parsed = Some(level).filter(|level| !level.is_empty());
        let parsed = parsed.and_then(|level| level.parse::<LevelFilter>().ok());
        filter = match (module, parsed) {
            (None, Some(level)) => filter.with_default(level),
            (Some(module), Some(level)) if !module.is_empty() => filter.with_target(module, level),
            (Some(_), Some(_)) => return Err(format!("{part:?} names no module")),
            (_, None) => {
                return Err(format!(
                    "{level:?} is not a log level; use off, error, warn, info, debug or trace, or a \
                     module with its level, such as podwire_agent=debug"
                ));
            }
        };
    }
    Ok(filter)
}

/// Parses the name of an interface, which need not exist yet.
pub fn interface_name(text: &str) -> Result<String, String> {
    match broken_name_rule(text) {
        None => Ok(text.to_owned()),
        Some(rule) => Err(rule.to_owned()),
    }
}

/// A Kubernetes object name as a DNS subdomain (RFC 1123).
pub fn object_name(text: &str) -> Result<Arc<str>, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if text.is_empty() || text.len() > 253 || !text.chars().all(good) {
        return Err("not the name of a Node: lower-case letters, digits, `-` and `.`".to_owned());
    }
    Ok(Arc::from(text))
}

/// The host name in lower case, as the kubelet registers it.
pub fn hostname() -> Arc<str> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Arc::from(name.trim().to_lowercase())
}
