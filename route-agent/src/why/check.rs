//! Asks the kernel about each hop of a walk, and names what differs.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use podwire_kernel::IpFamily;
use podwire_kernel::nft::KeyReader;

use crate::features::services::layout::answers::Answer as PortalAnswer;
use crate::features::services::layout::names::{FixedChain, FixedMap};
use crate::why::elements::policies;
use crate::why::kernel::{Answer, Entry, Kernel, Way, counted};
use crate::why::services::table;
use crate::why::{Check, End, Trace, Wanted};

/// Asks everything that the walk wants to know and adds the answers to it. Where the kernel has no route
/// to the one address to which others' routes would lead, the walk ends.
pub fn check(trace: &mut Trace, kernel: &mut impl Kernel) {
    let mut end = None;
    for (number, hop) in trace.hops.iter_mut().enumerate() {
        let is_route = |check: &&Check| matches!(check, Check::Route { .. });
        // Of several endpoints some may be reached.
        let is_one = hop.checks.iter().filter(is_route).count() == 1;
        let leads_there =
            |wanted: &Wanted| matches!(wanted, Wanted::Somewhere | Wanted::Replaced | Wanted::Any);
        for question in std::mem::take(&mut hop.checks) {
            let answer = match question {
                Check::Route { to, wanted } => route(kernel, to, &wanted).inspect(|answer| {
                    if answer.nowhere && is_one && leads_there(&wanted) {
                        end = Some((number, to));
                    }
                }),
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
                Check::Policies(asked) => policies(kernel, &asked),
                Check::Droppers { family, hook } => droppers(kernel, family, hook),
            };
            match answer {
                Ok(answer) => {
                    hop.kernel.extend(answer.holds);
                    trace.differences.extend(answer.differs.iter().cloned());
                    hop.differs.extend(answer.differs);
                    hop.suspects.extend(answer.suspects);
                }
                Err(error) => hop.kernel.push(error),
            }
        }
        if end.is_some() {
            break;
        }
    }
    if let Some((number, to)) = end {
        trace.hops.truncate(number + 1);
        // Otherwise it is said already why there is none.
        if trace.end != End::Refused {
            trace.end = End::Refused;
            trace.conclusion = format!(
                "It is refused: node {} has no route to {to}, unless a rule (`ip rule`) has one for who \
                 sends it. {}.",
                trace.node, trace.hops[number].what
            );
        }
    }
}

fn route(kernel: &mut impl Kernel, to: IpAddr, wanted: &Wanted) -> Result<Answer, String> {
    let way = kernel.way(to)?;
    let text = format!("{to} {way}");
    let mut answer = Answer::of(text.clone());
    answer.nowhere = way == Way::Unreachable;
    if !way.is(wanted) {
        let but = |wanted: &str| format!("route: {text}, but wanted is {wanted}");
        answer = answer.differs(match wanted {
            Wanted::Any | Wanted::Unreachable => but("unreachable"),
            Wanted::Somewhere => format!(
                "no route leads to {to}: see that the uplink is up and this node has a default route"
            ),
            Wanted::Replaced => format!(
                "no route leads to {to}: see that the uplink is up and this node has a default route; \
                 what it sends needs one even before the address of a Service is replaced"
            ),
            Wanted::Link(link) => but(&format!("dev {link}")),
            Wanted::Gateway(gateway) => but(&format!("via {gateway}")),
        });
    }
    if let Way::Link {
        gateway,
        silent: true,
        ..
    } = way
        && *wanted != Wanted::Replaced
    {
        let next = gateway.unwrap_or(to);
        answer = answer.differs(format!(
            "{next} does not answer to ARP or neighbour discovery: it is down or not on this link"
        ));
    }
    Ok(answer)
}

/// What is said of a map that is not there.
fn missing(family: IpFamily, map: &str) -> Answer {
    let text = format!("map `{map}` of table {} is not there", table(family));
    Answer::of(text.clone()).differs(text)
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
            "{chain}; that is not Podwire's: look there if packets vanish"
        ));
        answer.suspects.push(chain);
    }
    Ok(answer)
}
