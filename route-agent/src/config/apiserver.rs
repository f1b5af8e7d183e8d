//! Where the API server is: flags of `podwire-agent run`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use hyper::Uri;

use crate::config::values::absolute_path;

/// Where to look for the API server.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Addresses of the API server, tried in turn (comma-separated, `https://HOST:PORT`); found
    /// from the kubelet's kubeconfig or the pod's environment if not given.
    #[arg(long = "apiserver", env = "PODWIRE_APISERVER", value_name = "URLS",
          value_delimiter = ',', value_parser = server)]
    pub servers: Vec<Uri>,

    /// Address and credentials from this kubeconfig instead of the pod's ServiceAccount.
    #[arg(long, env = "PODWIRE_KUBECONFIG", value_name = "FILE",
          value_parser = absolute_path())]
    pub kubeconfig: Option<PathBuf>,

    /// The node's kubelet kubeconfig, of which only the server's address is read.
    #[arg(
        long,
        env = "PODWIRE_KUBELET_KUBECONFIG",
        default_value = "/etc/kubernetes/kubelet.conf",
        value_name = "FILE",
        value_parser = absolute_path()
    )]
    pub kubelet_kubeconfig: PathBuf,

    /// The address that a kubeconfig names, read at the start. No flag.
    #[arg(skip)]
    pub read: Option<Uri>,

    /// The addresses at which it was used, and what its names have been resolved to. No flag.
    #[arg(skip)]
    pub resolved: Resolved,
}

impl Options {
    /// Where the API server is known to answer without asking it: what is named, and what it, or its
    /// names, had when it was connected to.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let named = self.servers.iter().chain(&self.read);
        named.filter_map(address).chain(self.resolved.all())
    }
}

/// The address and port that a URL names, if it is not a name.
pub fn address(server: &Uri) -> Option<SocketAddr> {
    let host = server.host()?;
    let address: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    Some(SocketAddr::new(address.to_canonical(), port(server)))
}

/// The port of a URL.
pub fn port(server: &Uri) -> u16 {
    let of_scheme = match server.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    server.port_u16().unwrap_or(of_scheme)
}

/// The addresses of servers that were used. All clones have the same.
#[derive(Debug, Clone, Default)]
pub struct Resolved(Arc<Mutex<BTreeSet<SocketAddr>>>);

impl Resolved {
    /// More than an API server has; a name server that has another answer each time fills no memory.
    const MOST: usize = 64;

    /// A server, or its name, has these addresses now. Those that it had stay: a connection may last.
    /// True if one of them is new.
    pub fn add(&self, addresses: impl Iterator<Item = SocketAddr>) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        for address in addresses {
            if all.len() < Self::MOST {
                all.insert(SocketAddr::new(address.ip().to_canonical(), address.port()));
            }
        }
        all.len() > before
    }

    fn all(&self) -> BTreeSet<SocketAddr> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }
}

/// Parses an address of an API server.
fn server(text: &str) -> Result<Uri, String> {
    let wrong = || "not an address such as https://10.0.0.1:6443".to_owned();
    let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_those_of_flags_of_what_was_read_and_of_names_that_were_resolved() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let options = Options {
            servers: [
                "https://[fd00::1]:6443",
                "https://name:6443",
                "https://[::ffff:10.0.0.1]:6443",
            ]
            .map(uri)
            .into(),
            kubeconfig: None,
            kubelet_kubeconfig: PathBuf::new(),
            read: Some(uri("https://10.0.0.100")),
            resolved: Resolved::default(),
        };
        let found = || -> Vec<String> { options.addresses().map(|a| a.to_string()).collect() };
        assert_eq!(
            found(),
            ["[fd00::1]:6443", "10.0.0.1:6443", "10.0.0.100:443"]
        );
        let known = options.resolved.clone();
        for is_new in [true, false] {
            let again = ["172.18.0.100:6443".parse().unwrap()];
            assert_eq!(known.add(again.into_iter()), is_new);
        }
        known.add(["[::ffff:172.18.0.101]:80".parse().unwrap()].into_iter());
        assert_eq!(found()[3..], ["172.18.0.100:6443", "172.18.0.101:80"]);
    }

    #[test]
    fn addresses_need_a_scheme_and_a_host() {
        assert_eq!(
            server(" https://[fd00::1]:6443").unwrap(),
            "https://[fd00::1]:6443/"
        );
        for wrong in ["10.0.0.1:6443", "ftp://a", "https://", "", "https://a b"] {
            assert!(server(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
