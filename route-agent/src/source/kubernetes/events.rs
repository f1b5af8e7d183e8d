//! Kubernetes Events about objects that are wrong, so that `kubectl describe` shows it where
//! people look first.
//!
//! Every node sees the same bad object. The Event's name is made of the object and the text, so the
//! API server keeps the first of them and refuses the others: one Event per object and trouble, in
//! a cluster of any size. Each Event is created once and not retried: the log, `podwire-agent
//! status` and `podwire_warnings` hold everything in any case.
//!
//! Who may change an object can make as many texts about it as there is time, and every node would
//! ask the API server for each. So there is a limit for each object, as client-go has one, and one for
//! all together: who may make objects can make more of them than are remembered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use hyper::http::{Method, Request, StatusCode};
use kube::client::Body;
use podwire::hash::fnv1a;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::backoff::random_fraction;
use crate::clock::rfc3339;
use crate::source::kubernetes::server::ApiServer;
use crate::source::kubernetes::wire::start_of;
use crate::source::objects::nullable;
use crate::text;
use crate::warnings::{Notice, Used};

/// Notices that wait to become Events; any beyond that number do not become Events. Drops may have half
/// of the places.
pub const QUEUE: usize = 64;
/// Events about one object at once.
const AT_ONCE: u32 = 10;
/// After this long there may be another one about it.
const NEXT: Duration = Duration::from_secs(300);
/// Events about all objects at once, for one reason.
const ALL_AT_ONCE: u32 = 200;
/// After this long there may be another one about any: some 8,600 in a day.
const NEXT_OF_ALL: Duration = Duration::from_secs(10);
/// Objects of which it is remembered how many Events they had.
const REMEMBERED: usize = 1000;
/// The API server does not accept a longer message.
const LONGEST_MESSAGE: usize = 1024;
/// A name may have 253 bytes; a dot and sixteen digits follow the object's.
const LONGEST_NAME: usize = 236;

/// An object that Events can be about.
#[derive(Debug, PartialEq)]
struct Subject<'a> {
    kind: &'a str,
    api_version: &'static str,
    /// Where objects of this kind and namespace are listed.
    path: String,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl<'a> Subject<'a> {
    /// The object that a warning names: `Node worker`, `Service default/web`. `None` for what is
    /// not an object of the cluster.
    fn of(object: &'a str) -> Option<Self> {
        let (kind, name) = object.split_once(' ')?;
        let (api_version, prefix, plural) = match kind {
            "Node" => ("v1", "/api/v1", "nodes"),
            "Service" => ("v1", "/api/v1", "services"),
            "Pod" => ("v1", "/api/v1", "pods"),
            "NetworkPolicy" => (
                "networking.k8s.io/v1",
                "/apis/networking.k8s.io/v1",
                "networkpolicies",
            ),
            // Where a cluster has but the version before it, there is no Event.
            "ClusterNetworkPolicy" => (
                "policy.networking.k8s.io/v1beta1",
                "/apis/policy.networking.k8s.io/v1beta1",
                "clusternetworkpolicies",
            ),
            "EndpointSlice" => (
                "discovery.k8s.io/v1",
                "/apis/discovery.k8s.io/v1",
                "endpointslices",
            ),
            "ServiceCIDR" => (
                "networking.k8s.io/v1",
                "/apis/networking.k8s.io/v1",
                "servicecidrs",
            ),
            _ => return None,
        };
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, name),
        };
        let is_name = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
        };
        if !is_name(name) || !namespace.is_none_or(is_name) {
            return None;
        }
        let path = match namespace {
            Some(namespace) => format!("{prefix}/namespaces/{namespace}/{plural}"),
            None => format!("{prefix}/{plural}"),
        };
        Some(Self {
            kind,
            api_version,
            path,
            namespace,
            name,
        })
    }

    /// The same on every node, and another for another trouble.
    fn event_name(&self, notice: &Notice) -> String {
        let namespace = self.namespace.unwrap_or("");
        let mut whole = [self.kind, namespace, self.name, &notice.warning.text].join("\0");
        if notice.moment != 0 {
            whole += &format!("\0{}", notice.moment);
        }
        let stem = &self.name[..self.name.len().min(LONGEST_NAME)];
        let stem = stem.trim_end_matches(['-', '.']);
        format!("{stem}.{:016x}", fnv1a(whole.bytes()))
    }
}

/// What is used up of the limits.
#[derive(Debug, Default)]
struct Allowances {
    /// By object, the one that was asked for last at the end.
    objects: Vec<(String, Used)>,
    /// Of all objects together, by reason: whoever has packets dropped has no warning withheld.
    all: BTreeMap<&'static str, Used>,
}

impl Allowances {
    /// Whether there may be one more Event about an object.
    fn once_more(&mut self, object: &str, reason: &'static str, now: Instant) -> bool {
        let known = self.objects.iter().position(|(name, _)| name == object);
        let (name, mut used) = match known {
            Some(place) => self.objects.remove(place),
            None => (object.to_owned(), Used::nothing(now)),
        };
        if self.objects.len() >= REMEMBERED {
            self.objects.remove(0);
        }
        let may = used.once_more(AT_ONCE, NEXT, now);
        self.objects.push((name, used));
        let all = self.all.entry(reason).or_insert(Used::nothing(now));
        may && all.once_more(ALL_AT_ONCE, NEXT_OF_ALL, now)
    }
}

/// Creates an Event for every notice about an object, until all senders are gone, within the limits.
/// `node` is the name under which this agent reports.
pub async fn publish(server: &ApiServer, node: &str, mut notices: Receiver<Notice>) {
    let mut allowances = Allowances::default();
    while let Some(notice) = notices.recv().await {
        let object = &notice.warning.object;
        let Some(subject) = Subject::of(object) else {
            continue;
        };
        if !allowances.once_more(object, notice.reason, Instant::now()) {
            debug!(object, "no Event: there were too many");
            continue;
        }
        // All nodes see the same object at the same moment; the pause keeps them from asking the
        // API server all at once.
        sleep(server.timing().event_pause.mul_f64(random_fraction())).await;
        if let Err(why) = create(server, node, &subject, &notice).await {
            debug!(object, why, "no Event");
        }
    }
}

async fn create(
    server: &ApiServer,
    node: &str,
    subject: &Subject<'_>,
    notice: &Notice,
) -> Result<(), String> {
    let Some(uid) = uid(server, subject).await? else {
        return Ok(());
    };
    let namespace = subject.namespace.unwrap_or("default");
    let now = rfc3339(SystemTime::now());
    let mut involved = json!({
        "apiVersion": subject.api_version,
        "kind": subject.kind,
        "name": subject.name,
        "uid": uid,
    });
    if let Some(namespace) = subject.namespace {
        involved["namespace"] = namespace.into();
    }
    let event = json!({
        "metadata": {"name": subject.event_name(notice), "namespace": namespace},
        "involvedObject": involved,
        "reason": notice.reason,
        "message": text::start(&notice.warning.text, LONGEST_MESSAGE),
        "type": "Warning",
        "source": {"component": "podwire", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let (status, _) = ask(server, Method::POST, &path, event.to_string()).await?;
    match status {
        // Another node, or this agent before its restart, has created it.
        StatusCode::CONFLICT => Ok(()),
        status if status.is_success() => Ok(()),
        status => Err(format!("{path}: {status}")),
    }
}

/// The object's uid, by which `kubectl describe` finds its Events; `None` if it is gone. Asked as
/// a list of one, so that the right to list is enough.
async fn uid(server: &ApiServer, subject: &Subject<'_>) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default, deserialize_with = "nullable")]
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: String,
    }
    let path = format!(
        "{}?fieldSelector=metadata.name%3D{}",
        subject.path, subject.name
    );
    let (status, body) = ask(server, Method::GET, &path, String::new()).await?;
    if status != StatusCode::OK {
        return Err(format!("{path}: {status}"));
    }
    let list: List = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok(list.items.into_iter().next().map(|item| item.metadata.uid))
}

async fn ask(
    server: &ApiServer,
    method: Method,
    path: &str,
    body: String,
) -> Result<(StatusCode, Vec<u8>), String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.into_bytes()))
        .map_err(|error| error.to_string())?;
    let (client, _) = server.client();
    let answer = async {
        let answer = client.send(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        // As much as the one object that is asked for can be.
        let body = start_of(answer.into_body(), server.limits().object_bytes).await;
        Ok((status, body))
    };
    let limit: Duration = server.timing().answer;
    timeout(limit, answer)
        .await
        .map_err(|_| "no answer in time".to_owned())?
}

#[cfg(test)]
mod tests;
