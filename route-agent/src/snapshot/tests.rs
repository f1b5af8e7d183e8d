use super::*;

fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName {
        namespace: Arc::from(namespace),
        name: Arc::from(name),
    }
}

fn slice(slice_name: &str, service: &str) -> EndpointSlice {
    EndpointSlice {
        name: name("default", slice_name),
        service: name("default", service),
        ports: Box::default(),
        endpoints: Endpoints::default(),
        last_change: None,
        invalid: Few::new(),
    }
}

fn node(node_name: &str, ip: &str) -> Node {
    Node {
        name: Arc::from(node_name),
        internal_ips: vec![ip.parse().unwrap()],
        other_ips: Vec::new(),
        all_labels: crate::snapshot::Labels::none(),
        pod_cidrs: Vec::new(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        created: None,
        deleting: false,
        invalid: Vec::new(),
    }
}

fn apply(snapshot: &mut Snapshot, change: Change) -> Dirty {
    let mut dirty = Dirty::default();
    let changed = snapshot.apply(change, &mut dirty);
    assert_eq!(changed, !dirty.is_empty());
    dirty
}

#[test]
fn an_object_that_arrives_again_unchanged_marks_nothing() {
    let mut snapshot = Snapshot::default();
    let set = Change::Set(Object::Node(node("a", "10.0.0.1")));
    assert_eq!(apply(&mut snapshot, set.clone()).nodes.len(), 1);
    assert!(apply(&mut snapshot, set).is_empty());
    let set = Change::Set(Object::EndpointSlice(slice("web-1", "web")));
    assert_eq!(apply(&mut snapshot, set.clone()).endpoints.len(), 1);
    assert!(apply(&mut snapshot, set).is_empty());
}

#[test]
fn a_changed_value_and_a_removal_mark_the_name() {
    let mut snapshot = Snapshot::default();
    apply(
        &mut snapshot,
        Change::Set(Object::Node(node("a", "10.0.0.1"))),
    );
    let dirty = apply(
        &mut snapshot,
        Change::Set(Object::Node(node("a", "10.0.0.2"))),
    );
    assert!(dirty.nodes.contains("a"));
    let dirty = apply(&mut snapshot, Change::Gone(Key::Node(Arc::from("a"))));
    assert!(dirty.nodes.contains("a"));
    assert!(apply(&mut snapshot, Change::Gone(Key::Node(Arc::from("a")))).is_empty());
    assert!(snapshot.is_empty());
}

#[test]
fn a_slice_that_moves_to_another_service_marks_both() {
    let mut snapshot = Snapshot::default();
    apply(
        &mut snapshot,
        Change::Set(Object::EndpointSlice(slice("s", "old"))),
    );
    let dirty = apply(
        &mut snapshot,
        Change::Set(Object::EndpointSlice(slice("s", "new"))),
    );
    assert_eq!(
        dirty.endpoints.into_iter().collect::<Vec<_>>(),
        [name("default", "new"), name("default", "old")]
    );
    assert_eq!(snapshot.slices_of(&name("default", "old")).count(), 0);
    assert_eq!(snapshot.slices_of(&name("default", "new")).count(), 1);
}

#[test]
fn the_slices_of_a_service_are_found_whatever_their_names() {
    let mut snapshot = Snapshot::default();
    for (slice_name, service) in [("z", "web"), ("a", "web"), ("web-1", "webx"), ("m", "we")] {
        apply(
            &mut snapshot,
            Change::Set(Object::EndpointSlice(slice(slice_name, service))),
        );
    }
    let web = name("default", "web");
    let found: Vec<_> = snapshot
        .slices_of(&web)
        .map(|s| s.name.name.to_string())
        .collect();
    assert_eq!(found, ["a", "z"]);
    apply(
        &mut snapshot,
        Change::Gone(Key::EndpointSlice(name("default", "a"))),
    );
    assert_eq!(snapshot.slices_of(&web).count(), 1);
}

fn slice_on(slice_name: &str, service: &str, node: &str) -> EndpointSlice {
    let endpoint = Endpoint {
        address: "10.10.2.4".parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(Arc::from(node)),
        hints: None,
    };
    EndpointSlice {
        endpoints: [endpoint].into_iter().collect(),
        ..slice(slice_name, service)
    }
}

#[test]
fn a_node_that_goes_and_comes_back_touches_the_services_that_have_endpoints_on_it() {
    let mut snapshot = Snapshot::default();
    let set = |object| Change::Set(object);
    for name in ["a", "b", "empty"] {
        apply(&mut snapshot, set(Object::Node(node(name, "10.0.0.1"))));
    }
    for slice in [
        slice_on("web-1", "web", "a"),
        slice_on("web-2", "web", "b"),
        slice_on("db-1", "db", "b"),
    ] {
        apply(&mut snapshot, set(Object::EndpointSlice(slice)));
    }
    let gone = |name: &str| Change::Gone(Key::Node(Arc::from(name)));
    let services =
        |dirty: Dirty| -> Vec<String> { dirty.endpoints.iter().map(ToString::to_string).collect() };
    assert!(services(apply(&mut snapshot, gone("empty"))).is_empty());
    assert!(snapshot.gone_nodes().is_empty());
    let touched = services(apply(&mut snapshot, gone("b")));
    assert_eq!(touched, ["default/db", "default/web"]);
    assert_eq!(services(apply(&mut snapshot, gone("a"))), ["default/web"]);
    assert_eq!(snapshot.gone_nodes(), [Arc::from("a"), Arc::from("b")]);
    let back = apply(&mut snapshot, set(Object::Node(node("a", "10.0.0.1"))));
    assert_eq!(services(back), ["default/web"]);
    assert_eq!(snapshot.gone_nodes(), [Arc::from("b")]);
    // What no endpoint is on any longer is forgotten when the next Node goes.
    for name in ["web-2", "db-1"] {
        let key = Key::EndpointSlice(self::name("default", name));
        apply(&mut snapshot, Change::Gone(key));
    }
    apply(&mut snapshot, gone("a"));
    assert_eq!(snapshot.gone_nodes(), [Arc::from("a")]);
}
