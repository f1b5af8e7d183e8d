// The page with a cluster that no one has to raise: what the server of `kubectl podwire ui` would send.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

const DIST = new URL("../../kubectl-plugin/page/dist/", import.meta.url);
const KINDS = { "index.html": "text/html; charset=utf-8", "page.js": "text/javascript; charset=utf-8", "page.css": "text/css; charset=utf-8" };
// As in kubectl-plugin/src/ui/pages.rs.
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Serves the page with this cluster; `way` is what `why` answers, and `reach` says who reaches a pod. `send` tells one more event. */
export async function serve(view, { way = null, reach = null } = {}) {
  const open = new Set();
  const write = (response, kind, value) => response.write(`event: ${kind}\ndata: ${JSON.stringify(value)}\n\n`);
  const server = createServer(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://127.0.0.1");
    response.setHeader("content-security-policy", POLICY);
    if (pathname === "/api/events") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      write(response, "state", view);
      write(response, "past-flows", []);
      write(response, "past-drops", []);
      open.add(response);
      response.on("close", () => open.delete(response));
    } else if (pathname === "/api/reach" && reach) {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify(reach(searchParams.get("pod"))));
    } else if (pathname === "/api/why") {
      response.writeHead(way ? 200 : 400, { "content-type": "application/json" });
      response.end(way ? JSON.stringify(way) : "no way was written down");
    } else {
      const name = pathname === "/" ? "index.html" : pathname.slice(1);
      if (!KINDS[name]) return response.writeHead(404).end();
      response.writeHead(200, { "content-type": KINDS[name] });
      response.end(await readFile(new URL(name, DIST)));
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    address: `http://127.0.0.1:${server.address().port}/?token=fixture`,
    send: (kind, value) => open.forEach((response) => write(response, kind, value)),
    close: () => { server.closeAllConnections(); server.close(); },
  };
}
