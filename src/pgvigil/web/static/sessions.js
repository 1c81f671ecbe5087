import { ago, badge, choice, count, field, fill, filters, follow, h, link, local, moment, offer, parameters, query, read, start, table } from "./app.js";

const NAMES = ["status", "retention_policy", "dormant", "agent", "key_prefix", "idle_hours", "expires_hours", "from", "to", "order"];
const chosen = Object.fromEntries(NAMES.map((name) => [name, parameters.get(name)]).filter(([, value]) => value));

const form = filters("sessions", [
  choice("status", "Status", [["", "all"], ...(chosen.status ? [[chosen.status, chosen.status]] : [])]),
  choice("dormant", "Dormant", [["", "all"], ["true", "dormant"], ["false", "not dormant"]]),
  choice("order", "Order", [["", "last active first"], ["idle", "longest idle first"]]),
  field("key_prefix", "Key begins with", { maxlength: 255, size: 14 }),
  field("agent", "Agent", { maxlength: 100, size: 12 }),
  field("retention_policy", "Policy", { maxlength: 50, size: 10 }),
  field("idle_hours", "Idle for more than (hours)", { type: "number", min: 0.01, step: "any", max: 1000000 }),
  field("from", "Created from", { type: "datetime-local", value: local(parameters.get("from")) }),
  field("to", "Created before", { type: "datetime-local", value: local(parameters.get("to")) }),
  field("expires_hours", "Expires within (hours)", { type: "number", min: 0.01, step: "any", max: 1000000 }),
]);
follow("sessions_now", ([now]) => offer(form, "status", [["", "all"], ...Object.entries(now.by_status).map(([one, n]) => [one, `${one} (${count(n)})`])]));

const list = h("div", { className: "list" });

async function load() {
  const cursor = parameters.get("cursor");
  const found = await read(query("sessions", { limit: 50, ...chosen, from: moment(chosen.from), to: moment(chosen.to), cursor }));
  const more = found.next_cursor && link(query("sessions", { ...chosen, cursor: found.next_cursor }), "Next 50 ›");
  const pages = h("p", { className: "pages" }, cursor && link(query("sessions", chosen), "‹ First page"), more, h("button", { type: "button", className: "plain", "data-key": "reload", onclick: () => fill(list, load) }, "Read again"));
  return [table("Sessions", [
    ["Key", (row) => link(query("session", { id: row.id }), row.session_key), "wide"],
    ["Status", (row) => [badge(row.status), row.is_dormant && badge("dormant")]],
    ["Agents", (row) => row.agent_to ? `${row.agent_from} → ${row.agent_to}` : row.agent_from],
    ["Idle", (row) => row.hours_since_activity === null ? "–" : ago(row.last_activity_at, "for"), "n"],
    ["Expires", (row) => ago(row.expires_at)],
    ["Policy", (row) => row.retention_policy],
    ["Entries", (row) => link(`${query("session", { id: row.id })}#context`, count(row.context_entries)), "n"],
    ["Hand-offs", (row) => link(`${query("session", { id: row.id })}#handoffs`, count(row.handoff_requests)), "n"],
    ["Last event", (row) => row.last_lifecycle_event && link(`${query("session", { id: row.id })}#timeline`, row.last_lifecycle_event.replaceAll("_", " "))],
  ], found.sessions, { empty: "No session fits these filters." }), pages];
}

start(form, h("section", { className: "card wide", "aria-label": "Sessions" }, list));
fill(list, load);
