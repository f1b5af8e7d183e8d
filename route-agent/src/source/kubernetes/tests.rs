//! What is read of the cluster, and what is not.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::*;
use crate::source::kubernetes::fake::{Fake, Reply, fast};

/// The paths that are asked for until everything is listed.
async fn asked(policies: bool) -> BTreeSet<String> {
    let fake = Fake::start((0..200).map(|_| Reply::Nothing)).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "apiVersion: v1\nkind: Config\ncurrent-context: k\n\
         clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\n\
         contexts: [{{name: k, context: {{cluster: k, user: k}}}}]\nusers: [{{name: k, user: {{}}}}]\n",
        fake.port
    )
    .unwrap();
    let options = Options {
        servers: Vec::new(),
        kubeconfig: Some(file.path().to_owned()),
        kubelet_kubeconfig: "/does/not/exist".into(),
        read: None,
        resolved: crate::config::apiserver::Resolved::default(),
    };
    let (inputs, outputs) = mpsc::channel();
    let (_, no_warnings) = async_mpsc::channel(1);
    let source = Kubernetes::find(options, fast(), policies, inputs, no_warnings);
    let source = source.await.unwrap();
    let listed = async {
        while !outputs
            .try_iter()
            .any(|input| matches!(input, Input::Listed))
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = source.run("worker") => panic!("it never ends by itself"),
        done = timeout(Duration::from_secs(20), listed) => done.unwrap(),
    }
    let targets = fake.targets().into_iter();
    let paths = targets.map(|target| target.split('?').next().unwrap().to_owned());
    paths.collect()
}

#[tokio::test]
async fn what_only_policies_ask_is_not_read_if_there_are_none() {
    let always = [
        "/api/v1/nodes",
        "/api/v1/services",
        "/apis/discovery.k8s.io/v1/endpointslices",
        "/apis/networking.k8s.io/v1/servicecidrs",
    ];
    let for_policies = [
        "/api/v1/namespaces",
        "/api/v1/pods",
        "/apis/networking.k8s.io/v1/networkpolicies",
        "/apis/policy.networking.k8s.io/v1beta1/clusternetworkpolicies",
    ];
    let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let without: BTreeSet<String> = set(&always);
    assert_eq!(asked(false).await, without);
    let with: BTreeSet<String> = set(&[&always[..], &for_policies].concat());
    assert_eq!(asked(true).await, with);
}
