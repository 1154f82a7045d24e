// A Chromium, driven by its debugging protocol over a pipe: nothing to install, and nothing that listens.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
];
const PATIENCE = 20_000;

export class Browser {
  static async start(program = process.env.CHROMIUM ?? "chromium") {
    const browser = new Browser();
    browser.folder = mkdtempSync(join(tmpdir(), "tests-page-"));
    // All that it writes goes with the folder, what it leaves in a temporary directory included.
    const env = { ...process.env, TMPDIR: browser.folder };
    browser.process = spawn(program, [...FLAGS, `--user-data-dir=${join(browser.folder, "profile")}`, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"], detached: true, env });
    browser.waiting = new Map();
    browser.last = 0;
    browser.listeners = [];
    let text = "";
    browser.process.stdio[4].setEncoding("utf8").on("data", (data) => {
      const messages = (text + data).split("\0");
      text = messages.pop();
      messages.forEach((message) => browser.take(JSON.parse(message)));
    });
    const { targetId } = await browser.ask("Target.createTarget", { url: "about:blank" });
    ({ sessionId: browser.session } = await browser.ask("Target.attachToTarget", { targetId, flatten: true }));
    // What the page complains of: uncaught errors, the console, and what its policy blocks.
    browser.complaints = [];
    browser.listeners.push(({ method, params }) => {
      if (method === "Runtime.exceptionThrown") browser.complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
      if (method === "Runtime.consoleAPICalled" && ["error", "warning"].includes(params.type)) browser.complaints.push(JSON.stringify(params.args));
      if (method === "Log.entryAdded" && params.entry.level === "error") browser.complaints.push(`${params.entry.text} ${params.entry.url ?? ""}`);
      if (method === "Page.javascriptDialogOpening") browser.complaints.push(`a dialog: ${params.message}`);
    });
    for (const domain of ["Runtime", "Log", "Page"]) await browser.do(`${domain}.enable`);
    return browser;
  }

  take(message) {
    const waiting = this.waiting.get(message.id);
    if (waiting) {
      this.waiting.delete(message.id);
      message.error ? waiting.reject(new Error(`${waiting.method}: ${message.error.message}`)) : waiting.resolve(message.result);
    } else this.listeners.forEach((listener) => listener(message));
  }

  ask(method, params = {}, sessionId = undefined) {
    const id = ++this.last;
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { method, resolve, reject }));
    this.process.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return answer;
  }

  do(method, params) {
    return this.ask(method, params, this.session);
  }

  // The value of an expression in the page.
  async value(expression) {
    const { result, exceptionDetails } = await this.do("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    return result.value;
  }

  async until(expression, what = expression) {
    const end = Date.now() + PATIENCE;
    while (!(await this.value(expression).catch(() => false))) {
      if (Date.now() > end) throw new Error(`waited in vain until ${what}; the page says: ${await this.value("document.body.innerText.slice(0, 2000)")}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async open(url) {
    await this.do("Page.navigate", { url: "about:blank" });
    await this.do("Page.navigate", { url });
    await this.until(`location.href.startsWith(${JSON.stringify(url.split("#")[0])}) && document.readyState === 'complete'`);
  }

  async look({ width, height = 900, dark }) {
    await this.do("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
    await this.do("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
  }

  // Types into the field that a selector names, as a person does.
  async type(selector, text) {
    await this.value(`{ const field = document.querySelector(${JSON.stringify(selector)}); field.focus(); field.select?.(); }`);
    await this.do("Input.insertText", { text });
  }

  async press(key, code = key, windowsVirtualKeyCode = { Enter: 13, Tab: 9 }[key]) {
    const text = key === "Enter" ? "\r" : undefined;
    await this.do("Input.dispatchKeyEvent", { type: "keyDown", key, code, windowsVirtualKeyCode, text });
    await this.do("Input.dispatchKeyEvent", { type: "keyUp", key, code, windowsVirtualKeyCode });
  }

  async picture(file) {
    const { data } = await this.do("Page.captureScreenshot", { captureBeyondViewport: true });
    writeFileSync(file, Buffer.from(data, "base64"));
  }

  async stop() {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    // It is several processes, of one group.
    process.kill(-this.process.pid, "SIGKILL");
    await ended;
    for (let attempt = 0; ; attempt += 1) {
      try {
        return rmSync(this.folder, { recursive: true, force: true });
      } catch (error) {
        // One of them may have been about to write.
        if (attempt === 20) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }
}
