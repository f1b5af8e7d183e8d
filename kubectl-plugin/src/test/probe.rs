//! The command that tries a case.
//!
//! Commands need `sh`, `bash`, `curl`, `ping`, `dd` and `dig`, which the image of Kubernetes' own
//! tests has. What answers is its `netexec`: `/hostname`, `/clientip` and `/echo?msg=` over HTTP,
//! `hostname` and `echo ...` in datagrams.

use std::net::{IpAddr, SocketAddr};

use crate::test::case::{Case, Family, Role, Service, Spot, Target, Way, name};
use crate::test::ground::{HTTP, Laid, Place, UDP};

/// How many bytes go each way with [`Way::Large`].
pub const LARGE: usize = 50_000;

/// What the datagrams of [`Way::FullSize`] and [`Way::Fragmented`] begin with.
pub const ECHO: &str = "echo ";

/// How many connections [`Way::Repeated`] makes.
pub const REPEATED: usize = 12;

/// Asks for the name of who answers and for the address that it sees, over one connection.
const ASK: &str = "curl -sS -w '\\n' --connect-timeout 2 --max-time 4";

/// The command that tries the case, or why there is none: something that it needs is not there.
pub fn command(case: &Case, laid: &Laid) -> Result<Vec<String>, String> {
    let line = match case.to {
        Target::Outside => format!(
            "curl -sSk --connect-timeout 3 --max-time 6 {}",
            url(case, laid)?
        ),
        Target::Name(service) => {
            let record = match case.family {
                Family::V4 => "A",
                Family::V6 => "AAAA",
            };
            format!(
                "dig +short +search +time=2 +tries=2 {record} {}",
                name(service)
            )
        }
        Target::Service(Service::Api) => {
            let (address, port) = end(case, laid)?;
            let address = bracketed(address);
            format!(
                "curl -sSk -o /dev/null -w '%{{http_code}}\\n' --connect-timeout 2 --max-time 5 \
                 https://{address}:{port}/version"
            )
        }
        Target::Spot(_) | Target::Service(_) | Target::NodePort(..) => plain(case, laid)?,
    };
    Ok(["bash", "-c", &line].map(str::to_owned).to_vec())
}

fn plain(case: &Case, laid: &Laid) -> Result<String, String> {
    let (address, port) = end(case, laid)?;
    let host = bracketed(address);
    // Only reached without a fragment header, an IP header and that of UDP.
    let headers = match case.family {
        Family::V4 => 28,
        Family::V6 => 48,
    };
    Ok(match case.way {
        Way::Ping => format!("ping -c 1 -W 2 {address}"),
        Way::Tcp | Way::Lookup => {
            format!("{ASK} http://{host}:{port}/hostname http://{host}:{port}/clientip")
        }
        Way::Repeated => format!(
            "for one in $(seq {REPEATED}); do {ASK} http://{host}:{port}/hostname || exit; done"
        ),
        Way::Large => format!(
            "head -c {LARGE} /dev/zero | tr '\\0' x | curl -sS -o /dev/null -w '%{{size_download}}\\n' \
             --connect-timeout 2 --max-time 6 --data-urlencode msg@- http://{host}:{port}/echo"
        ),
        Way::Udp => format!(
            "exec 3<>/dev/udp/{address}/{port} && printf hostname >&3 && \
             timeout 2 dd bs=65536 count=1 2>/dev/null <&3"
        ),
        Way::FullSize => datagram(address, port, &format!("mtu - {headers}")),
        Way::Fragmented => datagram(address, port, "mtu + 2500"),
    })
}

/// Sends one datagram of as many bytes, and says how many it had and how many came back.
fn datagram(address: IpAddr, port: u16, size: &str) -> String {
    format!(
        "mtu=$(cat /sys/class/net/eth0/mtu); size=$(({size})); exec 3<>/dev/udp/{address}/{port}; \
         {{ printf '{ECHO}'; head -c $((size - {})) /dev/zero | tr '\\0' x; }} | \
         dd bs=$size count=1 iflag=fullblock 2>/dev/null >&3; \
         got=$(timeout 2 dd bs=65536 count=1 2>/dev/null <&3 | wc -c); echo sent $size got $got",
        ECHO.len()
    )
}

/// What to ask `why` about the case: who sends, and where to.
pub fn question(case: &Case, laid: &Laid) -> Option<(String, String)> {
    Some((source(case, laid)?, destination(case, laid)?))
}

/// The address and port that a case sends to, and over what.
fn destination(case: &Case, laid: &Laid) -> Option<String> {
    let (address, port) = match case.to {
        Target::Outside => {
            let text = url(case, laid).ok()?;
            return Some(format!("{}/tcp", authority(text)));
        }
        // Where lookups go is the resolver's affair; that of the cluster is asked about by name.
        Target::Name(_) => return Some("kube-system/kube-dns:53/udp".to_owned()),
        _ => end(case, laid).ok()?,
    };
    Some(match case.way {
        Way::Ping => address.to_string(),
        Way::Udp | Way::FullSize | Way::Fragmented => {
            format!("{}/udp", SocketAddr::new(address, port))
        }
        _ => format!("{}/tcp", SocketAddr::new(address, port)),
    })
}

/// The address and port of a URL.
fn authority(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    match has_port {
        true => host.to_owned(),
        false if scheme == "https" => format!("{host}:443"),
        false => format!("{host}:80"),
    }
}

fn source(case: &Case, laid: &Laid) -> Option<String> {
    let place = laid.spots.get(&case.from)?;
    match case.from.role {
        // A pod in the network of its node has no packets of its own.
        Role::Host => Some(case.family.first(&place.addresses)?.to_string()),
        Role::Client | Role::Server => Some(place.pod.clone()),
    }
}

/// The command that tells with which address a pod sends; none if that is its node's affair.
pub fn sender(case: &Case, laid: &Laid) -> Option<Vec<String>> {
    if case.from.role == Role::Host {
        return None;
    }
    let (address, _) = end(case, laid).ok()?;
    let line = format!("ip -o route get {address}");
    Some(["bash", "-c", &line].map(str::to_owned).to_vec())
}

fn url<'a>(case: &Case, laid: &'a Laid) -> Result<&'a str, String> {
    let mut known = laid.outside.iter();
    known
        .find(|outside| outside.family == case.family)
        .map(|outside| outside.url.as_str())
        .ok_or_else(|| format!("no address outside is given for {}", case.family))
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// The address and port that a case sends to.
fn end(case: &Case, laid: &Laid) -> Result<(IpAddr, u16), String> {
    let family = case.family;
    match case.to {
        Target::Spot(spot) => {
            let place = laid.place(spot)?;
            let address = address_of(place, family)?;
            let udp = matches!(case.way, Way::Udp | Way::FullSize | Way::Fragmented);
            Ok((address, if udp { UDP } else { HTTP }))
        }
        Target::Service(service) => {
            let portal = laid.portal(service)?;
            let address = family.first(&portal.addresses);
            let missing = || format!("Service {} has no {family} address", name(service));
            Ok((address.ok_or_else(missing)?, portal.port))
        }
        Target::NodePort(service, node) => {
            let port = laid.portal(service)?.node_port;
            let missing = || format!("Service {} has no NodePort", name(service));
            let place = laid.place(Spot::host(node))?;
            Ok((address_of(place, family)?, port.ok_or_else(missing)?))
        }
        Target::Name(service) => Err(format!("the name {} is no address", name(service))),
        Target::Outside => Err("what is outside is a URL".to_owned()),
    }
}

fn address_of(place: &Place, family: Family) -> Result<IpAddr, String> {
    let address = family.first(&place.addresses);
    address.ok_or_else(|| format!("pod {} has no {family} address", place.pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::fake::laid;
    use crate::test::plan::Plan;

    #[test]
    fn every_case_has_a_command_and_a_question_for_why() {
        let both = [Family::V4, Family::V6];
        let plan = Plan::of(&crate::test::plan::tests::cluster(2, &both));
        let mut laid = laid(&plan);
        for case in &plan.cases {
            let command = command(case, &laid).unwrap();
            assert_eq!(command[..2], ["bash", "-c"]);
            assert!(question(case, &laid).is_some());
        }
        laid.spots.clear();
        laid.services.clear();
        assert!(command(&plan.cases[0], &laid).is_err());
    }

    #[test]
    fn why_is_told_the_port_of_a_url() {
        for (url, end) in [
            ("https://1.1.1.1/", "1.1.1.1:443"),
            ("http://[2001:db8::1]/x", "[2001:db8::1]:80"),
            ("http://[2001:db8::1]:81/x", "[2001:db8::1]:81"),
            ("http://192.0.2.1:8080", "192.0.2.1:8080"),
        ] {
            assert_eq!(authority(url), end);
        }
    }
}
