//! How fast connections come to Services, from counts that grow. Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::view::View;

/// A count: the Service, the place of its port, and the endpoint; none for all of the port.
type Key = (String, usize, Option<String>);

/// Counts as they were, and what they came to since.
#[derive(Debug, Default)]
pub struct Rates {
    before: Option<(Instant, BTreeMap<Key, u64>)>,
    rates: BTreeMap<Key, f64>,
}

impl Rates {
    /// Compares with what was counted before.
    pub fn count(&mut self, view: &View, now: Instant) {
        let counts = counts(view);
        if let Some((then, before)) = &self.before {
            let seconds = now.duration_since(*then).as_secs_f64().max(0.1);
            let grown = counts.iter().filter_map(|(key, count)| {
                // A node that begins to count again is no flood.
                let more = count.checked_sub(*before.get(key)?)?;
                // To a tenth: what only trembles is not told again.
                Some((key.clone(), (more as f64 / seconds * 10.0).round() / 10.0))
            });
            self.rates = grown.collect();
        }
        self.before = Some((now, counts));
    }

    /// Writes them where they belong.
    pub fn fill(&self, view: &mut View) {
        for service in &mut view.services {
            for (index, port) in service.ports.iter_mut().enumerate() {
                let rate = |endpoint| {
                    let key = (service.id.clone(), index, endpoint);
                    self.rates.get(&key).copied()
                };
                port.rate = rate(None);
                for endpoint in &mut port.endpoints {
                    endpoint.rate = rate(Some(endpoint.address.clone()));
                }
            }
        }
    }
}

fn counts(view: &View) -> BTreeMap<Key, u64> {
    let mut counts = BTreeMap::new();
    for service in &view.services {
        for (index, port) in service.ports.iter().enumerate() {
            let mut add = |endpoint, count: Option<u64>| {
                let key = (service.id.clone(), index, endpoint);
                counts.extend(count.map(|count| (key, count)));
            };
            add(None, port.connections);
            for endpoint in &port.endpoints {
                add(Some(endpoint.address.clone()), endpoint.connections);
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ui::view::{EndpointView, PortView, ServiceView};

    fn counted(connections: u64) -> View {
        let endpoint = EndpointView {
            address: "10.10.1.2:80".into(),
            connections: Some(connections / 2),
            ..EndpointView::default()
        };
        let port = PortView {
            connections: Some(connections),
            endpoints: vec![endpoint],
            ..PortView::default()
        };
        View {
            services: vec![ServiceView {
                id: "default/web".into(),
                ports: vec![port],
                ..ServiceView::default()
            }],
            ..View::default()
        }
    }

    #[test]
    fn what_grew_since_the_last_look_is_a_rate_and_what_shrank_is_none() {
        let mut rates = Rates::default();
        let start = Instant::now();
        let mut seen = |count, seconds| {
            let mut view = counted(count);
            rates.count(&view, start + Duration::from_secs(seconds));
            rates.fill(&mut view);
            let port = &view.services[0].ports[0];
            (port.rate, port.endpoints[0].rate)
        };
        assert_eq!(seen(100, 0), (None, None));
        assert_eq!(seen(120, 4), (Some(5.0), Some(2.5)));
        assert_eq!(seen(120, 6), (Some(0.0), Some(0.0)));
        assert_eq!(seen(3, 8), (None, None), "an agent was started again");
    }
}
