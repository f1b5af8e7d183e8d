// Where things are in the picture. Pure: the same cluster gives the same picture, so nothing jumps.

import type { NodeView, PodView, View } from "./types";

export interface Box { x: number; y: number; w: number; h: number }
export interface Point { x: number; y: number }

export interface PodBox extends Box {
  id: string;
  /** Where its cable leaves the node. */
  trunk: number;
  addresses: string[];
}

export interface NodeBox extends Box {
  node: NodeView;
  /** Where it hangs on the node network. */
  port: Point;
  /** The height of the node network above it. */
  bus: number;
  /** The height at which the node routes. */
  rail: number;
  trunks: number[];
  pods: PodBox[];
}

export interface ServiceBox extends Box { id: string }

export interface Layout extends Box {
  nodes: NodeBox[];
  services: ServiceBox[];
  cloud: Box;
  /** The node network: one line a row of nodes, and what connects them. */
  buses: { y: number; x1: number; x2: number }[];
  spine: { x: number; y1: number; y2: number };
  /** By how much Services and the outside are larger, to be seen beside many nodes. */
  scale: number;
}

const GAP = 28;
const PAD = 16;
const HEADER = 84;
const SERVICE = { w: 208, h: 48, gap: 12 };
const CLOUD = { w: 168, h: 82 };
/** From the node network down to a node. */
const HANG = 34;

interface Shape { columns: number; pill: { w: number; h: number; gap: number }; w: number; h: number }

function shape(pods: number): Shape {
  const columns = pods <= 9 ? 1 : pods <= 20 ? 2 : 3;
  const pill = columns === 1 ? { w: 212, h: 32, gap: 8 } : { w: 150, h: 30, gap: 6 };
  const rows = Math.ceil(pods / columns);
  return {
    columns,
    pill,
    w: PAD + columns * (pill.w + 24) + PAD - 4,
    h: HEADER + rows * (pill.h + pill.gap) + PAD,
  };
}

/** How many nodes stand in a row so that the whole comes close to `aspect`, width by height. */
function perRow(count: number, w: number, h: number, aspect: number): number {
  let best = 1;
  let error = Infinity;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const is = (columns * (w + GAP)) / (rows * (h + GAP + HANG + 20) + 110);
    // A last row with gaps is not beautiful.
    const gaps = (columns * rows - count) / count;
    const now = Math.abs(Math.log(is / aspect)) + gaps * 0.4;
    if (now < error) [best, error] = [columns, now];
  }
  return best;
}

export function lay(view: View, aspect: number): Layout {
  const most = Math.max(1, ...view.nodes.map((node) => node.pods.length));
  const form = shape(most);
  const columns = perRow(view.nodes.length, form.w, form.h, aspect);
  const left = view.nodes.length > 20 ? 90 : 44;
  const width = Math.max(left + columns * (form.w + GAP) - GAP, CLOUD.w + GAP + SERVICE.w);
  const scale = Math.max(1, Math.min(3.2, width / 1700));
  const services = layServices(view, width, scale);
  const lowest = Math.max(CLOUD.h * scale, ...services.map((one) => one.y + one.h));
  const spine = { x: 14 * scale, y1: (CLOUD.h - 26) * scale, y2: 0 };
  const nodes: NodeBox[] = [];
  const buses: Layout["buses"] = [];
  let y = lowest + 40;
  for (let first = 0; first < view.nodes.length; first += columns) {
    const row = view.nodes.slice(first, first + columns);
    const bus = y;
    const boxes = row.map((node, index) => layNode(node, left + index * (form.w + GAP), bus, form));
    nodes.push(...boxes);
    buses.push({ y: bus, x1: spine.x, x2: boxes.at(-1)!.port.x });
    y = Math.max(...boxes.map((box) => box.y + box.h)) + GAP + 20;
    spine.y2 = bus;
  }
  const h = Math.max(y - GAP - 20, lowest);
  return { x: 0, y: 0, w: width, h, nodes, services, cloud: { x: 0, y: 0, ...CLOUD }, buses, spine, scale };
}

function layServices(view: View, width: number, scale: number): ServiceBox[] {
  const left = (CLOUD.w + GAP + 12) * scale;
  const [w, h, gap] = [SERVICE.w * scale, SERVICE.h * scale, SERVICE.gap * scale];
  const columns = Math.max(1, Math.floor((width - left + gap) / (w + gap)));
  return view.services.map((service, index) => ({
    id: service.id,
    x: left + (index % columns) * (w + gap),
    y: 18 * scale + Math.floor(index / columns) * (h + gap),
    w,
    h,
  }));
}

/** Pods of a namespace side by side. */
function grouped(node: NodeView): PodView[] {
  const order = (a: PodView, b: PodView) => (a.namespace < b.namespace ? -1 : a.namespace > b.namespace ? 1 : 0);
  return [...node.pods].sort(order);
}

function layNode(node: NodeView, x: number, bus: number, form: Shape): NodeBox {
  const y = bus + HANG;
  const step = form.pill.w + 24;
  const trunks = Array.from({ length: form.columns }, (_, column) => x + PAD + column * step);
  const rows = Math.ceil(node.pods.length / form.columns);
  const pods = grouped(node).map((pod, index) => {
    const column = Math.floor(index / Math.max(1, rows));
    return {
      id: pod.id,
      x: trunks[column]! + 18,
      y: y + HEADER + (index % Math.max(1, rows)) * (form.pill.h + form.pill.gap),
      w: form.pill.w,
      h: form.pill.h,
      trunk: trunks[column]!,
      addresses: pod.addresses,
    };
  });
  const h = HEADER + Math.max(1, rows) * (form.pill.h + form.pill.gap) + PAD - form.pill.gap;
  const port = { x: x + PAD, y };
  return { node, x, y, w: form.w, h, port, bus, rail: y + HEADER - 14, trunks, pods };
}
