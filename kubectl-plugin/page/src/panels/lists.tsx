// The lists beside the picture: flows, drops, Services, policies, and all things.

import { useEffect, useRef } from "preact/hooks";
import { choose } from "../live";
import { colour, drops, flows, hovered, missed, remarks, search, tab, things, from, to, type Tab, type Thing } from "../state";
import type { Drop, Flow } from "../types";
import { bytes, clock, party, shown } from "../words";
import { Filter, fits, SHOWN } from "./filter";
import { Policies } from "./policies";
import { Services } from "./services";

const TABS: { id: Tab; label: string }[] = [
  { id: "flows", label: "Flows" },
  { id: "drops", label: "Drops" },
  { id: "services", label: "Services" },
  { id: "policies", label: "Policies" },
  { id: "things", label: "Things" },
];

export function Lists() {
  const bar = useRef<HTMLDivElement>(null);
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = TABS.findIndex((one) => one.id === tab.value);
    tab.value = TABS[(at + step + TABS.length) % TABS.length]!.id;
    bar.current?.querySelector<HTMLElement>(`#tab-${tab.value}`)?.focus();
  };
  const count = { flows: 0, drops: drops.value.length, services: 0, policies: 0, things: 0 };
  return (
    <section class="panel lists" aria-label="What there is and what happens">
      <div class="tabs" role="tablist" aria-label="Lists" ref={bar} onKeyDown={move}>
        {TABS.map((one) => (
          <button key={one.id} type="button" role="tab" id={`tab-${one.id}`} aria-controls="list" aria-selected={tab.value === one.id}
            tabIndex={tab.value === one.id ? 0 : -1} onClick={() => { tab.value = one.id; }}>
            {one.label}{count[one.id] > 0 && <span class="count">{count[one.id]}</span>}
          </button>
        ))}
      </div>
      <div id="list" role="tabpanel" aria-labelledby={`tab-${tab.value}`} tabIndex={0}>
        {tab.value === "flows" && <Flows />}
        {tab.value === "drops" && <Drops />}
        {tab.value === "services" && <Services />}
        {tab.value === "policies" && <Policies />}
        {tab.value === "things" && <Things />}
      </div>
    </section>
  );
}

/** Which agents tell nothing, and why. */
function Remarks({ about }: { about: string }) {
  return <>{remarks.value.filter((text) => text.startsWith(about)).map((text) => <p key={text} class="quiet">{shown(text)}</p>)}</>;
}

function Flows() {
  const list = flows.value.filter((one) => fits(party(one.source), one.source.address, party(one.destination), one.destination.address, one.service, one.port, one.node));
  return (
    <>
      <Filter label="Filter by name, address or port" />
      {missed.value > 0 && <p class="quiet">{missed.value} were left out: more happens than this page can read.</p>}
      <Remarks about="No flows" />
      {list.length === 0 && <p class="quiet">No connection yet. Try a <code>curl</code> from a pod.</p>}
      <ul class="events">
        {list.slice(0, SHOWN).map((one, index) => <FlowLine key={`${one.time}${index}`} flow={one} />)}
      </ul>
    </>
  );
}

function FlowLine({ flow }: { flow: Flow }) {
  return (
    <li class={flow.began ? "" : "ended"}>
      <time>{clock(flow.time)}</time>
      <div>
        <b>{party(flow.source)}</b> <span class="arrow">→</span>{" "}
        {flow.service && <><b class="service">{shown(flow.service)}</b> <span class="arrow">→</span>{" "}</>}
        <b>{party(flow.destination)}</b>
        <small>
          {shown(flow.protocol)}{flow.port !== null && ` ${flow.port}`}
          {flow.front && ` · at ${shown(flow.front)}`}
          {!flow.began && ` · ended${flow.bytes === null ? "" : `, ${bytes(flow.bytes)}`}`}
        </small>
      </div>
    </li>
  );
}

function Drops() {
  const list = drops.value.filter((one: Drop) => fits(party(one.source), one.source.address, party(one.destination), one.destination.address, one.reason, one.object, one.node));
  return (
    <>
      <Filter label="Filter by name, address or reason" />
      <Remarks about="No drops" />
      {list.length === 0 && <p class="quiet">Nothing was dropped.</p>}
      <ul class="events">
        {list.slice(0, SHOWN).map((one, index) => (
          <li key={`${one.time}${index}`} class="drop">
            <time>{clock(one.time)}</time>
            <div>
              <b>{party(one.source)}</b> <span class="arrow">⇥</span> <b>{party(one.destination)}</b>
              <small>{shown(one.protocol)}{one.port !== null && ` ${one.port}`} · on {shown(one.node)}</small>
              <p>{shown(one.reason)}</p>
              {one.object && <p class="object">{shown(one.object)}</p>}
            </div>
          </li>
        ))}
      </ul>
    </>
  );
}

/** All things as a list for the keyboard: arrows move, Enter chooses. */
function Things() {
  const box = useRef<HTMLUListElement>(null);
  const list = things.value.filter((one) => fits(one.words)).slice(0, 1000);
  const at = Math.max(0, list.findIndex((one) => one.id === hovered.value));
  const active = list[at];
  useEffect(() => {
    box.current?.querySelector(`#thing-${at}`)?.scrollIntoView({ block: "nearest" });
  }, [at]);
  const key = (event: KeyboardEvent) => {
    const last = list.length - 1;
    const next = { ArrowDown: Math.min(last, at + 1), ArrowUp: Math.max(0, at - 1), Home: 0, End: last }[event.key];
    if (next !== undefined && list[next]) hovered.value = list[next].id;
    else if ((event.key === "Enter" || event.key === " ") && active) choose(active.id);
    else return;
    event.preventDefault();
  };
  return (
    <>
      <Filter label="Filter by name, address or namespace" />
      <p class="quiet" id="things-help">Arrows move, Enter chooses from, then to.</p>
      <ul class="things" role="listbox" tabIndex={0} aria-label="Things" aria-describedby="things-help" ref={box}
        aria-activedescendant={active ? `thing-${at}` : undefined} onKeyDown={key}>
        {list.map((one, index) => <ThingLine key={one.id} one={one} index={index} active={index === at} />)}
      </ul>
    </>
  );
}

function ThingLine({ one, index, active }: { one: Thing; index: number; active: boolean }) {
  const role = from.value === one.id ? " from" : to.value === one.id ? " to" : "";
  const tint = one.kind === "pod" ? colour(one.namespace) : "";
  return (
    <li id={`thing-${index}`} role="option" aria-selected={role !== ""} class={`${one.kind} ${tint}${role}${active ? " active" : ""}`}
      onClick={() => { hovered.value = one.id; choose(one.id); }}
      onPointerEnter={() => { hovered.value = one.id; }}>
      <i /><span>{shown(one.label)}</span><small>{shown(one.about)}{role && ` · ${role.trim()}`}</small>
    </li>
  );
}

export function Search() {
  return (
    <input class="search" type="search" aria-label="Search the picture" placeholder="Search: name, address, namespace  ( / )" value={search}
      onInput={(event) => { search.value = event.currentTarget.value; }} />
  );
}
