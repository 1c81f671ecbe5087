import { Card, ago, badge, choice, code, count, facts, field, fill, filters, follow, h, hideable, lengthy, link, local, moment, newId, offer, parameters, query, read, span, start, table } from "./app.js";
import { executionsPerHour } from "./charts.js";

const NAMES = ["user_id", "conversation_id", "database_type", "status", "from", "to", "longer_than", "up_to"];
const chosen = Object.fromEntries(NAMES.map((name) => [name, parameters.get(name)]).filter(([, value]) => value));

const form = filters("executions", [
  field("user_id", "User", { maxlength: 100, size: 12 }),
  choice("database_type", "Engine", [["", "all"], ...(chosen.database_type ? [[chosen.database_type, chosen.database_type]] : [])]),
  choice("status", "Status", [["", "all"], "success", "failed", "error", "timeout"].map((one) => typeof one === "string" ? [one, one] : one)),
  field("conversation_id", "Conversation", { maxlength: 100, size: 12 }),
  field("from", "From", { type: "datetime-local", value: local(parameters.get("from")) }),
  field("to", "To", { type: "datetime-local", value: local(parameters.get("to")) }),
  field("longer_than", "Longer than (s)", { type: "number", min: 0, step: "any", size: 6 }),
  field("up_to", "Up to (s)", { type: "number", min: 0, step: "any", size: 6 }),
]);

follow("engines", (engines) => offer(form, "database_type", [["", "all"], ...engines.map((one) => [one.database_type, one.database_type])]));

function durations(rows) {
  const all = rows.reduce((sum, row) => sum + row.executions, 0);
  const most = Math.max(1, ...rows.map((row) => row.executions));
  const before = (row) => rows[rows.indexOf(row) - 1]?.bound;
  return table("Duration of all executions that were counted", [
    ["Up to", (row) => row.bound === null ? "longer" : span(row.bound)],
    ["Executions", (row) => row.executions ? link(query("executions", { longer_than: before(row), up_to: row.bound }), count(row.executions)) : "0", "n"],
    ["Share", (row) => [h("progress", { max: most, value: row.executions, "aria-label": `executions ${row.bound === null ? "longer" : `up to ${span(row.bound)}`}` }), ` ${all ? (row.executions / all * 100).toFixed(1) : 0} %`]],
  ], all ? rows : [], { empty: "Job totals has not counted an execution yet." });
}

function show(one) {
  const heading = newId("execution"), address = `executions/by-id/${one.id}`;
  const dialog = h("dialog", { "aria-labelledby": heading, className: "large" }, h("h2", { id: heading }, "Execution ", code(one.execution_id)),
    facts([
      ["Status", badge(one.status)], ["Engine", one.database_type], ["User", one.user_id], ["Took", span(one.execution_time)], ["Started", ago(one.started_at)], ["Completed", ago(one.completed_at)],
      ["Rows", count(one.total_rows)], ["Returned", count(one.returned_rows)], ["Complexity", one.query_complexity], ["Page", one.page === null ? "–" : `${count(one.page)} (${count(one.page_size)} rows a page)`],
      ["Error type or SQLSTATE", one.error_type], ["Conversation", one.conversation_id && link(query("executions", { user_id: one.user_id, conversation_id: one.conversation_id }), `${one.conversation_id}: its neighbours`)],
    ]),
    h("h3", {}, "Query"), one.query === null ? h("p", {}, hideable(null)) : lengthy(one, "query", address),
    one.error_type || one.error_message ? [h("h3", {}, "Error"), one.error_message === null ? h("p", {}, hideable(null)) : lengthy(one, "error_message", address)] : null,
    ["connection_params", "request_metadata", "response_metadata"].map((name) => (one[name] || one.shortened.includes(name)) && [h("h3", {}, name.replaceAll("_", " ")), lengthy(one, name, address)]),
    h("div", { className: "buttons" }, h("button", { type: "button", onclick: () => dialog.close() }, "Close")));
  dialog.addEventListener("close", () => { dialog.remove(); [...document.querySelectorAll("[data-key]")].find((other) => other.dataset.key === `show ${one.id}`)?.focus(); });
  document.body.append(dialog);
  dialog.showModal();
}

const list = h("div", { className: "list" });
async function load() {
  const cursor = parameters.get("cursor");
  const found = await read(query("executions", { limit: 50, text_limit: 100, ...chosen, from: moment(chosen.from), to: moment(chosen.to), cursor }));
  return [table("Query executions", [
    ["Started", (row) => ago(row.started_at)], ["User", (row) => row.user_id && link(query("executions", { user_id: row.user_id }), row.user_id)], ["Engine", (row) => row.database_type],
    ["Status", (row) => badge(row.status)], ["Took", (row) => span(row.execution_time), "n"], ["Rows", (row) => count(row.total_rows), "n"],
    ["Query", (row) => row.query === null ? hideable(null) : code(row.query.length > 90 || row.shortened.includes("query") ? `${row.query.slice(0, 90)}…` : row.query), "wide"],
    ["", (row) => h("button", { type: "button", className: "plain", "data-key": `show ${row.id}`, "aria-label": `Details of execution ${row.execution_id}`, onclick: () => show(row) }, "Details")],
  ], found.executions, { empty: "No execution fits these filters." }),
  h("p", { className: "pages" }, cursor && link(query("executions", chosen), "‹ First page"), found.next_cursor && link(query("executions", { ...chosen, cursor: found.next_cursor }), "Next 50 ›"),
    h("button", { type: "button", className: "plain", "data-key": "reload", onclick: () => fill(list, load) }, "Read again"))];
}

start(form, h("section", { className: "card wide", "aria-label": "Query executions" }, list),
  h("div", { className: "grid" }, new Card("Query executions per hour", ["executions_hours"], executionsPerHour, { note: "72 hours" }).element,
    new Card("How long they took", ["executions_durations"], durations, { note: "since the beginning" }).element));
fill(list, load);
