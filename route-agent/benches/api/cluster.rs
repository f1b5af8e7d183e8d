//! The objects: what a cluster is filled with, and single changes of it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::{Method, Request};
use kube::{Client, Config};
use serde_json::{Value, json};

/// How many requests are under way at a time while the cluster is filled.
const AT_ONCE: usize = 64;

/// A cluster that holds `services` Services with `endpoints` endpoints each, and no others.
pub struct Cluster {
    client: Client,
    pub services: usize,
    pub endpoints: usize,
}

/// A single change: the new address, when it was asked for, and when the API server had answered.
pub struct Change {
    pub address: Ipv4Addr,
    pub asked: Instant,
    pub answered: Instant,
}

impl Cluster {
    pub async fn connect(kubeconfig: &Path, services: usize, endpoints: usize) -> Self {
        assert!(
            services <= 60_000,
            "10.200.0.0/16 has no addresses for {services} Services"
        );
        let all = services * endpoints;
        assert!(
            all <= 500_000,
            "10.64.0.0/13 has no addresses for {all} endpoints"
        );
        let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
        Self {
            client: Client::try_from(config.unwrap()).unwrap(),
            services,
            endpoints,
        }
    }

    /// The number of endpoints is part of the name: objects of another shape are another namespace's.
    fn namespace(&self) -> String {
        format!("bench-x{}", self.endpoints)
    }

    fn services_path(&self) -> String {
        format!("/api/v1/namespaces/{}/services", self.namespace())
    }

    fn slices_path(&self) -> String {
        let namespace = self.namespace();
        format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")
    }

    /// Creates what is missing, many requests at a time, and tells how far it is.
    pub async fn fill(&self) {
        self.refuse_others().await;
        let namespace = json!({"metadata": {"name": self.namespace()}});
        let status = self
            .ask(Method::POST, "/api/v1/namespaces", &namespace)
            .await;
        assert!(
            matches!(status, 201 | 409),
            "{}: {status}",
            self.namespace()
        );

        let (services, slices) = (self.services_path(), self.slices_path());
        let there = (self.names(&services).await, self.names(&slices).await);
        let mut missing = Vec::new();
        for number in 0..self.services {
            let name = name(number);
            if !there.0.contains(&name) {
                missing.push((services.clone(), service(number)));
            }
            if !there.1.contains(&name) {
                missing.push((slices.clone(), slice(number, self.endpoints)));
            }
        }
        let (total, began) = (missing.len(), Instant::now());
        let (mut tasks, mut told) = (tokio::task::JoinSet::new(), began);
        for (done, (path, object)) in missing.into_iter().enumerate() {
            if tasks.len() >= AT_ONCE {
                let created: Result<(), _> = tasks.join_next().await.unwrap();
                created.unwrap();
            }
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                let speed = done as f64 / began.elapsed().as_secs_f64();
                eprintln!("{done} of {total} objects created, {speed:.0} a second");
            }
            let client = self.client.clone();
            tasks.spawn(async move {
                let status = ask(&client, Method::POST, &path, &object).await;
                assert_eq!(status, 201, "{path} {}", object["metadata"]["name"]);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let took = began.elapsed().as_secs_f64();
        eprintln!("{total} objects created in {took:.0} s");
    }

    /// A cluster with other Services would be measured with those.
    async fn refuse_others(&self) {
        let ours = self.namespace();
        for namespace in self.names("/api/v1/namespaces").await {
            if namespace != ours && namespace.starts_with("bench-x") {
                panic!(
                    "the cluster is filled in another shape ({namespace}): delete the namespace"
                );
            }
        }
        let extra = self.names(&self.services_path()).await;
        let extra = extra.iter().filter(|&found| *found >= name(self.services));
        let extra = extra.count();
        assert!(
            extra == 0,
            "the cluster holds {extra} Services more: ask for more, or delete {ours}"
        );
    }

    /// The names of all objects at this path.
    async fn names(&self, path: &str) -> BTreeSet<String> {
        let request = Request::get(path)
            .header(
                "accept",
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            )
            .body(Vec::new())
            .unwrap();
        let list: Value = self.client.request(request).await.unwrap();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        items.iter().filter_map(name).collect()
    }

    /// Gives the first endpoint of a Service the other one of the two addresses that it can have.
    pub async fn change(&self, service: usize) -> Change {
        let path = format!("{}/{}", self.slices_path(), name(service));
        let request = Request::get(&path).body(Vec::new()).unwrap();
        let slice: Value = self.client.request(request).await.unwrap();
        let (first, other) = (
            address(service, 0, self.endpoints, 64),
            address(service, 0, self.endpoints, 192),
        );
        let mut endpoints = slice["endpoints"].clone();
        let new = if endpoints[0]["addresses"][0] == first.as_str() {
            other
        } else {
            first
        };
        endpoints[0] = endpoint(&new);
        let asked = Instant::now();
        let status = self
            .ask(Method::PATCH, &path, &json!({"endpoints": endpoints}))
            .await;
        let answered = Instant::now();
        assert_eq!(status, 200, "{path}");
        Change {
            address: new.parse().unwrap(),
            asked,
            answered,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> u16 {
        ask(&self.client, method, path, body).await
    }
}

async fn ask(client: &Client, method: Method, path: &str, body: &Value) -> u16 {
    let kind = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(kube::client::Body::from(serde_json::to_vec(body).unwrap()))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect_bytes().await.unwrap();
    status
}

fn name(number: usize) -> String {
    format!("service-{number:05}")
}

/// With an address of our choice, 10.200.1.1 and on: the API server need not look for one.
fn service(number: usize) -> Value {
    json!({
        "metadata": {"name": name(number)},
        "spec": {
            "clusterIP": format!("10.200.{}.{}", number / 250 + 1, number % 250 + 1),
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    })
}

fn slice(number: usize, endpoints: usize) -> Value {
    let places = (0..endpoints).map(|place| endpoint(&address(number, place, endpoints, 64)));
    json!({
        "metadata": {"name": name(number), "labels": {"kubernetes.io/service-name": name(number)}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": places.collect::<Vec<_>>(),
    })
}

fn endpoint(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "elsewhere"})
}

/// One address after another from 10.`net`.0.1 on; 64 for the first ones, 192 for the others.
fn address(service: usize, place: usize, endpoints: usize, net: usize) -> String {
    let number = service * endpoints + place;
    let (net, host) = (net + number / 62_500, number % 250 + 1);
    format!("10.{net}.{}.{host}", number / 250 % 250)
}

/// Is this one of the endpoints' addresses?
pub fn is_endpoint(address: Ipv4Addr) -> bool {
    let [first, net, ..] = address.octets();
    first == 10 && ((64..72).contains(&net) || (192..200).contains(&net))
}
