// What an operator does with the page, and what must not happen to it.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Browser } from "./browser.mjs";

const pictures = process.argv[2];
const AXE = readFileSync(join(pictures, "npm/node_modules/axe-core/axe.min.js"), "utf8");
const TOKEN = "a-token-of-some-length";
const HOSTILE = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`;

// The service, and where it listens.
async function service(folder, more = {}) {
  writeFileSync(join(folder, "token"), TOKEN + "\n");
  const env = {
    APP_LISTEN: "127.0.0.1:0", APP_ADMIN_LISTEN: "127.0.0.1:0", APP_ADMIN_TOKEN_FILE: join(folder, "token"), APP_DATABASE_URL: "sqlite://products.db",
    APP_ADMIN_SIZING: "true", APP_ADMIN_PURGE: "/api",
    // So that nothing is stale before a slow machine has looked at everything.
    APP_CACHE_PATHS: "/api/products=1h,/api/categories=1h", ...more,
  };
  const child = spawn(process.env.SERVICE, [], { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  const found = new Promise((resolve, reject) => {
    const take = (data) => {
      log += data.toString().replace(/\x1b\[[0-9;]*m/g, "");
      const app = log.match(/listening on (http:\/\/\S+)/)?.[1];
      const admin = log.match(/operator's page is at (http:\/\/\S+)/)?.[1];
      if (app && admin) resolve({ app, admin });
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.once("exit", (code) => reject(new Error(`the service ended with ${code}: ${log}`)));
    setTimeout(() => reject(new Error(`the service does not listen: ${log}`)), 30_000).unref();
  });
  return { child, ...(await found.catch((error) => { child.kill("SIGKILL"); throw error; })) };
}

// A Redis at a socket of its own.
async function redis(folder) {
  const socket = join(folder, "redis.sock");
  // One that was killed has left its own.
  rmSync(socket, { force: true });
  const child = spawn("redis-server", ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder], { stdio: "ignore" });
  const ask = (...words) => execFileSync("redis-cli", ["-s", socket, ...words], { encoding: "utf8", maxBuffer: 2 ** 24 }).trim();
  for (let attempt = 0; !existsSync(socket) || ask("PING") !== "PONG"; attempt += 1) {
    if (attempt > 300) throw new Error("Redis does not answer");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return { child, ask, url: "unix://" + socket };
}

async function ended(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await exit;
}

async function traffic(app) {
  for (let round = 0; round < 3; round += 1) {
    for (const path of ["/api/products", "/api/products/1", "/api/products/2", "/api/categories", "/api/nothing"]) await (await fetch(app + path)).text();
  }
}

// What keeps people out who don't see the page, or have no mouse.
async function open_to_all(browser, where) {
  if (!(await browser.value("typeof axe === 'object'"))) await browser.value(`${AXE}; undefined`);
  const rules = "{ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations'] }";
  const faults = await browser.value(`axe.run(document, ${rules}).then(({ violations }) => violations.map(({ id, impact, help, nodes }) =>
    [impact, id, help, nodes.slice(0, 3).map((node) => node.html.slice(0, 200) + " " + node.failureSummary)]))`);
  assert.deepEqual(faults, [], `${where}: axe finds a fault`);
}

// Nothing but what the page itself consists of, and all of it within its width.
async function sound(browser, width, where) {
  assert.equal(await browser.value("document.querySelectorAll('img, iframe, script:not([src=\"page.js\"])').length"), 0, `${where}: something was taken for markup`);
  assert.notEqual(await browser.value("document.title"), "taken", where);
  assert.ok((await browser.value("document.documentElement.scrollWidth")) <= width, `${where}: wider than ${width}`);
  const unnamed = await browser.value(`[...document.querySelectorAll("input, select, textarea, button")].filter((one) => one.offsetParent
    && !one.labels?.length && !one.textContent.trim() && !one.getAttribute("aria-label")).map((one) => one.outerHTML)`);
  assert.deepEqual(unnamed, [], `${where}: without a name`);
  await open_to_all(browser, where);
}

const text = (id) => `document.getElementById(${JSON.stringify(id)}).innerText`;

async function views(browser, { app, admin }, { width, dark }) {
  const name = `${width}-${dark ? "dark" : "light"}`;
  const seen = async (view) => {
    await sound(browser, width, `${view} ${name}`);
    await browser.picture(join(pictures, `${view}-${name}.png`));
  };
  await browser.look({ width, dark });
  await browser.open(admin + "/#overview");
  await browser.until(`/Hit ratio\\s+[0-9.]+ %/.test(${text("tiles")}) && ${text("hottest")}.includes("/api/products")`, "there is an overview");
  await browser.until(`/\\d+ keys\\./.test(${text("sizing-words")})`, "the curve is drawn");
  await seen("overview");
  // What is asked for most is explained, whatever its URL is written with.
  await browser.value(`[...document.querySelectorAll("#hottest a")].find((link) => link.textContent.includes("a%20b")).click()`);
  await browser.until(`${text("explained")}.includes("Cache-Status")`, "what a link leads to is explained");
  assert.match(await browser.value(text("explained")), /^hit/);
  // So is a key of the application's own.
  await browser.value("location.hash = 'explain?key=product&key=:&key=42'");
  await browser.until(`${text("explained")}.includes("product:42")`, "a call for a value is explained");
  assert.match(await browser.value(text("explained")), /^load/);
  await browser.value("document.querySelector('#explain-form details').open = true");
  await seen("explain-key");

  // By keyboard alone, from the field to the answer.
  await browser.value("location.hash = 'explain'");
  await browser.until("!document.getElementById('view-explain').hidden");
  await browser.type("#explain-form [name=url]", `${app}/api/products/1`);
  await browser.press("Enter");
  await browser.until(`${text("explained")}.includes("Cache-Status")`, "a request is explained");
  const explained = await browser.value(text("explained"));
  assert.match(explained, /^hit/);
  assert.match(explained, /cache-layer; hit; ttl=\d+/);
  assert.match(explained, /product:1/);
  await seen("explain");
  const came = (await fetch(`${app}/api/products/1`)).headers.get("cache-status");
  const ttl = (status) => Number(status.match(/ttl=(-?\d+)/)[1]);
  assert.ok(Math.abs(ttl(explained) - ttl(came)) <= 5, `explained ${explained}, came ${came}`);

  await browser.value(`location.hash = "stored?tag=product:1"`);
  await browser.until(`${text("stored")}.includes("created")`, "a tag is known");
  await browser.value(`location.hash = "stored?url=" + encodeURIComponent(${JSON.stringify(app + "/api/products/1")})`);
  await browser.until(`${text("stored")}.includes("Deadlines")`, "an entry is there");
  await seen("stored");

  await browser.value(`location.hash = "purge?kind=tag&what=product:2"`);
  await browser.until("!document.getElementById('view-purge').hidden");
  assert.ok(await browser.value("document.getElementById('purge-now').disabled"), "nothing is purged that was not tried");
  await browser.type("#purge-form [name=reason]", HOSTILE);
  await browser.press("Enter");
  await browser.until(`document.getElementById("token-dialog").open || ${text("purged")}.includes("Would reach")`, "a token is asked for");
  if (await browser.value("document.getElementById('token-dialog').open")) {
    await seen("token");
    await browser.type("#token-form [name=token]", TOKEN);
    await browser.press("Enter");
    // The dialog is closed before its event comes, by which the token is taken.
    await browser.until(`!document.getElementById("token-dialog").open && sessionStorage.getItem("token") === ${JSON.stringify(TOKEN)}`, "the token is taken");
    await browser.value("document.querySelector('#purge-form [name=reason]').focus()");
    await browser.press("Enter");
  }
  await browser.until(`/Would reach\\s+\\d+ key/.test(${text("purged")})`, "the reach is told");
  await seen("purge");
  await browser.value("document.getElementById('purge-now').click()");
  await browser.until(`/Reached\\s+\\d+ key/.test(${text("purged")})`, "it is purged");

  await browser.value(`location.hash = "purge?kind=pattern&what=*/nothing*"`);
  await browser.until("document.querySelector('#purge-form [name=kind]').value === 'pattern'");
  await browser.value("document.querySelector('#purge-form [value=soft]').click()");
  await browser.value("document.getElementById('dry-run').click()");
  await browser.until(`/pattern: \\*\\/nothing\\*\\s+How\\s+soft/.test(${text("purged")})`, "a pattern can be made stale");
  const choose = (name, value) => browser.value(`(() => { const field = document.querySelector("#purge-form [name=${name}]");
    field.value = ${JSON.stringify(value)}; field.dispatchEvent(new Event("input", { bubbles: true })); })()`);
  await choose("over", "600");
  assert.ok(await browser.value("document.getElementById('purge-now').disabled"), "another window is another purge");
  await browser.value("document.getElementById('dry-run').click()");
  await browser.until(`/How\\s+soft, over 10 min/.test(${text("purged")})`, "over a while");
  await browser.value(`location.hash = "purge?kind=key&key=product&key=:&key=42"`);
  await browser.until("document.querySelector('#purge-form [name=kind]').value === 'key'");
  await browser.value("document.querySelector('#purge-form [value=hard]').click()");
  assert.ok(await browser.value("document.getElementById('over-label').hidden"), "what is void is void at once");
  await browser.value("document.getElementById('dry-run').click()");
  await browser.until(`/key: product:42\\s+How\\s+hard/.test(${text("purged")})`, "a key of the application's own can be purged");
  await seen("purge-key");

  await browser.value(`location.hash = "patterns"`);
  await browser.until(`${text("patterns")}.includes("No pattern is in force")`, "there are no patterns");
  await seen("patterns-none");

  await browser.value(`location.hash = "switches"`);
  await browser.until(`${text("switched")}.includes("stop-fills")`, "there are switches");
  await browser.value("document.querySelector('#switch-form [name=switch]').value = 'wider-grace'");
  await browser.value("document.querySelector('#switch-form button').click()");
  await browser.until(`/wider-grace\\s*on\\s*in 1[45] min/.test(${text("switched")})`, "one is on");
  await seen("switches");
  await browser.value("document.querySelector('#switched button').click()");
  await browser.until(`document.querySelectorAll("#switched button").length === 0`, "it is off");
  await browser.until("document.getElementById('rate-label').hidden", "a switch without a rate shows none");
  await browser.value("(() => { const name = document.querySelector('#switch-form [name=switch]'); name.value = 'verification-rate'; name.dispatchEvent(new Event('input', { bubbles: true })); })()");
  await browser.until("!document.getElementById('rate-label').hidden", "the rate is asked for");
  await browser.value("document.querySelector('#switch-form [name=rate]').value = '0.25'");
  await browser.value("document.querySelector('#switch-form button').click()");
  await browser.until(`/verification-rate\\s*on, 0.25/.test(${text("switched")})`, "the rate is shown");
  await browser.value("document.querySelector('#switched button').click()");
  await browser.until(`document.querySelectorAll("#switched button").length === 0`, "that is off, too");

  await browser.value(`location.hash = "stored?tag=" + encodeURIComponent(${JSON.stringify(HOSTILE)})`);
  await browser.until(`${text("stored")}.includes("onerror=")`, "a tag is shown as text");
  await sound(browser, width, `stored, hostile, ${name}`);
  await browser.value(`location.hash = "audit"`);
  await browser.until(`${text("audited")}.includes("onerror=") && ${text("audited")}.includes("PURGE from")`, "the purge is in the audit, as text");
  await seen("audit");

  await browser.value(`location.hash = "live"`);
  await browser.until("!document.getElementById('view-live').hidden");
  await browser.value("document.getElementById('watch').click()");
  await browser.until(`${text("watching")}.startsWith("Watching")`);
  await traffic(app);
  await browser.until(`${text("decisions")}.includes("/api/products/1")`, "decisions come in");
  await seen("live");
  await browser.value("document.getElementById('watch').click()");

  await browser.value("location.hash = 'explain?url=' + encodeURIComponent('http://a/' + " + JSON.stringify(HOSTILE) + ")");
  await browser.until("!document.getElementById('trouble').hidden", "a URL that is none is refused");
  await seen("trouble");
}

const MILLION = 1_000_000;

// A copy of what is stored for a product, under so many names.
const FILL = `local known = redis.call('KEYS', 'page:e:*products/1')[1];
  local value = redis.call('GET', known);
  for number = 1, ${MILLION} do
    redis.call('SET', 'page:e:{' .. redis.sha1hex(number):sub(1, 32) .. '}:-:http://a.million/entries/' .. number, value)
  end;
  return 'filled'`;

/** What finds a number of keys in a text, within 5 % of a million: more are not looked at in the time that a person waits. */
const aboutAMillion = (before) => `({ test(told) {
    const [, number] = /${before}\\s+(?:about )?([\\d,]+) keys/.exec(told) ?? [];
    return number !== undefined && Math.abs(Number(number.replaceAll(",", "")) / ${MILLION} - 1) < 0.05;
  } })`;

async function reach(browser, kind, what, expected) {
  await browser.value(`location.hash = "purge?kind=${kind}&what=" + encodeURIComponent(${JSON.stringify(what)})`);
  await browser.until("!document.getElementById('view-purge').hidden");
  await browser.value("document.querySelector('#purge-form [name=reason]').focus()");
  await browser.press("Enter");
  await browser.until(`${expected}.test(${text("purged")})`, `the reach of ${kind} ${what} is told`);
}

// Over Redis: with a million entries, and then without Redis.
async function over_redis(browser, { app, admin, server, name, width }) {
  const seen = async (view) => {
    await sound(browser, width, `${view} ${name}`);
    await browser.picture(join(pictures, `${view}-${name}.png`));
  };
  await browser.open(admin + "/#overview");
  await browser.value(`sessionStorage.setItem("token", ${JSON.stringify(TOKEN)})`);
  await reach(browser, "pattern", "http://a.million/entries/*", aboutAMillion("Would reach"));
  await seen("million-purge");
  // Without the permission to look for names nothing is swept, and the pattern stays listed.
  server.ask("ACL", "SETUSER", "default", "-scan");
  await browser.value(`ask("api/purge", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ pattern: "http://a.million/nothing/*", actor: "ada", reason: "a test" }) }).then(() => { location.hash = "patterns"; })`);
  await browser.until(`/ada\\s+http:\\/\\/a.million\\/nothing\\/\\*\\s+hard/.test(${text("patterns")})`, "the pattern is in force, and it is known by whom");
  await seen("million-patterns");
  server.ask("ACL", "SETUSER", "default", "+scan");
  // The target changes while what another one would reach is on its way.
  await browser.value(`{
    const held = new Promise((free) => { window.free = free; });
    const fetched = window.fetch;
    window.fetch = async (...asked) => { const answer = await fetched(...asked); await held; return answer; };
  }`);
  await browser.value(`location.hash = "purge?kind=tag&what=product:1"`);
  await browser.until("!document.getElementById('view-purge').hidden && document.querySelector('#purge-form [name=what]').value === 'product:1'");
  await browser.value("document.getElementById('dry-run').click()");
  await browser.value(`location.hash = "purge?kind=tag&what=product:2"`);
  await browser.until("document.querySelector('#purge-form [name=what]').value === 'product:2'");
  await browser.value("window.free()");
  await browser.value("new Promise((resolve) => setTimeout(resolve, 500))");
  assert.ok(await browser.value("document.getElementById('purge-now').disabled"), "nothing is purged that was not tried");
  assert.equal(await browser.value(text("purged")), "", "what another target would reach is not shown");
  await browser.value(`location.hash = "stored?tag=product:1"`);
  await browser.until(`${aboutAMillion("Carried by")}.test(${text("stored")})`, "the members of a tag are counted");
  await seen("million-tag");
  await browser.value("location.hash = 'overview'");
  await browser.until(`${text("tiles")}.includes("Redis")`);
  await seen("million-overview");

  await ended(server.child);
  await browser.until(`/Redis\\s+down/.test(${text("tiles")})`, "the overview says that Redis is down");
  await seen("down-overview");
  await browser.value(`location.hash = "explain?url=" + encodeURIComponent(${JSON.stringify(app + "/api/products/2")})`);
  await browser.until(`${text("explained")}.includes("store-unavailable") || ${text("explained")}.startsWith("hit")`, "it is explained without Redis");
  await seen("down-explain");
  await browser.value(`location.hash = "stored?tag=product:2"`);
  await browser.until("!document.getElementById('trouble').hidden", "it is said that the store does not answer");
  await seen("down-stored");
  await reach(browser, "tag", "product:2", "/Note\\s+the store/");
  await browser.value("document.getElementById('purge-now').click()");
  await browser.until(`${text("purged")}.includes("Reached")`, "a purge is kept");
  await seen("down-purge");
  await browser.value(`location.hash = "audit"`);
  await browser.until(`${text("audited")}.includes("product:2")`, "this process has an audit");
  await seen("down-audit");
  await browser.value(`location.hash = "switches"`);
  await browser.until(`${text("switched")}.includes("stop-fills")`, "there are switches");
  await browser.value("document.querySelector('#switch-form button').click()");
  await browser.until("!document.getElementById('trouble').hidden", "a switch that can't be turned is said");
  await seen("down-switches");
}

const LOOKS = [{ width: 1300, dark: false }, { width: 390, dark: true }, { width: 1300, dark: true }, { width: 390, dark: false }];
// That a token is missing, a URL is none, or Redis is away, the console says by itself.
const sane = (browser, statuses) => assert.deepEqual(browser.complaints.filter((one) => !statuses.test(one)), []);
const before = readdirSync(tmpdir());
const folder = mkdtempSync(join(tmpdir(), "tests-page-service-"));
const children = [];
let browser;
try {
  const running = await service(folder);
  children.push(running.child);
  await traffic(running.app);
  for (let round = 0; round < 400; round += 1) await (await fetch(running.app + "/api/products?category=a%20b")).text();
  // Enough for a curve to be told: two thousand entries, some of which are asked for all the time.
  for (let round = 0; round < 300; round += 1) {
    const page = (place) => place < 15 ? 1 + (round * 15 + place) % 2000 : place;
    await Promise.all(Array.from({ length: 25 }, async (_, place) => (await fetch(`${running.app}/api/products?per_page=1&page=${page(place)}`)).text()));
  }
  assert.match(await (await fetch(running.app + "/metrics")).text(), /cache_layer_sizing_hit_ratio\{[^}]*size="2"[^}]*\} [01]/);
  const purge = async (path, authorization) => (await fetch(running.app + path, { method: "PURGE", headers: { authorization } })).status;
  assert.deepEqual([await purge("/api/products/2", "Bearer " + TOKEN), await purge("/api/products/2", "Bearer another-token-of-length"), await purge("/health", "Bearer " + TOKEN)], [200, 401, 405]);
  for (const look of LOOKS) {
    browser = await Browser.start();
    await views(browser, running, look);
    sane(browser, /status of (401|400)/);
    await browser.stop();
    browser = undefined;
    console.log(`ok: ${look.width} pixels, ${look.dark ? "dark" : "light"}`);
  }
  await ended(running.child);
  for (const look of [LOOKS[0], LOOKS[1]]) {
    const server = await redis(folder);
    children.push(server.child);
    const fleet = await service(folder, { APP_REDIS_URL: server.url, APP_CACHE_PREFIX: "page" });
    children.push(fleet.child);
    await traffic(fleet.app);
    assert.equal(server.ask("EVAL", FILL, "0"), "filled");
    browser = await Browser.start();
    await browser.look(look);
    await over_redis(browser, { ...fleet, server, name: `${look.width}-${look.dark ? "dark" : "light"}`, width: look.width });
    sane(browser, /status of (401|503)/);
    await browser.stop();
    browser = undefined;
    await ended(fleet.child);
    console.log(`ok: over Redis and without it, ${look.width} pixels`);
  }
} finally {
  await browser?.stop();
  for (const child of children) await ended(child);
  rmSync(folder, { recursive: true, force: true });
}
const left = readdirSync(tmpdir()).filter((name) => !before.includes(name) && /chromium|tests-page/.test(name));
assert.deepEqual(left, [], "something is left in the temporary directory");
