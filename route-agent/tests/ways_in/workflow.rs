//! The workflow for a public forge: what a linter of its syntax does not ask.

use serde_json::Value;

use crate::objects::{read, repository, yaml};

fn workflows() -> Vec<(String, Value)> {
    let folder = std::fs::read_dir(repository().join(".github/workflows")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let all: Vec<_> = names
        .map(|name| {
            let text = yaml(&read(&format!(".github/workflows/{name}")));
            (name, text)
        })
        .collect();
    assert!(!all.is_empty());
    all
}

fn jobs(workflow: &Value) -> impl Iterator<Item = (&String, &Value)> {
    workflow["jobs"].as_object().unwrap().iter()
}

fn steps(job: &Value) -> impl Iterator<Item = &Value> {
    job["steps"].as_array().unwrap().iter()
}

#[test]
fn every_action_is_pinned_to_a_commit() {
    for (name, workflow) in workflows() {
        for used in jobs(&workflow)
            .flat_map(|(_, job)| steps(job))
            .filter_map(|step| step["uses"].as_str())
        {
            let commit = used.split_once('@').unwrap().1;
            let is_commit = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_commit, "{name}: {used}");
        }
    }
}

#[test]
fn only_the_release_may_write_and_only_on_a_tag() {
    for (name, workflow) in workflows() {
        assert_eq!(
            workflow["permissions"].as_object().unwrap().len(),
            0,
            "{name}: none for all"
        );
        for (job_name, job) in jobs(&workflow) {
            let permissions = job["permissions"].as_object().unwrap();
            let writes = permissions.values().any(|it| it == "write");
            assert_eq!(writes, job_name == "release", "{name}: {job_name}");
            if writes {
                let when = job["if"].as_str().unwrap();
                assert!(
                    when.contains("startsWith(github.ref, 'refs/tags/v')"),
                    "{when}"
                );
            }
            assert!(job["timeout-minutes"].is_number(), "{name}: {job_name}");
        }
    }
}

#[test]
fn a_checkout_leaves_no_credentials_behind() {
    for (name, workflow) in workflows() {
        for step in jobs(&workflow).flat_map(|(_, job)| steps(job)) {
            if step["uses"]
                .as_str()
                .is_some_and(|it| it.starts_with("actions/checkout@"))
            {
                assert_eq!(step["with"]["persist-credentials"], false, "{name}");
            }
        }
    }
}

#[test]
fn scripts_take_what_others_write_from_the_environment_only() {
    for (name, workflow) in workflows() {
        for script in jobs(&workflow)
            .flat_map(|(_, job)| steps(job))
            .filter_map(|step| step["run"].as_str())
        {
            assert!(!script.contains("${{"), "{name}: {script}");
        }
    }
}
