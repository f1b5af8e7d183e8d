// Services: their endpoints, the share of each, and how fast they go.

import { choose } from "../live";
import { rates, view } from "../state";
import type { ServicePort, ServiceRate, ServiceView } from "../types";
import { bytes, number, shown } from "../words";
import { Filter, fits, SHOWN } from "./filter";

export function Services() {
  const list = (view.value?.services ?? []).filter((one) => fits(one.id, ...one.ports.flatMap((port) => port.fronts)));
  return (
    <>
      <Filter label="Filter by name or address" />
      {list.slice(0, SHOWN).map((one) => <ServiceCard key={one.id} service={one} />)}
      {list.length === 0 && <p class="quiet">No Service.</p>}
    </>
  );
}

function ServiceCard({ service }: { service: ServiceView }) {
  const rate = rates.value.get(service.id);
  return (
    <article class="card">
      <h3><button type="button" class="plain" onClick={() => choose(service.id)}>{shown(service.id)}</button></h3>
      <Rate rate={rate} />
      {service.ports.map((port, index) => <PortTable key={index} port={port} rate={rate} />)}
    </article>
  );
}

/** How fast it goes now. */
function Rate({ rate }: { rate: ServiceRate | undefined }) {
  const carried = rate?.bytes === null || rate?.bytes === undefined ? "" : ` · ${bytes(rate.bytes)}/s`;
  return <p class="small rate">{number(rate?.connections ?? 0)} new connections/s{carried}{rate && rate.kept > 0 && ` · ${number(rate.kept)} kept by the nodes`}</p>;
}

function PortTable({ port, rate }: { port: ServicePort; rate: ServiceRate | undefined }) {
  const sum = port.endpoints.reduce((all, one) => all + (one.connections ?? 0), 0);
  const stays = port.affinity === null ? "" : ` · a client stays for ${port.affinity} s`;
  return (
    <>
      <p class="small">
        <span class="mono">{port.fronts.map(shown).join(", ")}</span>{" "}
        {shown(port.protocol)} · {shown(port.balancing)}{stays}
        {port.connections !== null && ` · ${number(port.connections)} connections`}
      </p>
      {port.endpoints.length === 0 && <p class="bad small">No endpoint can answer.</p>}
      {port.endpoints.length > 0 && (
        <table>
          <thead><tr><th scope="col">Endpoint</th><th scope="col">Node</th><th scope="col" class="right">New</th><th scope="col" class="right">/s</th><th scope="col">Share</th></tr></thead>
          <tbody>
            {port.endpoints.slice(0, 50).map((one) => (
              <tr key={one.address}>
                <td>{shown(one.pod ?? one.address)}</td>
                <td>{shown(one.node ?? "–")}</td>
                <td class="right">{one.connections === null ? "–" : number(one.connections)}</td>
                <td class="right">{number(rate?.endpoints[one.address] ?? 0)}</td>
                <td><meter min={0} max={100} value={sum ? (100 * (one.connections ?? 0)) / sum : 0}
                  aria-label={`Share of ${shown(one.address)}`} />{" "}{sum ? `${Math.round((100 * (one.connections ?? 0)) / sum)} %` : "–"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </>
  );
}
