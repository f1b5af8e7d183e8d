// The way to the server: one stream of events, and questions.

import { addDrops, addFlows, addSamples, announcement, asking, connection, drops, examined, failure, flows, from,
  lit, lostAt, missed, named, refusal, rates, reach, reached, remarks, samples, side, to, unreached, view, way } from "./state";
import { trace, type Drop, type Flow, type Reach, type Sample, type ServiceRate, type View, type Way } from "./types";

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

let key = "";

/** Opens the stream of events, and again when it breaks. The token goes in a header: a cookie would go to
 * every other port of this address as well, and an EventSource sends no header. */
export async function start(): Promise<void> {
  key = token();
  for (;;) {
    try {
      const answer = await fetch("/api/events", { headers: { "x-podwire-token": key } });
      if (answer.status === 401) {
        connection.value = "refused";
        return;
      }
      if (!answer.ok) refusal.value = (await answer.text()).trim();
      else if (answer.body) await read(answer.body as ReadableStream<BufferSource>);
    } catch {
      // The server is gone, for now or for good; below is said that it is tried again.
    }
    connection.value = "lost";
    lostAt.value ??= Date.now();
    await new Promise((done) => setTimeout(done, 1500));
  }
}

/** Reads a stream of events to its end. */
async function read(body: ReadableStream<BufferSource>): Promise<void> {
  // The server tells again what it keeps.
  [flows.value, drops.value, samples.value] = [[], [], []];
  connection.value = "live";
  refusal.value = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) event(block);
  }
}

/** One event: its name in one line, its JSON in another. */
function event(block: string): void {
  const lines = block.split("\n");
  const field = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
  const [kind, data] = [field("event"), field("data")];
  if (kind && data) take(kind, JSON.parse(data));
}

function take(kind: string, value: unknown): void {
  if (kind === "state") {
    view.value = sparing(view.peek(), value as View);
    lostAt.value = null;
  } else if (kind === "samples") addSamples(value as Sample[]);
  else if (kind === "rates") rates.value = new Map((value as ServiceRate[]).map((one) => [one.id, one]));
  else if (kind === "remarks") remarks.value = value as string[];
  else if (kind === "missed") missed.value += value as number;
  // What was before this page was opened is listed, not drawn.
  else if (kind === "past-flows") addFlows(value as Flow[]);
  else if (kind === "past-drops") addDrops(value as Drop[]);
  else if (kind === "flows") {
    addFlows(value as Flow[]);
    hear(value as Flow[], []);
  } else if (kind === "drops") {
    const news = value as Drop[];
    addDrops(news);
    hear([], news);
    const last = news.at(-1);
    if (last) announcement.value = `Dropped: ${last.reason}`;
  }
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

/** What the server answers to a question; a string says why there is no answer. */
async function question<T>(path: string, query: Record<string, string>): Promise<T | string> {
  try {
    const answer = await fetch(`/api/${path}?${new URLSearchParams(query)}`, { headers: { "x-podwire-token": key } });
    return answer.ok ? ((await answer.json()) as T) : (await answer.text()).trim();
  } catch {
    return "podwire ui does not answer; is it still running?";
  }
}

/** Asks who may reach a pod, and lights them. */
export async function examine(pod: string): Promise<void> {
  examined.value = pod;
  reach.value = null;
  unreached.value = "";
  const found = await question<Reach>("reach", { pod });
  if (examined.value !== pod) return;
  if (typeof found === "string") {
    unreached.value = found;
    return;
  }
  reach.value = found;
  const others = (reached.value?.size ?? 1) - 1;
  announcement.value = side.value === "from" ? `${others} pods may reach ${named(pod)}.` : `${named(pod)} may reach ${others} pods.`;
}

export function leave(): void {
  examined.value = "";
  reach.value = null;
  unreached.value = "";
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
  leave();
  const found = await question<Way>("why", { from: from.value.trim(), to: to.value.trim() });
  if (mine !== round) return;
  asking.value = false;
  if (typeof found === "string") {
    failure.value = found;
    return;
  }
  way.value = found;
  const hops = found.parts.reduce((sum, part) => sum + (trace(part)?.hops.length ?? 0), 0);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (still) lit.value = hops;
  else light(mine, hops);
  announcement.value = found.conclusion;
}

function light(mine: number, hops: number): void {
  if (mine !== round || lit.value >= hops) return;
  lit.value += 1;
  setTimeout(() => light(mine, hops), STEP);
}

/** Takes one more end of the question; the second one asks. */
export function choose(id: string): void {
  leave();
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
