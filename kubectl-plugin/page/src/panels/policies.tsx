// Policies as who may reach whom: rule by rule, and pod by pod.

import { useEffect, useRef } from "preact/hooks";
import { examine, leave } from "../live";
import { examined, named, reach, side, unreached, view, type Side } from "../state";
import type { PolicyView } from "../types";
import { shown } from "../words";
import { Filter, fits, SHOWN } from "./filter";

/** Of so many pods of a policy each is named; the others are a click away. */
const NAMED = 12;
/** And no more than so many then. */
const MOST = 400;

export function Policies() {
  const now = view.value;
  const list = (now?.policies ?? []).filter((one) => fits(one.id, ...one.ingress.map(named), ...one.egress.map(named), ...(one.ingress_rules ?? []), ...(one.egress_rules ?? [])));
  const pods = (now?.nodes ?? []).flatMap((node) => node.pods);
  const free = pods.filter((pod) => pod.ingress.length === 0).length;
  return (
    <>
      <Filter label="Filter by policy, rule or pod" />
      <Examined />
      <p class="quiet">{pods.length > 0 && `${free} of ${pods.length} pods may be reached by anyone, as no policy isolates them for ingress.`}</p>
      {list.slice(0, SHOWN).map((one) => <PolicyCard key={one.id} policy={one} />)}
    </>
  );
}

/** The pod that is examined: who may reach it, and whom it may reach, of all pods. */
function Examined() {
  const pod = examined.value;
  const card = useRef<HTMLElement>(null);
  // The pod that was clicked may stand far below.
  useEffect(() => card.current?.scrollIntoView({ block: "nearest" }), [pod]);
  if (!pod) return null;
  const found = reach.value;
  const of = (which: Side) => (found?.peers ?? []).filter((one) => one[which] !== undefined);
  const words: Record<Side, string> = { from: "May reach it", to: "It may reach" };
  const peers = of(side.value);
  return (
    <section class="examined-card" ref={card} aria-label={`Who may reach ${shown(named(pod))}`}>
      <h3>{shown(named(pod))}</h3>
      {unreached.value && <p class="bad" role="alert">{shown(unreached.value)}</p>}
      {!found && !unreached.value && <p class="quiet">Asking …</p>}
      {found && (
        <>
          <div class="sides" role="group" aria-label="Direction">
            {(["from", "to"] as const).map((which) => (
              <button key={which} type="button" aria-pressed={side.value === which} onClick={() => { side.value = which; }}>{words[which]} ({of(which).length})</button>
            ))}
          </div>
          {peers.length === 0 && <p class="small">No other pod.</p>}
          <ul class="may-list" tabIndex={0} aria-label={words[side.value]}>
            {peers.slice(0, 500).map((one) => <li key={one.pod}><b>{shown(named(one.pod))}</b><span>{shown(one[side.value] ?? "")}</span></li>)}
          </ul>
          {peers.length > 500 && <p class="quiet">And {peers.length - 500} more.</p>}
          <p class="quiet small">What a node and its own pods send each other is always allowed.</p>
        </>
      )}
      <div class="row"><button type="button" onClick={leave}>Close</button></div>
    </section>
  );
}

function PolicyCard({ policy }: { policy: PolicyView }) {
  return (
    <article class="card">
      <h3>{shown(policy.id)}</h3>
      <Direction label="Ingress: who may reach" pods={policy.ingress} rules={policy.ingress_rules} which="from" />
      <Direction label="Egress: where may go" pods={policy.egress} rules={policy.egress_rules} which="to" />
    </article>
  );
}

/** What a policy says in one direction, and of which pods; a click on one lights its peers. */
function Direction({ label, pods, rules, which }: { label: string; pods: string[]; rules: string[] | null; which: Side }) {
  if (pods.length === 0) return null;
  const show = (pod: string) => {
    side.value = which;
    void examine(pod);
  };
  const chip = (pod: string) => (
    <button key={pod} type="button" class="chip" aria-pressed={examined.value === pod} onClick={() => show(pod)}>{shown(named(pod))}</button>
  );
  return (
    <>
      <h4>{label}</h4>
      <p class="small">{pods.slice(0, NAMED).map(chip)}</p>
      {pods.length > NAMED && (
        <details class="small">
          <summary>and {pods.length - NAMED} more pods</summary>
          {pods.slice(NAMED, MOST).map(chip)}
        </details>
      )}
      {rules && rules.length > 0 && <ul class="rules">{rules.map((text, index) => <li key={index}>{shown(text)}</li>)}</ul>}
      {rules && rules.length === 0 && <p class="bad small">{which === "from" ? "No one: it has no rule that allows anything." : "Nowhere: it has no rule that allows anything."}</p>}
    </>
  );
}
