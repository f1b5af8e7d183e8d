// The page beside a real lab: what happens there is seen here.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { request } from "node:http";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { drawn, faults, open, shoot, start } from "./browser.mjs";

const PROGRAM = `${process.env.PODWIRE_BIN_DIR}/podwire-lab`;
const NAME = `ui-${process.pid}`;
const DENY = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
`;

// Those of the walkthrough (observations 16 to 19).
const WALKTHROUGH = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: web-closed}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: web-client}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: client}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: echo-http}
spec:
  podSelector: {matchLabels: {app: echo}}
  ingress:
    - ports: [{port: http}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: client-out}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
    - to: [{ipBlock: {cidr: 10.10.1.0/24}}]
`;

// The nodes of a lab share their PIDs: the agent of this one is in this network namespace.
const KILL = "for p in $(pidof podwire-agent); do [ $(readlink /proc/$p/ns/net) != $(readlink /proc/self/ns/net) ] || kill -9 $p; done";

const lab = (...args) => promisify(execFile)(PROGRAM, ["--lab", NAME, ...args], { timeout: 60_000 });
/** Fails in the lab are answers here. */
const tried = (...args) => lab(...args).catch((error) => error);

let browser, ui, address;

before(async () => {
  await lab("up");
  ui = spawn(PROGRAM, ["--lab", NAME, "ui"], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  for await (const chunk of ui.stdout) {
    said += chunk;
    address = said.match(/http:\S+/)?.[0];
    if (address) break;
  }
  browser = await start();
});

after(async () => {
  await browser?.close();
  ui?.kill("SIGINT");
  await lab("down");
});

/** The page, for one test. */
async function with_page(options, work) {
  const shown = await open(browser, address, options);
  try {
    await work(shown.page);
    assert.deepEqual(shown.errors, [], "the console has no errors");
  } finally {
    await shown.close();
  }
}

/** Gives the lab's cluster these objects until the work is done. */
async function with_objects(text, work) {
  const file = "/run/podwire-lab/manifests/ui.yaml";
  await lab("exec", "lab", "sh", "-c", `cat > ${file} <<'END'\n${text}END`);
  try {
    await work();
  } finally {
    await lab("exec", "lab", "rm", file);
  }
}

/** Comes back when connections are noticed: that begins when the page asks for them. */
async function noticed(page) {
  const line = page.locator(".events li", { hasText: "tcp 4322" }).first();
  for (const until = Date.now() + 10_000; !(await line.isVisible());) {
    assert.ok(Date.now() < until, "no connection is noticed");
    await tried("exec", "client", "curl", "-s", "10.10.1.3:4322");
  }
}

function status(headers, path = "/api/state") {
  const { hostname, port } = new URL(address);
  return new Promise((done, fail) => {
    request({ hostname, port, path, headers }, (answer) => done(answer.resume().statusCode)).on("error", fail).end();
  });
}

test("only who has the token, and asks for loopback from this very page, is answered", async () => {
  const { host, searchParams } = new URL(address);
  const token = { "x-podwire-token": searchParams.get("token") };
  assert.equal(await status(token), 200);
  assert.equal(await status({}), 401);
  assert.equal(await status({ "x-podwire-token": "0".repeat(32) }), 401);
  assert.equal(await status({ ...token, host: "rebound.example" }), 421);
  assert.equal(await status({ ...token, origin: "http://evil.example" }), 403);
  assert.equal(await status({ ...token, origin: `http://${host}` }), 200);
  assert.equal(await status({}, "/"), 200, "the page itself holds nothing of the cluster");
});

for (const theme of ["dark", "light"]) {
  test(`the page shows the walkthrough's lab within 2 s, ${theme}`, async (t) => {
    await with_page({ theme }, async (page) => {
      const took = await drawn(page);
      t.diagnostic(`the cluster was drawn after ${Math.round(took)} ms`);
      assert.ok(took < 2000, `${took} ms`);
      assert.equal(await page.locator("svg g.node").count(), 4);
      await page.locator("svg g.pod", { hasText: "web-3" }).waitFor();
      assert.equal(await page.locator("svg g.service").count(), 2);
      assert.deepEqual(await faults(page), []);
    });
  });

  test(`two clicks ask why, and the way lights up, ${theme}`, async () => {
    await with_page({ theme }, async (page) => {
      await page.locator("svg g.pod", { hasText: "client" }).locator(".pill").click();
      await page.locator("svg g.service", { hasText: "svc-clusterip" }).locator("rect").click();
      await page.locator(".verdict.good").waitFor();
      const hops = await page.locator(".answer li").count();
      assert.ok(hops >= 3, `${hops} hops`);
      await page.locator(".answer li.on").nth(hops - 1).waitFor();
      await page.locator("svg .lit circle").nth(2).waitFor();
      for (let i = 0; i < 12; i++) await lab("exec", "client", "curl", "-s", "10.200.1.63:9000");
      await page.locator("#tab-services").click();
      await page.locator(".card .rate", { hasText: /^0?\.?[1-9]/ }).first().waitFor();
      await shoot(page, `ui-why-${theme}`);
      assert.deepEqual(await faults(page), []);
    });
  });
}

test("a curl in a pod is a flow within a second", async (t) => {
  await with_page({}, async (page) => {
    await noticed(page);
    // No one has asked this Service before.
    const line = page.locator(".events li", { hasText: "default/svc-nodeport" }).first();
    assert.equal(await line.count(), 0);
    const ended = lab("exec", "client", "curl", "-s", "10.200.1.217:9000").then(() => performance.now());
    await Promise.all([line.waitFor(), page.locator("svg .over circle.dot").first().waitFor({ state: "attached" })]);
    const late = performance.now() - (await ended);
    t.diagnostic(`seen ${Math.round(late)} ms after curl ended`);
    assert.ok(late < 1000, `${late} ms`);
    assert.match(await line.innerText(), /default\/client → default\/svc-nodeport → default\//);
  });
});

test("a Service has a rate, and bytes are those of connections that have not ended", async () => {
  await with_page({}, async (page) => {
    await page.locator("#tab-services").click();
    const card = page.locator(".card", { hasText: "svc-clusterip" });
    const bytes = page.locator("figure", { hasText: "Bytes" }).locator("b");
    // Entries of connections that were closed stay for two minutes, so none of these ends meanwhile.
    const curls = lab("exec", "client", "sh", "-c", "for i in $(seq 60); do curl -s 10.200.1.63:9000; sleep 0.15; done");
    await card.getByText(/^[\d.]*[1-9][\d.]* new connections\/s/).waitFor();
    await card.getByText(/ [1-9][\d.]* K?B\/s/).waitFor();
    await page.waitForFunction((element) => /[1-9]/.test(element.textContent), await bytes.elementHandle());
    await curls;
    const rates = await card.locator("tbody tr td:nth-child(4)").allInnerTexts();
    assert.ok(rates.length >= 2 && rates.every((rate) => Number(rate) > 0), `all endpoints get some: ${rates}`);
  });
});

for (const theme of ["dark", "light"]) {
  test(`policies say by rule who may reach whom, and a click lights who may, ${theme}`, async () => {
    await with_objects(WALKTHROUGH, () => with_page({ theme }, async (page) => {
      await page.locator("#tab-policies").click();
      const card = (name) => page.locator(".card", { hasText: `default/${name}` }).filter({ hasText: "gress" });
      await card("web-client").getByText("everything from app=client").waitFor();
      await card("web-closed").getByText("it has no rule that allows anything").waitFor();
      await card("echo-http").getByText("tcp http from anyone").waitFor();
      await card("client-out").getByText("everything to 10.10.1.0/24").waitFor();
      await card("web-client").getByRole("button", { name: "default/web-1" }).click();
      await page.getByRole("button", { name: "May reach it (1)" }).waitFor();
      assert.match(await page.locator(".may-list li").innerText(), /default\/client\s*everything/);
      const lit = await page.locator("svg g.pod.may title").allTextContents();
      assert.deepEqual(lit.map((text) => text.split(" ")[0]).sort(), ["default/client", "default/web-1"]);
      await shoot(page, `ui-policies-${theme}`);
      assert.deepEqual(await faults(page), []);
      // The client may not go to where web-2 is, whatever web-2 allows.
      await card("web-client").getByRole("button", { name: "default/web-2" }).click();
      await page.getByRole("button", { name: "May reach it (0)" }).waitFor();
    }));
  });
}

test("what a policy drops is seen with the policy, and why says the same", async () => {
  await with_page({}, async (page) => {
    await with_objects(DENY, async () => {
      await page.locator("#tab-drops").click();
      await page.locator("svg .shield").first().waitFor();
      await tried("exec", "client", "curl", "-s", "-m", "1", "10.10.2.4:80");
      await page.locator(".events .drop", { hasText: "deny-all" }).first().waitFor();
      await page.locator("svg g.pod", { hasText: "client" }).locator(".pill").click();
      await page.locator("svg g.pod", { hasText: "web-2" }).locator(".pill").click();
      await page.locator(".verdict.bad").waitFor();
      await page.locator(".answer li.bad.on").waitFor();
      await page.locator("svg .lit.bad .stop").waitFor();
      await shoot(page, "ui-drop-dark");
      assert.deepEqual(await faults(page), []);
      await page.locator("#tab-policies").click();
      await page.getByText("deny-all").first().waitFor();
    });
    await page.locator("svg .shield").first().waitFor({ state: "detached" });
  });
});

test("an agent that is gone is on top of the page until it is back", async () => {
  await with_page({ theme: "light" }, async (page) => {
    await page.locator(".trouble.good").waitFor();
    await lab("exec", "worker3", "sh", "-c", KILL);
    await page.locator("svg g.node.silent").waitFor();
    await page.locator(".trouble.bad", { hasText: "worker3" }).waitFor();
    await shoot(page, "ui-fault-light");
    assert.deepEqual(await faults(page), []);
    await lab("restart", "worker3");
    await page.locator(".trouble.good").waitFor();
  });
});

test("when no one looks nothing is asked: the relays are gone", async () => {
  const relays = async () => (await lab("exec", "lab", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[p]odwire-agent relay' || true")).stdout.trim();
  await with_page({}, async () => {
    assert.notEqual(await relays(), "0");
  });
  // A relay first answers what it was asked, and who follows drops waits up to 15 s for one.
  const until = Date.now() + 25_000;
  while ((await relays()) !== "0") assert.ok(Date.now() < until, "relays go on");
});
