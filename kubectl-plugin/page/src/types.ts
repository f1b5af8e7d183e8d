// What the server sends. Names in it may be of anyone's choice: they are only ever put into text nodes
// and attributes, never into markup.

export interface View {
  /** What is looked at, for example "lab demo". */
  title: string;
  nodes: NodeView[];
  services: ServiceView[];
  policies: PolicyView[];
  wrong: Wrong[];
}

export interface NodeView {
  name: string;
  addresses: string[];
  pod_cidrs: string[];
  uplink: { name: string; mtu: number; up: boolean } | null;
  /** Whether its agent answers, and what is the matter if not. */
  answers: boolean;
  trouble: string | null;
  pods: PodView[];
}

export interface PodView {
  /** `namespace/name`, or the container ID of a pod whose name is not known; the address, if a Service
   * has the name. */
  id: string;
  namespace: string;
  name: string;
  addresses: string[];
  link: string;
  /** False if its link is gone. */
  present: boolean;
  /** The policies that isolate it. */
  ingress: string[];
  egress: string[];
}

/** `namespace/name`, if the name is known. */
export function fullName(pod: PodView): string {
  return pod.namespace ? `${pod.namespace}/${pod.name}` : pod.name;
}

export interface ServiceView {
  id: string;
  namespace: string;
  name: string;
  ports: ServicePort[];
}

export interface ServicePort {
  name: string;
  protocol: string;
  fronts: string[];
  balancing: string;
  affinity: number | null;
  connections: number | null;
  endpoints: Endpoint[];
}

export interface Endpoint {
  address: string;
  pod: string | null;
  node: string | null;
  connections: number | null;
}

export interface PolicyView {
  /** What the agents call it. */
  id: string;
  /** The pods that it isolates. */
  ingress: string[];
  egress: string[];
  /** Its rules in words; null if it says nothing of the direction. */
  ingress_rules: string[] | null;
  egress_rules: string[] | null;
}

/** Who may reach a pod by the policies, and whom it may reach; pods by their IDs. */
export interface Reach {
  pod: string;
  /** Pods with which something is allowed, in words such as "tcp 80". */
  peers: { pod: string; from?: string; to?: string }[];
}

/** How fast a Service goes. */
export interface ServiceRate {
  id: string;
  /** New connections a second. */
  connections: number;
  /** Bytes a second, if nodes count them. */
  bytes: number | null;
  /** Connections that nodes keep now. */
  kept: number;
  /** New connections a second, by the address of an endpoint. */
  endpoints: Record<string, number>;
}

export interface Wrong {
  kind: "silent" | "warning" | "difference" | "failure";
  /** On which nodes, in words, and by name. */
  node: string;
  nodes: string[];
  object: string;
  text: string;
}

export interface Party {
  address: string;
  pod: string | null;
}

export interface Flow {
  node: string;
  time: string;
  began: boolean;
  source: Party;
  destination: Party;
  /** The Service that it was opened to, and at which address. */
  service: string | null;
  front: string | null;
  protocol: string;
  port: number | null;
  bytes: number | null;
}

export interface Drop {
  node: string;
  time: string;
  source: Party;
  destination: Party;
  protocol: string;
  port: number | null;
  /** Why, in a sentence. */
  reason: string;
  /** The object that decides, if it is known. */
  object: string | null;
}

/** What happened in two seconds, per second. */
export interface Sample {
  /** Seconds since 1970. */
  at: number;
  connections: number;
  bytes: number | null;
  drops: number;
  repairs: number;
}

export interface Hop {
  what: string;
  why: string[];
  see?: string;
  kernel: string[];
  /** Where the kernel is not as it should be. */
  differs?: string[];
  /** What may stop a packet here, and is not Podwire's. */
  suspects?: string[];
}

export interface Trace {
  node: string;
  source: string;
  destination: string;
  hops: Hop[];
  end: "arrives" | "leaves" | "refused" | "dropped" | "elsewhere";
  conclusion: string;
  differences: string[];
}

/** What one node says, on the way there or back. */
export interface Part {
  node: string;
  way: "there" | "back";
  title: string;
  trace: { Ok: Trace } | { Err: string };
}

/** The whole way, as all agents on it tell it. */
export interface Way {
  source: string;
  destination: string;
  parts: Part[];
  good: boolean;
  conclusion: string;
  /** The first hop that fails; hops are counted from 1, over all parts. It is not certain where a node
   * says nothing, and may yet do what it should. */
  failure: { part: number; hop: number | null; node: string; cause: string; certain: boolean } | null;
}

export type Verdict = "good" | "may" | "bad";

/** Whether it arrives. That it fails is only said if the hop is known and it is certain. */
export function verdict(way: Way): Verdict {
  if (way.good) return "good";
  return way.failure && way.failure.certain !== false ? "bad" : "may";
}

/** The trace of a part; null if its node says nothing. */
export function trace(part: Part): Trace | null {
  return "Ok" in part.trace ? part.trace.Ok : null;
}
