// The cluster as a picture: nodes hang on the node network, pods on their nodes, each on a cable.

import { select } from "d3-selection";
import { zoom, zoomIdentity, zoomTransform, type ZoomBehavior } from "d3-zoom";
import { signal, useComputed } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { Dots } from "./dots";
import { choose, onTraffic } from "./live";
import { lay, type Box, type Layout, type NodeBox, type PodBox, type Point } from "./layout";
import { colour, examined, from, hits, hovered, lit, namespaces, rates, reached, search, to, view, way } from "./state";
import { fullName, trace, verdict, type Drop, type Flow, type NodeView, type PodView, type ServiceView, type Verdict, type View } from "./types";
import { drawn, Places, route, upTo, type End } from "./ways";
import { cut, number, shown } from "./words";

/** Below this scale labels of pods cannot be read, and are not drawn. */
const FAR = 0.45;
/** In pixels: below this all parts of the page stand below each other, as in style.css. */
const NARROW = 760;

/** The part of the picture that is seen, and whether from afar. */
const scope = signal<Box & { far: boolean }>({ x: 0, y: 0, w: 0, h: 0, far: true });

let camera: Camera | null = null;

export function Picture() {
  const svg = useRef<SVGSVGElement>(null);
  const scene = useRef<SVGGElement>(null);
  const over = useRef<SVGGElement>(null);
  const under = useRef<SVGGElement>(null);
  const now = view.value;
  const shape = now ? fingerprint(now) : "";
  const layout = useMemo(() => (now ? lay(now, aspect(now.nodes.length)) : null), [shape]);
  const places = useMemo(() => (layout ? new Places(layout) : null), [layout]);

  useEffect(() => {
    if (!svg.current || !scene.current) return;
    camera = new Camera(svg.current, scene.current);
  }, []);
  useEffect(() => {
    if (layout) camera?.show(layout);
  }, [layout?.w, layout?.h]);
  useEffect(() => {
    if (!places || !over.current || !under.current) return;
    const dots = new Dots(over.current, under.current, () => (scope.peek().far ? 3.2 / zoomTransform(svg.current!).k : 5));
    onTraffic((news, losses) => traffic(dots, places, news, losses));
    return () => {
      onTraffic(() => {});
      dots.clear();
    };
  }, [places]);
  useEffect(() => {
    const found = hits.value;
    if (!found || !layout) return;
    const boxes = boxesOf(layout, found);
    if (boxes.length > 0) camera?.glide(around(boxes));
  }, [search.value, layout]);

  const label = now ? summary(now) : "The cluster is being asked.";
  return (
    <div class="picture">
      {now && <Namespaces />}
      <div class="sheet">
        <svg ref={svg} role="img" aria-label={label} class="far">
          <g ref={scene}>
            {now && layout && <Scene now={now} layout={layout} />}
            <g ref={under} class="under" />
            {layout && <Ports layout={layout} />}
            {places && <Lit places={places} />}
            <g ref={over} class="over" />
          </g>
        </svg>
        {!now && <p class="waiting">Asking the agents …</p>}
      </div>
      <div class="foot">
        <Legend />
        <div class="zoom" role="group" aria-label="Zoom">
          <button type="button" aria-label="Closer" onClick={() => camera?.by(1.4)}>+</button>
          <button type="button" aria-label="Further away" onClick={() => camera?.by(1 / 1.4)}>−</button>
          <button type="button" aria-label="Show all" onClick={() => layout && camera?.show(layout)}>⤢</button>
        </div>
      </div>
    </div>
  );
}

function Legend() {
  return (
    <ul class="legend" aria-label="What the colours mean">
      <li><i class="key flow" />flow</li>
      <li><i class="key service" />to a Service</li>
      <li><i class="key drop" />dropped</li>
      <li><i class="key shield" />isolated by policies</li>
    </ul>
  );
}

/** Which colour is which namespace; a click looks for it. */
function Namespaces() {
  const all = namespaces.value;
  if (all.length < 2) return null;
  return (
    <div class="spaces" role="group" aria-label="Namespaces">
      {all.slice(0, 12).map((name) => (
        <button key={name} type="button" class={colour(name)} aria-pressed={search.value === `${name}/`} onClick={() => { search.value = search.value === `${name}/` ? "" : `${name}/`; }}>
          <i />{cut(name, 20)}
        </button>
      ))}
      {all.length > 12 && <span>{`+ ${all.length - 12}`}</span>}
    </div>
  );
}

/** What decides where things are; other changes must not move them. */
function fingerprint(now: View): string {
  const nodes = now.nodes.map((node) => `${node.name}:${node.addresses}:${node.pods.map((pod) => `${pod.id}@${pod.addresses}`)}`);
  return `${now.services.map((one) => one.id)}|${nodes.join("|")}`;
}

/** Width by height; on a narrow screen a few nodes stand below each other. */
function aspect(nodes: number): number {
  if (innerWidth >= NARROW) return 1.55;
  return nodes <= 8 ? 0.25 : 0.72;
}

function summary(now: View): string {
  const pods = now.nodes.reduce((sum, node) => sum + node.pods.length, 0);
  return `The network of ${shown(now.title)}: ${now.nodes.length} nodes on one node network, ${pods} pods, ` +
    `${now.services.length} Services. All of them are in the list under Things.`;
}

function Scene({ now, layout }: { now: View; layout: Layout }) {
  const wrong = new Set(now.wrong.flatMap((one) => one.nodes));
  const nodes = new Map(now.nodes.map((node) => [node.name, node]));
  const services = new Map(now.services.map((one) => [one.id, one]));
  return (
    <>
      <Network layout={layout} />
      {layout.services.map((box) => (
        <ServiceChip key={box.id} box={box} scale={layout.scale} service={services.get(box.id)!} />
      ))}
      {layout.nodes.map((box) => {
        const node = nodes.get(box.node.name) ?? box.node;
        return <NodePicture key={node.name} box={box} node={node} wrong={wrong.has(node.name)} />;
      })}
    </>
  );
}

function Network({ layout }: { layout: Layout }) {
  const { cloud, spine, buses } = layout;
  const x = cloud.x + cloud.w / 2;
  return (
    <g class="network">
      <path class="bus" d={`M${spine.x} ${spine.y1}V${spine.y2}`} />
      {buses.map((bus) => <path key={bus.y} class="bus" d={`M${bus.x1} ${bus.y}H${bus.x2}`} />)}
      {layout.nodes.map((box) => <path key={box.node.name} class="bus" d={`M${box.port.x} ${box.bus}V${box.y}`} />)}
      <g transform={`scale(${layout.scale})`}>
        <path class="cloud" d={cloudPath(cloud)} />
        <text x={x} y={cloud.y + 42} class="title" text-anchor="middle">outside</text>
        <text x={x} y={cloud.y + 59} class="small" text-anchor="middle">and other machines</text>
      </g>
      {buses[0] && <text x={spine.x + 12} y={buses[0].y - 9} class="small">node network</text>}
    </g>
  );
}

/** Where nodes hang on their network: above the glow of what passes. */
function Ports({ layout }: { layout: Layout }) {
  return (
    <g class="ports">
      {layout.nodes.map((box) => <rect key={box.node.name} x={box.port.x - 6} y={box.y - 6} width="12" height="12" rx="3" />)}
    </g>
  );
}

function cloudPath({ x, y, w, h }: Box): string {
  const at = (dx: number, dy: number) => `${x + dx * w} ${y + dy * h}`;
  return `M${at(0.2, 0.94)}C${at(-0.06, 0.94)} ${at(-0.06, 0.46)} ${at(0.15, 0.42)}` +
    `C${at(0.14, 0.1)} ${at(0.42, 0)} ${at(0.5, 0.2)}C${at(0.62, 0.02)} ${at(0.86, 0.1)} ${at(0.84, 0.38)}` +
    `C${at(1.06, 0.42)} ${at(1.06, 0.94)} ${at(0.8, 0.94)}Z`;
}

/** The classes of a thing; read here, so that only what changes is drawn again. */
function marks(id: string): string {
  const found = hits.value;
  const chosen = from.value === id ? " from" : to.value === id ? " to" : "";
  const dim = found && !found.has(id) ? " dim" : "";
  const hit = found?.has(id) ? " hit" : "";
  return `${chosen}${dim}${hit}${hovered.value === id ? " hovered" : ""}`;
}

/** The same of a pod, with whether it may reach the one that is examined. */
function podMarks(id: string): string {
  const lit = reached.value;
  const may = !lit ? "" : lit.has(id) ? " may" : " dim";
  return `${marks(id)}${may}${examined.value === id ? " examined" : ""}`;
}

function pointed(id: string) {
  return {
    onClick: () => choose(id),
    onPointerEnter: () => { hovered.value = id; },
    onPointerLeave: () => { if (hovered.value === id) hovered.value = ""; },
  };
}

function ServiceChip({ box, scale, service }: { box: Box; scale: number; service: ServiceView }) {
  const mark = useComputed(() => marks(service.id)).value;
  const front = service.ports.flatMap((port) => port.fronts).at(0) ?? "no address";
  const endpoints = service.ports.at(0)?.endpoints.length ?? 0;
  const [w, h] = [box.w / scale, box.h / scale];
  const rate = useComputed(() => rates.value.get(service.id)?.connections ?? 0).value;
  return (
    <g class={`service${mark}${endpoints ? "" : " empty"}`} transform={`translate(${box.x} ${box.y}) scale(${scale})`} {...pointed(service.id)}>
      <title>{shown(service.id)}</title>
      <rect width={w} height={h} rx="10" />
      <text x="14" y="20" class="title">{cut(service.name, rate > 0 ? 16 : 22)}</text>
      {rate > 0 && <text x={w - 12} y="20" class="small" text-anchor="end">{`${number(rate)}/s`}</text>}
      <text x="14" y="37" class="small mono">{cut(front, 22)}</text>
      <text x={w - 12} y="37" class="small" text-anchor="end">{`→ ${endpoints}`}</text>
    </g>
  );
}

function NodePicture({ box, node, wrong }: { box: NodeBox; node: NodeView; wrong: boolean }) {
  const mark = useComputed(() => marks(node.name)).value;
  const near = useComputed(() => !scope.value.far && meet(scope.value, box)).value;
  const state = node.answers ? (wrong ? " wrong" : "") : " silent";
  const fit = Math.floor((box.w - 48) / 8.2);
  // From afar a click goes nearer: what is too small to be read is too small to be chosen.
  const pointer = near ? pointed(node.name) : { onClick: () => camera?.glide(box) };
  return (
    <g class={`node${mark}${state}`}>
      <g class="frame" {...pointer}>
        <title>{shown(node.trouble ?? node.name)}</title>
        <rect class="body" x={box.x} y={box.y} width={box.w} height={box.h} rx="14" />
        <circle class="state" cx={box.x + box.w - 18} cy={box.y + 20} r="5" />
        <text x={box.x + box.w / 2} y={box.y + 50} class="title distant" text-anchor="middle">{cut(node.name, Math.floor(box.w / 38))}</text>
        {near && (
          <>
            <text x={box.x + 32} y={box.y + 25} class="title near">{cut(node.name, fit)}</text>
            <text x={box.x + 32} y={box.y + 43} class="small mono near">{cut(`${node.uplink?.name ?? "uplink"} ${node.addresses.at(0) ?? ""}`, fit)}</text>
            <text x={box.x + 32} y={box.y + 59} class="small mono near">{cut(`pods ${node.pod_cidrs.join(" ") || "no podCIDR"}`, fit)}</text>
          </>
        )}
      </g>
      <path class="cable" d={trunks(box)} />
      {near ? <Pods box={box} node={node} /> : <DistantPods box={box} node={node} />}
      {node.pods.length === 0 && near && <text x={box.x + 32} y={box.rail + 34} class="small near">{node.answers ? "no pods" : "not known"}</text>}
    </g>
  );
}

function meet(a: Box, b: Box): boolean {
  return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
}

/** From the uplink to where the node routes, and down to the last pod of each column. */
function trunks(box: NodeBox): string {
  const down = box.trunks.map((trunk) => {
    const ends = box.pods.filter((pod) => pod.trunk === trunk).map((pod) => pod.y + pod.h / 2);
    return ends.length ? `M${trunk} ${box.rail}V${Math.max(...ends)}` : "";
  });
  return `M${box.port.x} ${box.y}V${box.rail}H${box.trunks.at(-1) ?? box.port.x}${down.join("")}`;
}

function Pods({ box, node }: { box: NodeBox; node: NodeView }) {
  const pods = new Map(node.pods.map((pod) => [pod.id, pod]));
  return <>{box.pods.map((pod) => <PodPill key={pod.id} box={pod} pod={pods.get(pod.id)} />)}</>;
}

/** Thousands of pods as a few shapes: one a colour, and the ones that are looked for. */
function DistantPods({ box, node }: { box: NodeBox; node: NodeView }) {
  const special = useComputed(() => box.pods.filter((pod) => podMarks(pod.id).replace(/ (dim|may)/g, "") !== "").map((pod) => pod.id).join("\n")).value;
  const dim = useComputed(() => hits.value !== null).value;
  const lit = reached.value;
  const chosen = new Set(special.split("\n"));
  const pods = new Map(node.pods.map((pod) => [pod.id, pod]));
  const shapes = new Map<string, string>();
  for (const pod of box.pods) {
    const about = pods.get(pod.id);
    if (!about || chosen.has(pod.id)) continue;
    const faint = dim || (lit && !lit.has(pod.id)) ? " dim" : "";
    const kind = `${colour(about.namespace)}${about.present ? "" : " gone"}${faint}`;
    shapes.set(kind, `${shapes.get(kind) ?? ""}M${pod.x} ${pod.y}h${pod.w}v${pod.h}h${-pod.w}z`);
  }
  return (
    <g class="distance">
      {[...shapes].map(([kind, d]) => <path key={kind} class={`pod ${kind}`} d={d} />)}
      {box.pods.filter((pod) => chosen.has(pod.id)).map((pod) => <PodPill key={pod.id} box={pod} pod={pods.get(pod.id)} />)}
    </g>
  );
}

function PodPill({ box, pod }: { box: PodBox; pod: PodView | undefined }) {
  const mark = useComputed(() => podMarks(box.id)).value;
  if (!pod) return null;
  const y = box.y + box.h / 2;
  const address = pod.addresses.at(0) ?? "";
  const wide = box.w > 180;
  const isolated = pod.ingress.length + pod.egress.length > 0;
  const room = wide ? Math.floor((box.w - 44 - address.length * 7.2) / 7.4) : 15;
  return (
    <g class={`pod ${colour(pod.namespace)}${mark}${pod.present ? "" : " gone"}`} {...pointed(pod.id)}>
      <title>{shown(`${fullName(pod)} ${pod.addresses.join(" ")} (${pod.link})`)}</title>
      <path class="cable" d={`M${box.trunk} ${y}H${box.x}`} />
      <rect class="pill" x={box.x} y={box.y} width={box.w} height={box.h} rx="8" />
      <rect class="tint" x={box.x + 4} y={box.y + 5} width="4" height={box.h - 10} rx="2" />
      <text x={box.x + 16} y={y + 4} class="label near">{cut(pod.name, Math.max(6, room))}</text>
      {wide && <text x={box.x + box.w - 26} y={y + 4} class="small mono near" text-anchor="end">{cut(address, 15)}</text>}
      {isolated && <path class="shield" d={shield(box.x + box.w - 13, y)} />}
    </g>
  );
}

function shield(x: number, y: number): string {
  return `M${x - 5} ${y - 5}L${x} ${y - 7}L${x + 5} ${y - 5}V${y}Q${x + 5} ${y + 5} ${x} ${y + 7}Q${x - 5} ${y + 5} ${x - 5} ${y}Z`;
}

/** The way that `why` told, lit as far as its hops have been shown. */
function Lit({ places }: { places: Places }) {
  const found = way.value;
  const there = found?.parts.filter((part) => part.way === "there") ?? [];
  const first = there[0];
  const start = places.find(from.value, first && trace(first)?.source);
  if (!found || !start) return null;
  const { failure } = found;
  const end = verdict(found);
  // Of several endpoints the one at which it fails, else all.
  const failing = there.find((part) => part === found.parts[failure?.part ?? -1] && part !== first);
  const goals = failing ? [failing] : there.length > 1 ? there.slice(1) : there;
  const ways = goals.map((goal) => {
    const target = destination(places, [trace(goal)?.destination, to.value]);
    return failure ? upTo(places.layout, start, target, failure.node) : route(places.layout, start, target).points;
  });
  const hops = found.parts.reduce((sum, part) => sum + (trace(part)?.hops.length ?? 0), 0);
  const share = Math.min(1, lit.value / Math.max(1, failure?.hop ?? hops));
  return <g class={`lit ${end}`}>{ways.map((points, index) => <LitWay key={index} points={points} share={share} end={end} />)}</g>;
}

/** It ends in a cross only where it is certain that nothing goes on. */
function LitWay({ points, share, end }: { points: Point[]; share: number; end: Verdict }) {
  const stop = points.at(-1);
  if (!stop) return null;
  return (
    <>
      <path d={drawn(points)} pathLength={1} stroke-dasharray={`${share} 1`} />
      {share === 1 && end !== "bad" && <circle cx={stop.x} cy={stop.y} r="7" />}
      {share === 1 && end === "bad" && <path class="stop" d={`M${stop.x - 8} ${stop.y - 8}l16 16m0 -16l-16 16`} />}
    </>
  );
}

/** The first of these that is in the picture; addresses may come with a port, and with what is sent. */
function destination(places: Places, named: (string | null | undefined)[]): End {
  const bare = (name: string) => (name.split(" ")[0] ?? "").replace(/\/(tcp|udp|sctp)$/i, "").replace(/^\[(.*)\](:\d+)?$/, "$1");
  const plain = named.flatMap((name) => (name ? [name, bare(name), bare(name).replace(/^([^:]*):\d+$/, "$1")] : []));
  const ends = plain.map((name) => places.find(name)).filter((end) => end !== null);
  return ends.find((end) => end.kind !== "service") ?? ends[0] ?? { kind: "outside" };
}

function traffic(dots: Dots, places: Places, news: Flow[], losses: Drop[]): void {
  if (document.hidden) return;
  for (const flow of news) {
    if (!flow.began) continue;
    const { points, before } = route(places.layout, places.of(flow.source), places.of(flow.destination));
    dots.send(points, flow.service ? "service" : "flow", before);
  }
  for (const drop of losses) {
    const [start, end] = [places.of(drop.source), places.of(drop.destination)];
    dots.send(upTo(places.layout, start, end, drop.node), "drop");
  }
}

function boxesOf(layout: Layout, wanted: Set<string>): Box[] {
  const boxes: (Box & { id: string })[] = [
    ...layout.services,
    ...layout.nodes.map((box) => ({ x: box.x, y: box.y, w: box.w, h: box.h, id: box.node.name })),
    ...layout.nodes.flatMap((box) => box.pods),
  ];
  return boxes.filter((box) => wanted.has(box.id));
}

function around(boxes: Box[]): Box {
  const x = Math.min(...boxes.map((box) => box.x));
  const y = Math.min(...boxes.map((box) => box.y));
  const right = Math.max(...boxes.map((box) => box.x + box.w));
  const bottom = Math.max(...boxes.map((box) => box.y + box.h));
  return { x, y, w: right - x, h: bottom - y };
}

/** What is seen of the picture. */
class Camera {
  private readonly behaviour: ZoomBehavior<SVGSVGElement, unknown>;
  private whole: Box | null = null;
  /** Whether someone looks at a part of their own choice. */
  private moved = false;
  private told = 0;

  constructor(private readonly svg: SVGSVGElement, scene: SVGGElement) {
    this.behaviour = zoom<SVGSVGElement, unknown>()
      .scaleExtent([0.04, 4])
      .on("zoom", (event) => {
        const { k } = event.transform as { k: number };
        scene.setAttribute("transform", String(event.transform));
        svg.classList.toggle("far", k < FAR);
        svg.style.setProperty("--k", String(k));
        if (event.sourceEvent) this.moved = true;
        this.told ||= requestAnimationFrame(() => this.tell());
      });
    select(svg).call(this.behaviour).on("dblclick.zoom", null);
    new ResizeObserver(() => {
      if (this.whole && !this.moved) this.show(this.whole);
      else this.tell();
    }).observe(svg);
  }

  /** Shows all of it. */
  show(box: Box): void {
    this.whole = { x: box.x, y: box.y, w: box.w, h: box.h };
    this.move(this.whole, 1.25);
    this.moved = false;
  }

  /** Shows a part. */
  glide(box: Box): void {
    this.move(box, 1.3);
    this.moved = true;
  }

  by(factor: number): void {
    this.moved = true;
    select(this.svg).call(this.behaviour.scaleBy, factor);
  }

  private move(box: Box, most: number): void {
    const { clientWidth: w, clientHeight: h } = this.svg;
    if (!w || !h) return;
    const wide = (w - 36) / box.w;
    // On a narrow screen what is below is reached by moving it, if it can be read then.
    const tall = Math.max((h - 36) / box.h, innerWidth < NARROW && wide > FAR ? Math.min(wide, 0.8) : 0);
    const k = Math.min(most, wide, tall);
    const x = w / 2 - (box.x + box.w / 2) * k;
    const y = Math.max(18, (h - box.h * k) / 2) - box.y * k;
    select(this.svg).call(this.behaviour.transform, zoomIdentity.translate(x, y).scale(k));
  }

  private tell(): void {
    this.told = 0;
    const { x, y, k } = zoomTransform(this.svg);
    scope.value = { x: -x / k, y: -y / k, w: this.svg.clientWidth / k, h: this.svg.clientHeight / k, far: k < FAR };
  }
}
