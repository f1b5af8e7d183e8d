// The way to the server: one stream of events, and questions.

import { addDrops, addFlows, addSamples, announcement, asking, connection, drops, failure, flows, from,
  lit, missed, remarks, samples, to, view, way } from "./state";
import type { Drop, Flow, Sample, View, Way } from "./types";

const KEY = "podwire-token";
/** How long each hop is looked at before the next one lights up, in milliseconds. */
const STEP = 280;

type Hearer = (flows: Flow[], drops: Drop[]) => void;
let hear: Hearer = () => {};

/** Who is told of what happens, to draw it. */
export function onTraffic(hearer: Hearer): void {
  hear = hearer;
}

/** The token stands in the address once; then it is taken out of what the browser shows and keeps. */
function token(): string {
  const address = new URL(location.href);
  const given = address.searchParams.get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }
  return given ?? sessionStorage.getItem(KEY) ?? "";
}

/** Opens the session of this page and listens; a stream that breaks is opened again. */
export async function start(): Promise<void> {
  const given = token();
  try {
    // The answer sets a cookie that scripts cannot read: a stream of events carries no header.
    const answer = await fetch("/api/session", { method: "POST", headers: { "x-podwire-token": given } });
    if (!answer.ok) {
      connection.value = "refused";
      return;
    }
  } catch {
    connection.value = "lost";
    setTimeout(() => void start(), 2000);
    return;
  }
  listen();
}

function listen(): void {
  const stream = new EventSource("/api/events");
  const on = <T>(name: string, take: (value: T) => void) =>
    stream.addEventListener(name, (event) => take(JSON.parse((event as MessageEvent<string>).data) as T));
  stream.onopen = () => {
    // The server tells again what it keeps.
    flows.value = [];
    drops.value = [];
    samples.value = [];
    connection.value = "live";
  };
  stream.onerror = () => {
    connection.value = "lost";
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => void start(), 2000);
  };
  on<View>("state", (value) => {
    view.value = sparing(view.peek(), value);
  });
  on<Flow[]>("flows", (value) => {
    addFlows(value);
    hear(value, []);
  });
  on<Drop[]>("drops", (value) => {
    addDrops(value);
    hear([], value);
    const last = value.at(-1);
    if (last) announcement.value = `Dropped: ${last.reason}`;
  });
  on<Sample[]>("samples", addSamples);
  on<string[]>("remarks", (value) => {
    remarks.value = value;
  });
  on<number>("missed", (value) => {
    missed.value += value;
  });
}

/** The new view, with the old value of each node that is still the same: what is the same is not drawn
 * again. */
function sparing(old: View | null, now: View): View {
  if (!old) return now;
  const before = new Map(old.nodes.map((node) => [node.name, node]));
  const nodes = now.nodes.map((node) => {
    const was = before.get(node.name);
    return was && JSON.stringify(was) === JSON.stringify(node) ? was : node;
  });
  return { ...now, nodes };
}

let round = 0;

/** Asks `why` for what is chosen, and lights the way up hop by hop. */
export async function ask(): Promise<void> {
  if (!from.value.trim() || !to.value.trim()) return;
  const mine = ++round;
  asking.value = true;
  failure.value = "";
  way.value = null;
  lit.value = 0;
  const query = new URLSearchParams({ from: from.value.trim(), to: to.value.trim() });
  try {
    const answer = await fetch(`/api/why?${query}`);
    if (mine !== round) return;
    if (answer.ok) way.value = (await answer.json()) as Way;
    else failure.value = (await answer.text()).trim();
  } catch {
    failure.value = "podwire ui does not answer; is it still running?";
  }
  if (mine !== round) return;
  asking.value = false;
  const found: Way | null = way.value;
  if (!found) return;
  const hops = found.traces.reduce((sum, trace) => sum + trace.hops.length, 0);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (still) lit.value = hops;
  else light(mine, hops);
  const last = found.traces.at(-1);
  announcement.value = last ? last.conclusion : (found.silent[0]?.text ?? "No agent answered.");
}

function light(mine: number, hops: number): void {
  if (mine !== round || lit.value >= hops) return;
  lit.value += 1;
  setTimeout(() => light(mine, hops), STEP);
}

/** Takes one more end of the question; the second one asks. */
export function choose(id: string): void {
  if (!from.value || to.value) {
    from.value = id;
    to.value = "";
    way.value = null;
    failure.value = "";
    announcement.value = `From ${id}. Choose where to.`;
  } else {
    to.value = id;
    void ask();
  }
}

export function forget(): void {
  round += 1;
  from.value = "";
  to.value = "";
  way.value = null;
  failure.value = "";
  asking.value = false;
}
