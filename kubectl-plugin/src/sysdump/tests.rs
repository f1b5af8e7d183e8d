use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::reach::fake::{Fake, Says};
use crate::reach::{Client, Later, Listing, Node, Ran, Reach};
use crate::stream::tests::full_page;

/// A fake cluster with an API server, which has some kinds.
#[derive(Default)]
struct Cluster {
    fake: Fake,
    /// By version and resource.
    objects: BTreeMap<(&'static str, &'static str), Vec<Value>>,
    /// How many commands run now, and how many did at most.
    open: Mutex<(usize, usize)>,
}

impl Reach for Cluster {
    fn nodes(&self) -> Later<'_, Result<Listing, ReachError>> {
        self.fake.nodes()
    }

    fn client(&self, node: &Node) -> Later<'_, Result<Arc<dyn Client>, ReachError>> {
        self.fake.client(node)
    }

    fn run(&self, node: &Node, arguments: &[&str]) -> Later<'_, Result<Ran, ReachError>> {
        let ran = self.fake.run(node, arguments);
        Box::pin(async {
            {
                let mut open = self.open.lock().unwrap();
                open.0 += 1;
                open.1 = open.1.max(open.0);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.open.lock().unwrap().0 -= 1;
            ran.await
        })
    }

    fn logs(&self, node: &Node, previous: bool) -> Later<'_, Result<Option<String>, ReachError>> {
        self.fake.logs(node, previous)
    }

    fn objects(&self, kind: &'static Kind) -> Later<'_, Result<Option<Vec<Value>>, ReachError>> {
        let objects = self.objects.get(&(kind.version, kind.plural)).cloned();
        Box::pin(std::future::ready(Ok(objects)))
    }
}

async fn fleet(reach: impl Reach + 'static) -> Fleet {
    Fleet::assemble(Arc::new(reach)).await.unwrap()
}

/// The files of an archive, without the folder that they are in.
fn files(archive: &Path) -> BTreeMap<String, String> {
    let archive = std::fs::File::open(archive).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(path.split_once('/').unwrap().1.to_owned(), text);
    }
    files
}

async fn dump(reach: impl Reach + 'static) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = Some(directory.path().join("dump.tar.gz"));
    let sysdump = Sysdump { file };
    let path = sysdump.run(&fleet(reach).await, &|_| {}).await.unwrap();
    files(&path)
}

#[tokio::test]
async fn the_archive_has_what_answers_and_a_page_that_says_what_does_not() {
    let mut fake = Fake::of(&["a", "../b"])
        .says("a", "/metrics", Says::Well("podwire 1\n".into()))
        .says(
            "../b",
            "/metrics",
            Says::Badly(503, "busy \u{1b}[2J".into()),
        );
    fake.logs.insert(("a".into(), false), "a line\n".into());
    let files = dump(fake).await;
    assert_eq!(files["nodes/a/metrics.txt"], "podwire 1\n");
    assert_eq!(files["nodes/a/agent.log"], "a line\n");
    assert!(!files.contains_key("nodes/a/agent-before.log"));
    let readme = &files["README.md"];
    assert!(
        readme.contains(r"nodes/__b/metrics.txt: the agent on node ../b says: busy \u{1b}[2J"),
        "{readme}"
    );
    assert!(files.keys().all(|path| !path.contains("..")), "{files:?}");
}

#[tokio::test]
async fn cluster_network_policies_are_read_in_the_version_that_the_cluster_has() {
    const PLURAL: &str = "clusternetworkpolicies";
    let named = |name: &str| vec![json!({"metadata": {"name": name}})];
    for (versions, expected) in [
        (&["v1beta1"][..], "v1beta1"),
        (&["v1alpha2"], "v1alpha2"),
        (&["v1alpha2", "v1beta1"], "v1beta1"),
    ] {
        let has = |version: &&'static str| ((*version, PLURAL), named(version));
        let files = dump(Cluster {
            objects: versions.iter().map(has).collect(),
            ..Cluster::default()
        })
        .await;
        let text = &files["objects/clusternetworkpolicies.yaml"];
        assert!(text.contains(&format!("name: {expected}")), "{text}");
    }
    let none = dump(Cluster::default()).await;
    assert!(!none.contains_key("objects/clusternetworkpolicies.yaml"));
}

#[tokio::test]
async fn what_preflight_complains_of_does_not_spoil_its_answer() {
    let mut fake = Fake::of(&["a", "old"]);
    let ran = Ran {
        output: json!({"ok": true}).to_string(),
        errors: "a warning\n".into(),
        ..Ran::default()
    };
    let key = ("a".to_owned(), "preflight -o json".to_owned());
    fake.commands.insert(key, ran);
    let files = dump(fake).await;
    let answer: Value = serde_json::from_str(&files["nodes/a/preflight.json"]).unwrap();
    assert_eq!(answer, json!({"ok": true}));
    assert_eq!(files["nodes/a/preflight-errors.txt"], "a warning\n");
    assert!(!files.contains_key("nodes/old/preflight.json"));
    let readme = &files["README.md"];
    assert!(
        readme.contains("(status 2: no preflight -o json)"),
        "{readme}"
    );
}

#[tokio::test]
async fn connections_that_come_faster_than_they_are_read_do_not_hold_it_up() {
    let fake = Fake::of(&["a"]).tells("a", "/flows", &full_page()).tells(
        "a",
        "/flows?after=9",
        &full_page(),
    );
    let files = tokio::time::timeout(Duration::from_secs(60), dump(fake));
    let files = files.await.expect("it ends");
    let page: Page = serde_json::from_str(&files["nodes/a/flows.json"]).unwrap();
    assert_eq!(page.flows.len(), ENOUGH);
}

#[tokio::test]
async fn a_file_that_is_there_stays_and_no_one_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump.tar.gz");
    std::fs::write(&path, "mine").unwrap();
    let fake = Arc::new(Fake::of(&["a"]));
    let fleet = Fleet::assemble(fake.clone()).await.unwrap();
    for file in [path.clone(), directory.path().join("no/such.tar.gz")] {
        let file = Some(file);
        let error = Sysdump { file }.run(&fleet, &|_| {}).await.unwrap_err();
        assert!(matches!(error, DeskError::File { .. }), "{error}");
    }
    assert_eq!(fake.made(), 0);
    let there = Sysdump {
        file: Some(path.clone()),
    };
    let error = there.run(&fleet, &|_| {}).await.unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(why, "it is there already; choose another --file");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
}

#[tokio::test(start_paused = true)]
async fn half_an_archive_does_not_stay_in_the_way_of_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump.tar.gz");
    let sysdump = Sysdump {
        file: Some(path.clone()),
    };
    let silent = Fake::of(&["a"]).says("a", "/cluster", Says::Nothing);
    let silent = fleet(silent).await;
    let stopped = tokio::time::timeout(Duration::from_secs(1), sysdump.run(&silent, &|_| {}));
    assert!(stopped.await.is_err());
    assert!(!path.exists());
    let good = fleet(Fake::of(&["a"])).await;
    sysdump.run(&good, &|_| {}).await.unwrap();
    assert!(files(&path).contains_key("README.md"));
}

#[tokio::test(start_paused = true)]
async fn only_a_few_nodes_run_a_command_at_a_time() {
    let names: Vec<String> = (0..3 * AT_A_TIME).map(|node| format!("n{node}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cluster = Arc::new(Cluster {
        fake: Fake::of(&names),
        ..Cluster::default()
    });
    let fleet = Fleet::assemble(cluster.clone()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = Some(directory.path().join("dump.tar.gz"));
    let path = Sysdump { file }.run(&fleet, &|_| {}).await.unwrap();
    assert_eq!(*cluster.open.lock().unwrap(), (0, AT_A_TIME));
    let readme = &files(&path)["README.md"];
    assert_eq!(readme.matches("/preflight.json: ").count(), names.len());
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_two_seconds_says_how_far_it_is() {
    let fake = Fake::of(&["a", "b"]).says("b", "/cluster", Says::Nothing);
    let fleet = fleet(fake).await;
    let begun = tokio::time::Instant::now();
    let told = Mutex::new(Vec::new());
    let tell = |what: &str| {
        let line = (begun.elapsed().as_secs(), what.to_owned());
        told.lock().unwrap().push(line);
    };
    let directory = tempfile::tempdir().unwrap();
    let file = Some(directory.path().join("dump.tar.gz"));
    Sysdump { file }.run(&fleet, &tell).await.unwrap();
    let told = told.into_inner().unwrap();
    let of_step = told
        .iter()
        .filter(|(_, what)| what.starts_with("/cluster "));
    let of_step: Vec<_> = of_step.map(|(at, what)| (*at, what.as_str())).collect();
    let waits = "/cluster of every agent: 1 of 2 nodes";
    assert_eq!(
        of_step,
        [
            (0, "/cluster of every agent"),
            (2, waits),
            (7, waits),
            (12, waits),
            (17, waits),
            (22, waits)
        ]
    );
}
