// Everything that the page shows, as signals.

import { computed, signal } from "@preact/signals";
import { fullName, type Drop, type Flow, type Reach, type Sample, type ServiceRate, type View, type Way } from "./types";

const KEPT = 400;
/** Ten minutes at a sample every two seconds. */
const SAMPLES = 300;

export type Connection = "connecting" | "live" | "lost" | "refused";

/** What the server says to a page that it does not answer, if it says anything. */
export const refusal = signal("");
export const view = signal<View | null>(null);
export const connection = signal<Connection>("connecting");
/** Since when nothing is known of the cluster, in milliseconds since 1970; null while it is told. */
export const lostAt = signal<number | null>(null);
export const flows = signal<Flow[]>([]);
export const drops = signal<Drop[]>([]);
export const samples = signal<Sample[]>([]);
/** How fast Services go, by their names. */
export const rates = signal<Map<string, ServiceRate>>(new Map());
/** What the server left out because this page read too slowly. */
export const missed = signal(0);
/** Why agents tell no flows or drops, by node. */
export const remarks = signal<string[]>([]);

export const search = signal("");
export const from = signal("");
export const to = signal("");
export const way = signal<Way | null>(null);
export const asking = signal(false);
export const failure = signal("");
/** The pod of which is shown who may reach it; empty if none is. */
export const examined = signal("");
export const reach = signal<Reach | null>(null);
export const unreached = signal("");
/** Whether is shown who reaches it, or whom it reaches. */
export type Side = "from" | "to";
export const side = signal<Side>("from");
/** How many hops of the way are lit. */
export const lit = signal(0);
/** The thing under the pointer or the keyboard. */
export const hovered = signal("");
export const announcement = signal("");

export type Tab = "flows" | "drops" | "services" | "policies" | "things";
export const tab = signal<Tab>("flows");

export interface Thing {
  /** What `why` understands. */
  id: string;
  kind: "pod" | "service" | "node";
  label: string;
  /** Empty for a node. */
  namespace: string;
  /** The namespace, or what it is. */
  about: string;
  words: string;
}

export const things = computed<Thing[]>(() => {
  const now = view.value;
  if (!now) return [];
  const list: Thing[] = [];
  for (const service of now.services) {
    const front = service.ports.flatMap((port) => port.fronts).at(0) ?? "";
    list.push(thing(service.id, "service", service, `Service in ${service.namespace}`, front));
  }
  for (const node of now.nodes) {
    list.push(thing(node.name, "node", { namespace: "", name: node.name }, "Node", [...node.addresses, ...node.pod_cidrs].join(" ")));
    for (const pod of node.pods) {
      const about = `pod in ${pod.namespace} on ${node.name}`;
      list.push(thing(pod.id, "pod", pod, about, [fullName(pod), ...pod.addresses, pod.link].join(" ")));
    }
  }
  return list;
});

function thing(id: string, kind: Thing["kind"], named: { namespace: string; name: string }, about: string, more: string): Thing {
  const { namespace, name } = named;
  return { id, kind, label: name, namespace, about, words: `${id} ${about} ${more}`.toLowerCase() };
}

/** The names of the pods that go by something else. */
const names = computed<Map<string, string>>(() => {
  const pods = view.value?.nodes.flatMap((node) => node.pods) ?? [];
  return new Map(pods.filter((pod) => pod.id !== fullName(pod)).map((pod) => [pod.id, fullName(pod)]));
});

/** The name of the pod with this ID. */
export function named(id: string): string {
  return names.value.get(id) ?? id;
}

/** The namespaces that have pods, sorted. */
export const namespaces = computed<string[]>(() => {
  const pods = view.value?.nodes.flatMap((node) => node.pods) ?? [];
  return [...new Set(pods.map((pod) => pod.namespace))].sort();
});

const colours = computed(() => new Map(namespaces.value.map((name, index) => [name, `ns${index % 8}`])));

/** The class with the colour of a namespace. */
export function colour(namespace: string): string {
  return colours.value.get(namespace) ?? "ns0";
}

/** The things that are looked for; null if nothing is. A namespace with a slash is that one, and not all
 * whose names end like it. */
export const hits = computed<Set<string> | null>(() => {
  const wanted = search.value.trim().toLowerCase();
  if (!wanted) return null;
  const namespace = namespaces.value.find((name) => name && wanted === `${name}/`);
  const is = (one: Thing) => (namespace ? one.namespace === namespace : one.words.includes(wanted));
  return new Set(things.value.filter(is).map((one) => one.id));
});

/** The pods that are lit because they may reach the one that is examined, it included; null if none is. */
export const reached = computed<Set<string> | null>(() => {
  const found = reach.value;
  if (!found) return null;
  const peers = found.peers.filter((one) => one[side.value] !== undefined);
  return new Set([found.pod, ...peers.map((one) => one.pod)]);
});

export function addFlows(news: Flow[]): void {
  flows.value = [...news.slice().reverse(), ...flows.value].slice(0, KEPT);
}

export function addDrops(news: Drop[]): void {
  drops.value = [...news.slice().reverse(), ...drops.value].slice(0, KEPT);
}

export function addSamples(news: Sample[]): void {
  samples.value = [...samples.value, ...news].slice(-SAMPLES);
}
