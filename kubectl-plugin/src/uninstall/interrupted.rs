//! `uninstall` against an API server that fails once, at each of its changes in turn.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use tokio::net::TcpListener;

use super::*;
use crate::reach::api::Target;

const SETS: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const CORE: &str = "/api/v1/namespaces/kube-system";

/// What the server has, and what was asked of it.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    /// Changes that were asked for.
    changes: usize,
    /// Which of them fails.
    fails: Option<usize>,
    /// Whether the cleaners were let go while agents were there.
    met: bool,
    /// Whether the cleaners were ever let go.
    cleaned: bool,
}

type Shared = Arc<Mutex<Server>>;

impl Server {
    /// A cluster with agents.
    fn new() -> Self {
        let agents = json!({
            "metadata": {"name": AGENTS},
            "spec": {"selector": {}, "template": {"spec": {"containers": [
                {"name": "agent", "image": "registry.example/podwire:9"},
            ]}}},
        });
        let mut objects = BTreeMap::from([(format!("{SETS}/{AGENTS}"), agents)]);
        for rest in [
            format!("{CORE}/serviceaccounts/{AGENTS}"),
            format!("{CORE}/configmaps/{AGENTS}"),
            format!("{RBAC}/clusterroles/{AGENTS}"),
            format!("{RBAC}/clusterrolebindings/{AGENTS}"),
        ] {
            objects.insert(rest, json!({"metadata": {"name": AGENTS}}));
        }
        Self {
            objects,
            ..Self::default()
        }
    }

    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        if path.ends_with("/pods") {
            return (StatusCode::OK, json!({"metadata": {}, "items": []}));
        }
        if *method != Method::GET {
            self.changes += 1;
            if self.fails == Some(self.changes) {
                return refusal(StatusCode::INTERNAL_SERVER_ERROR);
            }
        }
        let sent = || serde_json::from_slice::<Value>(body).unwrap();
        match *method {
            Method::GET => match self.objects.get(path) {
                Some(found) => (StatusCode::OK, with_status(found)),
                None => refusal(StatusCode::NOT_FOUND),
            },
            Method::POST => {
                let made = sent();
                let name = made["metadata"]["name"].as_str().unwrap();
                self.objects.insert(format!("{path}/{name}"), made.clone());
                (StatusCode::CREATED, made)
            }
            Method::PATCH => {
                let Some(there) = self.objects.get_mut(path) else {
                    return refusal(StatusCode::NOT_FOUND);
                };
                let selector = &mut there["spec"]["template"]["spec"]["nodeSelector"];
                let asked = sent();
                let asked = &asked["spec"]["template"]["spec"]["nodeSelector"];
                for name in asked.as_object().unwrap().keys() {
                    selector.as_object_mut().unwrap().remove(name);
                }
                let changed = there.clone();
                self.cleaned = true;
                self.met |= self.objects.contains_key(&format!("{SETS}/{AGENTS}"));
                (StatusCode::OK, changed)
            }
            _ => match self.objects.remove(path) {
                Some(gone) => (StatusCode::OK, gone),
                None => refusal(StatusCode::NOT_FOUND),
            },
        }
    }
}

fn refusal(code: StatusCode) -> (StatusCode, Value) {
    let reason = match code {
        StatusCode::NOT_FOUND => "NotFound",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
        "message": "no", "code": code.as_u16(),
    });
    (code, status)
}

/// As the controller would have it: a pod is ready on both nodes, unless the set fits none.
fn with_status(set: &Value) -> Value {
    let mut set = set.clone();
    let waits = !set["spec"]["template"]["spec"]["nodeSelector"][WAITS].is_null();
    let pods = if waits { 0 } else { 2 };
    set["metadata"]["generation"] = 1.into();
    set["status"] = json!({
        "observedGeneration": 1, "desiredNumberScheduled": pods, "numberReady": pods,
        "currentNumberScheduled": pods, "numberMisscheduled": 0,
    });
    set
}

async fn serve(server: &Shared, directory: &tempfile::TempDir) -> Arc<ApiReach> {
    let answer = |State(server): State<Shared>, method: Method, uri: Uri, body: Bytes| async move {
        let (code, body) = server.lock().unwrap().answer(&method, uri.path(), &body);
        (code, body.to_string())
    };
    let router = Router::new().fallback(answer).with_state(server.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let kubeconfig = directory.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \
         'http://{address}'}}}}]\nusers: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: \
         {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let target = Target {
        namespace: "kube-system".into(),
        kubeconfig: Some(kubeconfig),
        context: None,
    };
    Arc::new(ApiReach::new(&target).await.unwrap())
}

const YES: Uninstall = Uninstall {
    dry_run: false,
    yes: true,
    pods: false,
};

#[tokio::test]
async fn wherever_a_run_stops_the_same_command_goes_on_from_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut stops = 0;
    loop {
        let server = Arc::new(Mutex::new(Server::new()));
        server.lock().unwrap().fails = Some(stops + 1);
        let reach = serve(&server, &directory).await;
        let first = YES.run(&reach, &|_| {}).await;
        if first.is_ok() {
            break;
        }
        YES.run(&reach, &|_| {})
            .await
            .unwrap_or_else(|error| panic!("stopped at change {}: {error}", stops + 1));
        let server = server.lock().unwrap();
        assert!(server.objects.is_empty(), "{:?}", server.objects.keys());
        assert!(server.cleaned && !server.met, "stopped at {}", stops + 1);
        stops += 1;
    }
    // The cleaners made and let go, two sets and the four of the rest deleted.
    assert_eq!(stops, 8);
}

#[tokio::test]
async fn cleaners_that_were_let_go_before_agents_came_again_clean_once_more() {
    let directory = tempfile::tempdir().unwrap();
    let server = Arc::new(Mutex::new(Server::new()));
    let reach = serve(&server, &directory).await;
    let old = json!({
        "metadata": {"name": CLEANERS},
        "spec": {"selector": {}, "template": {"spec": {"containers": [
            {"name": "uninstall", "image": "old"},
        ]}}},
    });
    let at = format!("{SETS}/{CLEANERS}");
    server.lock().unwrap().objects.insert(at, old);
    YES.run(&reach, &|_| {}).await.map(drop).unwrap();
    let server = server.lock().unwrap();
    assert!(server.objects.is_empty() && server.cleaned && !server.met);
}
