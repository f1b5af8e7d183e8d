// What happened in the last minutes, as lines.

import uPlot from "uplot";
import { useEffect, useRef } from "preact/hooks";
import { samples } from "../state";
import type { Sample } from "../types";
import { theme } from "../theme";
import { bytes, number } from "../words";

interface Kind { key: keyof Sample; label: string; colour: string; write: (value: number) => string }

const KINDS: Kind[] = [
  { key: "connections", label: "Connections", colour: "--flow", write: (value) => `${number(value)}/s` },
  { key: "bytes", label: "Bytes", colour: "--accent", write: (value) => `${bytes(value)}/s` },
  { key: "drops", label: "Drops", colour: "--bad", write: (value) => `${number(value)}/s` },
  { key: "repairs", label: "Repairs", colour: "--service", write: (value) => `${number(value)}/s` },
];

export function Plots() {
  return (
    <section class="plots" aria-label="The last ten minutes">
      {KINDS.map((kind) => <Plot key={kind.key} kind={kind} />)}
    </section>
  );
}

function Plot({ kind }: { kind: Kind }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const now = samples.value.at(-1)?.[kind.key] ?? null;
  const said = now === null ? "–" : kind.write(now);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    plot.current = make(kind, element);
    plot.current.setData(data(samples.peek(), kind));
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: 72 }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      plot.current?.destroy();
    };
  }, [theme.value]);
  useEffect(() => {
    plot.current?.setData(data(samples.value, kind));
  }, [samples.value]);
  return (
    <figure class="plot">
      <figcaption><span>{kind.label}</span> <b>{said}</b></figcaption>
      <div ref={place} role="img" aria-label={`${kind.label} over the last ten minutes, now ${said}`} />
    </figure>
  );
}

function data(all: Sample[], kind: Kind): uPlot.AlignedData {
  return [all.map((one) => one.at), all.map((one) => one[kind.key])];
}

function make(kind: Kind, element: HTMLElement): uPlot {
  const style = getComputedStyle(document.documentElement);
  const ink = (name: string) => style.getPropertyValue(name).trim();
  const [line, soft, muted] = [ink(kind.colour), `${ink(kind.colour)}26`, ink("--muted")];
  const grid = { stroke: ink("--line"), width: 1 };
  const font = "11px system-ui, sans-serif";
  const options: uPlot.Options = {
    width: element.clientWidth || 200,
    height: 72,
    legend: { show: false },
    cursor: { show: false },
    padding: [6, 18, 0, 0],
    scales: {
      x: { range: () => { const end = Date.now() / 1000; return [end - 600, end]; } },
      y: { range: (_self, _least, most) => [0, Math.max(1, most * 1.15)] },
    },
    axes: [
      { stroke: muted, grid: { show: false }, ticks: { show: false }, font, size: 16, gap: 2, space: 70,
        values: (_self, marks) => marks.map((at) => { const back = Math.round((Date.now() / 1000 - at) / 60); return back > 0 ? `−${back} min` : "now"; }) },
      { stroke: muted, grid, ticks: { show: false }, font, size: 44, gap: 4, space: 24,
        values: (_self, marks) => marks.map((value) => (kind.key === "bytes" ? bytes(value) : number(value))) },
    ],
    series: [{}, { stroke: line, fill: soft, width: 1.6, points: { show: false } }],
  };
  return new uPlot(options, [[], []], element);
}
