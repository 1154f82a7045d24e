// The page of an operator. Whatever comes from the cache is put on it as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const views = ["overview", "explain", "stored", "purge", "patterns", "switches", "audit", "live"];

// ---------------------------------------------------------------------------------------------------------- elements

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null).map((child) => child instanceof Node ? child : String(child)));
  return made;
}

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function table(columns, rows, none, brief) {
  if (rows.length === 0) return element("p", { class: "quiet" }, none);
  const head = element("tr", {}, ...columns.map(({ name, kind }) => element("th", { scope: "col", class: kind }, name)));
  const body = rows.map((row) => element("tr", {}, ...columns.map(({ name, kind, of }) =>
    element("td", { class: kind, "data-label": kind === "key" ? undefined : name }, of(row) ?? ""))));
  return element("table", { class: brief ? "stack brief" : "stack" }, element("thead", {}, head), element("tbody", {}, ...body));
}

function list(pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return element("dl", {}, ...shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function card(title, ...children) {
  return element("div", { class: "card" }, element("h3", {}, title), ...children);
}

// To what is known of a key: by its URL, or, where that is not all of it, or not all shown, by its digest.
function explainLink({ key, url, digest }) {
  if (!key || !(url || digest)) return key;
  return element("a", { href: "#explain?" + new URLSearchParams(url ? { url } : { digest }) }, key);
}

// ---------------------------------------------------------------------------------------------------------- numbers

const count = (number) => number === undefined || number === null ? "–" : number.toLocaleString("en");
const share = (ratio) => ratio === null || ratio === undefined ? "–" : (100 * ratio).toFixed(ratio > 0.9995 || ratio === 0 ? 0 : 1) + " %";

function scaled(number, units) {
  let [unit, size] = [units[0][0], 1];
  for (const [name, least] of units) if (number >= least) [unit, size] = [name, least];
  const value = number / size;
  return (value >= 100 || Number.isInteger(value) ? Math.round(value) : value.toPrecision(2)).toLocaleString("en") + " " + unit;
}

const bytes = (number) => scaled(number, [["B", 1], ["KiB", 2 ** 10], ["MiB", 2 ** 20], ["GiB", 2 ** 30]]);
const micros = (number) => number === null || number === undefined ? "–"
  : scaled(number, [["µs", 1], ["ms", 1e3], ["s", 1e6], ["min", 6e7], ["h", 3.6e9]]);
const millis = (number) => micros(number * 1000);
const time = (at) => at ? new Date(at).toLocaleTimeString("en-GB") : "–";
const moment = (at) => at ? new Date(at).toLocaleString("sv-SE") : "–";

function countdown(left) {
  const seconds = Math.abs(Math.trunc(left / 1000));
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const text = [];
  let rest = seconds;
  for (const [size, unit] of parts) {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    if (whole > 0 && text.length < 2) text.push(whole + " " + unit);
  }
  const shown = text.join(" ") || "0 s";
  return left > 0 ? "in " + shown : shown + " ago";
}

// ---------------------------------------------------------------------------------------------------------- the API

const token = {
  get: () => sessionStorage.getItem("token"),
  set: (value) => value ? sessionStorage.setItem("token", value) : sessionStorage.removeItem("token"),
};

function complain(text) {
  $("trouble").textContent = text ?? "";
  $("trouble").hidden = !text;
}

async function ask(path, options = {}) {
  const headers = { accept: "application/json", ...options.headers };
  if (token.get()) headers.authorization = "Bearer " + token.get();
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The application does not answer.");
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.detail ?? response.statusText);
    error.status = response.status;
    throw error;
  }
  return response;
}

async function json(path, options) {
  return (await ask(path, options)).json();
}

// What goes wrong is said at the top; where a token is missing, it is asked for.
async function attempt(work) {
  try {
    const result = await work();
    complain();
    return result;
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    complain(error.message);
    if (error.status === 401) signIn();
    return undefined;
  }
}

function signIn() {
  if ($("token-dialog").open) return;
  $("token-form").elements.token.value = token.get() ?? "";
  $("token-dialog").showModal();
}

// ---------------------------------------------------------------------------------------------------------- overview

const kinds = [["hits", "hit"], ["stale", "stale"], ["collapsed", "collapsed"], ["misses", "miss"], ["bypasses", "bypass"]];
let chosen = 0;

function tile(label, value, more) {
  return element("div", { class: "tile" }, element("div", { class: "label" }, label),
    element("div", { class: "value" }, value), element("div", { class: "more" }, more ?? ""));
}

function plot(window) {
  const [width, height, left, bottom] = [Math.max(280, $("plot").clientWidth), 190, 44, 20];
  const sums = window.slots.map((slot) => kinds.reduce((sum, [kind]) => sum + slot[kind], 0));
  const most = Math.max(1, ...sums);
  const step = 10 ** Math.floor(Math.log10(most));
  const top = Math.ceil(most / step) * step;
  const y = (value) => height - bottom - (height - bottom - 10) * value / top;
  const bar = (width - left) / window.slots.length;
  const lines = [0, top / 2, top].flatMap((value) => Number.isInteger(value) ? [
    drawn("line", { x1: left, x2: width, y1: y(value), y2: y(value), class: "grid" }),
    drawn("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, count(value))] : []);
  const bars = window.slots.flatMap((slot, place) => {
    let below = 0;
    return kinds.filter(([kind]) => slot[kind] > 0).map(([kind, name]) => {
      const [from, to] = [y(below), y(below += slot[kind])];
      return drawn("rect", { x: left + place * bar + 1, width: bar - 2, y: to, height: from - to, class: kind },
        drawn("title", {}, time(slot.at * 1000) + ": " + count(slot[kind]) + " " + name));
    });
  });
  const at = (place) => drawn("text", { x: left + place * bar, y: height - 4, "text-anchor": place === 0 ? "start" : "end" },
    new Date(window.slots[Math.min(place, 59)].at * 1000).toLocaleTimeString("en-GB"));
  const sum = (kind) => window.slots.reduce((all, slot) => all + slot[kind], 0);
  const words = kinds.map(([kind, name]) => count(sum(kind)) + " " + name).join(", ");
  return drawn("svg", { viewBox: "0 0 " + width + " " + height, preserveAspectRatio: "none", role: "img", "aria-label": words },
    ...lines, ...bars, at(0), at(60));
}

async function overview() {
  const stats = await attempt(() => json("api/stats"));
  if (!stats) return;
  $("name").textContent = stats.name;
  document.title = stats.name + " – cache";
  const window = stats.windows[chosen];
  $("windows").replaceChildren(...stats.windows.map(({ name }, place) => element("button", {
    type: "button", "aria-pressed": String(place === chosen), onclick: () => { chosen = place; overview(); },
  }, { "1m": "1 minute", "15m": "15 minutes", "24h": "24 hours" }[name] ?? name)));
  const tiles = [];
  if (window) {
    const { sum } = window;
    const all = sum.hits + sum.misses + sum.bypasses;
    tiles.push(
      tile("Hit ratio", share(sum.hit_ratio), count(sum.hits_in_memory) + " in memory, " + count(sum.hits_in_store) + " in store"),
      tile("Requests", count(all), scaled(all / (window.slot * 60), [["per s", 1]])),
      tile("Loads", count(sum.loads), (sum.loads ? millis(sum.load_ms / sum.loads) + " each" : "none") + (sum.failed_loads ? ", " + count(sum.failed_loads) + " failed" : "")),
      tile("Saved", millis(sum.saved_ms), "of the application's time"));
    for (const { tier, p50_us, p99_us } of sum.latency) {
      if (p50_us) tiles.push(tile("Hits in " + tier, "< " + micros(p50_us), "99 % < " + micros(p99_us)));
    }
  }
  if (stats.memory) tiles.push(tile("Memory", bytes(stats.memory.bytes), count(stats.memory.entries) + " entries"));
  if (stats.redis) {
    const { redis } = stats;
    tiles.push(tile("Redis", redis.connected ? (redis.full ? "full" : "up") : "down",
      redis.connected ? micros(redis.ping_us) + (redis.used_memory ? ", " + redis.used_memory : "") : "breaker " + redis.breaker));
  }
  for (const { name, left_ms } of stats.switches) tiles.push(tile("Switched on", element("span", { class: "word" }, name), "ends " + countdown(left_ms)));
  tiles.push(tile("Loading now", count(stats.loads_in_flight), stats.redis ? count(stats.redis.pending_invalidations) + " invalidations pending" : ""));
  $("tiles").replaceChildren(...tiles);
  if (window) {
    $("per-slot").textContent = "per " + { 1: "second", 15: "15 seconds", 1440: "24 minutes" }[window.slot];
    $("plot").replaceChildren(plot(window));
    $("legend").replaceChildren(...kinds.map(([kind, name]) => element("li", {},
      drawn("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, drawn("rect", { width: 10, height: 10, class: kind })),
      name + " " + count(window.slots.reduce((all, slot) => all + slot[kind], 0)))));
    $("reasons").replaceChildren(table([
      { name: "Reason", kind: "code", of: (row) => row.name }, { name: "Times", kind: "number", of: (row) => count(row.count) },
    ], window.sum.reasons, "Every request could be looked up, and every response stored.", true));
  } else {
    $("plot").replaceChildren(element("p", { class: "quiet" }, "Nothing is recorded: the cache has no Recorder among its observers."));
    $("reasons").replaceChildren();
  }
  $("stores").replaceChildren(stores(stats));
  $("totals").replaceChildren(list([["Counted since", moment(stats.since)], ...Object.entries(stats.totals).map(([name, number]) => [name.replaceAll("_", " "), count(number)])]));
  if (window) await hottest();
  if (stats.sizing) await sizing();
}

// The hit ratio by the room that there is: the curve, and where on it the cache is now.
function curve({ points, bytes: now, hit_ratio }) {
  const [width, height, left, bottom] = [Math.max(280, $("sizing").clientWidth), 190, 44, 20];
  const [least, most] = [points[0].bytes, points.at(-1).bytes].map(Math.log);
  const x = (room) => left + (width - left - 8) * (Math.log(room) - least) / (most - least);
  const y = (ratio) => height - bottom - (height - bottom - 10) * ratio;
  const lines = [0, .25, .5, .75, 1].flatMap((ratio) => [
    drawn("line", { x1: left, x2: width, y1: y(ratio), y2: y(ratio), class: "grid" }),
    drawn("text", { x: left - 8, y: y(ratio) + 4, "text-anchor": "end" }, 100 * ratio + " %")]);
  const marks = points.filter((_, place) => place % (width < 600 ? 8 : 4) === 0).map(({ bytes: room }, place, all) => drawn("text",
    { x: x(room), y: height - 4, "text-anchor": place === 0 ? "start" : place === all.length - 1 ? "end" : "middle" }, bytes(room)));
  const line = drawn("polyline", { class: "curve", points: points.map((point) => x(point.bytes) + "," + y(point.hit_ratio)).join(" ") });
  const here = hit_ratio === null ? [] : [drawn("circle", { cx: x(now), cy: y(hit_ratio), r: 5, class: "here" }, drawn("title", {}, "now: " + bytes(now) + ", " + share(hit_ratio)))];
  return drawn("svg", { viewBox: "0 0 " + width + " " + height, preserveAspectRatio: "none", role: "img", "aria-label": $("sizing-words").textContent },
    ...lines, ...marks, line, ...here);
}

async function sizing() {
  const told = await attempt(() => json("api/sizing"));
  if (!told) return;
  $("sizing-card").hidden = false;
  if (!told.points.length) {
    $("sizing-words").textContent = "Too little is known yet.";
    return $("sizing").replaceChildren();
  }
  const at = (factor) => told.points.reduce((best, point) => Math.abs(Math.log(point.bytes / told.bytes / factor)) < Math.abs(Math.log(best.bytes / told.bytes / factor)) ? point : best);
  const change = (point) => bytes(told.bytes) + " to " + bytes(point.bytes) + ": " + share(told.hit_ratio) + " to " + share(point.hit_ratio);
  $("sizing-words").textContent = change(at(2)) + "; " + change(at(.5)) + ". For a cache that forgets what was not asked for longest, if nothing ran out; from "
    + count(told.followed) + " of about " + count(told.keys) + " keys.";
  $("sizing").replaceChildren(curve(told));
}

function stores(stats) {
  const { memory, redis } = stats;
  const pairs = [];
  if (memory) {
    pairs.push(["In this process", memory.kind + ", " + count(memory.entries) + " entries, " + bytes(memory.bytes)]);
    pairs.push(...memory.evictions.map(({ name, count: times }) => ["Left: " + name, count(times)]));
  }
  if (redis) {
    pairs.push(["Redis", redis.connected ? "connected" : "not connected"], ["Breaker", redis.breaker],
      ["Round trip", micros(redis.ping_us)], ["Memory of the server", redis.used_memory], ["Clients of the server", redis.clients && count(redis.clients)],
      ["This process, in leases", element("code", {}, redis.process)],
      ["Lost connections", count(redis.lost_connections)], ["Invalidations pending", count(redis.pending_invalidations)], ["Trouble", redis.error]);
  }
  return pairs.length ? list(pairs) : element("p", { class: "quiet" }, "The application names none.");
}

async function hottest() {
  const top = await attempt(() => json("api/top?limit=10"));
  if (!top) return;
  const key = { name: "Key", kind: "key", of: explainLink };
  $("hottest").replaceChildren(table([key, { name: "Look-ups", kind: "number", of: (row) => count(row.sum) }], top.hottest, "Nothing was looked up yet.", true));
  $("dearest").replaceChildren(table([key, { name: "Misses", kind: "number", of: (row) => count(row.times) },
    { name: "All together", kind: "number", of: (row) => micros(row.sum) }], top.dearest, "Nothing was missed yet.", true));
}

// ---------------------------------------------------------------------------------------------------------- explain

const moods = { hit: "good", stale: "fair", "backed-off": "fair", wait: "wait", validate: "fair", load: "poor", forward: "poor", refuse: "poor" };

const lines = (text) => text.split("\n").map((one) => one.trim()).filter(Boolean);

function query(form, several = [], without = []) {
  const pairs = [];
  for (const { name, value } of form.elements) {
    if (!name || without.includes(name) || !value.trim()) continue;
    pairs.push(...(several.includes(name) ? lines(value) : [value.trim()]).map((one) => [name, one]));
  }
  return new URLSearchParams(pairs).toString();
}

function deadlines(entry) {
  const skew = Date.now() - entry.now;
  const cell = (row) => element("span", { class: row.left > 0 ? "" : "over", "data-until": row.at + skew }, countdown(row.left));
  return table([{ name: "Ends", of: (row) => row.name }, { name: "When", kind: "number", of: cell }, { name: "At", kind: "time number", of: (row) => moment(row.at) }],
    entry.deadlines, "");
}

function facts(entry, ...more) {
  return list([...more, ["Made", moment(entry.made)], ["Age", entry.age !== undefined ? entry.age + " s" : undefined], ["Body", bytes(entry.bytes)], ["In memory", bytes(entry.memory_bytes)],
    ["Load took", entry.load_ms ? millis(entry.load_ms) : undefined],
    ["Soft invalidation", entry.soft_invalidated ? "came over it" : undefined],
    ["From the future", entry.from_the_future ? "made later than it is now: its clock, or this one, is wrong" : undefined],
    ["Entity tag", entry.minted ? "the cache's own" : undefined], ["Immutable", entry.immutable ? "yes" : undefined], ["Never stale", entry.never_stale ? "yes" : undefined],
    ["Can be validated", entry.can_be_validated === undefined ? undefined : entry.can_be_validated ? "yes" : "no"],
    ["Codings", entry.codings?.length ? entry.codings.map(({ coding, bytes: size }) => coding + " (" + bytes(size) + ")").join(", ") : entry.encodable ? "none yet" : undefined]]);
}

function response({ status, headers }) {
  return card("Stored response: " + status, table([{ name: "Field", kind: "code", of: ([name]) => name }, { name: "Value", kind: "key", of: ([, value]) => value }], headers, "It has no fields."));
}

const tagColumns = [{ name: "Tag", kind: "key", of: (tag) => tag.name }, { name: "State", of: (tag) => tag.change ?? "no token: void" },
  { name: "Since", kind: "time", of: (tag) => moment(tag.since) }];

const decisionColumns = [
  { name: "At", kind: "time", of: (row) => time(row.at) }, { name: "Result", of: (row) => row.result },
  { name: "Tier", of: (row) => row.tier === "none" ? "" : row.tier }, { name: "Took", kind: "number", of: (row) => row.result === "bypass" ? "" : micros(row.duration_us) },
  { name: "Age", kind: "number", of: (row) => row.age === null ? "" : row.age + " s" },
  { name: "Reason", kind: "code", of: (row) => row.reason && element("span", { title: row.reason.means }, row.reason.name) }];

function lease(of) {
  if (!of) return undefined;
  const words = { free: "free", "no-room": "none: the store is full", held: "held by a load", uncacheable: "a recent response could not be stored", failed: "recent loads failed" };
  const more = of.state === "failed" ? " (" + of.failures + (of.status ? ", last with " + of.status : "") + (of.back_off_ms ? ", left alone for " + millis(of.back_off_ms) : "") + ")" : "";
  return (words[of.state] ?? of.state) + more + (of.holder ? holder(of.holder) : "");
}

function holder({ process, here, age_ms, left_ms }) {
  const by = here ? "this process" : process ? "the process " + process : "another process";
  const told = (number, text) => number === null ? "" : ", " + text(number ? millis(number) : "0 s");
  return " – " + by + told(age_ms, (age) => "since " + age) + told(left_ms, (left) => "for " + left + " more unless it is extended");
}

function shown(told) {
  const { key, entry, plan } = told;
  const parts = [element("div", { class: "card" },
    element("div", { class: "verdict" }, element("span", { class: "chip " + (moods[told.verdict] ?? "") }, told.verdict), element("span", {}, told.sentence)),
    list([["Cache-Status", told.cache_status === null ? undefined : element("code", {}, told.cache_status || "(the request fails)")],
      ["", told.is_final || told.cache_status === null ? undefined : "if the response may be stored: the application decides"],
      ["Reason", told.reason && element("span", {}, element("code", {}, told.reason.name), " – " + told.reason.means)],
      ["Stored, but", told.rejected && ({ tag: "a tag of it was invalidated, or its token is lost", pattern: "a pattern that its key matches was deleted" }[told.rejected] || told.rejected)],
      ["Void by the pattern", told.banned_by && element("code", {}, told.banned_by)],
      ["Before that", told.first_reason && element("span", {}, element("code", {}, told.first_reason.name), " – " + told.first_reason.means)],
      ["Found in", told.tier === "none" ? undefined : told.tier], ["Stored for", told.alias_of && element("code", {}, told.alias_of)], ["Rule", told.rule && element("code", {}, told.rule)],
      ["Loading here", told.is_loading ? "yes" : undefined], ["Lease", lease(told.lease)],
      ["If the application fails", entry || told.value ? (told.stands_in ? "what is stored stands in" : undefined) : undefined]]),
    ...told.notes.map((note) => element("p", { class: "quiet" }, note)))];
  if (plan) {
    parts.push(card("What would be stored", list([["Fresh for", millis(plan.fresh_ms)], ["Stale while revalidating until", millis(plan.stale_while_revalidate_ms)],
      ["Stale on error until", millis(plan.stale_if_error_ms)], ["Kept for", millis(plan.kept_ms)], ["Tags", plan.tags.join(", ")], ["Varies by", plan.vary],
      ["Entity tag", plan.minted ? "of the cache's own" : undefined], ["Other queries", plan.answers_other_queries ? "answers for them, too" : undefined]])));
  }
  if (entry) {
    parts.push(element("div", { class: "columns" }, card("Deadlines", deadlines(entry)), card("Entry", facts(entry))));
    parts.push(response(entry));
  }
  if (told.value) parts.push(element("div", { class: "columns" }, card("Deadlines", deadlines(told.value)), card("Entry", facts(told.value))));
  if (told.tags.length) parts.push(card("Tags", table(tagColumns, told.tags, "")));
  if (key) {
    parts.push(card("Key", list([["Reads", element("code", {}, key.readable)], ["Namespace", key.namespace], ["Origin", key.origin], ["Path and query", key.path_and_query],
      ["Fields", key.fields.join(", ")], ["Cookies", key.cookies.join(", ")], ["From outside", key.hinted ? count(key.hinted) + (key.hinted === 1 ? " part" : " parts") : undefined],
      ["Content", key.content && element("code", {}, key.content)], ["Digest", element("code", {}, key.digest)],
      ["Variant", told.variant && element("span", {}, "by " + told.variant.fields + ", one of " + told.variant.variants + ": ", element("code", {}, told.variant.digest))]])));
  }
  const settings = (title, some) => some.length && parts.push(card(title, table([{ name: "Setting", kind: "code", of: (row) => row.name },
    { name: "Is", of: (row) => row.value }, { name: "Said by", of: (row) => row.origin }], some, "", true)));
  settings("Settings", told.settings.filter((one) => one.origin !== "default"));
  if (told.settings.length) {
    parts.push(element("details", { class: "card" }, element("summary", {}, "Settings that nobody says anything of"),
      list(told.settings.filter((one) => one.origin === "default").map((one) => [one.name, one.value]))));
  }
  if (told.recent.length) parts.push(card("Last decisions here", table(decisionColumns, told.recent, "", true)));
  return parts;
}

async function explain() {
  const form = $("explain-form"), content = form.elements.content.value;
  const request = ["url", "method", "header", "layer", "hint", "status", "response_header"], key = ["key", "digest"];
  const is_named = key.some((name) => form.elements[name].value.trim());
  const target = "api/explain?" + query(form, ["header", "hint", "response_header", "key"], ["content", ...(is_named ? request : key)]);
  const told = await attempt(() => content && !is_named ? json(target, { method: "POST", body: content }) : json(target));
  if (told) $("explained").replaceChildren(...shown(told));
}

// ---------------------------------------------------------------------------------------------------------- stored

function tagLink({ name }) {
  // A name of which a part is hidden leads nowhere.
  return name.includes("•••") ? name : element("a", { href: "#stored?tag=" + encodeURIComponent(name) }, name);
}

async function entry() {
  const places = await attempt(() => json("api/entry?" + query($("entry-form"), ["key", "hint"])));
  if (!places) return;
  $("stored").replaceChildren(...places.flatMap((place) => [
    card(place.layer ? "By the layer " + place.layer : "Key", list([["Key", element("code", {}, place.key)], ["Digest", element("code", {}, place.digest)],
      ["Found in", place.tier === "none" ? undefined : place.tier], ["", place.entry ? undefined : place.rejected ? "What is there is not used: " + place.rejected : "Nothing is stored."],
      ["Lease", lease(place.lease)], ["", explainLink({ ...place, key: "Explain it" })]])),
    ...(place.entry ? [element("div", { class: "columns" }, card("Deadlines", deadlines(place.entry)),
      card("Entry", facts({ ...place.entry, ...place.response })))] : []),
    ...(place.response ? [response(place.response)] : []),
    ...(place.tags.length ? [card("Tags", table([{ ...tagColumns[0], of: tagLink }, ...tagColumns.slice(1)], place.tags, ""))] : []),
    ...(place.recent.length ? [card("Last decisions here", table(decisionColumns, place.recent, "", true))] : []),
  ]));
}

async function tag() {
  const name = $("tag-form").elements.tag.value;
  const known = await attempt(() => json("api/tag/" + encodeURIComponent(name)));
  if (!known) return;
  $("stored").replaceChildren(card("Tag", list([["Name", element("code", {}, known.name)], ["State", known.change ?? "no token: nothing that carries it is used"], ["Since", known.since && moment(known.since)],
    ["Carried by", known.keys === undefined ? "not known: the store can't tell" : keys(known.keys, known.keys_error) + ", void ones included"],
    ["To load them again", known.reload_ms ? millis(known.reload_ms) : undefined]]),
    element("a", { href: "#purge?kind=tag&what=" + encodeURIComponent(name) }, "Purge it …")));
}

// ---------------------------------------------------------------------------------------------------------- purge

const which = { url: ["URL", "http://shop.example/api/products/42"], key: ["", ""], tag: ["Tag", "product:42"], pattern: ["Pattern", "http://shop.example/api/products*"], group: ["Group", "prices"], all: ["", ""] };
let tried;

function wanted(dry_run) {
  const { kind, what, key, origin, mode, over, actor, reason } = $("purge-form").elements;
  const body = { mode: mode.value, dry_run };
  body[kind.value] = kind.value === "all" ? true : kind.value === "key" ? lines(key.value) : what.value.trim();
  if (mode.value === "soft" && over.value !== "0") body.over = Number(over.value);
  if (kind.value === "group") body.origin = origin.value.trim();
  if (actor.value.trim()) body.actor = actor.value.trim();
  if (reason.value.trim()) body.reason = reason.value.trim();
  return body;
}

const sameTarget = () => JSON.stringify({ ...wanted(true), actor: "", reason: "" });

function adaptPurge() {
  const form = $("purge-form").elements;
  const [label, example] = which[form.kind.value];
  $("what-label").hidden = ["all", "key"].includes(form.kind.value);
  $("parts-label").hidden = form.kind.value !== "key";
  $("over-label").hidden = form.mode.value !== "soft";
  $("origin-label").hidden = form.kind.value !== "group";
  $("what-label").firstChild.textContent = label + " ";
  form.what.placeholder = example;
  $("purge-now").disabled = tried !== sameTarget();
}

/** What would be reached is that of another target, once the form has changed. */
function changePurge() {
  if (tried !== undefined && tried !== sameTarget()) { tried = undefined; $("purged").replaceChildren(); }
  adaptPurge();
}

/** How many, and how far that may be off. */
function keys(number, error) {
  return (error ? "about " : "") + count(number) + (number === 1 ? " key" : " keys") + (error ? ", give or take " + count(error) : "");
}

async function sendPurge(dry_run) {
  const headers = { "content-type": "application/json" };
  // The form may change before the answer comes.
  const asked = sameTarget();
  if (!dry_run) headers["idempotency-key"] = crypto.randomUUID ? crypto.randomUUID() : String(Math.random());
  const body = wanted(dry_run);
  const told = await attempt(() => json("api/purge", { method: "POST", headers, body: JSON.stringify(body) }));
  tried = told && dry_run && asked === sameTarget() ? asked : undefined;
  adaptPurge();
  if (!told) return;
  if (dry_run && !tried) return $("purged").replaceChildren();
  const reach = told.matched === null ? "not known: the store can't tell" : keys(told.matched, told.matched_error);
  $("purged").replaceChildren(card(dry_run ? "Would be purged" : told.delivered ? "Purged" : "Kept, to be retried",
    list([["What", told.kind + ": " + told.what], ["How", told.mode + (body.over ? ", over " + millis(body.over * 1000) : "")], [dry_run ? "Would reach" : "Reached", reach],
      ["To load again", told.reload_ms ? millis(told.reload_ms) : undefined], ["Note", told.note], ["Number in the audit", told.id && count(told.id)]])));
}

// ---------------------------------------------------------------------------------------------------------- patterns

async function patterns(count_left) {
  const told = await attempt(() => json("api/patterns" + (count_left === true ? "?count=true" : "")));
  if (!told) return;
  const mode = ({ mode, over_ms }) => mode + (over_ms ? ", over " + millis(over_ms) : "");
  const left = (row) => row.left === null ? "" : keys(row.left, row.left_error);
  $("patterns").replaceChildren(table([
    { name: "Since", kind: "time", of: (row) => moment(row.since) }, { name: "Who", of: ({ by: record }) => record ? who(record) : "not known" },
    { name: "Pattern", kind: "key", of: (row) => row.pattern }, { name: "How", of: mode },
    { name: "Matched", kind: "number", of: ({ by: record }) => record && record.matched !== null ? count(record.matched) : "" },
    { name: "Left", kind: "number", of: left }, { name: "Why", of: ({ by: record }) => record?.reason }],
  told.patterns, "No pattern is in force: whatever was deleted by one is swept."),
  ...(told.patterns.length ? [element("p", { class: "quiet" }, told.sweeper ? "Being swept" + holder({ ...told.sweeper, left_ms: null }) : "No process sweeps at this moment.")] : []));
}

// ---------------------------------------------------------------------------------------------------------- switches

function showSwitches(states) {
  const form = $("switch-form").elements;
  if (!form.switch.length) form.switch.replaceChildren(...states.map(({ name }) => element("option", { value: name }, name)));
  const left = (row) => row.on ? element("span", { "data-until": Date.now() + row.left_ms }, countdown(row.left_ms)) : "";
  const off = (row) => row.on ? element("button", { type: "button", onclick: () => turn({ switch: row.name, seconds: 0 }) }, "Turn off") : "";
  $("switched").replaceChildren(table([{ name: "Switch", kind: "code", of: (row) => row.name }, { name: "Is", of: (row) => row.on ? element("span", { class: "chip poor" }, row.rate === undefined ? "on" : `on, ${row.rate}`) : "off" },
    { name: "Ends", kind: "number", of: left }, { name: "While it is on", of: (row) => row.does }, { name: "Change", of: off }], states, "", true));
}

function adaptSwitch() {
  const form = $("switch-form").elements;
  form.rate.disabled = form.switch.value !== "verification-rate";
  $("rate-label").hidden = form.rate.disabled;
  return form;
}

async function switches() {
  const states = await attempt(() => json("api/switches"));
  if (states) showSwitches(states);
}

async function turn(wanted) {
  const { actor, reason, here } = $("switch-form").elements;
  const body = { ...wanted, here: here.checked, actor: actor.value.trim() || undefined, reason: reason.value.trim() || undefined };
  const states = await attempt(() => json("api/switches", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }));
  if (states) showSwitches(states);
}

// ---------------------------------------------------------------------------------------------------------- audit

let by = "";

function who(record) {
  const from = record.from ?? "?";
  if (record.by === "application") return "the application";
  if (record.by === "method") return (record.actor ? record.actor + ", by " : "") + "PURGE from " + from;
  return record.actor ?? record.from ?? "";
}

async function audit() {
  const records = await attempt(() => json("api/audit" + (by ? "?by=" + by : "")));
  const choices = [["", "All"], ["api", "Operators"], ["method", "PURGE"], ["application", "Application"]];
  $("audit-by").replaceChildren(...choices.map(([value, name]) => element("button", { type: "button", "aria-pressed": String(by === value), onclick: () => { by = value; audit(); } }, name)));
  if (!records) return;
  $("audited").replaceChildren(table([
    { name: "At", kind: "time", of: (row) => moment(row.at) }, { name: "Who", of: who },
    { name: "What", kind: "key", of: (row) => row.kind + (row.kind === "all" ? "" : ": " + row.what) }, { name: "How", of: (row) => row.mode },
    { name: "Keys", kind: "number", of: (row) => row.matched === null ? "" : count(row.matched) }, { name: "Why", of: (row) => row.reason },
    { name: "Delivered", of: (row) => row.delivered ? "yes" : "not yet" }], records, "Nothing was purged or invalidated yet."));
}

// ---------------------------------------------------------------------------------------------------------- live

let watching;
const rows = [];

async function watch() {
  if (watching) return stop();
  watching = new AbortController();
  $("watch").textContent = "Stop";
  const path = "api/live?" + query($("live-form"));
  await attempt(async () => {
    const response = await ask(path, { signal: watching.signal, headers: { accept: "text/event-stream" } });
    $("watching").textContent = "Watching …";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      events.forEach(take);
    }
  });
  stop();
}

function stop() {
  watching?.abort();
  watching = undefined;
  $("watch").textContent = "Watch";
  $("watching").textContent = "Not watching.";
}

function take(event) {
  const field = (name) => event.split("\n").filter((line) => line.startsWith(name + ":")).map((line) => line.slice(name.length + 1).trim()).join("\n");
  if (field("event") === "missed") {
    $("watching").textContent = "Watching … " + field("data") + " were missed.";
    return;
  }
  if (field("event") !== "decision") return;
  rows.unshift(JSON.parse(field("data")));
  rows.length = Math.min(rows.length, 200);
  if (!take.due) {
    take.due = true;
    requestAnimationFrame(() => { take.due = false; showDecisions(); });
  }
}

function showDecisions() {
  const key = { name: "Key", kind: "key", of: explainLink };
  $("decisions").replaceChildren(table([...decisionColumns.slice(0, 2), key, ...decisionColumns.slice(2)], rows, "Nothing yet.", true));
}

// ---------------------------------------------------------------------------------------------------------- the frame

const shows = {
  overview, audit, patterns, switches, live: showDecisions,
  explain: (parameters) => fill($("explain-form"), parameters) && explain(),
  stored: (parameters) => {
    if (parameters.has("tag")) return fill($("tag-form"), parameters) && tag();
    return fill($("entry-form"), parameters) && entry();
  },
  purge: (parameters) => { fill($("purge-form"), parameters); changePurge(); },
};

// What names a thing: one of them at a time.
const names = ["url", "key", "digest"];

function keepOnly(form, named) {
  for (const name of names) if (name !== named && form.elements[name]) form.elements[name].value = "";
}

// Whether there was anything to fill in.
function fill(form, parameters) {
  let any = false;
  if (names.some((name) => parameters.has(name))) keepOnly(form);
  for (const name of new Set(parameters.keys())) {
    const field = form.elements[name];
    if (field && !(field instanceof RadioNodeList)) [field.value, any] = [parameters.getAll(name).join("\n"), true];
  }
  return any;
}

let current;

async function route() {
  const [name, parameters] = location.hash.slice(1).split("?");
  const before = current;
  current = views.includes(name) ? name : "overview";
  for (const view of views) $("view-" + view).hidden = view !== current;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === "#" + current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  complain();
  if (before && before !== current) $("main").focus({ preventScroll: true });
  await shows[current](new URLSearchParams(parameters ?? ""));
}

function submits(form, work) {
  $(form).addEventListener("submit", (event) => { event.preventDefault(); work(); });
}

async function begin() {
  submits("explain-form", explain);
  submits("entry-form", entry);
  submits("tag-form", tag);
  for (const form of [$("explain-form"), $("entry-form")]) {
    form.addEventListener("input", ({ target }) => names.includes(target.name) && keepOnly(form, target.name));
  }
  submits("purge-form", () => sendPurge(true));
  $("count-patterns").addEventListener("click", () => patterns(true));
  submits("live-form", watch);
  submits("switch-form", () => {
    const { switch: name, seconds, rate } = adaptSwitch();
    turn({ switch: name.value, seconds: Number(seconds.value), rate: rate.disabled ? undefined : Number(rate.value) });
  });
  $("switch-form").addEventListener("input", adaptSwitch);
  $("purge-form").addEventListener("input", changePurge);
  $("purge-now").addEventListener("click", () => {
    const all = $("purge-form").elements.kind.value === "all";
    if (!all || confirm("Purge everything? The application will have to load all of it again.")) sendPurge(false);
  });
  $("sign-in").addEventListener("click", signIn);
  $("token-dialog").addEventListener("close", () => {
    const { returnValue } = $("token-dialog");
    if (returnValue === "use") token.set($("token-form").elements.token.value.trim());
    if (returnValue === "forget") token.set();
    $("token-form").elements.token.value = "";
    if (returnValue === "use" || returnValue === "forget") start();
  });
  // Enter means what most want.
  $("token-form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.name === "token") { event.preventDefault(); $("token-dialog").close("use"); }
  });
  for (const result of ["hit", "stale", "negative", "collapsed", "miss", "error", "bypass"]) {
    $("live-form").elements.result.append(element("option", { value: result }, result));
  }
  window.addEventListener("hashchange", route);
  window.addEventListener("resize", () => { if (current === "overview") overview(); });
  setInterval(() => { if (current === "overview" && !document.hidden) overview(); }, 5000);
  setInterval(() => {
    for (const one of document.querySelectorAll("[data-until]")) {
      const left = Number(one.dataset.until) - Date.now();
      one.textContent = countdown(left);
      one.className = left > 0 ? "" : "over";
    }
  }, 1000);
  await start();
}

async function start() {
  const stats = await attempt(() => json("api/stats"));
  if (stats) {
    $("name").textContent = stats.name;
    $("no-purge").hidden = stats.can_purge;
    $("layer-choice").hidden = stats.layers.length < 2;
    $("explain-form").elements.layer.replaceChildren(...(stats.layers.length < 2 ? [element("option", { value: "" }, "the only one")] : stats.layers.map((name) => element("option", { value: name }, name))));
    await route();
  }
}

begin();
