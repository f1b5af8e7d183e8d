//! The commands that take Podwire off a cluster.

use crate::objects::read;

/// The commands of a text that do this, as they are typed in the namespace kube-system.
fn commands(text: &str, what: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches(['#', ' ']));
    let told = lines.filter(|line| line.starts_with("kubectl ") && line.contains(what));
    told.map(|line| {
        line.replace("{{ .Release.Namespace }}", "kube-system")
            .replace("\"$root/conf/", "")
            .replace("install.yaml\"", "install.yaml")
            .replace(" >/dev/null", "")
    })
    .collect()
}

#[test]
fn users_are_told_the_commands_that_make_leave_runs() {
    let runs = read("tests/kind/leave.sh");
    let told = [
        read("conf/uninstall.yaml"),
        read("conf/helm/podwire/templates/NOTES.txt"),
    ];
    for (what, count) in [(" logs -l ", 2), (" delete -f ", 1)] {
        let told = told.iter().flat_map(|text| commands(text, what));
        let told: Vec<String> = told.collect();
        assert_eq!(told, commands(&runs, what));
        assert_eq!(told.len(), count, "{told:?}");
    }
}
