use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Contents {
    decode(text.as_bytes(), Scope::All, &mut Names::default()).unwrap()
}

fn keys(contents: &Contents) -> Vec<String> {
    contents
        .objects
        .iter()
        .map(|object| object.key().to_string())
        .collect()
}

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata:\n  name: worker\n";
const SERVICE: &str = "kind: \"Service\"   # ours\napiVersion: v1\nmetadata: {name: web}\n";

#[test]
fn several_yaml_documents_are_read_in_order() {
    let text = format!("# first\n---\n{NODE}---\n---\n# empty\n...\n--- # comment\n{SERVICE}...\n");
    let contents = read(&text);
    assert_eq!(keys(&contents), ["Node worker", "Service default/web"]);
    assert!(contents.problems.is_empty());
    assert_eq!(contents.documents, 2);
}

#[test]
fn what_only_an_api_server_completes_is_noted() {
    let service = |spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n")
    };
    for spec in [
        "{}",
        "{clusterIP: \"\"}",
        "{clusterIPs: [\"\"]}",
        "{type: NodePort}",
        "{type: LoadBalancer, ports: [{port: 80}]}",
    ] {
        let contents = read(&service(spec));
        assert_eq!(keys(&contents), ["Service default/web"]);
        assert_eq!(contents.notes.len(), 1, "{spec}");
        assert!(contents.notes[0].contains("has no spec.clusterIP"));
    }
    for spec in [
        "{clusterIP: None}",
        "{clusterIPs: [10.0.0.1]}",
        "{type: ExternalName}",
        "{type: NodePort, clusterIP: 10.0.0.1, ports: [{port: 80, nodePort: 30080}]}",
        "{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{port: 80}]}\n\
         status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}",
        "{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{port: 80, nodePort: 30080}]}",
        "{type: LoadBalancer, clusterIP: 10.0.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]}",
    ] {
        assert_eq!(read(&service(spec)).notes, [""; 0], "{spec}");
    }
    let spec = "{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{port: 80}]}";
    let notes = read(&service(spec)).notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("neither an address"), "{notes:?}");
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: FQDN\n\
        metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n";
    let notes = read(slice).notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("addressType FQDN"), "{notes:?}");
    for port in [
        "port: 80",
        "port: 80, nodePort: 0",
        "port: 80, nodePort: null",
    ] {
        let spec = format!("{{type: NodePort, clusterIP: 10.0.0.1, ports: [{{{port}}}]}}");
        let notes = read(&service(&spec)).notes;
        assert_eq!(notes.len(), 1, "{spec}");
        assert!(
            notes[0].contains("Service default/web is of type NodePort"),
            "{notes:?}"
        );
    }
    let foreign = service("{}").replace(
        "web}",
        "web, labels: {service.kubernetes.io/headless: \"\"}}",
    );
    assert_eq!(read(&foreign).notes, [""; 0]);
}

#[test]
fn endpoints_of_the_old_kind_are_noted_once_however_they_come() {
    let yaml = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: a}\n---\n\
        apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Endpoints}]\n";
    let json = r#"{"apiVersion": "v1", "kind": "EndpointsList", "items": [{}, {}]}"#;
    for text in [yaml, json] {
        let contents = read(text);
        assert_eq!(contents.notes.len(), 1, "{text}");
        assert!(
            contents.notes[0].contains("Endpoints (2)"),
            "{:?}",
            contents.notes
        );
        assert!(contents.problems.is_empty() && contents.objects.is_empty());
    }
}

#[test]
fn policies_that_nothing_enforces_are_noted_once_however_they_come() {
    let kinds = [
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        (
            "policy.networking.k8s.io/v1alpha1",
            "BaselineAdminNetworkPolicy",
        ),
        ("extensions/v1beta1", "NetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("crd.projectcalico.org/v1", "GlobalNetworkPolicyList"),
    ];
    let documents = kinds.map(|(version, kind)| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n")
    });
    let contents = read(&documents.join("---\n"));
    assert_eq!(contents.notes.len(), 1, "{:?}", contents.notes);
    assert!(
        contents.notes[0].contains("not read (5)"),
        "{:?}",
        contents.notes
    );
    assert!(contents.problems.is_empty() && contents.objects.is_empty());
    // Who switched policies off knows that nothing enforces them.
    let text = documents.join("---\n");
    let names = &mut Names::default();
    let contents = decode(text.as_bytes(), Scope::WithoutPolicies, names).unwrap();
    assert_eq!(contents.notes, [""; 0]);
}

#[test]
fn a_slice_without_its_service_and_a_port_without_number_are_named() {
    let slice = |label: &str, port: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-1, labels: {{{label}}}}}\naddressType: IPv4\n\
             endpoints: [{{addresses: [10.0.0.1]}}]\nports: [{{name: \"\"{port}}}]\n"
        )
    };
    let label = "kubernetes.io/service-name: web";
    assert_eq!(read(&slice(label, ", port: 80")).notes, [""; 0]);
    let of_another_proxy = "service.kubernetes.io/service-proxy-name: other";
    assert_eq!(read(&slice(of_another_proxy, ", port: 80")).notes, [""; 0]);
    let notes = read(&slice("app: web", ", port: 80")).notes;
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].starts_with("EndpointSlice default/web-1 belongs to no Service"),
        "{notes:?}"
    );
    for port in ["", ", port: 0", ", port: null", ", targetPort: 80"] {
        let contents = read(&slice(label, port));
        let Object::EndpointSlice(slice) = &contents.objects[0] else {
            panic!("{contents:?}");
        };
        let warnings = format!("{:?}", slice.invalid);
        assert!(
            warnings.contains("is no port that endpoints can have"),
            "{warnings}"
        );
    }
}

#[test]
fn a_policy_whose_labels_have_no_shape_closes_all_the_same() {
    for metadata in [
        "labels: []",
        "annotations: of mine",
        "creationTimestamp: [1]",
    ] {
        for (head, spec) in [
            (
                "networking.k8s.io/v1\nkind: NetworkPolicy",
                "podSelector: {}",
            ),
            (
                "policy.networking.k8s.io/v1beta1\nkind: ClusterNetworkPolicy",
                "tier: Admin",
            ),
        ] {
            let text = format!(
                "apiVersion: {head}\nmetadata: {{name: p, {metadata}}}\nspec: {{{spec}}}\n"
            );
            let contents = read(&text);
            assert_eq!(
                (contents.objects.len(), contents.spoilt.len()),
                (1, 0),
                "{text}"
            );
        }
    }
}

#[test]
fn null_is_an_empty_list_of_any_kind() {
    for text in [
        r#"{"apiVersion": "v1", "kind": "ServiceList", "items": null}"#,
        "apiVersion: v1\nkind: ServiceList\nitems: null\n",
        "apiVersion: v1\nkind: List\nitems:\n",
        r#"{"apiVersion": "v1", "kind": "List"}"#,
    ] {
        let contents = read(text);
        assert_eq!(contents.problems, [""; 0], "{text}");
        assert!(!contents.unreadable && contents.documents == 1, "{text}");
    }
}

#[test]
fn of_a_value_without_end_little_is_kept() {
    let long = "x".repeat(500_000);
    let node = |name: &str, rest: &str| {
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n{rest}\n")
    };
    let mut names = Names::default();
    for text in [
        node(&long, ""),
        node(&long, "spec: [1]"),
        node("a", &format!("spec: {long}")),
        node("a", &format!("spec: {{podCIDR: {long}}}")),
        node("a", &format!("spec: {{podCIDRs: {long}}}")),
        format!("{long}\n"),
        format!(
            r#"{{"apiVersion": "v1", "kind": "Node", "metadata": {{"name": "a"}}, "spec": "{long}"}}"#
        ),
    ] {
        let contents = decode(text.as_bytes(), Scope::All, &mut names).unwrap();
        let said: usize = contents.problems.iter().map(String::capacity).sum();
        assert!(said < 1000, "{said}");
        for object in &contents.objects {
            let length = format!("{object:?}").len();
            assert!(length < 1000, "{length}");
        }
    }
    assert!(names.longest() <= 4200);
}

#[test]
fn a_document_may_begin_on_the_line_of_its_marker() {
    let contents = read("--- {apiVersion: v1, kind: Node, metadata: {name: a}}\n--- {kind: 1}\n");
    assert_eq!(keys(&contents), ["Node a"]);
    assert_eq!(contents.problems.len(), 1);
    assert!(
        contents.problems[0].starts_with("line 2:"),
        "{:?}",
        contents.problems
    );
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_do_no_harm() {
    let text = format!("\u{feff}---\r\n{}", NODE.replace('\n', "\r\n"));
    assert_eq!(keys(&read(&text)), ["Node worker"]);
    let text = format!("\u{feff}{NODE}");
    assert_eq!(keys(&read(&text)), ["Node worker"]);
}

#[test]
fn kinds_that_are_not_used_are_passed_over_even_if_they_would_not_parse() {
    let text = "apiVersion: v1\nkind: ConfigMap\ndata: [\n---\n\
        apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: other}\n---\n\
        apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: p}\n";
    let contents = read(text);
    assert!(contents.objects.is_empty() && contents.problems.is_empty());
    assert_eq!(contents.documents, 3);
}

#[test]
fn kinds_that_are_nearly_ours_are_named_with_what_was_meant() {
    for (version, kind, meant) in [
        (
            "v1",
            "EndpointSlice",
            "`apiVersion: discovery.k8s.io/v1` and `kind: EndpointSlice`",
        ),
        (
            "discovery/v1",
            "endpointslice",
            "`apiVersion: discovery.k8s.io/v1`",
        ),
        ("core/v1", "Service", "`apiVersion: v1` and `kind: Service`"),
        ("v1", "service", "`kind: Service`"),
        (
            "networking/v1",
            "ServiceCIDRList",
            "`apiVersion: networking.k8s.io/v1`",
        ),
        ("v1", "networkpolicy", "`apiVersion: networking.k8s.io/v1`"),
        (
            "Discovery.k8s.io/v1",
            "EndpointSlice",
            "`apiVersion: discovery.k8s.io/v1`",
        ),
    ] {
        let contents = read(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"
        ));
        assert!(contents.objects.is_empty(), "{version} {kind}");
        assert!(
            contents.notes[0].contains(meant),
            "{kind}: {:?}",
            contents.notes
        );
    }
    let other = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n";
    assert!(read(other).notes.is_empty());
}

#[test]
fn what_is_no_kind_of_a_group_that_is_read_is_named_and_what_is_one_is_not() {
    let notes = |version: &str, kind: &str| {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n");
        read(&text).notes.join("\n")
    };
    let networking = "networking.k8s.io/v1";
    for (version, kind, meant) in [
        (networking, "NetworkPolicies", "NetworkPolicy"),
        (networking, "NetworkPolcy", "NetworkPolicy"),
        (networking, "NetPolicy", "NetworkPolicy"),
        (networking, "NetworkPoliciesList", "NetworkPolicy"),
        (networking, "ServiceCIDRs", "ServiceCIDR"),
        (networking, "ServiceCidrr", "ServiceCIDR"),
        ("networking.k8s.oi/v1", "ServiceCIDR", "ServiceCIDR"),
        ("discovery.k8s.io/v1", "EndpointSlices", "EndpointSlice"),
        ("discovery.k8s.io/v1", "Slice", "EndpointSlice"),
        ("discovry.k8s.io/v1", "EndpointSlice", "EndpointSlice"),
        (
            "policy.networking.k8s.io/v1beta1",
            "ClusterNetworkPolicies",
            "ClusterNetworkPolicy",
        ),
        ("v1", "Pods", "Pod"),
        ("v1", "Servcie", "Service"),
        ("v1", "Services", "Service"),
        ("v1", "Namspace", "Namespace"),
        ("v1", "Nod", "Node"),
        ("v1", "NetworkPolcy", "NetworkPolicy"),
    ] {
        let notes = notes(version, kind);
        assert!(
            notes.contains(&format!("looks like {meant};")),
            "{version} {kind}: {notes}"
        );
    }
    for (group, kinds) in [
        (
            "v1",
            "Binding ComponentStatus ConfigMap Event LimitRange PersistentVolume \
             PersistentVolumeClaim PodTemplate ReplicationController ResourceQuota Secret \
             ServiceAccount Status",
        ),
        (networking, "Ingress IngressClass IPAddress IngressList"),
        ("batch/v1", "Job CronJob"),
        ("apps/v1", "Deployment DaemonSet ReplicaSet StatefulSet"),
        ("policy/v1", "PodDisruptionBudget"),
        ("node.k8s.io/v1", "RuntimeClass"),
        ("metrics.k8s.io/v1beta1", "NodeMetrics PodMetrics"),
        ("networking.istio.io/v1", "ServiceEntry Gateway"),
        ("serving.knative.dev/v1", "Service Services"),
    ] {
        for kind in kinds.split(' ') {
            assert_eq!(notes(group, kind), "", "{group} {kind}");
        }
    }
}

#[test]
fn a_version_that_no_cluster_has_is_read_and_named() {
    for (version, kind, meant) in [
        (
            "networking.k8s.io/v1beta9",
            "NetworkPolicy",
            "networking.k8s.io/v1",
        ),
        ("v2", "Service", "v1"),
        ("discovery.k8s.io/v1", "EndpointSlice", ""),
        ("discovery.k8s.io/v1beta1", "EndpointSlice", ""),
        ("networking.k8s.io/v1", "NetworkPolicy", ""),
        ("networking.k8s.io/v1alpha1", "ServiceCIDR", ""),
        ("networking.k8s.io/v1beta1", "ServiceCIDR", ""),
        (
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            "",
        ),
        (
            "policy.networking.k8s.io/v1beta1",
            "ClusterNetworkPolicy",
            "",
        ),
    ] {
        let object = format!(
            r#"{{"apiVersion":"{version}","kind":"{kind}","addressType":"IPv4",
            "metadata":{{"name":"a","labels":{{"kubernetes.io/service-name":"b"}}}},
            "spec":{{"podSelector":{{}},"tier":"Admin","clusterIP":"None"}}}}"#
        );
        let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{object}]}}"#);
        for text in [
            &object,
            &list,
            &format!("---\n{object}"),
            &format!("---\n{list}"),
        ] {
            let contents = read(text);
            let notes = contents.notes.join("\n");
            assert_eq!(contents.objects.len(), 1, "{version} {kind}");
            let wanted = format!("write them with `apiVersion: {meant}`");
            let named = notes.contains(&wanted) && notes.contains("are read all the same");
            assert!(
                named || meant.is_empty() && notes.is_empty(),
                "{version} {kind}: {notes}"
            );
        }
    }
}

#[test]
fn a_kind_in_any_spelling_of_yaml_is_a_kind() {
    for kind in [
        "kind: NetworkPolicy\t# deny all",
        "kind: \"NetworkPolicy\"\t# c",
        "kind: &k NetworkPolicy",
        "kind: !!str NetworkPolicy",
        "kind: >-\n  NetworkPolicy",
        "kind: |-\n  NetworkPolicy",
        "kind:\n  NetworkPolicy",
        "kind: \"Network\\x50olicy\"",
        "kind: 'NetworkPolicy' # c",
        "kind:\tNetworkPolicy",
        "kind:   NetworkPolicy  ",
        "\"kind\": NetworkPolicy",
        "'kind': NetworkPolicy",
        "kind : NetworkPolicy",
    ] {
        let rest = "metadata: {name: deny}\nspec: {podSelector: {}}\n";
        let version = "networking.k8s.io/v1";
        for text in [
            format!("apiVersion: {version}\n{kind}\n{rest}"),
            format!("apiVersion: &v {version}\t# c\n{kind}\n{rest}"),
        ] {
            let contents = read(&text);
            assert_eq!(keys(&contents), ["NetworkPolicy default/deny"], "{text}");
            assert!(contents.problems.is_empty(), "{:?}", contents.problems);
        }
    }
}

#[test]
fn a_list_within_a_list_is_named() {
    for kind in [
        "v1 List",
        "v1 ServiceList",
        "networking.k8s.io/v1 NetworkPolicyList",
    ] {
        let (version, kind) = kind.split_once(' ').unwrap();
        let json = format!(
            r#"{{"apiVersion":"v1","kind":"List","items":[
                {{"apiVersion":"v1","kind":"Node","metadata":{{"name":"a"}}}},
                {{"apiVersion":"{version}","kind":"{kind}","items":[]}}]}}"#
        );
        for text in [&json, &format!("---\n{json}")] {
            let contents = read(text);
            assert_eq!(keys(&contents), ["Node a"]);
            assert!(contents.unreadable, "{text}");
            let said = contents.problems.concat();
            assert!(said.contains("item 1: is a list within a list"), "{said}");
        }
    }
}

#[test]
fn json_documents_may_have_the_markers_of_yaml_between_them() {
    let object = |name: &str| {
        format!(r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}}}}"#)
    };
    for marker in ["\n---\n", "\r\n---\r\n", "\n--- \n\n", " ", "\n"] {
        let contents = read(&(object("a") + marker + &object("b") + marker + &object("c")));
        assert_eq!(
            keys(&contents),
            ["Node a", "Node b", "Node c"],
            "{marker:?}"
        );
        assert_eq!(contents.problems, [""; 0]);
    }
    let contents = read(&(object("a") + "\n---\nkind: Node\n"));
    assert_eq!(keys(&contents), ["Node a"]);
    let said = &contents.problems[0];
    assert!(
        said.contains("a file that begins with { is read as JSON"),
        "{said}"
    );
}

#[test]
fn an_empty_namespace_is_the_default_one() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: \"\"}}\nspec: {spec}\n"
        )
    };
    assert_eq!(
        keys(&read(&service("{clusterIP: None}"))),
        ["Service default/web"]
    );
    assert_eq!(
        read(&service("[1]")).spoilt[0].0.to_string(),
        "Service default/web"
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: \"\"}\n";
    assert_eq!(keys(&read(pod)), ["Pod default/web"]);
}

#[test]
fn lists_are_read_in_yaml_and_in_json() {
    let yaml = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Node\n  \
        metadata: {name: a}\n- {apiVersion: v1, kind: Secret, metadata: {name: p}}\n---\n\
        apiVersion: v1\nkind: NodeList\nitems: [{metadata: {name: b}}]\n";
    assert_eq!(keys(&read(yaml)), ["Node a", "Node b"]);
    let json = r#" {"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}},
        {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
         "metadata":{"name":"s","labels":{"kubernetes.io/service-name":"web"}}}]}
        {"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"web"}}]}"#;
    let contents = read(json);
    assert_eq!(
        keys(&contents),
        ["Node a", "EndpointSlice default/s", "Service default/web"]
    );
    assert!(contents.problems.is_empty());
}

#[test]
fn objects_of_another_proxy_and_headless_ones_are_left_to_others() {
    for label in objects::FOREIGN_LABELS {
        let labels = format!("labels: {{{label}: x}}");
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, {labels}}}\n---\n\
             apiVersion: v1\nkind: Node\nmetadata: {{name: a, {labels}}}\n"
        );
        assert_eq!(keys(&read(&text)), ["Node a"]);
    }
}

#[test]
fn a_document_that_cannot_be_parsed_is_named_by_its_line() {
    let contents = read(&format!(
        "{NODE}---\nkind: Node\napiVersion: v1\nmetadata: [\n"
    ));
    assert_eq!(keys(&contents), ["Node worker"]);
    assert!(contents.unreadable);
    assert!(
        !contents.problems[0].contains(" at line "),
        "twice, and once counted from the document: {:?}",
        contents.problems
    );
    assert!(
        contents.problems[0].starts_with("line "),
        "{:?}",
        contents.problems
    );
    let line: usize = contents.problems[0][5..]
        .split(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((6..=9).contains(&line), "{:?}", contents.problems);
}

#[test]
fn a_document_without_a_kind_is_named() {
    for text in [
        "hello",
        "- 1\n- 2\n",
        "{}",
        "{\"kind\": \"Node\"}",
        "[1]",
        "kind: Node\n",
    ] {
        let contents = read(text);
        assert!(contents.unreadable, "{text}");
        assert_eq!(contents.problems.len(), 1, "{text}");
    }
    for (text, missing) in [
        ("kind: Node\n", "apiVersion is missing"),
        ("{\"kind\": \"Node\"}", "apiVersion is missing"),
        ("apiVersion: v1\n", "kind is missing"),
        ("metadata: {}\n", "apiVersion and kind are missing"),
    ] {
        let problem = read(text).problems.remove(0);
        assert!(problem.ends_with(&format!(": {missing}")), "{problem}");
    }
}

#[test]
fn an_object_of_the_wrong_shape_is_spoilt_but_known_by_name() {
    let yaml =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: x}\nspec: {ports: 1}\n";
    let json = r#"{"apiVersion":"v1","kind":"Service",
        "metadata":{"name":"web","namespace":"x"},"spec":{"ports":1}}"#;
    let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{json}]}}"#);
    for text in [yaml, json, &list] {
        let contents = read(text);
        assert!(!contents.unreadable && contents.objects.is_empty());
        assert_eq!(contents.spoilt[0].0.to_string(), "Service x/web");
        assert!(contents.problems.is_empty(), "{:?}", contents.problems);
        assert_eq!(contents.spoilt.len(), 1);
    }
}

#[test]
fn a_nested_bomb_is_refused_without_a_panic() {
    let deep = "[".repeat(100_000);
    assert!(read(&format!("apiVersion: v1\nkind: Node\nmetadata: {deep}")).unreadable);
    assert!(read(&format!("{{\"a\":{deep}")).unreadable);
    let mut bomb = "apiVersion: v1\nkind: List\nitems:\n- &a0 [x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = level - 1;
        bomb += &format!(
            "- &a{level} [{}]\n",
            vec![format!("*a{before}"); 10].join(", ")
        );
    }
    assert!(read(&bomb).unreadable);
}

#[test]
fn scalars_keep_their_spelling() {
    let text =
        "apiVersion: v1\nkind: Node\nmetadata: {name: on, labels: {kubernetes.io/hostname: 12}}\n";
    let contents = read(text);
    assert_eq!(keys(&contents), ["Node on"]);
    let Object::Node(node) = &contents.objects[0] else {
        panic!("no Node")
    };
    assert_eq!(
        node.labels.values().next().map(|value| &**value),
        Some("12")
    );
}

/// Text that looks like YAML just enough to get far into the parser.
fn yaml_like() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("apiVersion: v1\n".to_owned()),
        Just("kind: Node\n".to_owned()),
        Just("kind: Service\n".to_owned()),
        Just("kind: List\n".to_owned()),
        Just("items:\n".to_owned()),
        Just("metadata:\n".to_owned()),
        Just("  name: a\n".to_owned()),
        Just("spec:\n".to_owned()),
        Just("  ports:\n".to_owned()),
        Just("---\n".to_owned()),
        Just("- ".to_owned()),
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("|\n".to_owned()),
        Just("&a ".to_owned()),
        Just("*a ".to_owned()),
        Just("!!binary ".to_owned()),
        Just("<<: ".to_owned()),
        Just("? ".to_owned()),
        "[ -~\n\t]{0,12}",
        "\\PC{0,6}",
    ];
    proptest::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes[..], Scope::All, &mut Names::default());
    }

    #[test]
    fn yaml_like_garbage_never_panics(text in yaml_like()) {
        let contents = read(&text);
        prop_assert!(!contents.unreadable || !contents.problems.is_empty());
    }

    #[test]
    fn of_a_file_cut_anywhere_all_but_the_last_object_are_whole(cut in 0usize..=160) {
        let whole = format!("{NODE}---\n{SERVICE}---\n{}", NODE.replace("worker", "last"));
        let all = keys(&read(&whole));
        prop_assert_eq!(all.len(), 3);
        let cut = keys(&read(&whole[..cut.min(whole.len())]));
        let complete = cut.len().saturating_sub(1);
        prop_assert_eq!(&cut[..complete], &all[..complete]);
    }
}

#[test]
fn what_only_policies_ask_is_read_unless_there_are_none() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n---\napiVersion: v1\nkind: \
                Namespace\nmetadata: {name: shop}\n---\napiVersion: networking.k8s.io/v1\nkind: \
                NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n---\n";
    let text = format!("{text}{NODE}");
    let all = read(&text);
    let expected = [
        "Pod default/web",
        "Namespace shop",
        "NetworkPolicy default/deny",
        "Node worker",
    ];
    assert_eq!(keys(&all), expected);
    assert!(all.problems.is_empty(), "{:?}", all.problems);
    let mut names = Names::default();
    let without = decode(text.as_bytes(), Scope::WithoutPolicies, &mut names).unwrap();
    assert_eq!(keys(&without), ["Node worker"]);
    let list = r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "a"}}]}"#;
    assert_eq!(keys(&read(list)), ["Pod default/a"]);
}

#[test]
fn what_is_wrong_with_a_manifest_is_said_to_who_writes_it() {
    let deep = format!("kind: {}{}\n", "[".repeat(20_000), "]".repeat(20_000));
    let twice = "apiVersion: v1\nkind: Node\nkind: Node\n".to_owned();
    let anchors = "a: &a x\n".to_owned() + &"b: [*a, *a]\n".repeat(2);
    for text in [deep, twice, anchors] {
        let contents = decode(text.as_bytes(), Scope::All, &mut Names::default()).unwrap();
        let said = contents.problems.join(" ");
        assert!(!said.is_empty());
        for word in ["DuplicateKeyPolicy", "Options", "budget", "Budget", "{"] {
            assert!(!said.contains(word), "{said}");
        }
    }
}
