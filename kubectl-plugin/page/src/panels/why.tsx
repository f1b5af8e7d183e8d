// The question: from where, to where; and the answer, hop by hop.

import { useEffect } from "preact/hooks";
import { ask, choose, forget } from "../live";
import { asking, failure, from, lit, things, to, way } from "../state";
import type { Hop, Trace } from "../types";
import { shown } from "../words";

export function Why() {
  const submit = (event: Event) => {
    event.preventDefault();
    void ask();
  };
  return (
    <section class="panel why" aria-labelledby="why-title">
      <h2 id="why-title">Why</h2>
      <form onSubmit={submit}>
        <label>
          <span>From</span>
          <input name="from" list="ends" autocomplete="off" spellcheck={false} placeholder="pod or address" value={from}
            onInput={(event) => { from.value = event.currentTarget.value; }} />
        </label>
        <button type="button" class="swap" aria-label="Swap from and to" onClick={swap}>⇄</button>
        <label>
          <span>To</span>
          <input name="to" list="ends" autocomplete="off" spellcheck={false} placeholder="pod, Service, address:port" value={to}
            onInput={(event) => { to.value = event.currentTarget.value; }} />
        </label>
        <button type="submit" class="primary">Ask</button>
        <datalist id="ends">
          {things.value.slice(0, 500).map((one) => <option key={one.id} value={one.id}>{shown(one.about)}</option>)}
        </datalist>
      </form>
      <Answer />
    </section>
  );
}

function swap(): void {
  const before = from.value;
  from.value = to.value;
  to.value = before;
  void ask();
}

/** The hop that stops a packet is looked at, however long the way to it. */
function useSight(): void {
  useEffect(() => {
    document.querySelector(".answer li.bad.on")?.scrollIntoView({ block: "nearest" });
  }, [lit.value]);
}

function Answer() {
  useSight();
  if (asking.value) return <p class="quiet">Asking …</p>;
  if (failure.value) return <p class="bad" role="alert">{shown(failure.value)}</p>;
  const found = way.value;
  if (!found) {
    const begun = from.value && !to.value;
    return <p class="quiet">{begun ? "Now choose where to." : "Choose two things in the picture, and see the way of a packet between them."}</p>;
  }
  const last = found.traces.at(-1);
  const good = last?.end === "arrives" || last?.end === "leaves";
  let number = 0;
  return (
    <div class="answer">
      {last && <p class={`verdict ${good ? "good" : "bad"}`}><b>{word(last)}</b> {shown(last.conclusion)}</p>}
      {found.traces.map((trace, index) => {
        const failing = index === found.traces.length - 1 && !good ? trace.hops.length - 1 : -1;
        return (
          <div key={index}>
            <h3>on {shown(trace.node)}</h3>
            <ol start={number + 1}>
              {trace.hops.map((hop, place) => {
                number += 1;
                return <Step key={place} hop={hop} on={number <= lit.value} bad={place === failing} />;
              })}
            </ol>
            {trace.differences.map((text) => <p key={text} class="bad">The kernel differs: {shown(text)}</p>)}
          </div>
        );
      })}
      {found.silent.map((one) => <p key={one.node} class="bad">{shown(one.node)}: {shown(one.text)}</p>)}
      <div class="row">
        <button type="button" onClick={() => { const end = to.value; forget(); choose(end); }}>Go on from there</button>
        <button type="button" onClick={forget}>Close</button>
      </div>
    </div>
  );
}

function word(trace: Trace): string {
  const words = { arrives: "Arrives.", leaves: "Leaves.", refused: "Refused.", dropped: "Dropped.", elsewhere: "Unknown." };
  return words[trace.end];
}

function Step({ hop, on, bad }: { hop: Hop; on: boolean; bad: boolean }) {
  return (
    <li class={`${on ? "on" : ""}${bad ? " bad" : ""}`}>
      <p class="what">{shown(hop.what)}</p>
      {hop.why.map((text) => <p key={text} class="because">{shown(text)}</p>)}
      {hop.kernel.length > 0 && (
        <details>
          <summary>the kernel has</summary>
          {hop.kernel.map((text) => <p key={text} class="mono">{shown(text)}</p>)}
        </details>
      )}
      {hop.see && <p class="see"><span>see</span><code>{shown(hop.see)}</code></p>}
    </li>
  );
}
