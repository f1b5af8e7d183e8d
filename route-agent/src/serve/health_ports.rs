//! `spec.healthCheckNodePort`: one small HTTP server per Service with externalTrafficPolicy Local,
//! that reports to a load balancer how many endpoints of the Service this node has.
//!
//! In: the wanted ports, whole, as often as they change. What is applied is the difference: a
//! listener that stays is not touched. A port that cannot be opened is a warning and is tried
//! again every [`RETRY`]; the others are served.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::clock::Moment;
use crate::features::services::health_checks::{HealthPorts, LocalEndpoints};
use crate::health::SharedHealth;
use crate::serve::connections::{Listener, listen};
use crate::serve::http::{Response, Server};
use crate::serve::places::Places;
use crate::snapshot::ObjectName;
use crate::warnings::Warning;

/// The pause between tries to open a port that another process holds.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: ServiceBody<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct ServiceBody<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// The answer for one port.
pub fn answer(of: &LocalEndpoints, proxy_healthy: bool) -> Response {
    let good = of.count > 0 && proxy_healthy;
    let body = Body {
        service: ServiceBody {
            namespace: &of.service.namespace,
            name: &of.service.name,
        },
        local_endpoints: of.count,
        service_proxy_healthy: proxy_healthy,
    };
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Response::json(status, serde_json::to_string(&body).unwrap_or_default())
        .with("x-content-type-options", nosniff())
        .with("x-load-balancing-endpoint-weight", of.count as u64)
}

/// Tells browsers to take the content type as it is.
pub(super) fn nosniff() -> hyper::header::HeaderValue {
    hyper::header::HeaderValue::from_static("nosniff")
}

/// Serves the ports that `wanted` names until it is dropped: when the sender is gone, what is open
/// stays open. All that is wrong is sent to `warnings`, whole, whenever it changes.
pub async fn serve(
    mut wanted: watch::Receiver<HealthPorts>,
    health: SharedHealth,
    warnings: mpsc::UnboundedSender<Vec<Warning>>,
) {
    let mut open = Listeners::new(health);
    let mut said = Vec::new();
    loop {
        let desired = wanted.borrow_and_update().clone();
        let wrong = open.apply(&desired);
        let failed = !wrong.is_empty();
        if wrong != said {
            // Without a receiver the agent is stopping.
            let _ = warnings.send(wrong.clone());
            said = wrong;
        }
        let changed = tokio::select! {
            changed = wanted.changed() => changed,
            () = tokio::time::sleep(RETRY), if failed => Ok(()),
        };
        if changed.is_err() {
            // Nothing else will be wanted; what is open stays open.
            return std::future::pending().await;
        }
    }
}

/// The listeners that are open now.
struct Listeners {
    health: SharedHealth,
    /// What each port answers, shared with the servers.
    answers: Arc<Mutex<BTreeMap<u16, LocalEndpoints>>>,
    servers: BTreeMap<SocketAddr, Server>,
    /// Of all ports together, so that the ports of many Services do not use up the descriptors.
    places: Places,
}

impl Listeners {
    fn new(health: SharedHealth) -> Self {
        Self {
            health,
            answers: Arc::default(),
            servers: BTreeMap::new(),
            places: Places::default(),
        }
    }

    /// Closes what is not wanted, opens what is missing. Returns what cannot be opened.
    fn apply(&mut self, desired: &HealthPorts) -> Vec<Warning> {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&desired.ports);
        let wanted = sockets(desired);
        self.places.set_ports(wanted.len());
        self.servers
            .retain(|address, _| wanted.contains_key(address));
        let mut warnings = Vec::new();
        for (address, service) in wanted {
            if self.servers.contains_key(&address) {
                continue;
            }
            match listen(address) {
                Ok(listener) => {
                    let server = self.start(Listener::Tcp(listener), address.port());
                    self.servers.insert(address, server);
                }
                Err(error) => warnings.push(Warning::new(
                    format!("Service {service}"),
                    format!(
                        "healthCheckNodePort {address} cannot be opened, so load balancers take \
                         this node for unhealthy: {error}; find who listens there with \
                         `ss -lntp`"
                    ),
                )),
            }
        }
        warnings
    }

    fn start(&self, listener: Listener, port: u16) -> Server {
        let (answers, health) = (Arc::clone(&self.answers), self.health.clone());
        Server::start_sharing(listener, self.places.clone(), move |request| {
            let healthy = health.with(|health| health.is_healthy(Moment::now()));
            let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            let response = match answers.get(&port) {
                Some(endpoints) => answer(endpoints, healthy),
                // The port is being closed.
                None => Response::not_found(&request),
            };
            std::future::ready(response)
        })
    }
}

/// Every socket that is wanted, with its Service. All addresses of one family stand in for each
/// single one.
fn sockets(desired: &HealthPorts) -> BTreeMap<SocketAddr, &ObjectName> {
    let all = |v4: bool| {
        desired
            .addresses
            .iter()
            .any(|ip| ip.is_unspecified() && (ip.is_ipv6() || v4))
    };
    let mut sockets = BTreeMap::new();
    for address in &desired.addresses {
        if all(address.is_ipv4()) && !address.is_unspecified() {
            continue;
        }
        // `[::]` takes IPv4 as well.
        if address.is_ipv4() && all(false) {
            continue;
        }
        for (port, endpoints) in &desired.ports {
            sockets.insert(SocketAddr::new(*address, *port), &endpoints.service);
        }
    }
    sockets
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as StdListener;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::health::Health;
    use podwire_kernel::IpFamily;

    fn endpoints(name: &str, count: usize) -> LocalEndpoints {
        LocalEndpoints {
            service: ObjectName {
                namespace: Arc::from("default"),
                name: Arc::from(name),
            },
            count,
        }
    }

    fn ports(addresses: &[&str], ports: &[(u16, &str, usize)]) -> HealthPorts {
        HealthPorts {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            ports: ports
                .iter()
                .map(|(port, name, count)| (*port, endpoints(name, *count)))
                .collect(),
        }
    }

    fn good() -> SharedHealth {
        SharedHealth::new(Health::new(Duration::from_secs(60)))
    }

    /// A port that was free a moment ago, on an address of this test alone.
    fn free_port(ip: &str) -> u16 {
        let listener = StdListener::bind((ip, 0)).unwrap();
        listener.local_addr().unwrap().port()
    }

    /// Nothing if the port is closed, or is closing and resets the connection.
    async fn get(address: (&str, u16)) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        (!text.is_empty()).then_some(text)
    }

    #[test]
    fn the_answer_is_what_load_balancers_expect() {
        let response = answer(&endpoints("web", 2), true);
        assert_eq!(response.status, 200);
        assert_eq!(
            response.body,
            r#"{"service":{"namespace":"default","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#
        );
        let headers: Vec<_> = response
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(
            headers,
            [
                ("content-type", "application/json"),
                ("x-content-type-options", "nosniff"),
                ("x-load-balancing-endpoint-weight", "2"),
            ]
        );
        assert_eq!(answer(&endpoints("web", 0), true).status, 503);
        assert_eq!(answer(&endpoints("web", 2), false).status, 503);
    }

    #[test]
    fn all_addresses_stand_in_for_each_single_one() {
        for (addresses, expected) in [
            (
                vec!["10.0.0.1", "fd00::1"],
                vec!["10.0.0.1:80", "[fd00::1]:80"],
            ),
            (
                vec!["0.0.0.0", "10.0.0.1", "fd00::1"],
                vec!["0.0.0.0:80", "[fd00::1]:80"],
            ),
            (
                vec!["::", "0.0.0.0", "10.0.0.1", "fd00::1"],
                vec!["[::]:80"],
            ),
            (vec!["::", "10.0.0.1"], vec!["[::]:80"]),
        ] {
            let wanted = ports(&addresses, &[(80, "web", 1)]);
            let found: Vec<_> = sockets(&wanted).keys().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn ports_open_change_and_close_with_what_is_wanted() {
        let ip = "127.77.0.1";
        let (one, two) = (free_port(ip), free_port(ip));
        let mut open = Listeners::new(good());
        assert!(
            open.apply(&ports(&[ip], &[(one, "a", 1), (two, "b", 0)]))
                .is_empty()
        );
        let text = get((ip, one)).await.unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.contains("\"name\":\"a\""),
            "{text}"
        );
        let text = get((ip, two)).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        // The same listener answers for another Service with another number.
        assert!(open.apply(&ports(&[ip], &[(two, "c", 3)])).is_empty());
        let text = get((ip, two)).await.unwrap();
        assert!(
            text.contains("\"name\":\"c\"") && text.contains("weight: 3\r\n"),
            "{text}"
        );
        while get((ip, one)).await.is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_unhealthy_agent_makes_every_port_bad() {
        let ip = "127.77.0.2";
        let port = free_port(ip);
        let health = SharedHealth::new(Health::new(Duration::ZERO));
        let mut open = Listeners::new(health.clone());
        open.apply(&ports(&[ip], &[(port, "a", 1)]));
        assert!(get((ip, port)).await.unwrap().contains(" 200 "));
        health.with(|health| health.queued(IpFamily::V4, Moment::now()));
        let text = get((ip, port)).await.unwrap();
        assert!(
            text.contains(" 503 ") && text.contains("\"serviceProxyHealthy\":false"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_in_use_is_a_warning_until_it_is_free_and_the_others_are_served() {
        let ip = "127.77.0.3";
        let foreign = StdListener::bind((ip, 0)).unwrap();
        let (taken, free) = (foreign.local_addr().unwrap().port(), free_port(ip));
        let (sender, wanted) = watch::channel(ports(&[ip], &[(taken, "a", 1), (free, "b", 1)]));
        let (warn, mut warnings) = mpsc::unbounded_channel();
        let serving = tokio::spawn(serve(wanted, good(), warn));
        let wrong = warnings.recv().await.unwrap();
        assert_eq!(wrong.len(), 1);
        assert_eq!(wrong[0].object, "Service default/a");
        assert!(
            wrong[0].text.contains(&format!("{ip}:{taken}")),
            "{}",
            wrong[0].text
        );
        assert!(get((ip, free)).await.is_some());
        drop(foreign);
        assert_eq!(warnings.recv().await.unwrap(), []);
        assert!(get((ip, taken)).await.is_some());
        drop(sender);
        tokio::task::yield_now().await;
        assert!(get((ip, taken)).await.is_some(), "what is open stays open");
        serving.abort();
    }
}
