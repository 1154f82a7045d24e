// A Chromium decodes what the service has encoded: the same bytes as a client gets that accepts no coding, in each coding, as the
// answer to a script and as a page of its own.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { get } from "node:http";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Browser } from "./browser.mjs";

const PATH = "/api/products?per_page=50";

// The service with this coding alone, and its URL.
async function service(folder, coding) {
  const env = { APP_LISTEN: "127.0.0.1:0", APP_DATABASE_URL: "sqlite://products.db", APP_CACHE_ENCODE: coding };
  const child = spawn(process.env.SERVICE, [], { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  const url = await new Promise((resolve, reject) => {
    const take = (data) => {
      log += data.toString().replace(/\x1b\[[0-9;]*m/g, "");
      const found = log.match(/listening on (http:\/\/\S+)/)?.[1];
      if (found) resolve(found);
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.once("exit", (code) => reject(new Error(`the service ended with ${code}: ${log}`)));
    setTimeout(() => reject(new Error(`the service does not listen: ${log}`)), 30_000).unref();
  });
  return { child, url };
}

const plain = (url) => new Promise((resolve, reject) => {
  get(url, (response) => {
    let text = "";
    response.setEncoding("utf8").on("data", (data) => (text += data)).on("end", () => resolve({ text, coding: response.headers["content-encoding"] }));
  }).on("error", reject);
});

async function decodes(browser, coding) {
  const folder = mkdtempSync(join(tmpdir(), "tests-encoded-"));
  const { child, url } = await service(folder, coding);
  try {
    await browser.open(url + "/health/live");
    const fetched = `fetch(${JSON.stringify(url + PATH)}, { cache: "no-store" })
      .then(async (answer) => ({ coding: answer.headers.get("content-encoding"), x_cache: answer.headers.get("x-cache"), tag: answer.headers.get("etag"), text: await answer.text() }))`;
    // Encoded behind the first answers.
    await browser.until(`${fetched}.then((answer) => answer.coding === ${JSON.stringify(coding)})`, `something comes in ${coding}`);
    const [answer, identity] = [await browser.value(fetched), await plain(url + PATH)];
    assert.equal(identity.coding, undefined);
    assert.deepEqual([answer.coding, answer.x_cache, answer.text], [coding, "HIT", identity.text]);
    assert.ok(answer.tag.endsWith(`-cl~${coding}"`), answer.tag);
    await browser.open(url + PATH);
    assert.deepEqual(JSON.parse(await browser.value("document.body.innerText")), JSON.parse(identity.text));
    // What the browser has in its own cache is validated by the tag of its coding.
    const validated = `fetch(${JSON.stringify(url + PATH)}, { cache: "no-cache" }).then(async (answer) => ({ status: answer.status, text: await answer.text() }))`;
    assert.deepEqual(await browser.value(validated), { status: 200, text: identity.text });
    console.log(`${coding}: ${answer.text.length} characters, decoded by Chromium`);
  } finally {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  }
}

const browser = await Browser.start();
try {
  for (const coding of ["zstd", "br", "gzip"]) await decodes(browser, coding);
} finally {
  await browser.stop();
}
