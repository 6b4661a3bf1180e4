// Drives the inspector's page in Chromium, by keys where keys are said to do, and looks at what it shows.
//
//   node inspector.mjs MODULES PAGE APPLICATION light|dark [FOLDER]
//
// APPLICATION is what the inspector stands before, with the answers of `devroute-inspector`'s example.
// Pictures go to FOLDER. It ends with 0 where everything is as it should be.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [modules, pageUrl, application, scheme, folder] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { chromium } = require("playwright-core");
const axe = require("axe-core").source;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    // Nothing but this machine can be reached.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  ],
});
try {
  await story();
} finally {
  await browser.close();
}

async function story() {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  const { origin } = new URL(pageUrl);
  const complaints = [];
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== origin) complaints.push(`asks ${request.url()}`);
    if (request.url().includes(new URL(pageUrl).hash.slice(1))) complaints.push("the token is in a URL");
  });
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));

  const rows = page.locator("#list > .row:not([hidden])");
  const chosen = page.locator('#list > [aria-selected="true"]');
  const detail = page.locator("#detail");
  const shows = (locator, text) => locator.filter({ hasText: text }).first().waitFor();
  const focused = () => page.evaluate(() => document.activeElement.id);
  const count = (number) => page.waitForFunction(
    (number) => document.querySelectorAll("#list > .row:not([hidden])").length === number, number);
  const press = (key) => page.keyboard.press(key);
  const isAccessible = async (state) => {
    // The page's own policy lets no script in, so axe comes by the debugger.
    const found = await page.evaluate(`${axe}; axe.run(document, { resultTypes: ["violations"] })`);
    const said = found.violations.map((it) => `${it.id}: ${it.nodes.map((node) => node.html).join(" ")}`);
    assert.deepEqual(said, [], `${state}, ${scheme}`);
  };
  const picture = async (name) => {
    if (folder) await page.screenshot({ path: `${folder}/${name}-${scheme}.png` });
  };

  // The token goes from view, and stays for a reload.
  await page.goto(pageUrl);
  await page.locator("#live.is-on").waitFor();
  assert.equal(page.url(), `${origin}/`);
  await isAccessible("empty");
  await page.reload();
  await page.locator("#live.is-on").waitFor();

  // It shows what comes as it comes, the newest first.
  const ask = (path, init) => fetch(application + path, init).then((answer) => answer.text());
  const cart = await ask("/cart?from=browser", {
    method: "POST",
    body: JSON.stringify({ item: 7, note: "<b>bold</b>" }),
    headers: { "content-type": "application/json", authorization: "Bearer hunter2", cookie: "session=hunter2" },
  });
  const first = JSON.parse(cart).number;
  await ask("/slow");
  await ask("/picture");
  await ask("/grpc", { method: "POST", headers: { "content-type": "application/grpc", te: "trailers" } });
  await ask("/broken");
  await ask("/%3Cscript%3Edocument.title='owned'%3C/script%3E", {
    method: "POST",
    body: "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">",
    headers: { "content-type": "text/html", "x-evil": "<img src=x onerror=\"document.title='owned'\">" },
  });
  await count(6);
  await shows(rows.first(), "script");
  await shows(rows.last(), "/cart?from=browser");

  // By keys alone.
  await press("ArrowDown");
  assert.equal(await focused(), "list");
  await shows(chosen, "script");
  await shows(detail.locator("pre"), "onerror");
  await shows(detail.locator("td"), "<img src=x");
  assert.equal(await detail.locator("img, script").count(), 0);
  const outline = await page.evaluate(() => getComputedStyle(
    document.getElementById(document.activeElement.getAttribute("aria-activedescendant"))).outline);
  assert.match(outline, /solid 2px/, "the focus shows");
  await press("ArrowDown");
  await shows(chosen, "/broken");
  await shows(chosen, "500");
  await press("ArrowDown");
  await shows(chosen, "/grpc");
  await shows(detail.locator("pre"), "0a 05 68 65 6c 6c 6f");
  await shows(detail.locator("h4"), "Message 2");
  await press("ArrowDown");
  await shows(detail.locator("pre.bytes"), "89 50 4e 47");
  await press("End");
  await shows(chosen, "/cart?from=browser");
  await press("Enter");
  assert.equal(await focused(), "detail");
  await press("Escape");
  assert.equal(await focused(), "list");

  // Secrets are masked until they are asked for, and masked again at another request.
  await shows(detail.locator("tr"), "masked, 14 bytes");
  assert.ok(!(await page.content()).includes("hunter2"));
  assert.ok(!(await page.content()).includes("very-secret"));
  await picture("inspector");
  await detail.getByRole("button", { name: "Show secrets" }).focus();
  await press("Enter");
  await shows(detail.locator("td"), "Bearer hunter2");
  await shows(detail.locator("td"), "session=very-secret");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.action), "reveal");
  await isAccessible("revealed");
  await press("Escape");
  await press("ArrowUp");
  await shows(detail.locator("h2"), "/slow");
  await press("ArrowDown");
  await shows(detail.locator("tr"), "masked, 14 bytes");

  // JSON is broken into lines, and text stays text.
  await shows(detail.locator("pre"), '  "note": "<b>bold</b>"');

  // Searching, in bodies as well, and back.
  await press("/");
  assert.equal(await focused(), "search");
  await page.keyboard.type("no stock");
  await count(1);
  await shows(rows.first(), "/broken");
  await press("Escape");
  await count(6);
  await press("Escape");
  await press("/");
  await page.keyboard.type("hunter2");
  await count(0);
  await shows(page.locator("#empty"), "Nothing found");
  await press("Escape");
  await count(6);
  await press("Escape");
  await press("/");
  await page.keyboard.type("/cart");
  await count(1);
  await press("Enter");
  assert.equal(await focused(), "list");
  await shows(chosen, "/cart");

  // The application gets it once more, credentials and all.
  await press("r");
  await shows(chosen, "replay of");
  await shows(detail.locator("h2"), "/cart?from=browser");
  await shows(detail.locator("pre"), `"number": ${first + 1}`);
  await press("Escape");
  await press("/");
  await press("Escape");
  await count(7);
  await picture("replayed");

  // A tab without the token is told nothing.
  const stranger = await (await browser.newContext()).newPage();
  await stranger.goto(`${origin}/`);
  await stranger.locator("#live", { hasText: "no token" }).waitFor();
  assert.equal(await stranger.locator(".row").count(), 0);

  // A narrow window has everything still.
  await page.setViewportSize({ width: 480, height: 800 });
  await isAccessible("narrow");
  await picture("narrow");
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `it is ${overflow} px too wide`);
  await page.setViewportSize({ width: 1280, height: 800 });

  await page.getByRole("button", { name: "Clear" }).click();
  await count(0);
  await shows(page.locator("#empty"), "No requests yet");

  assert.equal(await page.title(), "devroute inspector");
  assert.deepEqual(complaints, []);
}
