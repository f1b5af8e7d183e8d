// The page with clusters that are written down: large ones, hostile ones, and a narrow screen.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { faults, open, shoot, start } from "./browser.mjs";
import { connections, hostile, HOSTILE, rates, reachOf, synthetic } from "./clusters.mjs";
import { serve } from "./fixture.mjs";

let browser;
before(async () => { browser = await start(); });
after(() => browser.close());

/** The page with a cluster, and what it does with it. */
async function with_page(view, options, work) {
  const server = await serve(view, options);
  const shown = await open(browser, server.address, options);
  try {
    await work(shown.page, server);
    assert.deepEqual(shown.errors, [], "the console has no errors");
  } finally {
    await shown.close();
    server.close();
  }
}

for (const theme of ["dark", "light"]) {
  test(`100 nodes with 30 pods each can be read and searched, ${theme}`, async () => {
    const view = synthetic(100, 30);
    await with_page(view, { theme }, async (page, server) => {
      const sample = (at) => ({ at, connections: 120 + 30 * Math.sin(at / 40), bytes: 4e6 + 2e6 * Math.cos(at / 30), drops: at % 90 < 8 ? 2 : 0, repairs: 0 });
      const now = Math.floor(Date.now() / 1000);
      server.send("samples", Array.from({ length: 300 }, (_, index) => sample(now - 600 + 2 * index)));
      server.send("flows", connections(view, 60));
      assert.equal(await page.locator("svg g.node").count(), 100);
      await page.locator(".events li").first().waitFor();
      await shoot(page, `ui-3000-pods-${theme}`);
      assert.deepEqual(await faults(page), []);
      await page.locator("input.search").fill("db-42-");
      await page.locator("svg .pod.hit").first().waitFor();
      await page.locator("svg:not(.far)").first().waitFor();
      await shoot(page, `ui-search-${theme}`);
    });
  });
}

test("a connection is a line and a dot on its way within a second", async () => {
  const view = synthetic(4, 4);
  await with_page(view, {}, async (page, server) => {
    await page.getByText("live", { exact: true }).waitFor();
    const began = performance.now();
    server.send("flows", connections(view, 1));
    await Promise.all([page.locator(".events li").first().waitFor(), page.locator("svg .over circle.dot").first().waitFor({ state: "attached" })]);
    const took = performance.now() - began;
    assert.ok(took < 1000, `${took} ms`);
    // A dot is gone when it has arrived.
    await page.locator("svg .over circle.dot").first().waitFor({ state: "detached" });
  });
});

test("names that mean harm are shown as text", async () => {
  await with_page(hostile(), {}, async (page) => {
    const seen = await page.locator("body").innerText();
    assert.ok(seen.includes(HOSTILE[0]), "the title as it is");
    await page.locator("#tab-things").click();
    const things = await page.locator("#list").innerText();
    assert.ok(things.includes("bell\\u{7}escape\\u{1b}[31mred"), things);
    assert.ok(things.includes("right\\u{202e}otni-tfel"), things);
    assert.ok(things.includes(HOSTILE[1]), things);
    assert.equal(await page.evaluate(() => globalThis.harmed), undefined);
    assert.equal(await page.locator("#page img, #page script").count(), 0);
    await page.locator("#tab-policies").click();
    const policies = await page.locator("#list").innerText();
    assert.ok(policies.includes(HOSTILE[0]) && policies.includes("bell\\u{7}escape"), policies);
  });
});

for (const nodes of [4, 100]) {
  test(`a click on a pod of a policy lights those who may reach it, of ${nodes} nodes`, async () => {
    const view = synthetic(nodes, nodes === 4 ? 6 : 30);
    await with_page(view, { reach: (pod) => reachOf(view, pod), still: true }, async (page) => {
      await page.locator("#tab-policies").click();
      const card = page.locator(".card", { hasText: "payments/default-deny" });
      await card.getByText("tcp 9090 from app=prometheus of namespaces team=ops").waitFor();
      const chip = card.locator(".chip").first();
      const pod = await chip.innerText();
      await chip.click();
      await page.getByRole("button", { name: /^May reach it/ }).waitFor();
      const may = view.nodes.flatMap((node) => node.pods).filter((one) => one.namespace === "payments").length - 1;
      assert.equal(await page.getByRole("button", { name: `May reach it (${may})` }).count(), 1);
      if (nodes === 4) {
        assert.equal(await page.locator("svg .pod.may").count(), may + 1, "the pod itself and its peers");
        assert.equal(await page.locator("svg .pod.dim").count(), 24 - may - 1);
      } else {
        await page.locator("svg .distance > .dim").first().waitFor();
      }
      await page.locator("svg .pod.examined", { hasText: pod.split("/")[1] }).waitFor();
      if (process.env.LOOK) await page.screenshot({ path: `${process.env.LOOK}/reach-${nodes}.png` });
      assert.deepEqual(await faults(page), []);
      await page.getByRole("button", { name: /^It may reach/ }).click();
      assert.equal(await page.locator("svg .pod.dim, svg .distance > .dim").count(), 0);
      await page.getByRole("button", { name: "Close", exact: true }).click();
      assert.equal(await page.locator("svg .pod.may, svg .examined").count(), 0);
    });
  });
}

test("a Service shows how fast it and its endpoints go", async () => {
  const view = synthetic(4, 4);
  await with_page(view, {}, async (page, server) => {
    await page.getByText("live", { exact: true }).waitFor();
    server.send("rates", rates(view));
    await page.locator("#tab-services").click();
    const card = page.locator(".card", { hasText: view.services[1].id });
    await card.getByText("6 new connections/s · 150 KB/s · 40 kept by the nodes").waitFor();
    assert.equal(await card.locator("tbody tr").nth(1).locator("td").nth(3).innerText(), "2");
    await page.locator("svg g.service", { hasText: "svc-1" }).getByText("6/s").waitFor();
    assert.deepEqual(await faults(page), []);
  });
});

test("a narrow screen has everything below each other, and nothing to the side", async () => {
  await with_page(synthetic(4, 4), { width: 390, height: 844 }, async (page) => {
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `${wide} pixels wide`);
    await shoot(page, "ui-phone-dark");
    assert.deepEqual(await faults(page), []);
  });
});

test("the keyboard alone chooses two ends and asks", async () => {
  const hop = { what: "sent by a pod", why: ["its link is up"], see: "ip link", kernel: [] };
  const trace = { node: "node-001", source: "a", destination: "b", hops: [hop, { ...hop, what: "refused" }], end: "refused", conclusion: "no endpoint", differences: [] };
  const way = {
    source: "a", destination: "b", good: false, conclusion: "no endpoint", failure: { part: 0, hop: 2, node: "node-001", cause: "none", certain: true },
    parts: [{ node: "node-001", way: "there", title: "on node-001", trace: { Ok: trace } }, { node: "node-002", way: "there", title: "on node-002", trace: { Err: "late" } }],
  };
  await with_page(synthetic(4, 4), { way, still: true }, async (page) => {
    await page.keyboard.press("/");
    assert.ok(await page.locator("input.search").evaluate((field) => field === document.activeElement));
    await page.locator("#tab-flows").focus();
    for (let press = 0; press < 4; press++) await page.keyboard.press("ArrowRight");
    await page.locator("ul.things").focus();
    await page.keyboard.press("End");
    await page.keyboard.press("Enter");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Enter");
    await page.locator(".answer li.bad.on").waitFor();
    assert.equal(await page.locator("[aria-live]").innerText(), "no endpoint");
    assert.deepEqual(await faults(page), []);
  });
});

test("a way that nothing of Podwire's stops may fail, and the hop says where to look", async () => {
  const hop = { what: "sent by a pod", why: [], see: "", kernel: [], suspects: [], differs: [] };
  const hops = [hop, { ...hop, what: "forwarded", suspects: ["chain ip x y has a rule that drops"] }];
  const trace = { node: "node-001", source: "a", destination: "b", hops, end: "arrives", conclusion: "It arrives.", differences: [] };
  const parts = [{ node: "node-001", way: "there", title: "on node-001", trace: { Ok: trace } }];
  const way = { source: "a", destination: "b", good: false, conclusion: "Nothing of Podwire's stops it.", failure: null, parts };
  await with_page(synthetic(4, 4), { way, still: true }, async (page) => {
    await page.locator("#tab-flows").focus();
    for (let press = 0; press < 4; press++) await page.keyboard.press("ArrowRight");
    await page.locator("ul.things").focus();
    for (const key of ["End", "Enter", "ArrowUp", "Enter"]) await page.keyboard.press(key);
    await page.locator(".answer li.may").getByText("chain ip x y has a rule that drops").waitFor();
    assert.match(await page.locator(".answer .verdict").innerText(), /^May fail/);
    assert.equal(await page.locator(".answer li.bad").count(), 0);
    assert.deepEqual(await faults(page), []);
  });
});

test("a node with trouble is marked in the picture, one by one", async () => {
  const view = synthetic(4, 4);
  const nodes = [view.nodes[1].name, view.nodes[2].name];
  view.wrong = [{ kind: "warning", node: `nodes ${nodes.join(" and ")}`, nodes, object: "the uplink", text: "is gone" }];
  await with_page(view, {}, async (page) => {
    await page.locator("svg g.node.wrong").first().waitFor();
    assert.equal(await page.locator("svg g.node.wrong").count(), 2);
  });
});

test("a namespace in the search is that one and no other", async () => {
  const view = synthetic(1, 2);
  view.nodes[0].pods = ["prod", "preprod"].map((namespace, index) => ({ ...view.nodes[0].pods[index], id: `${namespace}/web`, namespace, name: "web" }));
  view.policies = [];
  await with_page(view, {}, async (page) => {
    await page.getByText("live", { exact: true }).waitFor();
    await page.locator("input.search").fill("prod/");
    await page.locator("svg .pod.hit").first().waitFor();
    assert.equal(await page.locator("svg .pod.hit").count(), 1);
  });
});

test("when the server is gone nothing is claimed", async () => {
  const server = await serve(synthetic(2, 2));
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(server.address);
  await page.getByText("nothing is wrong").waitFor();
  server.close();
  await page.getByText("Nothing is known since").waitFor();
  assert.equal(await page.getByText("nothing is wrong").count(), 0);
  await context.close();
});

test("a page with a wrong token says so", async () => {
  const server = await serve(synthetic(1, 1));
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.route("**/api/events", (route) => route.fulfill({ status: 401, body: "no" }));
  await page.goto(server.address);
  await page.getByText("no valid token").waitFor();
  assert.ok(!page.url().includes("token"), "the token is taken out of the address");
  await context.close();
  server.close();
});
