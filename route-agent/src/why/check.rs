//! Asks the kernel about each hop of a walk, and names what differs.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use podwire_kernel::IpFamily;
use podwire_kernel::nft::KeyReader;

use crate::features::services::layout::answers::Answer as PortalAnswer;
use crate::features::services::layout::names::{FixedChain, FixedMap};
use crate::why::services::table;
use crate::why::{Check, Trace, Wanted};

/// The way that a packet takes from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The destination is this node.
    Local,
    /// There is no way, or a route that says so.
    Unreachable,
    /// Over a link.
    Link {
        /// Its name, if it is known.
        link: Option<String>,
        /// The next hop, unless the destination is on the link.
        gateway: Option<IpAddr>,
        /// True if the next hop was asked for its link-layer address and does not answer.
        silent: bool,
    },
}

/// An element of a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The key, as the kernel compares it.
    pub key: Vec<u8>,
    /// The chain that it leads to.
    pub chain: Option<String>,
    /// Its data.
    pub data: Vec<u8>,
    /// Packets that it counted. In chains of type nat that is new connections.
    pub packets: Option<u64>,
}

/// What the kernel can be asked. Errors are sentences.
pub trait Kernel {
    /// The way to an address.
    fn way(&mut self, to: IpAddr) -> Result<Way, String>;

    /// The elements of a map of the Service table; none if there is no such table or map.
    fn map(&mut self, family: IpFamily, map: &str) -> Result<Option<Vec<Entry>>, String>;

    /// Chains of others at a hook (`NF_INET_*`) whose policy is to drop, in words.
    fn droppers(&mut self, family: IpFamily, hook: u32) -> Result<Vec<String>, String>;
}

/// Asks everything that the walk wants to know and adds the answers to it.
pub fn check(trace: &mut Trace, kernel: &mut impl Kernel) {
    for hop in &mut trace.hops {
        for question in std::mem::take(&mut hop.checks) {
            let answer = match question {
                Check::Route { to, wanted } => route(kernel, to, &wanted),
                Check::Portal {
                    family,
                    map,
                    key,
                    wanted,
                } => portal(kernel, family, &map, &key, wanted.as_deref()),
                Check::Endpoints {
                    family,
                    map,
                    key,
                    wanted,
                } => endpoints(kernel, family, &map, &key, &wanted),
                Check::Client {
                    family,
                    map,
                    client,
                    endpoints,
                } => remembered(kernel, family, &map, client, &endpoints),
                Check::Droppers { family, hook } => droppers(kernel, family, hook),
            };
            match answer {
                Ok(answer) => {
                    hop.kernel.extend(answer.holds);
                    trace.differences.extend(answer.differs);
                }
                Err(error) => hop.kernel.push(error),
            }
        }
    }
}

/// What the kernel answered.
#[derive(Default)]
struct Answer {
    holds: Vec<String>,
    differs: Vec<String>,
}

impl Answer {
    fn of(text: String) -> Self {
        Self {
            holds: vec![text],
            differs: Vec::new(),
        }
    }

    fn differs(mut self, text: String) -> Self {
        self.differs.push(text);
        self
    }
}

fn route(kernel: &mut impl Kernel, to: IpAddr, wanted: &Wanted) -> Result<Answer, String> {
    let way = kernel.way(to)?;
    let text = format!("{to} {way}");
    let mut answer = Answer::of(text.clone());
    if !way.is(wanted) {
        let wanted = match wanted {
            Wanted::Any | Wanted::Unreachable => "unreachable".to_owned(),
            Wanted::Link(link) => format!("dev {link}"),
            Wanted::Gateway(gateway) => format!("via {gateway}"),
        };
        answer = answer.differs(format!("route: {text}, but wanted is {wanted}"));
    }
    if let Way::Link {
        gateway,
        silent: true,
        ..
    } = way
    {
        let next = gateway.unwrap_or(to);
        answer = answer.differs(format!(
            "{next} does not answer to ARP or neighbour discovery: it is down or not on this link"
        ));
    }
    Ok(answer)
}

impl Way {
    fn is(&self, wanted: &Wanted) -> bool {
        match (wanted, self) {
            (Wanted::Any, _) | (Wanted::Unreachable, Self::Unreachable) => true,
            (Wanted::Link(wanted), Self::Link { link, gateway, .. }) => {
                link.as_ref() == Some(wanted) && gateway.is_none()
            }
            (Wanted::Gateway(wanted), Self::Link { gateway, .. }) => *gateway == Some(*wanted),
            _ => false,
        }
    }
}

impl fmt::Display for Way {
    /// As `ip route get` puts it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Link { link, gateway, .. } => {
                if let Some(gateway) = gateway {
                    write!(f, "via {gateway} ")?;
                }
                write!(f, "dev {}", link.as_deref().unwrap_or("?"))
            }
        }
    }
}

/// What is said of a map that is not there.
fn missing(family: IpFamily, map: &str) -> Answer {
    let text = format!("map `{map}` of table {} is not there", table(family));
    Answer::of(text.clone()).differs(text)
}

fn counted(packets: Option<u64>) -> String {
    match packets {
        Some(1) => ", 1 connection so far".into(),
        Some(number) => format!(", {number} connections so far"),
        None => String::new(),
    }
}

fn portal(
    kernel: &mut impl Kernel,
    family: IpFamily,
    map: &str,
    key: &[u8],
    wanted: Option<&str>,
) -> Result<Answer, String> {
    let Some(entries) = kernel.map(family, map)? else {
        return Ok(missing(family, map));
    };
    let Some(entry) = entries.iter().find(|entry| entry.key == key) else {
        let text = format!("map `{map}` of table {} does not have it", table(family));
        let wanted = wanted.map_or(String::new(), |chain| format!("; wanted is goto {chain}"));
        return Ok(Answer::of(text.clone()).differs(text + &wanted));
    };
    let chain = answer(kernel, family, key, &entry.data)?;
    let (number, packets) = (PortalAnswer::display(&entry.data), counted(entry.packets));
    let leads = chain.as_deref().unwrap_or("nowhere");
    let answer = Answer::of(format!("{map}: {number}, goto {leads}{packets}"));
    Ok(match wanted.filter(|wanted| *wanted != leads) {
        Some(wanted) => answer.differs(format!(
            "map `{map}` of table {} has {number}, which leads to {leads}; wanted is goto {wanted}",
            table(family)
        )),
        None => answer,
    })
}

/// The chain that a portal's number leads to: by a rule, by the map of answers, or by that and the
/// map of the chains that Service ports have for themselves.
fn answer(
    kernel: &mut impl Kernel,
    family: IpFamily,
    key: &[u8],
    number: &[u8],
) -> Result<Option<String>, String> {
    let mut leads = |map: FixedMap, key: &[u8]| {
        let name = map.name();
        let entries = kernel.map(family, name)?.unwrap_or_default();
        let entry = entries.into_iter().find(|entry| entry.key == key);
        Ok(entry.and_then(|entry| entry.chain))
    };
    let known = PortalAnswer::read(number);
    if let Some(answer) = known.filter(|answer| answer.depends_on_source()) {
        return Ok(Some(answer.chain()));
    }
    let own = [key, number].concat();
    let chain: Option<String> = leads(FixedMap::Answers, number)?;
    match chain.as_deref() {
        Some(name) if name == FixedChain::OwnChain.name() => leads(FixedMap::OwnChains, &own),
        Some(name) if name == FixedChain::NodePortOwnChain.name() => {
            leads(FixedMap::NodePortOwnChains, &own)
        }
        _ => Ok(chain),
    }
}

fn endpoints(
    kernel: &mut impl Kernel,
    family: IpFamily,
    map: &str,
    key: &[u8],
    wanted: &[SocketAddr],
) -> Result<Answer, String> {
    let Some(entries) = kernel.map(family, map)? else {
        return Ok(missing(family, map));
    };
    let mut answer = Answer::default();
    let mut found = BTreeSet::new();
    // Behind the portal's key lies the number of the slot.
    let ours = |entry: &&Entry| entry.key.len() == key.len() + 4 && entry.key.starts_with(key);
    for entry in entries.iter().filter(ours) {
        let Some(socket) = socket_of(&entry.data, family) else {
            continue;
        };
        found.insert(socket);
        answer
            .holds
            .push(format!("{map}: {socket}{}", counted(entry.packets)));
    }
    let wanted: BTreeSet<SocketAddr> = wanted.iter().copied().collect();
    for missing in wanted.difference(&found) {
        answer = answer.differs(format!(
            "endpoint {missing} is wanted, and not in map `{map}`"
        ));
    }
    for extra in found.difference(&wanted) {
        answer = answer.differs(format!(
            "endpoint {extra} is in map `{map}`, and not wanted"
        ));
    }
    Ok(answer)
}

/// Address and port, as they lie in a map of endpoints.
fn socket_of(data: &[u8], family: IpFamily) -> Option<SocketAddr> {
    let mut fields = KeyReader::new(data);
    Some(SocketAddr::new(fields.address(family)?, fields.port()?))
}

fn remembered(
    kernel: &mut impl Kernel,
    family: IpFamily,
    map: &str,
    client: IpAddr,
    endpoints: &[(u32, SocketAddr)],
) -> Result<Answer, String> {
    let Some(entries) = kernel.map(family, map)? else {
        return Ok(missing(family, map));
    };
    let known = entries
        .iter()
        .find(|entry| KeyReader::new(&entry.key).address(family) == Some(client));
    Ok(Answer::of(match known {
        None => format!("{client} is not remembered: it may get any of them"),
        Some(entry) => {
            let number = KeyReader::new(&entry.data).number();
            let endpoint = endpoints.iter().find(|(known, _)| Some(*known) == number);
            match endpoint {
                Some((_, socket)) => format!("{client} is remembered: it gets {socket}"),
                None => {
                    format!("{client} is remembered with an endpoint that is gone: it gets another")
                }
            }
        }
    }))
}

fn droppers(kernel: &mut impl Kernel, family: IpFamily, hook: u32) -> Result<Answer, String> {
    let mut answer = Answer::default();
    for chain in kernel.droppers(family, hook)? {
        answer.holds.push(format!(
            "{chain} drops what none of its rules accepts; that is not Podwire's: look there if \
             packets vanish"
        ));
    }
    Ok(answer)
}
