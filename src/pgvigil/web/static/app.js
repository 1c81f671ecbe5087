// What all pages share: elements, requests, the poll, cards that show a section, tables and dialogs.
// Text of others reaches the page by text nodes only: nothing here parses HTML.

const body = document.body;
export const parameters = new URLSearchParams(location.search);
export const here = body.dataset.page;
const PAGES = [["", "Overview", "overview"], ["sessions", "Sessions"], ["executions", "Executions"], ["live", "Live"],
  ["application", "Application"], ["jobs", "Jobs & health"], ["alerts", "Alerts"]];
const EVERY = 5000, SOON = 300, SLOWER = [5000, 15000, 60000];

// --- elements ---------------------------------------------------------------------------------------------------------

export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const numbers = new Intl.NumberFormat("en");
export const count = (n) => n === null || n === undefined ? "–" : numbers.format(n);
export const fixed = (n, places = 1) => n === null || n === undefined ? "–" : numbers.format(Number(n.toFixed(places)));
export const percent = (share, places = 1) => share === null || share === undefined ? "–" : `${fixed(share * 100, places)} %`;

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) { n /= 1000; unit += 1; }
  return `${fixed(n, unit && n < 100 ? 1 : 0)} ${units[unit]}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.abs(seconds);
  if (s < 1) return `${fixed(s * 1000, s < 0.01 ? 1 : 0)} ms`;
  if (s < 90) return `${fixed(s, s < 10 ? 1 : 0)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${fixed(s / 3600, s < 36000 ? 1 : 0)} h`;
  return `${Math.round(s / 86400)} days`;
}

const two = (n) => String(n).padStart(2, "0");
export const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
export const stamp = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(date)}`;

function sayAge(element) {
  const seconds = (Date.now() - Date.parse(element.dateTime)) / 1000;
  const words = element.dataset.ago === "for" ? span(seconds) : seconds < -0.5 ? `in ${span(seconds)}` : seconds < 1 ? "now" : `${span(seconds)} ago`;
  if (element.textContent !== words) element.textContent = words;
}

/** A time as its distance from now, which goes on; `how` is "ago" or "for". */
export function ago(text, how = "ago") {
  if (!text) return "–";
  const date = new Date(text);
  if (isNaN(date)) return String(text);
  const element = h("time", { datetime: date.toISOString(), title: stamp(date), "data-ago": how });
  sayAge(element);
  return element;
}

export const link = (address, ...children) => h("a", { href: address }, ...children);
export const query = (page, values) => {
  const known = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  return known.length ? `${page || "./"}?${new URLSearchParams(known)}` : page || "./";
};
export const badge = (word, kind = word) => h("span", { className: `badge ${/^[a-z ]+$/.test(kind) ? kind.replaceAll(" ", "-") : "other"}` }, word);
export const code = (text) => h("code", {}, text);
/** The end of an id: ids of the same hour begin alike. */
export const short = (id) => h("code", { title: id }, String(id).slice(-8));

// --- requests ---------------------------------------------------------------------------------------------------------

export class Refusal extends Error {
  constructor(status, document) {
    super([document.title, document.detail, ...(document.errors || []).map((one) => `${one.name} ${one.message}`)].filter(Boolean).join(": "));
    this.status = status;
    this.kind = String(document.type || "").split(":").pop();
  }
}

async function ask(address, options = {}) {
  let answer, document = null;
  try {
    answer = await fetch(address, { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(25000), ...options });
    if (answer.status !== 204 && answer.status !== 304) document = await answer.json();
  } catch { // no answer, half of one, or the page of a proxy
    throw new Refusal(answer?.status || 0, { title: answer && !answer.ok ? `The service answered ${answer.status}` : "This service does not answer" });
  }
  if (answer.ok || answer.status === 304) return { status: answer.status, document, tag: answer.headers.get("ETag") };
  if (answer.status === 401 && here !== "login") logIn();
  const refusal = new Refusal(answer.status, document);
  refusal.wait = Number(answer.headers.get("Retry-After")) * 1000;
  throw refusal;
}

const logIn = () => location.replace(query("login", { to: `${here === "overview" ? "" : here}${location.search}` }));
export const read = async (path) => (await ask(`api/${path}`)).document;
export const send = async (path, document = {}) => (await ask(`api/${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(document) })).document;

// --- the frame and the poll -------------------------------------------------------------------------------------------

const cards = [];
let tag = null, last = null, failures = 0, timer = 0, answered = null, busy = false;
export let state = null;
export const mayAct = () => state && state.principal.role === "admin" && !state.read_only;

function navigation() {
  const alerts = state?.sections.alerts.data || [], open = alerts.length && total("alerts");
  const critical = alerts.filter((one) => one.severity === "critical").length;
  const place = document.getElementById("pages"), shown = `${open} ${critical}`;
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  replace(place, h("ul", {}, PAGES.map(([address, name, page]) => {
    const current = (page || address) === here || (here === "session" && address === "sessions");
    const number = address === "alerts" && alerts.length
      ? h("span", { className: `pill ${critical ? "critical" : "warning"}` }, count(open), h("span", { className: "hidden" }, " open")) : null;
    return h("li", {}, h("a", { href: address || "./", "aria-current": current && "page", "data-key": `page ${name}` }, name, number));
  })));
  // On a phone the list is wider than the screen: the page that is shown has to be in it.
  const list = place.querySelector("ul"), current = list.querySelector("[aria-current]");
  if (current) list.scrollLeft = current.offsetLeft - (list.clientWidth - current.offsetWidth) / 2;
}

function frame() {
  const server = state.sections.server.data?.[0];
  const who = state.principal;
  replace(document.getElementById("frame"),
    h("span", { className: "where" }, server ? [h("b", {}, server.database), ` PostgreSQL ${server.server_version.split(" ")[0]}`] : "no database"),
    h("span", { id: "updated", title: "When this service last answered; a visible page asks every 5 seconds" }, answered ? clock(answered) : ""),
    h("span", { className: "who" }, who.name, ` (${state.read_only ? "read-only" : who.role})`,
      who.logs_out && h("button", { type: "button", className: "plain", "data-key": "log out", onclick: logOut }, "Log out")));
}

async function logOut() {
  await ask("logout", { method: "POST" }).catch(() => {});
  logIn();
}

function away(words) {
  const bar = document.getElementById("away");
  body.classList.toggle("stale", Boolean(words));
  if (!words) { bar.hidden = true; bar.textContent = ""; return; }
  const since = answered ? ` The numbers below are of ${clock(answered)}.` : "";
  if (bar.dataset.words !== words || bar.hidden) bar.textContent = `${words}.${since}`;
  bar.dataset.words = words;
  bar.hidden = false;
}

const isAway = (problem) => problem && ["database-away", "not-migrated"].some((kind) => problem.type?.endsWith(`:${kind}`));

async function poll() {
  clearTimeout(timer);
  if (document.hidden || busy) return;
  busy = true;
  let wait = EVERY;
  try {
    const answer = await ask(`state?page=${here}`, { headers: tag ? { "If-None-Match": tag } : {}, signal: AbortSignal.timeout(8000) });
    if (answer.status !== 304) {
      state = answer.document;
      tag = answer.tag;
    }
    const problem = state.sections.server.problem || Object.values(state.sections).map((one) => one.problem).find(isAway);
    if (problem) {
      failures += 1;
      wait = SLOWER[Math.min(failures, SLOWER.length) - 1];
      away(`No answer from the database since ${clock(last || new Date())}: ${problem.title}`);
    } else {
      failures = 0;
      last = answered = new Date();
      away("");
    }
    if (answer.status !== 304 || !document.getElementById("updated")) {
      navigation();
      frame();
      cards.forEach((card) => card.update());
      followers.forEach((told) => told());
      const pending = Object.values(state.sections).some((one) => one.pending);
      if (pending && !problem) wait = SOON;
      body.toggleAttribute("data-complete", !pending);
    } else if (answered) document.getElementById("updated").textContent = clock(answered);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    failures += 1;
    wait = Math.max(error.wait || 0, SLOWER[Math.min(failures, SLOWER.length) - 1]);
    away(`No answer since ${clock(last || new Date())}: ${error.message}`);
  } finally {
    busy = false;
    body.dataset.polled = String(Number(body.dataset.polled || 0) + 1);
    timer = setTimeout(poll, wait);
  }
}

/** Call `handle` with the rows of a section whenever they arrive. */
const followers = [];
export const follow = (name, handle) => { followers.push(() => { const rows = state.sections[name].data; if (rows) handle(rows); }); };

export const again = () => { busy || poll(); };

export function start(...shown) {
  navigation();
  document.getElementById("content").append(...shown.map((one) => one instanceof Card ? one.element : one));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); else clearTimeout(timer); });
  setInterval(() => { if (!document.hidden) document.querySelectorAll("time[data-ago]").forEach(sayAge); }, 5000);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cards.forEach((card) => card.draw()));
  poll();
}

/** Lists of the state end at a thousand rows. */
const atLeast = (n) => n < 1000 ? count(n) : `${count(n)} or more`;
/** How many rows a section has, of which a page may show the first only. */
export const total = (name) => state.sections[name].of || state.sections[name].data?.length;
export const counted = (name) => atLeast(total(name));

// --- cards ------------------------------------------------------------------------------------------------------------

let ids = 0;
export const newId = (name) => `${name}-${++ids}`;

/** Replace the children, but keep what the reader has opened and where the reader is. */
export function replace(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const open = [...element.querySelectorAll("details[open][data-key]")].map((one) => one.dataset.key);
  element.replaceChildren(...children.flat(Infinity).filter((child) => child || child === 0));
  for (const one of element.querySelectorAll("details[data-key]")) if (open.includes(one.dataset.key)) one.open = true;
  if (focused) [...element.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused)?.focus();
}

/** A part of a page that shows sections of the state; it is drawn again only when they have changed. */
export class Card {
  constructor(title, names, draw, { wide = false, bare = false, note = "" } = {}) {
    const id = newId("card");
    this.names = names;
    this.drawing = draw;
    this.shown = null;
    this.inner = h("div", { className: "inner" });
    this.age = h("p", { className: "age" });
    this.element = bare
      ? h("section", { className: "bare", "aria-label": title }, this.inner, this.age)
      : h("section", { className: wide ? "card wide" : "card", "aria-labelledby": id }, h("div", { className: "title" }, h("h2", { id }, title), note && h("p", { className: "muted" }, note), this.age), this.inner);
    cards.push(this);
  }

  update() {
    if (document.querySelector("dialog[open]")) return; // a reader who decides must not have the ground moved
    const sections = this.names.map((name) => state.sections[name]);
    const problem = sections.map((one) => one.problem).find(Boolean);
    if (!problem && sections.some((one) => one.pending)) { if (!this.shown) this.age.textContent = "It is being read"; return; }
    this.element.classList.toggle("stale", Boolean(problem));
    const dates = sections.map((one) => one.at).filter(Boolean).sort();
    this.age.textContent = problem ? `${problem.title}. ${this.shown ? "The numbers are old." : ""}` : [dates.length && `as of ${clock(new Date(dates[0]))}`, ...sections.map((one) => one.of && `the first ${count(one.data.length)} of ${atLeast(one.of)}`)].filter(Boolean).join(", ");
    if (problem) return;
    const now = JSON.stringify([sections.map((one) => one.data), mayAct()]);
    if (now === this.shown) return;
    this.shown = now;
    this.draw();
  }

  draw() {
    if (this.shown) replace(this.inner, this.drawing(...this.names.map((name) => state.sections[name].data)));
  }
}

/** columns: [heading, cell(row), kind]; kind "n": a number, "wide": text that may be long. */
export function table(name, columns, rows, { empty = "There is nothing to show.", key } = {}) {
  if (!rows.length) return h("p", { className: "muted empty" }, empty);
  return h("div", { className: "scroll", role: "group", "aria-label": name, tabindex: 0, "data-key": `table ${name}` },
    h("table", { role: "table" },
      h("caption", { className: "hidden" }, name),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(([heading, , kind]) => h("th", { scope: "col", role: "columnheader", className: kind }, heading || h("span", { className: "hidden" }, "Actions"))))),
      h("tbody", { role: "rowgroup" }, rows.map((row, number) => h("tr", { role: "row", id: key && key(row, number) },
        columns.map(([heading, cell, kind]) => {
          const made = cell(row);
          return h("td", { role: "cell", className: kind, "data-label": typeof heading === "string" ? heading : heading?.textContent }, h("div", {}, made === null || made === undefined || made === "" || (Array.isArray(made) && !made.flat().some(Boolean)) ? "–" : made));
        }))))));
}

export const facts = (pairs) => h("dl", { className: "facts" }, pairs.filter(Boolean).map(([name, ...values]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...values.map((value) => value === null || value === undefined || value === "" ? "–" : value)))));

/** A number that leads to its list. */
export const tile = (name, value, address, kind = "") =>
  h("a", { className: `tile ${kind}`, href: address, "data-key": `tile ${name}` }, h("span", { className: "value" }, value), h("span", { className: "name" }, name));

// --- doing things -----------------------------------------------------------------------------------------------------

export function say(words, kind = "good") {
  const place = document.getElementById("said");
  place.replaceChildren(h("p", { className: kind }, words));
  clearTimeout(say.timer);
  say.timer = setTimeout(() => place.replaceChildren(), 8000);
}

/** A dialog that says what will happen, and makes the reader repeat `repeat` where that is given. `act` returns what was done, in words. */
export function confirmation({ title, lines, verb, act, repeat, choices, danger = true }) {
  const heading = newId("dialog"), problem = h("p", { className: "problem", role: "alert" });
  const go = h("button", { type: "submit", className: danger ? "danger" : "primary" }, verb);
  const typed = repeat && h("input", { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off", maxlength: 20, size: 8 });
  const radios = (choices || []).map(([value, words], number) => h("label", { className: "choice" }, h("input", { type: "radio", name: "choice", value, checked: number === 0 }), " ", words));
  const enable = () => { go.disabled = Boolean(repeat) && typed.value.trim().toLowerCase() !== repeat.toLowerCase(); };
  const dialog = h("dialog", { "aria-labelledby": heading },
    h("form", { method: "dialog", onsubmit: submit },
      h("h2", { id: heading }, title), lines, radios.length ? h("fieldset", {}, h("legend", {}, "How"), radios) : null,
      repeat && h("label", { className: "repeat" }, "To confirm, type ", code(repeat), " ", typed), problem,
      h("div", { className: "buttons" }, h("button", { type: "button", onclick: () => dialog.close() }, "Leave it"), go)));
  async function submit(event) {
    event.preventDefault();
    go.disabled = true;
    problem.textContent = "";
    try {
      const said = await act(radios.length ? new FormData(event.target).get("choice") : undefined);
      dialog.close();
      say(said);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      problem.textContent = `Refused. ${error.message}`;
    }
    enable();
  }
  const before = document.activeElement?.dataset?.key;
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before) [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === before)?.focus();
    again();
  });
  typed?.addEventListener("input", enable);
  body.append(dialog);
  enable();
  dialog.showModal();
}

export function copyButton(text, name) {
  return h("button", { type: "button", className: "plain", "aria-label": `Copy ${name}`, "data-key": `copy ${name}`, onclick: async () => {
    try { await navigator.clipboard.writeText(text); say("Copied."); } catch { say("The browser does not allow copying here. Select the text.", "bad"); }
  } }, "Copy");
}

/** Put the result of `load` into the element, or the reason of its failure. */
export async function fill(element, load) {
  element.setAttribute("aria-busy", "true");
  try {
    replace(element, await load());
    element.classList.remove("stale");
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    element.classList.add("stale");
    element.querySelector(".problem")?.remove();
    element.prepend(h("p", { className: "problem", role: "alert" }, error.message));
  } finally {
    element.removeAttribute("aria-busy");
    element.dataset.loaded = "yes";
  }
}

/** A form of filters whose address can be kept: submitting it leaves out what is empty. */
export function filters(page, fields, hidden = {}) {
  return h("form", { className: "filters", role: "search", "aria-label": "Filters", onsubmit: (event) => {
    event.preventDefault();
    location.assign(query(page, Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, value.trim()]))));
  } }, Object.entries(hidden).map(([name, value]) => value && h("input", { type: "hidden", name, value })), fields,
  h("button", { type: "submit", className: "primary" }, "Show"), parameters.size ? link(page, "Clear") : null);
}

export const field = (name, words, properties = {}) => h("label", {}, words, h("input", { name, value: parameters.get(name) || "", ...properties }));
export const choice = (name, words, options) => h("label", {}, words, h("select", { name }, options.map(([value, text]) => h("option", { value, selected: parameters.get(name) === value || (!parameters.get(name) && !value) }, text))));
/** A moment of an address as a field of a form has it, in the time of this browser; and back. */
export function local(text) {
  const date = new Date(text || NaN);
  return isNaN(date) ? "" : stamp(date).replace(" ", "T").slice(0, 16);
}
export const moment = (text) => text && !isNaN(new Date(text)) ? new Date(text).toISOString() : text;

/** Replace the options, and keep what the reader has chosen. */
export function offer(form, name, options) {
  const select = form.elements[name], chosen = select.value;
  if (document.activeElement === select) return; // an open list must not change
  if (chosen && !options.some(([value]) => value === chosen)) options = [...options, [chosen, chosen]];
  select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
  select.value = chosen;
}

/** A text of a row in a list; if it was cut there, with a button that reads the whole of it. */
export function lengthy(row, name, address, shown = (value) => typeof value === "string" ? value : JSON.stringify(value, null, 2)) {
  const cut = row.shortened?.includes(name);
  const text = h("pre", { tabindex: 0 }, row[name] === null ? "It is too long for a list." : `${shown(row[name])}${cut ? "…" : ""}`);
  if (!cut) return text;
  const button = h("button", { type: "button", className: "plain", "data-key": `whole ${name} ${address}`, onclick: async () => {
    try { text.textContent = shown((await read(address))[name]); button.remove(); text.focus(); } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      say(error.message, "bad");
    }
  } }, "Show all of it");
  return [text, button];
}

export const hideable = (text) => text === null || text === undefined ? h("span", { className: "muted" }, "shown to admins only") : text;
