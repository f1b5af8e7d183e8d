// The question: from where, to where; and the answer, hop by hop.

import { useEffect } from "preact/hooks";
import { ask, choose, forget } from "../live";
import { asking, failure, from, lit, things, to, way } from "../state";
import { trace, verdict, type Hop, type Part, type Trace, type Verdict } from "../types";
import { shown } from "../words";

const VERDICTS: Record<Verdict, string> = { good: "Arrives.", may: "May fail.", bad: "Fails." };

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

/** The hop that stops a packet is looked at, however long the way to it; else one that may. */
function useSight(): void {
  useEffect(() => {
    const hop = document.querySelector(".answer li.bad.on") ?? document.querySelector(".answer li.may.on");
    hop?.scrollIntoView({ block: "nearest" });
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
  let number = 0;
  return (
    <div class="answer">
      <p class={`verdict ${verdict(found)}`}><b>{VERDICTS[verdict(found)]}</b> {shown(found.conclusion)}</p>
      {found.parts.map((part, index) => {
        const said = trace(part);
        const before = number;
        number += said?.hops.length ?? 0;
        return <Half key={index} part={part} said={said} before={before} />;
      })}
      <div class="row">
        <button type="button" onClick={() => { const end = to.value; forget(); choose(end); }}>Go on from there</button>
        <button type="button" onClick={forget}>Close</button>
      </div>
    </div>
  );
}

/** What one node says; its hops come after `before` others. */
function Half({ part, said, before }: { part: Part; said: Trace | null; before: number }) {
  const found = way.value;
  const fails = found?.failure?.hop;
  const atFailure = found && verdict(found) === "bad" ? "bad" : "may";
  const atHops = new Set(said?.hops.flatMap((hop) => hop.differs ?? []));
  return (
    <div>
      <h3>{shown(part.title)}</h3>
      {!said && <p class="bad">No answer: {"Err" in part.trace && shown(part.trace.Err)}</p>}
      {said && (
        <ol start={before + 1}>
          {said.hops.map((hop, index) => {
            const number = before + index + 1;
            const doubt = hop.suspects?.length ? "may" : "";
            return <Step key={index} hop={hop} on={number <= lit.value} mark={number === fails ? atFailure : doubt} />;
          })}
        </ol>
      )}
      {said?.differences.filter((text) => !atHops.has(text)).map((text) => <p key={text} class="bad">The kernel differs: {shown(text)}</p>)}
    </div>
  );
}

function Step({ hop, on, mark }: { hop: Hop; on: boolean; mark: "" | "may" | "bad" }) {
  return (
    <li class={`${on ? "on" : ""} ${mark}`}>
      <p class="what">{shown(hop.what)}</p>
      {hop.why.map((text) => <p key={text} class="because">{shown(text)}</p>)}
      {hop.differs?.map((text) => <p key={text} class="bad">The kernel differs: {shown(text)}</p>)}
      {hop.suspects?.map((text) => <p key={text} class="doubt">May stop it: {shown(text)}</p>)}
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
