//! What shows that an attachment is still there, and since when one shows nothing.
//!
//! For what the runtime forgets: a plugin that was killed, a DEL that never came. A sign of life is
//! the host end of the attachment's link, or a route to exactly its address: pods of a plugin that
//! names its links otherwise are safe as well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use podwire::attachment::host_link_name;
use podwire_kernel::RouteSocket;
use podwire_kernel::link::Link;
use podwire_kernel::route::RouteFilter;

/// Links come and go in bursts; they are looked at once when this has passed.
pub const CALM: Duration = Duration::from_secs(1);

/// What is known of an attachment.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// The container ID.
    pub container_id: &'a str,
    /// The interface in the container.
    pub ifname: &'a str,
    /// Its addresses.
    pub addresses: &'a [IpAddr],
}

/// The keys of those attachments that show no sign of life; `links` are all links of the node.
///
/// The attachments must be read before the links: one that is made after that is not looked for,
/// and one that was made before has its link by now.
pub fn lifeless<'a, K>(
    socket: &mut RouteSocket,
    links: &[Link],
    attachments: impl IntoIterator<Item = (K, Attachment<'a>)>,
) -> podwire_kernel::Result<Vec<K>> {
    let links: BTreeSet<_> = links.iter().map(|link| link.name.as_str()).collect();
    let has_link = |one: &Attachment<'_>| {
        let name = host_link_name(one.container_id, one.ifname);
        links.contains(name.as_str())
    };
    let mut rest: Vec<_> = attachments.into_iter().collect();
    rest.retain(|(_, one)| !has_link(one));
    if !rest.is_empty() {
        // There may be thousands, so they are read only if there is something to find.
        let routed = single_addresses(socket)?;
        let has_route = |one: &Attachment<'_>| one.addresses.iter().any(|ip| routed.contains(ip));
        rest.retain(|(_, one)| !has_route(one));
    }
    Ok(rest.into_iter().map(|(key, _)| key).collect())
}

/// The addresses that have a route of their own.
fn single_addresses(socket: &mut RouteSocket) -> podwire_kernel::Result<BTreeSet<IpAddr>> {
    let routes = socket.routes(RouteFilter::default())?.into_iter();
    let destinations = routes.map(|route| route.destination);
    let single = destinations.filter(|network| *network == IpNetwork::from(network.ip()));
    Ok(single.map(|network| network.ip()).collect())
}

/// What shows no sign of life, and since when that is known.
#[derive(Debug)]
pub struct Missing<K>(BTreeMap<K, Instant>);

impl<K> Default for Missing<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Missing<K> {
    /// What is missing `now` is exactly `keys`. Returns those that have been for `grace`.
    pub fn update(
        &mut self,
        keys: impl IntoIterator<Item = K>,
        now: Instant,
        grace: Duration,
    ) -> BTreeSet<K> {
        let since = |key: K| {
            let since = self.0.get(&key).copied().unwrap_or(now);
            (key, since)
        };
        self.0 = keys.into_iter().map(since).collect();
        let is_lost = |since: &Instant| now.saturating_duration_since(*since) >= grace;
        let lost = self.0.iter().filter(|(_, since)| is_lost(since));
        lost.map(|(key, _)| key.clone()).collect()
    }

    /// How much was missing when it was last looked at.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// When to look again: something will have been missing for `grace` then, or has been, and
    /// could not be dealt with.
    pub fn due(&self, now: Instant, grace: Duration) -> Option<Instant> {
        let first = self.0.values().min()?;
        Some((*first + grace).max(now + CALM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_in_time_starts_again() {
        let (start, grace) = (Instant::now(), Duration::from_secs(60));
        let mut missing = Missing::default();
        let mut at = |seconds, keys: &[&'static str]| -> Vec<&str> {
            let now = start + Duration::from_secs(seconds);
            let lost = missing.update(keys.iter().copied(), now, grace);
            lost.into_iter().collect()
        };
        assert!(at(0, &["a", "b"]).is_empty());
        assert!(at(30, &["a"]).is_empty());
        assert!(at(31, &["a", "b"]).is_empty());
        assert_eq!(at(60, &["a", "b"]), ["a"]);
        assert_eq!(at(91, &["a", "b"]), ["a", "b"]);
        assert!(at(92, &[]).is_empty());
    }

    #[test]
    fn it_is_looked_at_again_when_the_grace_period_ends_but_never_at_once() {
        let (now, grace) = (Instant::now(), Duration::from_secs(60));
        let mut missing = Missing::default();
        assert_eq!(missing.due(now, grace), None);
        missing.update(["a"], now, grace);
        assert_eq!(missing.due(now, grace), Some(now + grace));
        assert_eq!(missing.due(now + grace, grace), Some(now + grace + CALM));
    }
}
