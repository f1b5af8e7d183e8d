//! What is said of objects that are passed over, or read and will not do what was meant.

use super::*;

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
        "{type: LoadBalancer, clusterIP: 10.0.0.1, loadBalancerSourceRanges: [10.0.0.0/8]}\n\
         status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}",
        "{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{port: 80, nodePort: 30080}]}",
        "{type: LoadBalancer, clusterIP: 10.0.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]}",
        "{clusterIP: 10.0.0.1, healthCheckNodePort: 0}",
        "{clusterIP: 10.0.0.1, sessionAffinity: ClientIP, \
         sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}}",
    ] {
        assert_eq!(read(&service(spec)).notes, [""; 0], "{spec}");
    }
    let spec = "{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{port: 80}]}";
    let notes = read(&service(spec)).notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("neither an address"), "{notes:?}");
    for (port, noted) in [
        ("", 1),
        (", healthCheckNodePort: 0", 1),
        (", healthCheckNodePort: 32000", 0),
    ] {
        let spec = format!(
            "{{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{{port: 80, nodePort: 30080}}], \
             externalTrafficPolicy: Local{port}}}"
        );
        let notes = read(&service(&spec)).notes;
        assert_eq!(notes.len(), noted, "{notes:?}");
        assert!(
            notes
                .iter()
                .all(|note| note.contains("has no healthCheckNodePort"))
        );
    }
    for (spec, said) in [
        ("loadBalancerSourceRanges: [10.0.0.0/8]", "keep no one away"),
        (
            "type: NodePort, loadBalancerSourceRanges: [10.0.0.0/8]",
            "keep no one away",
        ),
        (
            "ports: [{port: 80, nodePort: 30080}]",
            "does not answer there",
        ),
        (
            "type: ClusterIP, ports: [{port: 80}, {port: 81, nodePort: 30080}]",
            "does not answer there",
        ),
        (
            "type: \"\", ports: [{port: 80, nodePort: 30080}]",
            "does not answer there",
        ),
        // Of the addresses of a load balancer there is none that they could guard.
        (
            "type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8], \
             ports: [{port: 80, nodePort: 30080}]",
            "keep no one away",
        ),
        ("healthCheckNodePort: 32000", "healthCheckNodePort and is"),
        (
            "type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}], \
             healthCheckNodePort: 32000",
            "healthCheckNodePort and is",
        ),
        (
            "sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}",
            "clients do not stay",
        ),
        (
            "sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}",
            "clients do not stay",
        ),
    ] {
        let notes = read(&service(&format!("{{clusterIP: 10.0.0.1, {spec}}}"))).notes;
        assert!(notes.len() == 1 && notes[0].contains(said), "{notes:?}");
    }
    for kind in ["", "type: NodePort, "] {
        let spec = format!(
            "{{{kind}clusterIP: 10.0.0.1, ports: [{{port: 80, nodePort: 0}}]}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1}}]}}}}"
        );
        let notes = read(&service(&spec)).notes;
        let said = |note: &String| note.contains("does not answer at them");
        assert!(notes.iter().any(said), "{notes:?}");
    }
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
fn a_number_is_the_same_text_as_a_label_and_in_a_selector() {
    let text = |label: &str| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\
             \"metadata\": {{\"name\": \"a\", \"labels\": {{\"v\": {label}}}}}}}\n---\n\
             {{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\",\n\
             \"metadata\": {{\"name\": \"a\"}},\n\
             \"spec\": {{\"podSelector\": {{\"matchLabels\": {{\"v\": {label}}}}}}}}}\n"
        )
    };
    for label in [
        "2.0",
        "1.10",
        "-0.0",
        "1e3",
        "1e300",
        "18446744073709551616",
        "-9223372036854775809",
        "18446744073709551615",
        "-7",
        "0",
        "true",
        "\"1.10\"",
    ] {
        let json = text(label);
        let yaml = format!("# As YAML.\n{json}");
        let items = json.replace("\n---\n", ",\n");
        let list = format!("apiVersion: v1\nkind: List\nitems: [\n{items}]\n");
        for text in [json, yaml, list] {
            let contents = read(&text);
            let [Object::Pod(pod), Object::NetworkPolicy(policy)] = &contents.objects[..] else {
                panic!("{contents:?}");
            };
            assert!(policy.subject.selects(&pod.labels), "{label}: {contents:?}");
        }
    }
}
