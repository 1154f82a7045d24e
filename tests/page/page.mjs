// What an operator does with the page, and what must not happen to it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Browser } from "./browser.mjs";

const pictures = process.argv[2];
const TOKEN = "a-token-of-some-length";
const HOSTILE = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`;

// The service, and where it listens.
async function service(folder) {
  writeFileSync(join(folder, "token"), TOKEN + "\n");
  const env = {
    APP_LISTEN: "127.0.0.1:0", APP_ADMIN_LISTEN: "127.0.0.1:0", APP_ADMIN_TOKEN_FILE: join(folder, "token"), APP_DATABASE_URL: "sqlite://products.db",
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

async function traffic(app) {
  for (let round = 0; round < 3; round += 1) {
    for (const path of ["/api/products", "/api/products/1", "/api/products/2", "/api/categories", "/api/nothing"]) await (await fetch(app + path)).text();
  }
}

// Nothing but what the page itself consists of, and all of it within its width.
async function sound(browser, width, where) {
  assert.equal(await browser.value("document.querySelectorAll('img, iframe, script:not([src=\"page.js\"])').length"), 0, `${where}: something was taken for markup`);
  assert.notEqual(await browser.value("document.title"), "taken", where);
  assert.ok((await browser.value("document.documentElement.scrollWidth")) <= width, `${where}: wider than ${width}`);
  const unnamed = await browser.value(`[...document.querySelectorAll("input, select, textarea, button")].filter((one) => one.offsetParent
    && !one.labels?.length && !one.textContent.trim() && !one.getAttribute("aria-label")).map((one) => one.outerHTML)`);
  assert.deepEqual(unnamed, [], `${where}: without a name`);
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
  await seen("overview");

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
    await browser.until("!document.getElementById('token-dialog').open");
    await browser.value("document.querySelector('#purge-form [name=reason]').focus()");
    await browser.press("Enter");
  }
  await browser.until(`/Would reach\\s+\\d+ key/.test(${text("purged")})`, "the reach is told");
  await seen("purge");
  await browser.value("document.getElementById('purge-now').click()");
  await browser.until(`/Reached\\s+\\d+ key/.test(${text("purged")})`, "it is purged");

  await browser.value(`location.hash = "audit"`);
  await browser.until(`${text("audited")}.includes("onerror=")`, "the purge is in the audit, as text");
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

const folder = mkdtempSync(join(tmpdir(), "tests-page-service-"));
const running = await service(folder);
let browser;
try {
  await traffic(running.app);
  for (const look of [{ width: 1300, dark: false }, { width: 390, dark: true }, { width: 1300, dark: true }, { width: 390, dark: false }]) {
    browser = await Browser.start();
    await views(browser, running, look);
    // That a token is missing, or a URL is none, the console says by itself.
    const complaints = browser.complaints.filter((one) => !/status of (401|400)/.test(one));
    assert.deepEqual(complaints, []);
    await browser.stop();
    browser = undefined;
    console.log(`ok: ${look.width} pixels, ${look.dark ? "dark" : "light"}`);
  }
} finally {
  await browser?.stop();
  const ended = new Promise((resolve) => running.child.once("exit", resolve));
  running.child.kill("SIGKILL");
  await ended;
  rmSync(folder, { recursive: true, force: true });
}
