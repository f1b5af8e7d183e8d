//! What `docs/security.md` says: the tests that it names are there, and the manifests reach no
//! further than they must.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust code below a folder.
fn code_below(folder: &Path) -> String {
    let mut code = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code.push_str(&code_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
    code
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let page = fs::read_to_string(repository().join("docs/security.md")).unwrap();
    let folders = [
        "tests/tests",
        "route-agent/src",
        "route-agent/tests",
        "cni-plugin/src",
        "cni-plugin/tests",
        "kubectl-plugin/src",
        "kernel/src",
    ];
    let code: String = folders
        .map(|at| code_below(&repository().join(at)))
        .concat();
    let words = page.split('`').skip(1).step_by(2);
    // Settings and files have fewer words.
    let names: Vec<&str> = words
        .filter(|word| word.split('_').count() > 4 && !word.contains(['.', ':', '/']))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(
            code.contains(&format!("fn {name}(")),
            "there is no test {name}"
        );
    }
}

/// In MiB; the most that was measured, with its nftables (docs/security.md), and half of that again.
const LEAST_MEMORY: u32 = 300;

#[test]
fn the_agent_has_a_memory_limit_that_the_worst_measured_case_fits() {
    let text = fs::read_to_string(repository().join("conf/install.yaml")).unwrap();
    let (_, agent) = text.split_once("- name: agent\n").unwrap();
    let (_, limits) = agent.split_once("limits: {memory: ").unwrap();
    let limit: u32 = limits.split("Mi}").next().unwrap().parse().unwrap();
    assert!(limit >= LEAST_MEMORY, "{limit} MiB");
}

#[test]
fn the_manifests_mount_no_directory_with_the_sockets_of_others() {
    let mut mounts = 0;
    for manifest in ["conf/install.yaml", "conf/uninstall.yaml"] {
        let text = fs::read_to_string(repository().join(manifest)).unwrap();
        for part in text.split("hostPath: {path: ").skip(1) {
            let path = part.split([',', '}']).next().unwrap().trim();
            let ours = ["/run/podwire", "/etc/cni", "/opt/cni", "/proc/sys/net"];
            let narrow = ours.iter().any(|ours| Path::new(path).starts_with(ours));
            let kubelet = Path::new(path).starts_with("/etc/kubernetes");
            assert!(narrow || kubelet, "{manifest} mounts {path}");
            mounts += 1;
        }
        assert!(
            !text.contains("hostPath:\n"),
            "{manifest}: another form of mount"
        );
    }
    assert!(mounts >= 6, "only {mounts} mounts were found");
}
