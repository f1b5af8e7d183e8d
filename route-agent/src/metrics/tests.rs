mod alerts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::clock::Moment;
use crate::report::DeniedReport;

fn at(unix_milliseconds: u64) -> Moment {
    Moment {
        wall: UNIX_EPOCH + Duration::from_millis(unix_milliseconds),
        ..Moment::now()
    }
}

/// Metrics with at least one value under every name.
fn filled() -> Metrics {
    let metrics = Metrics::default();
    let (v4, now) = (IpFamily::V4, at(2_000_500));
    let proxy = &metrics.proxy;
    proxy.queued(v4, now);
    proxy.synced(v4, true, Duration::from_millis(3), now);
    proxy.synced(v4, false, Duration::from_micros(500), now);
    proxy.sync_failed(v4);
    proxy.programmed(v4, 2_000_000, now);
    // Clocks differ: this change seems to come from the future.
    proxy.programmed(v4, 9_000_000, now);
    proxy.set_no_local_endpoints(IpFamily::V6, LocalPolicy::External, 2);
    proxy.set_no_local_endpoints(IpFamily::V6, LocalPolicy::Internal, 1);
    proxy.set_endpoint_changes_pending(4);
    proxy.endpoint_change_arrived();
    proxy.set_service_changes_pending(6);
    proxy.service_change_arrived();
    proxy.healthz_answered(200);
    proxy.livez_answered(503);
    proxy.conntrack_cleaned(v4, 8, Duration::from_millis(1));
    let node = &metrics.node;
    node.set_routes(v4, 3);
    node.set_leases(9);
    node.set_attachments(10);
    node.set_leases_without_link(11);
    node.set_services_refused(v4, 12);
    node.repaired("routes");
    node.set_warnings("source", 2);
    node.set_feature("routes", 11, 1, 12);
    let policies = &metrics.policies;
    policies.set_node(1, 2);
    policies.set_table(v4, 3, 4);
    policies.set_losses(v4, 5);
    policies.programmed(Duration::from_micros(300));
    let denied = DeniedReport {
        ingress: 6,
        ..DeniedReport::default()
    };
    policies.set_denied(&denied);
    policies.set_lost(7);
    metrics.drops.seen("no-endpoints");
    metrics
}

/// Value by name and labels.
fn samples(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .collect()
}

#[test]
fn every_name_that_dashboards_read_is_exposed_exactly() {
    let metrics = filled();
    for format in [TextFormat::OpenMetrics, TextFormat::Classic] {
        let text = metrics.text(format);
        let samples = samples(&text);
        for (name, value) in [
            (
                "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
                "2",
            ),
            (
                "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
                "1",
            ),
            (
                "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
                "1",
            ),
            (
                "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}",
                "1",
            ),
            (
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}",
                "2000.5",
            ),
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
                "2000.5",
            ),
            (
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"}",
                "1",
            ),
            (
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"}",
                "2",
            ),
            (
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"}",
                "1",
            ),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "4"),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "1"),
            ("kubeproxy_sync_proxy_rules_service_changes_pending", "6"),
            ("kubeproxy_sync_proxy_rules_service_changes_total", "1"),
            ("kubeproxy_proxy_healthz_total{code=\"200\"}", "1"),
            ("kubeproxy_proxy_livez_total{code=\"503\"}", "1"),
            (
                "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"}",
                "8",
            ),
            (
                "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"}",
                "1",
            ),
            ("podwire_routes{ip_family=\"IPv4\"}", "3"),
            ("podwire_leases", "9"),
            ("podwire_attachments", "10"),
            ("podwire_leases_without_link", "11"),
            ("podwire_services_refused{ip_family=\"IPv4\"}", "12"),
            ("podwire_repairs_total{feature=\"routes\"}", "1"),
            ("podwire_warnings{kind=\"source\"}", "2"),
            ("podwire_syncs_total{feature=\"routes\"}", "11"),
            ("podwire_sync_failures_total{feature=\"routes\"}", "1"),
            ("podwire_kernel_writes_total{feature=\"routes\"}", "12"),
        ] {
            assert_eq!(samples.get(name), Some(&value), "{name} in\n{text}");
        }
        for name in [
            "podwire_build_info{version=",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
        ] {
            assert!(
                samples.keys().any(|found| found.starts_with(name)),
                "{name} in\n{text}"
            );
        }
    }
}

#[test]
fn the_buckets_are_those_of_kube_proxy() {
    let metrics = filled();
    let text = metrics.text(TextFormat::OpenMetrics);
    let buckets = |name: &str| -> Vec<f64> {
        text.lines()
            .filter_map(|line| line.strip_prefix(name)?.split_once("le=\""))
            .filter_map(|(_, rest)| rest.split_once('"')?.0.parse().ok())
            .filter(|bound: &f64| bound.is_finite())
            .collect()
    };
    let sync = buckets("kubeproxy_sync_proxy_rules_duration_seconds_bucket");
    assert_eq!((sync.len(), sync[0], sync[14]), (15, 0.001, 16.384));
    let programming = buckets("kubeproxy_network_programming_duration_seconds_bucket");
    assert_eq!(programming.len(), 80);
    assert_eq!(&programming[..4], [0.25, 0.5, 1.0, 2.0]);
    assert_eq!(&programming[60..63], [59.0, 60.0, 65.0]);
    assert_eq!(&programming[72..75], [115.0, 120.0, 150.0]);
    assert_eq!(programming[79], 300.0);
}

#[test]
fn types_are_written_as_each_format_wants_them() {
    let metrics = filled();
    let open = metrics.text(TextFormat::OpenMetrics);
    assert!(open.contains("# TYPE kubeproxy_proxy_healthz counter\n") && open.ends_with("# EOF\n"));
    let classic = metrics.text(TextFormat::Classic);
    assert!(
        classic.contains("# TYPE kubeproxy_proxy_healthz_total counter\n"),
        "{classic}"
    );
    assert!(
        classic.contains("# HELP kubeproxy_proxy_healthz_total Responses"),
        "{classic}"
    );
    assert!(classic.contains("# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge\n"));
    assert!(!classic.contains("# EOF"));
    for line in classic.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert_eq!(
            line.ends_with(" counter"),
            line.contains("_total counter"),
            "{line}"
        );
    }
}

#[test]
fn readers_get_the_format_they_ask_for() {
    for (accept, format) in [
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            TextFormat::OpenMetrics,
        ),
        ("text/plain;version=0.0.4", TextFormat::Classic),
        ("", TextFormat::Classic),
        ("*/*", TextFormat::Classic),
    ] {
        assert_eq!(TextFormat::accepted(accept), format, "{accept}");
    }
}

/// Everything in `text` that looks like a metric of ours; of a histogram, without its suffix.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| {
            ["podwire_", "kubeproxy_", "process_"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
        })
        .map(|word| word.trim_end_matches("_bucket"))
        .collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_are_served() {
    let text = filled().text(TextFormat::Classic);
    let served = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/monitoring");
    for (file, at_least) in [("dashboard.json", 15), ("alerts.yaml", 8)] {
        let asked = std::fs::read_to_string(folder.join(file)).unwrap();
        let asked = metrics_in(&asked);
        assert!(asked.len() >= at_least, "only {asked:?} in {file}");
        let missing: Vec<_> = asked.difference(&served).collect();
        assert!(
            missing.is_empty(),
            "{file} asks for {missing:?}, which is not served"
        );
    }
}

/// The labels by which a query sums, and those that its text or its legend shows.
fn labels_in(text: &str) -> BTreeSet<&str> {
    let sums = text.split("by (").skip(1);
    let sums = sums.filter_map(|rest| rest.split_once(')'));
    let shown = text.split("{{").skip(1);
    let shown = shown.filter_map(|rest| rest.split_once("}}"));
    let shown = shown.map(|(label, _)| label.trim().trim_start_matches("$labels."));
    sums.flat_map(|(labels, _)| labels.split(", "))
        .chain(shown.filter(|label| !label.starts_with('$')))
        .collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_labels_that_their_metrics_have() {
    let text = filled().text(TextFormat::Classic);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/monitoring");
    let mut asked = 0;
    for (file, query) in [("dashboard.json", "\"expr\":"), ("alerts.yaml", "- alert:")] {
        let content = std::fs::read_to_string(folder.join(file)).unwrap();
        for part in content.split(query).skip(1) {
            // These come with the scrape.
            let mut has = BTreeSet::from(["node", "job"]);
            for metric in metrics_in(part) {
                let of_metric = text.lines().filter(|line| line.starts_with(metric));
                let labels = of_metric.filter_map(|line| line.split_once('{')?.1.split_once('}'));
                let labels = labels.flat_map(|(labels, _)| labels.split(','));
                has.extend(labels.filter_map(|label| Some(label.split_once('=')?.0)));
            }
            let labels = labels_in(part);
            asked += labels.len();
            let missing: Vec<_> = labels.difference(&has).collect();
            assert!(missing.is_empty(), "{file} asks for {missing:?}:{part}");
        }
    }
    assert!(asked > 20, "only {asked} labels are asked for");
}

#[test]
fn the_classic_format_has_no_type_that_its_readers_do_not_know() {
    let text = filled().text(TextFormat::Classic);
    let known = ["counter", "gauge", "histogram", "summary", "untyped"];
    let mut described = String::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            assert!(known.contains(&kind), "{line}");
            described = name.to_owned();
        } else if !line.starts_with('#') {
            // What is not described as it is called has no type for these readers.
            let name = line.split(['{', ' ']).next().unwrap();
            let suffix = name.strip_prefix(&described);
            let suffixes = ["", "_bucket", "_sum", "_count"];
            assert!(
                suffix.is_some_and(|suffix| suffixes.contains(&suffix)),
                "{line}"
            );
        }
    }
    assert!(text.contains("# HELP podwire_build_info The version that runs"));
    assert!(text.contains("# TYPE podwire_build_info gauge\n"));
}
