// The way of a packet through the picture: along cables, never across.

import type { Layout, NodeBox, Point, PodBox } from "./layout";

/** Where one end is. */
export type End =
  | { kind: "pod"; box: PodBox; node: NodeBox }
  | { kind: "node"; node: NodeBox }
  | { kind: "service"; id: string }
  | { kind: "outside" };

/** Finds ends by the names and addresses that agents use. */
export class Places {
  private readonly byName = new Map<string, End>();

  constructor(readonly layout: Layout) {
    for (const service of layout.services) this.byName.set(service.id, { kind: "service", id: service.id });
    for (const node of layout.nodes) {
      this.byName.set(node.node.name, { kind: "node", node });
      for (const address of node.node.addresses) this.byName.set(address, { kind: "node", node });
      for (const box of node.pods) {
        const end: End = { kind: "pod", box, node };
        this.byName.set(box.id, end);
        for (const address of box.addresses) this.byName.set(address, end);
      }
    }
  }

  find(...names: (string | null | undefined)[]): End | null {
    for (const name of names) {
      const end = name ? this.byName.get(name) : undefined;
      if (end) return end;
    }
    return null;
  }

  /** An address that no thing of the cluster has is outside. */
  of(party: { address: string; pod: string | null }): End {
    return this.find(party.address, party.pod) ?? { kind: "outside" };
  }

  service(id: string): Point | null {
    const box = this.layout.services.find((one) => one.id === id);
    return box ? { x: box.x + box.w / 2, y: box.y + box.h } : null;
  }
}

/** From an end to the point at which its node routes, that first point included. */
function toRail(end: End): Point[] {
  if (end.kind !== "pod") return [];
  const { box, node } = end;
  const y = box.y + box.h / 2;
  return [{ x: box.x, y }, { x: box.trunk, y }, { x: box.trunk, y: node.rail }];
}

function toBus(end: End, layout: Layout): Point[] {
  if (end.kind === "outside" || end.kind === "service") {
    return [{ x: layout.spine.x, y: layout.spine.y1 }, { x: layout.spine.x, y: layout.buses[0]?.y ?? 0 }];
  }
  const { node } = end;
  return [{ x: node.port.x, y: node.rail }, { x: node.port.x, y: node.bus }];
}

function nodeOf(end: End): NodeBox | null {
  return end.kind === "pod" || end.kind === "node" ? end.node : null;
}

/** The points from one end to the other; the first `before` of them lie before the first routing. */
export function route(layout: Layout, from: End, to: End): { points: Point[]; before: number } {
  const start = toRail(from);
  const [a, b] = [nodeOf(from), nodeOf(to)];
  let middle: Point[];
  if (a && a === b) {
    middle = start.length ? [] : [{ x: a.port.x, y: a.rail }];
  } else {
    const up = toBus(from, layout);
    const down = toBus(to, layout).reverse();
    const [high, low] = [up.at(-1)!.y, down[0]!.y];
    const around = high === low ? [] : [{ x: layout.spine.x, y: high }, { x: layout.spine.x, y: low }];
    middle = [...up, ...around, ...down];
  }
  const points = [...start, ...middle, ...toRail(to).reverse()];
  const clean = points.filter((p, i) => i === 0 || p.x !== points[i - 1]!.x || p.y !== points[i - 1]!.y);
  return { points: clean, before: Math.max(1, start.length) };
}

/** The way up to where the node of an end decides. */
export function upTo(layout: Layout, from: End, to: End, node: string): Point[] {
  const { points } = route(layout, from, to);
  const box = layout.nodes.find((one) => one.node.name === node);
  if (!box) return points;
  const within = (p: Point) => p.x >= box.x && p.x <= box.x + box.w && p.y >= box.y && p.y <= box.y + box.h;
  const stop = points.findIndex((p) => within(p) && p.y === box.rail);
  return stop < 0 ? points : points.slice(0, stop + 1);
}

export function lengthOf(points: Point[]): number {
  let sum = 0;
  for (let i = 1; i < points.length; i++) sum += span(points[i - 1]!, points[i]!);
  return sum;
}

export function span(a: Point, b: Point): number {
  return Math.abs(a.x - b.x) + Math.abs(a.y - b.y);
}

/** The point after a length of the way. */
export function along(points: Point[], length: number): Point {
  let left = length;
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1]!, points[i]!];
    const step = span(a, b);
    if (left <= step && step > 0) {
      const share = left / step;
      return { x: a.x + (b.x - a.x) * share, y: a.y + (b.y - a.y) * share };
    }
    left -= step;
  }
  return points.at(-1) ?? { x: 0, y: 0 };
}

/** As the `d` of a path, with round corners. */
export function drawn(points: Point[], radius = 8): string {
  if (points.length === 0) return "";
  let text = `M${points[0]!.x} ${points[0]!.y}`;
  for (let i = 1; i < points.length; i++) {
    const [before, here, after] = [points[i - 1]!, points[i]!, points[i + 1]];
    if (!after) {
      text += `L${here.x} ${here.y}`;
      continue;
    }
    const r = Math.min(radius, span(before, here) / 2, span(here, after) / 2);
    const [a, b] = [toward(here, before, r), toward(here, after, r)];
    text += `L${a.x} ${a.y}Q${here.x} ${here.y} ${b.x} ${b.y}`;
  }
  return text;
}

function toward(from: Point, to: Point, length: number): Point {
  const whole = span(from, to) || 1;
  return { x: from.x + ((to.x - from.x) * length) / whole, y: from.y + ((to.y - from.y) * length) / whole };
}
