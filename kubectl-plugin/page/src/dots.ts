// Packets on their way: dots along the cables, drawn past the rest of the page, because they move sixty
// times a second.

import type { Point } from "./layout";
import { along, drawn, lengthOf } from "./ways";

/** More than these at once say no more, and cost. */
const MOST = 240;
/** A dot takes this long, whatever its way, in milliseconds. */
const TAKES = 1100;
/** How long a cable glows after the last packet, in milliseconds. */
const GLOWS = 2600;

interface Dot { node: SVGCircleElement; points: Point[]; length: number; turn: number; kind: string; start: number }
interface Glow { node: SVGPathElement; count: number; last: number }

const SVG = "http://www.w3.org/2000/svg";

export class Dots {
  private dots: Dot[] = [];
  private glows = new Map<string, Glow>();
  private frame = 0;
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(private readonly layer: SVGGElement, private readonly under: SVGGElement, private readonly radius: () => number) {}

  /** Sends one along. It has the colour of Services until it was translated, after `turn` of its points. */
  send(points: Point[], kind: "flow" | "service" | "drop", turn = 0): void {
    if (points.length < 2) return;
    this.glow(points, kind === "drop" ? "drop" : "flow");
    if (!this.still.matches && this.dots.length < MOST) {
      const node = document.createElementNS(SVG, "circle");
      node.setAttribute("r", String(this.radius()));
      this.layer.append(node);
      const length = lengthOf(points);
      const dot = { node, points, length, turn: lengthOf(points.slice(0, turn)), kind, start: performance.now() };
      this.dots.push(dot);
      place(dot, 0);
    }
    this.frame ||= requestAnimationFrame(this.step);
  }

  /** Takes everything away, for another picture. */
  clear(): void {
    for (const dot of this.dots) dot.node.remove();
    for (const glow of this.glows.values()) glow.node.remove();
    this.dots = [];
    this.glows.clear();
  }

  private glow(points: Point[], kind: string): void {
    const d = drawn(points);
    const key = kind + d;
    let glow = this.glows.get(key);
    if (!glow) {
      const node = document.createElementNS(SVG, "path");
      node.setAttribute("d", d);
      node.setAttribute("class", `glow ${kind}`);
      this.under.append(node);
      glow = { node, count: 0, last: 0 };
      this.glows.set(key, glow);
    }
    glow.count += 1;
    glow.last = performance.now();
    // Ten connections are twice as wide as one, not ten times.
    glow.node.setAttribute("stroke-width", String(2 + Math.min(3, Math.log10(glow.count) * 1.5)));
  }

  private readonly step = (now: number): void => {
    this.dots = this.dots.filter((dot) => {
      const share = (now - dot.start) / TAKES;
      if (share >= 1) dot.node.remove();
      else place(dot, Math.max(0, share));
      return share < 1;
    });
    for (const [key, glow] of this.glows) {
      const age = (now - glow.last) / GLOWS;
      if (age < 1) {
        glow.node.setAttribute("opacity", (1 - age).toFixed(2));
        continue;
      }
      glow.node.remove();
      this.glows.delete(key);
    }
    const more = this.dots.length + this.glows.size > 0;
    this.frame = more ? requestAnimationFrame(this.step) : 0;
  };
}

function place(dot: Dot, share: number): void {
  const eased = share < 0.5 ? 2 * share * share : 1 - (2 - 2 * share) ** 2 / 2;
  const length = eased * dot.length;
  const { x, y } = along(dot.points, length);
  dot.node.setAttribute("cx", String(x));
  dot.node.setAttribute("cy", String(y));
  const before = dot.kind === "service" && length < dot.turn;
  dot.node.setAttribute("class", `dot ${dot.kind === "drop" ? "drop" : before ? "service" : "flow"}`);
}
