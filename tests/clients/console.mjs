// The console in a headless Chromium, as its users have it: `console.mjs operate`, `keyboard`, `expired`, `stranger`,
// `phone` or `leave`. Elements are found by what a screen reader would say of them.

import assert from "node:assert/strict";
import http from "node:http";

// Installed beside nothing: the path of the packages comes from the environment.
const { chromium } = await import(`${process.env.NODE_MODULES}/playwright-core/index.mjs`);

const { ADMIN_URL, ADMIN_TOKEN, OPENAI_BASE_URL, CHROMIUM, GATEWAY_KEY } = process.env;
const PATIENCE = 20_000;

// Root may not use the sandbox; what is shown here is the gateway's own page.
const sandbox = process.getuid() === 0 ? ["--no-sandbox"] : [];
const browser = await chromium.launch({ executablePath: CHROMIUM, args: sandbox });

/** Everything that went wrong in a page beside what a test asked for. */
const wrong = [];

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.on("pageerror", (error) => wrong.push(`${error}`));
  page.on("console", (message) => {
    // A refusal that a test asks for is told by the browser, too.
    const refused = message.text().startsWith("Failed to load resource: the server responded with a status of 4");
    if (["error", "warning"].includes(message.type()) && !refused) wrong.push(message.text());
  });
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== new URL(ADMIN_URL).origin) wrong.push(`asked ${request.url()}`);
  });
  await page.goto(ADMIN_URL);
  return page;
}

async function signIn(page, token = ADMIN_TOKEN) {
  await page.getByLabel("Admin token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}

async function signedIn(options) {
  const page = await open(options);
  await signIn(page);
  await heading(page, "Overview").waitFor();
  return page;
}

const heading = (page, name) => page.getByRole("heading", { level: 1, name, exact: true });
const view = async (page, name) => {
  await page.getByRole("link", { name, exact: true }).click();
  await heading(page, name).waitFor();
};
const rowOf = (page, name) => page.getByRole("row").filter({ has: page.getByRole("rowheader", { name }) });

/** Uses a key as any client does. */
async function call(key, model = "gpt-4o") {
  const response = await fetch(`${OPENAI_BASE_URL}/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "hi" }] }),
  });
  await response.text();
  return response.status;
}

async function secretOf(page) {
  const dialog = page.getByRole("dialog");
  const secret = await dialog.locator("[data-secret]").textContent();
  assert.match(secret, /^wr-.{8}-.{43}$/);
  return secret;
}

async function operate() {
  const page = await open();
  await heading(page, "Sign in").waitFor();
  await signIn(page, "not-the-token");
  await page.getByRole("alert").filter({ hasText: "not the admin token" }).waitFor();
  assert.equal(await page.getByLabel("Admin token").getAttribute("aria-invalid"), "true");
  await signIn(page);
  await heading(page, "Overview").waitFor();
  await page.getByRole("row", { name: /upstream\b.*ready/ }).waitFor();

  // A key, whose name is no markup.
  const name = "<b id=injected>carol</b>";
  await view(page, "Keys");
  await page.getByText("Make a key", { exact: true }).click();
  await page.getByRole("button", { name: "Make the key" }).click();
  await page.getByRole("alert").filter({ hasText: "`name`" }).waitFor();
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Budget, in USD").fill("5");
  await page.getByRole("button", { name: "Make the key" }).click();
  const first = await secretOf(page);
  await page.getByRole("button", { name: "Done" }).click();
  assert.ok(!(await page.content()).includes(first), "the secret is still in the page");
  await rowOf(page, name).filter({ hasText: "$5.00 a month" }).waitFor();
  assert.equal(await page.locator("#injected").count(), 0);
  assert.equal(await call(first), 200);

  // Rotated without grace: the old secret opens nothing any more.
  await page.getByRole("button", { name: `Rotate ${name}` }).click();
  await page.getByLabel("stays valid").selectOption("0");
  await page.getByRole("dialog").getByRole("button", { name: "Rotate" }).click();
  await page.getByRole("heading", { name: "The new secret" }).waitFor();
  const second = await secretOf(page);
  assert.notEqual(second, first);
  assert.equal(await call(first), 401);
  assert.equal(await call(second), 200);
  await page.getByRole("button", { name: "Try it" }).click();
  await heading(page, "Playground").waitFor();

  // What has been sent is seen before the rest is: the upstream waits until it is told to go on.
  await page.getByRole("combobox", { name: "Model" }).fill("held");
  await page.getByLabel("Message").fill("What is a weir?");
  await page.getByRole("button", { name: "Send" }).click();
  const log = page.getByRole("log");
  await log.getByText("A low dam").waitFor();
  assert.equal(await log.getByText("that measures").count(), 0);
  assert.equal(await log.getAttribute("aria-busy"), "true");
  assert.equal(await call(GATEWAY_KEY, "release"), 200);
  await log.getByText("A low dam that measures").waitFor();
  await page.getByRole("status").filter({ hasText: "7 + 3 tokens" }).waitFor();
  assert.equal(await log.getAttribute("aria-busy"), "false");
  // What a key may not do, it is told in the data plane's words, and the session goes on.
  await page.getByLabel("Gateway key").fill("wr-nobody-has-this-key");
  await page.getByLabel("Message").fill("Again?");
  await page.getByRole("button", { name: "Send" }).click();
  await page.getByRole("alert").filter({ hasText: /key/i }).waitFor();
  await heading(page, "Playground").waitFor();

  await view(page, "Explain");
  await page.getByRole("combobox", { name: "Key" }).fill(name);
  await page.getByRole("textbox", { name: "Model", exact: true }).fill("gpt-4o");
  await page.getByRole("button", { name: "Explain" }).click();
  await page.getByText("It would be served").waitFor();
  await page.getByRole("table", { name: /Places/ }).getByRole("rowheader", { name: "upstream" }).waitFor();
  await page.getByRole("table", { name: "Budgets" }).getByText("has room").waitFor();
  await page.getByLabel("Body").fill("{nonsense");
  await page.getByRole("button", { name: "Explain" }).click();
  await page.getByRole("alert").filter({ hasText: "JSON" }).waitFor();

  // What fails is found with its cause.
  assert.equal(await call(second, "broken"), 502);
  await view(page, "Requests");
  await page.getByRole("row").filter({ hasText: "upstream_status" }).filter({ hasText: "502" }).first().waitFor();
  await page.getByLabel("Show", { exact: true }).selectOption("all");
  await page.getByRole("row").filter({ hasText: "complete" }).first().waitFor();

  // How much of a budget is used is what the metrics say of it.
  const labels = `holder="key",name=${JSON.stringify(name)},per="month",unit="usd"`;
  await page.route("**/metrics", (route) => route.fulfill({ body: `weir_budget_used_ratio{${labels}} 0.425\n` }));
  await view(page, "Spend");
  const spent = page.getByRole("table", { name: "Keys" }).getByRole("row").filter({ hasText: name });
  await spent.filter({ hasText: "43 % of $5.00 a month" }).waitFor();
  assert.equal(await spent.getByRole("meter").getAttribute("aria-valuenow"), "43");
  await page.unroute("**/metrics");

  // A cost of which nothing is known is not shown as none, unlike one that is known to be 0.
  for (const [unpriced, shown] of [[1, "–"], [0, "$0.00"]]) {
    await page.route("**/admin/v1/usage?*", async (route) => {
      const response = await route.fetch();
      const usage = await response.json();
      const figures = { cost: "0.00", unpriced_requests: unpriced };
      [usage.total, ...usage.data].forEach((group) => Object.assign(group, figures));
      await route.fulfill({ response, json: usage });
    });
    await view(page, "Overview");
    await view(page, "Spend");
    await spent.getByRole("cell", { name: shown, exact: true }).waitFor();
    await page.locator("#spend-total").filter({ hasText: shown }).waitFor();
    await page.unroute("**/admin/v1/usage?*");
  }

  await view(page, "Keys");
  await page.getByRole("button", { name: `Revoke ${name}` }).click();
  await page.keyboard.press("Escape");
  assert.equal(await call(second), 200);
  await page.getByRole("button", { name: `Revoke ${name}` }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await page.getByRole("status").filter({ hasText: "is revoked" }).waitFor();
  assert.equal(await call(second), 401);
  await page.getByLabel("show revoked").check();
  await rowOf(page, name).filter({ hasText: "revoked" }).waitFor();

  await view(page, "Overview");
  await page.getByRole("table", { name: "Recent errors" }).getByText("upstream_status").first().waitFor();
  // The policy holds: no text can become markup, whatever a script tries.
  await assert.rejects(page.evaluate(() => void (document.body.innerHTML = "<b>x</b>")), /TrustedHTML/);
  wrong.splice(0, wrong.length, ...wrong.filter((message) => !message.includes("TrustedHTML")));
  await page.getByRole("button", { name: "Sign out" }).click();
  await heading(page, "Sign in").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
}

/** Signs in, makes a key and revokes it without a mouse. */
async function keyboard() {
  const page = await open();
  await heading(page, "Sign in").waitFor();
  const { keyboard } = page;
  // The field of the token has the focus.
  await keyboard.type(ADMIN_TOKEN);
  await keyboard.press("Enter");
  await heading(page, "Overview").waitFor();
  await tabTo(page, "link", "Keys");
  await keyboard.press("Enter");
  await heading(page, "Keys").waitFor();
  await tabTo(page, null, "Make a key");
  await keyboard.press("Enter");
  await tabTo(page, null, "Name");
  await keyboard.type("dave");
  await keyboard.press("Enter");
  const secret = await secretOf(page);
  assert.equal(await call(secret), 200);
  await tabTo(page, "button", "Done");
  await keyboard.press("Enter");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await tabTo(page, "button", "Revoke dave");
  await keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await tabTo(page, "button", "Revoke");
  await keyboard.press("Enter");
  await page.getByRole("status").filter({ hasText: "is revoked" }).waitFor();
  assert.equal(await call(secret), 401);
}

/** Presses Tab until this has the focus, which must be seen there. */
async function tabTo(page, role, name) {
  for (let presses = 0; presses < 60; presses++) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const element = document.activeElement;
      const words = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
      return { words: words.trim(), role: element.localName === "a" ? "link" : element.localName, outline: getComputedStyle(element).outlineStyle };
    });
    if (focused.words === name && (role === null || focused.role === role)) {
      assert.notEqual(focused.outline, "none", `nobody sees the focus on ${name}`);
      return;
    }
  }
  assert.fail(`${name} is not reached by Tab`);
}

/** A token that the gateway takes no more brings the login back, and nothing of the session stays. */
async function expired() {
  const page = await signedIn();
  await view(page, "Keys");
  await rowOf(page, "alice").waitFor();
  await page.evaluate(() => sessionStorage.setItem("weir.admin-token", "the-token-of-yesterday"));
  await heading(page, "Sign in").waitFor();
  await page.getByRole("alert").filter({ hasText: "does not take this admin token any more" }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.ok(!(await page.content()).includes("alice"));
  await signIn(page);
  await rowOf(page, "alice").waitFor();
  // A reload of the page keeps the session; another tab has none.
  await page.reload();
  await rowOf(page, "alice").waitFor();
  const other = await open();
  await heading(other, "Sign in").waitFor();
}

/** The page of another site, even with the token, does nothing and reads nothing. */
async function stranger() {
  const server = http.createServer((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end("<!doctype html><title>evil</title><iframe></iframe>");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const page = await (await browser.newContext()).newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const tried = await page.evaluate(
    async ([admin, token]) => {
      const body = JSON.stringify({ name: "mallory" });
      const json = { "content-type": "application/json" };
      const bearer = { authorization: `Bearer ${token}` };
      const ways = [
        { method: "POST", body, headers: { ...json, ...bearer } },
        { method: "POST", body, headers: json },
        { method: "POST", body, mode: "no-cors", headers: { "content-type": "text/plain" } },
        { method: "POST", body, mode: "no-cors", credentials: "include" },
      ];
      const answers = [];
      for (const way of ways) {
        for (const path of ["/admin/v1/keys", "/admin/v1/playground/chat/completions"]) {
          answers.push(await fetch(admin + path, way).then((response) => response.type, () => "blocked"));
        }
      }
      answers.push(await fetch(`${admin}/admin/v1/keys`, { headers: bearer }).then(() => "read", () => "blocked"));
      answers.push(await fetch(`${admin}/metrics`).then(() => "read", () => "blocked"));
      document.querySelector("iframe").src = admin;
      return answers;
    },
    [ADMIN_URL, ADMIN_TOKEN],
  );
  // What is not blocked is opaque: nothing of it can be read.
  assert.deepEqual([...new Set(tried)].sort(), ["blocked", "opaque"]);
  assert.equal(tried.filter((answer) => answer === "opaque").length, 4);
  await page.waitForTimeout(300);
  assert.ok(!page.frames().some((frame) => frame.url().startsWith(ADMIN_URL)), "the console is framed");
  const keys = await fetch(`${ADMIN_URL}/admin/v1/keys`, { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } });
  const names = (await keys.json()).data.map((key) => key.name);
  assert.deepEqual(names, ["alice"]);
  server.close();
}

/** On a phone nothing is wider than the screen, in either theme. */
async function phone() {
  for (const colorScheme of ["light", "dark"]) {
    const page = await signedIn({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, colorScheme });
    for (const name of ["Overview", "Spend", "Keys", "Requests", "Playground", "Explain"]) {
      await view(page, name);
      if (name === "Keys") await rowOf(page, "alice").waitFor();
      if (name === "Explain") {
        await page.getByRole("combobox", { name: "Key" }).fill("alice");
        await page.getByRole("textbox", { name: "Model", exact: true }).fill("gpt-4o");
        await page.getByRole("button", { name: "Explain" }).click();
        await page.getByText("It would be served").waitFor();
      }
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${name} is ${wide} px too wide`);
    }
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const before = await ground();
    const theme = page.getByRole("button", { name: /^Theme/ });
    while (!(await theme.textContent()).endsWith(colorScheme === "light" ? "dark" : "light")) await theme.click();
    assert.notEqual(await ground(), before);
    await page.context().close();
  }
}

/** Leaving the page in the middle of an answer; the test sees that the upstream is left. */
async function leave() {
  const page = await signedIn();
  await view(page, "Playground");
  await page.getByLabel("Gateway key").fill(GATEWAY_KEY);
  await page.getByRole("combobox", { name: "Model" }).fill("endless");
  await page.getByLabel("Message").fill("Go on.");
  await page.keyboard.press("Control+Enter");
  await page.getByRole("log").getByText("On and on").waitFor();
  await page.goto("about:blank");
}

await { operate, keyboard, expired, stranger, phone, leave }[process.argv[2]]();
await browser.close();
assert.deepEqual(wrong, []);
console.log("ok");
