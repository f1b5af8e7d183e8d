//! Events against a scripted API server.

use std::sync::mpsc;

use serde_json::Value;

use super::*;
use crate::config::apiserver::Options;
use crate::source::kubernetes::fake::{Fake, Reply, fast, small};
use crate::source::kubernetes::server::Timing;
use crate::warnings::Warning;

const UID: &str = r#"{"items":[{"metadata":{"uid":"the-uid"}}]}"#;

/// What the server was asked, with its answers given, after all of these warnings.
async fn requests_after(warnings: &[Warning], replies: Vec<Reply>) -> Vec<(String, Value)> {
    requests_after_notices(warnings.iter().map(Notice::from).collect(), replies).await
}

/// The same after all of these notices.
async fn requests_after_notices(notices: Vec<Notice>, replies: Vec<Reply>) -> Vec<(String, Value)> {
    let fake = Fake::start(replies).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: k\n\
         clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\n\
         contexts: [{{name: k, context: {{cluster: k, user: k}}}}]\nusers: [{{name: k, user: {{}}}}]\n",
        fake.port
    );
    std::fs::write(file.path(), kubeconfig).unwrap();
    let options = Options {
        servers: Vec::new(),
        kubeconfig: Some(file.path().to_owned()),
        kubelet_kubeconfig: "/does/not/exist".into(),
        read: None,
        resolved: crate::config::apiserver::Resolved::default(),
    };
    let (inputs, _unread) = mpsc::channel();
    // No answer is cut short by time: each has another end.
    let timing = Timing {
        answer: Duration::from_secs(600),
        ..fast()
    };
    let server = ApiServer::find(options, timing, inputs).await.unwrap();
    let server = server.with_limits(small());
    let (sender, queue) = tokio::sync::mpsc::channel(QUEUE);
    for notice in notices {
        sender.send(notice).await.unwrap();
    }
    drop(sender);
    let publishing = publish(&server, "worker", queue);
    let done = timeout(Duration::from_secs(20), publishing).await;
    assert!(done.is_ok(), "an answer has no end");
    let script = fake.script.lock().unwrap();
    script
        .asked
        .iter()
        .map(|asked| {
            let body = serde_json::from_str(&asked.body).unwrap_or(Value::Null);
            (asked.target.clone(), body)
        })
        .collect()
}

#[tokio::test]
async fn a_bad_service_becomes_one_event_that_kubectl_describe_finds() {
    let warning = Warning::new("Service default/web", "is bad");
    let replies = vec![
        Reply::Full(200, UID.to_owned()),
        Reply::Full(201, "{}".to_owned()),
    ];
    let asked = requests_after(&[warning], replies).await;
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(
        asked[0].0,
        "/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dweb"
    );
    let (target, event) = &asked[1];
    assert_eq!(target, "/api/v1/namespaces/default/events");
    assert_eq!(event["involvedObject"]["uid"], "the-uid");
    assert_eq!(event["involvedObject"]["kind"], "Service");
    assert_eq!(event["message"], "is bad");
    assert_eq!(event["source"]["host"], "worker");
}

#[tokio::test]
async fn events_about_nodes_are_in_the_default_namespace() {
    let replies = vec![
        Reply::Full(200, UID.to_owned()),
        Reply::Full(201, "{}".to_owned()),
    ];
    let asked = requests_after(&[Warning::new("Node worker", "has no podCIDR")], replies).await;
    assert_eq!(asked[1].0, "/api/v1/namespaces/default/events");
    assert_eq!(asked[1].1["involvedObject"].get("namespace"), None);
}

#[tokio::test]
async fn what_is_gone_refused_or_not_an_object_does_not_stop_the_next() {
    let warnings = [
        Warning::new("uplink", "is not known"),
        Warning::new("Service a/gone", "x"),
        Warning::new("Service a/refused", "x"),
        Warning::new("Service without a name", "x"),
        Warning::new("Service a/known", "x"),
    ];
    let replies = vec![
        Reply::Full(200, r#"{"items":[]}"#.to_owned()),
        Reply::Full(403, "{}".to_owned()),
        Reply::Full(200, UID.to_owned()),
        Reply::Full(409, "{}".to_owned()),
    ];
    let asked = requests_after(&warnings, replies).await;
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert_eq!(asked[3].0, "/api/v1/namespaces/a/events");
}

#[tokio::test]
async fn an_answer_without_end_is_read_up_to_a_limit_and_the_next_event_comes() {
    let warnings = ["Service a/endless", "Service a/known"].map(|name| Warning::new(name, "x"));
    let replies = vec![
        Reply::Endless(vec![b' '; 1000], Duration::ZERO),
        Reply::Full(200, UID.to_owned()),
        Reply::Full(201, "{}".to_owned()),
    ];
    let asked = requests_after(&warnings, replies).await;
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert_eq!(asked[2].0, "/api/v1/namespaces/a/events");
}

#[tokio::test]
async fn an_object_that_changes_all_the_time_has_some_events_and_the_next_object_has_its_own() {
    let mut warnings: Vec<Warning> = (0..40)
        .map(|number| Warning::new("Service a/web", format!("bad value {number}")))
        .collect();
    warnings.push(Warning::new("Service b/web", "x"));
    let replies = (0..11).flat_map(|_| {
        let created = Reply::Full(201, "{}".to_owned());
        [Reply::Full(200, UID.to_owned()), created]
    });
    let asked = requests_after(&warnings, replies.collect()).await;
    assert_eq!(asked.len(), 22, "{asked:?}");
    assert_eq!(asked[21].0, "/api/v1/namespaces/b/events");
}

#[test]
fn an_object_has_a_limit_over_time_and_all_together_have_one() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut start = Instant::now();
    let mut allowances = Allowances::default();
    // Within an hour each.
    let mut events = |times: u32, objects: u32| {
        let allowed = (0..times).filter(|time| {
            let object = format!("Service a/{}", time % objects);
            allowances.once_more(&object, "Warned", start + HOUR * *time / times)
        });
        let allowed = allowed.count();
        start += 2 * HOUR;
        allowed
    };
    assert_eq!(events(100_000, 1), 10 + 11);
    // An honest one, and many of these: each is told.
    assert_eq!(events(12, 1), 12);
    assert_eq!(events(500, 500), 500);
    let more = u32::try_from(REMEMBERED).unwrap() + 1;
    assert_eq!(events(100_000, more), 200 + 359);
    assert_eq!(allowances.objects.len(), REMEMBERED);
    for (other, reason, allowed) in [("b", "Warned", 0), ("c", "Dropped", 200)] {
        let all = (0..300).map(|number| format!("Pod {other}/{number}"));
        // The first takes what an hour has given back.
        let again = all.filter(|object| allowances.once_more(object, reason, start - HOUR));
        assert_eq!(
            again.skip(1).count(),
            usize::saturating_sub(allowed, 1),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_dropped_packet_becomes_an_event_of_its_pod_with_a_reason_of_its_own() {
    let notice = Notice {
        warning: Warning::new("Pod shop/db-0", "tcp 80 from 10.10.2.9 was dropped"),
        reason: "NetworkPolicyDenied",
        moment: 7,
    };
    let replies = vec![
        Reply::Full(200, UID.to_owned()),
        Reply::Full(201, "{}".to_owned()),
    ];
    let asked = requests_after_notices(vec![notice], replies).await;
    let pods = "/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Ddb-0";
    assert_eq!(asked[0].0, pods);
    let event = &asked[1].1;
    assert_eq!(event["reason"], "NetworkPolicyDenied");
    assert_eq!(event["involvedObject"]["kind"], "Pod");
    assert_eq!(event["involvedObject"]["uid"], "the-uid");
}

#[test]
fn the_name_is_the_same_on_every_node_and_differs_by_trouble_and_object() {
    let name = |object: &str, text: &str| {
        let notice = Notice::from(&Warning::new(object, text));
        Subject::of(object).unwrap().event_name(&notice)
    };
    let web = name("Service default/web", "is bad");
    assert_eq!(web, name("Service default/web", "is bad"));
    assert!(web.starts_with("web."), "{web}");
    assert_ne!(web, name("Service default/web", "is worse"));
    assert_ne!(web, name("EndpointSlice default/web", "is bad"));
    let again = Notice {
        moment: 5,
        ..Notice::from(&Warning::new("Service default/web", "is bad"))
    };
    let subject = Subject::of("Service default/web").unwrap();
    assert_ne!(web, subject.event_name(&again));
    let long = format!("Node {}-{}", "a".repeat(235), "b".repeat(17));
    let long = name(&long, "x");
    assert!(long.len() <= 253 && long.starts_with(&format!("{}.", "a".repeat(235))));
}

#[test]
fn names_that_would_change_the_request_are_not_a_subject() {
    for object in [
        "Service a/b?c",
        "Service a/../b",
        "Node a%2f",
        "Secret a/b",
        "Node ",
        "Service /a",
    ] {
        assert_eq!(Subject::of(object), None, "{object:?}");
    }
}
