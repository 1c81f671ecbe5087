import { Card, ago, badge, bytes, code, confirmation, count, facts, fill, h, hideable, lengthy, link, mayAct, parameters, query, read, send, span, stamp, start, table } from "./app.js";

const id = parameters.get("id") || "";
const one = `sessions/${encodeURIComponent(id)}`;
const about = h("div"), timeline = h("div"), context = h("div"), handoffs = h("div"), calls = h("div");
let session = null;

async function head() {
  session = await read(query(one, { text_limit: 2000 }));
  document.getElementById("title").textContent = session.session_key;
  document.getElementById("subtitle").replaceChildren(badge(session.status), " ", session.is_dormant ? badge("dormant") : "");
  return [facts([
    ["Id", code(session.id)], ["Agents", session.agent_to ? `${session.agent_from} → ${session.agent_to}` : session.agent_from], ["Policy", session.retention_policy],
    ["Created", ago(session.created_at)], ["Last activity", ago(session.last_activity_at)], ["Expires", ago(session.expires_at)], ["Archived", ago(session.archived_at)],
    ["Entries of context", link("#context", count(session.context_entries))], ["Tokens", count(session.total_tokens)], ["Size of context", bytes(session.total_content_bytes)],
    ["Hand-offs", link("#handoffs", count(session.handoff_requests))], ["Last event", link("#timeline", (session.last_lifecycle_event || "none").replaceAll("_", " "))],
  ]), h("details", { "data-key": "metadata" }, h("summary", {}, "Metadata"), session.metadata === null && !session.shortened.includes("metadata") ? h("p", {}, hideable(null)) : lengthy(session, "metadata", one)), buttons()];
}

function buttons() {
  if (!mayAct() || !session) return null;
  const act = (path, title, lines, verb) => h("button", { type: "button", "data-key": path, onclick: () => confirmation({
    title, verb, danger: path === "archive", lines: [h("p", {}, "Session ", h("b", {}, session.session_key), `, ${session.status}.`), h("p", {}, lines)],
    act: async () => { const done = await send(`${one}/${path}`); all(); return `${session.session_key}: ${done.reason}.`; },
  }) }, verb);
  return h("div", { className: "buttons" },
    session.archived_at || session.is_dormant || session.status === "archived" ? act("reactivate", "Reactivate this session?", "It becomes active again. The timeline records your name.", "Reactivate") : null,
    session.archived_at ? null : act("archive", "Archive this session?", "It becomes read-only, and retention may delete it later. The timeline records your name.", "Archive"));
}

function details(event) {
  return Object.entries(event.event_data || {}).filter(([name]) => name !== "actor").map(([name, value]) => `${name.replaceAll("_", " ")} ${value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
}

const events = [];
async function trail(before) {
  const found = await read(query(`${one}/timeline`, { limit: 50, before, text_limit: 300 }));
  events.push(...found.events);
  return [h("ol", { className: "trail" }, events.map((event) => h("li", {}, h("span", { className: `dot ${event.event_type}` }), h("div", {},
    h("b", {}, event.event_type.replaceAll("_", " ")), " ", h("span", { className: "muted" }, event.event_data?.actor ? `by ${event.event_data.actor}` : ""),
    h("div", { className: "muted" }, ago(event.created_at), ` · ${stamp(new Date(event.created_at))}`), h("div", {}, event.shortened.includes("event_data") ? h("details", { "data-key": event.id }, h("summary", {}, details(event) || "Its data"), lengthy(event, "event_data", `${one}/timeline/${event.id}`)) : details(event)))))),
  events.length ? null : h("p", { className: "muted empty" }, "No event is recorded."),
  found.next_before && h("button", { type: "button", className: "plain", "data-key": "older", onclick: () => fill(timeline, () => trail(found.next_before)) }, "Older events")];
}

const entries = [];
async function entry(before) {
  const found = await read(query(`${one}/context`, { before, text_limit: 300 }));
  entries.push(...found.rows);
  return [table("Entries of context", [
    ["No.", (row) => count(row.sequence_number), "n"], ["Type", (row) => row.context_type], ["Size", (row) => bytes(row.content_size_bytes), "n"], ["Tokens", (row) => count(row.tokens_used), "n"],
    ["Processing", (row) => row.processing_time_ms === null ? "–" : span(row.processing_time_ms / 1000), "n"], ["Created", (row) => ago(row.created_at)],
    ["Content", (row) => row.content === null ? hideable(null) : h("details", { "data-key": `entry ${row.sequence_number}` }, h("summary", {}, "Show"), lengthy(row, "content", `${one}/context/${row.sequence_number}`)), "wide"],
  ], entries, { empty: "This session holds no context." }),
  found.count === 50 && h("button", { type: "button", className: "plain", "data-key": "earlier", onclick: () => fill(context, () => entry(entries[entries.length - 1].sequence_number)) }, "Earlier entries")];
}

/** A list of the last fifty, which says that it is one. */
async function last(path, draw) {
  const found = await read(query(`${one}/${path}`, { limit: 50 }));
  return [draw(found.rows), found.count === 50 && h("p", { className: "muted" }, "The last 50.")];
}

const handedOff = () => last("handoffs", (rows) => table("Hand-off requests", [
  ["From", (row) => row.requesting_agent], ["To", (row) => row.target_agent], ["Type", (row) => row.request_type.replaceAll("_", " ")], ["Status", (row) => badge(row.status)],
  ["Made", (row) => ago(row.created_at)], ["Completed", (row) => ago(row.completed_at)],
], rows, { empty: "Nobody asked to hand this session off." }));

const operations = () => last("operations", (rows) => table("Operations of this session", [
  ["Operation", (row) => link(query("operation", { name: row.operation }), row.operation), "wide"], ["Took", (row) => span(row.duration_ms / 1000), "n"],
  ["Outcome", (row) => badge(row.success ? "success" : "failed")], ["When", (row) => ago(row.created_at)],
], rows, { empty: "No operation of this session is logged." }));

function all() {
  events.length = entries.length = 0;
  fill(about, head);
  fill(timeline, () => trail());
  fill(context, () => entry());
  fill(handoffs, handedOff);
  fill(calls, operations);
}

const part = (name, heading, inner, kind = "card") => h("section", { className: kind, "aria-labelledby": name }, h("h2", { id: name, tabindex: -1 }, heading), inner);
const acts = new Card("Actions", ["alerts"], () => { if (about.dataset.loaded) { about.querySelector(":scope > .buttons")?.remove(); const made = buttons(); if (made) about.append(made); } return null; }, { bare: true });
start(acts, h("div", { className: "grid" }, part("facts", "About", about), part("timeline", "Timeline", timeline), part("context", "Context", context, "card wide"), part("handoffs", "Hand-offs", handoffs), part("operations", "Operations", calls)));
all();
