// Clusters that no one has to raise: what the server would send of them.

/** `nodes` nodes with `pods` pods each, in a few namespaces. */
export function synthetic(nodes, pods) {
  const spaces = ["shop", "payments", "monitoring", "kube-system", "search", "mail", "batch", "edge"];
  const names = ["api", "web", "worker", "cache", "db", "queue", "proxy", "agent"];
  const list = Array.from({ length: nodes }, (_, n) => ({
    name: `node-${String(n + 1).padStart(3, "0")}`,
    addresses: [`172.18.${n >> 8}.${(n % 250) + 2}`],
    pod_cidrs: [`10.10.${n}.0/24`],
    uplink: { name: "eth0", mtu: 1500, up: true },
    answers: true,
    trouble: null,
    pods: Array.from({ length: pods }, (_, p) => {
      const [namespace, name] = [spaces[(n + p * 3) % 8], `${names[p % 8]}-${n + 1}-${p}`];
      const policies = (n + p) % 7 === 0 ? [`NetworkPolicy ${namespace}/default-deny`] : [];
      return { id: `${namespace}/${name}`, namespace, name, addresses: [`10.10.${n}.${p + 2}`], link: `veth${n}x${p}`, present: true, ingress: policies, egress: [] };
    }),
  }));
  const services = Array.from({ length: Math.min(24, nodes + 2) }, (_, s) => ({
    id: `${spaces[s % 8]}/svc-${s}`, namespace: spaces[s % 8], name: `svc-${s}`,
    ports: [{ name: "http", protocol: "tcp", fronts: [`10.200.1.${s + 10}:80`], balancing: "random", affinity: null, connections: 90 * s,
      endpoints: list.slice(0, 3).map((node) => ({ address: `${node.pods[s % pods]?.addresses[0]}:8080`, pod: node.pods[s % pods]?.id ?? null, node: node.name, connections: 30 * s })) }],
  }));
  const isolated = list.flatMap((node) => node.pods).filter((pod) => pod.ingress.length);
  const policies = spaces.map((space) => ({ id: `NetworkPolicy ${space}/default-deny`, ingress: isolated.filter((pod) => pod.namespace === space).map((pod) => pod.id), egress: [], ingress_rules: [`tcp 80 from all pods`, `tcp 9090 from app=prometheus of namespaces team=ops`], egress_rules: null }));
  return { title: "synthetic", nodes: list, services, policies, wrong: [] };
}

/** Connections between pods of a cluster, always the same ones. */
export function connections(view, count) {
  const pods = view.nodes.flatMap((node) => node.pods.map((pod) => ({ ...pod, node: node.name })));
  return Array.from({ length: count }, (_, i) => {
    const [a, b] = [pods[(i * 7919) % pods.length], pods[(i * 104729 + 13) % pods.length]];
    const service = i % 3 === 0 ? view.services[i % view.services.length] : null;
    return { node: a.node, time: new Date().toISOString(), began: true, source: { address: a.addresses[0], pod: a.id }, destination: { address: b.addresses[0], pod: b.id },
      service: service?.id ?? null, front: service?.ports[0].fronts[0] ?? null, protocol: "tcp", port: 8080, bytes: null };
  });
}

/** Who may reach a pod, as its agent would say: the pods of its namespace, and it may reach everyone. */
export function reachOf(view, pod) {
  const others = view.nodes.flatMap((node) => node.pods).filter((one) => one.id !== pod);
  const near = (one) => one.namespace === pod.split("/")[0];
  return { pod, peers: others.map((one) => ({ pod: one.id, to: "everything", ...(near(one) && { from: "tcp 80" }) })) };
}

/** How fast Services go. */
export function rates(view) {
  return view.services.map((service, index) => {
    const endpoints = Object.fromEntries(service.ports[0].endpoints.map((one, place) => [one.address, index + place]));
    return { id: service.id, connections: 3 * index + 3, bytes: 150_000 * index, kept: 40 * index, endpoints };
  });
}

/** Names that mean harm: markup, scripts, and characters that terminals and eyes obey. */
export const HOSTILE = [
  "<img src=x onerror=\"globalThis.harmed=1\">",
  "</title></svg><script>globalThis.harmed=1</script>",
  "bell\u0007escape\u001b[31mred",
  "right\u202eotni-tfel",
  "a\u0000b\nc",
];

/** A cluster of such names. */
export function hostile() {
  const view = synthetic(2, 3);
  view.title = HOSTILE[0];
  view.nodes[0].pods = HOSTILE.map((name, index) => ({ ...view.nodes[0].pods[0], id: `default/${name}`, namespace: "default", name, addresses: [`10.10.0.${index + 2}`] }));
  view.services[0].name = HOSTILE[1];
  view.services[0].id = `default/${HOSTILE[1]}`;
  view.policies[0].id = HOSTILE[0];
  view.policies[0].ingress = [`default/${HOSTILE[1]}`];
  view.policies[0].ingress_rules = [HOSTILE[2]];
  view.wrong = [{ kind: "warning", node: HOSTILE[0], nodes: [], object: HOSTILE[2], text: HOSTILE[1] }];
  return view;
}
