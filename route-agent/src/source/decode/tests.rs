mod notes;

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
fn aliases_that_stand_for_very_much_are_refused_at_once_and_named() {
    let mut bomb =
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n  a0: &a0 [x, x]\n".to_owned();
    for level in 1..=10 {
        let before = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb += &format!("  a{level}: &a{level} [{before}]\n");
    }
    let start = std::time::Instant::now();
    let contents = read(&bomb);
    assert!(contents.unreadable);
    let said = &contents.problems[0];
    assert!(
        said.contains("its aliases (`*name`) stand for too much"),
        "{said}"
    );
    assert!(start.elapsed() < std::time::Duration::from_secs(1));
    // A few are what they are for.
    let labels =
        "apiVersion: v1\nkind: Node\nmetadata: {name: a, labels: &l {x: z}, annotations: *l}\n";
    assert_eq!(keys(&read(labels)), ["Node a"]);
}

#[test]
fn numbers_are_read_as_kubernetes_reads_yaml() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.200.1.9\n  \
                ports: [{port: 0122}, {port: 0o123, name: b}, {port: 84.0, name: c}, {port: 0x55, name: d}, \
                {port: 86.5, name: e}, {port: '87.0', name: f}]\n---\n\
                apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  \
                ingress: [{ports: [{port: 0122}, {port: 84.0}]}]\n";
    let contents = read(text);
    let [Object::Service(web), Object::NetworkPolicy(policy)] = &contents.objects[..] else {
        panic!("{contents:?}")
    };
    let ports: Vec<u16> = web.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [82, 83, 84, 85]);
    let bad: Vec<_> = web.invalid.iter().map(|one| &*one.value).collect();
    assert_eq!(bad, ["86.5", "87.0"]);
    let rules = policy.ingress.as_ref().unwrap();
    assert_eq!(rules[0].ports.as_ref().unwrap().len(), 2);
    assert!(policy.invalid.is_empty());
}

#[test]
fn what_is_too_large_for_a_number_is_text_as_kubernetes_reads_yaml() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  annotations:\n    x: |\n      7e89012\n    \
                y: 7e89012\n  labels: {b: -1e999, c: '7e89012', d: 7e89012, e: +2.5e400, f: é 7e89012}\n---\n\
                apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.200.1.9\n  \
                ports: [{port: 8e999}, {name: b, port: 80}]\n";
    let contents = read(text);
    let [Object::Namespace(space), Object::Service(web)] = &contents.objects[..] else {
        panic!("{contents:?}")
    };
    let labels = ["b", "c", "d", "e", "f"].map(|key| space.labels.get(key).unwrap());
    assert_eq!(
        labels,
        ["-1e999", "7e89012", "7e89012", "+2.5e400", "é 7e89012"]
    );
    assert_eq!(web.ports.len(), 1);
    assert_eq!(&*web.invalid[0].value, "8e999");
    // These are numbers, and no text, there as well.
    for bad in [".inf", "-.Inf", ".NaN"] {
        let text =
            format!("apiVersion: v1\nkind: Node\nmetadata: {{name: a, labels: {{x: {bad}}}}}\n");
        assert!(read(&text).unreadable, "{bad}");
    }
}

#[test]
fn a_list_whose_objects_all_have_a_number_that_is_text_is_read() {
    // Parsed once more for each of them, it would be 300 MB.
    let filler = "x".repeat(2000);
    let item = |number: usize| {
        format!(
            "- apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: a{number}\n    labels:\n      \
             commit: 7e89012\n    annotations: {{a: {filler}}}\n"
        )
    };
    let items: String = (0..400).map(item).collect();
    let contents = read(&format!("apiVersion: v1\nkind: List\nitems:\n{items}"));
    let labels = contents.objects.iter().map(|object| match object {
        Object::Namespace(space) => space.labels.get("commit"),
        other => panic!("{other:?}"),
    });
    assert!(labels.eq(std::iter::repeat_n(Some("7e89012"), 400)));
}

#[test]
fn booleans_are_read_as_kubernetes_reads_yaml() {
    let ready = |text: &str| {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  \
             labels: {{kubernetes.io/service-name: web, x: {text}}}\naddressType: IPv4\nendpoints:\n\
             - addresses: [10.10.1.2]\n  conditions: {{ready: {text}}}\nports: [{{port: 80}}]\n"
        );
        let contents = read(&text);
        let Object::EndpointSlice(slice) = &contents.objects[0] else {
            panic!("{contents:?}")
        };
        let endpoint = slice.endpoints.iter().next().unwrap();
        (
            endpoint.ready,
            slice
                .invalid
                .iter()
                .filter(|one| one.to_string().contains("ready"))
                .count(),
        )
    };
    for no in ["no", "No", "n", "off", "OFF", "false"] {
        assert_eq!(ready(no), (false, 0), "{no}");
    }
    for yes in ["yes", "Y", "on", "True"] {
        assert_eq!(ready(yes), (true, 0), "{yes}");
    }
    let (taken_as, invalid) = ready("never");
    assert!(taken_as && invalid == 1);
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
    let carriage_returns = format!("{NODE}---\n{NODE}").replace('\n', "\r");
    let list = "- {apiVersion: v1, kind: Node}\n".to_owned();
    for text in [deep, twice, anchors, carriage_returns, list] {
        let contents = decode(text.as_bytes(), Scope::All, &mut Names::default()).unwrap();
        let said = contents.problems.join(" ");
        assert!(!said.is_empty());
        for word in [
            "DuplicateKeyPolicy",
            "Options",
            "budget",
            "Budget",
            "{",
            "from_str",
            "mapping start",
        ] {
            assert!(!said.contains(word), "{said}");
        }
    }
    let carriage_returns = NODE.repeat(2).replace("apiVersion", "---\napiVersion");
    for (text, expected) in [
        (
            carriage_returns.replace('\n', "\r"),
            "end all lines with LF, not with CR alone",
        ),
        (
            "- {apiVersion: v1}\n".to_owned(),
            "line 1: there is something else where a map belongs",
        ),
    ] {
        let said = read(&text).problems.remove(0);
        assert!(said.contains(expected), "{said}");
    }
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: [1]\n";
    let said = &read(service).spoilt[0].1;
    assert!(
        said.contains("line 4: there is something else where a map belongs"),
        "{said}"
    );
}
