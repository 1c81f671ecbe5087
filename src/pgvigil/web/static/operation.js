import { ago, badge, count, facts, fill, fixed, h, link, parameters, percent, query, read, short, span, stamp, start, table } from "./app.js";

const name = parameters.get("name") || "", failed = parameters.get("failed") === "true";
const during = { from: parameters.get("from"), to: parameters.get("to") };
document.getElementById("title").textContent = name;
const list = h("div", { className: "list" });

async function load() {
  const found = await read(query("operations/calls", { operation: name, failed, ...during }));
  return [table("Calls", [
    ["When", (row) => ago(row.created_at)], ["Took", (row) => span(row.duration_ms / 1000), "n"], ["Outcome", (row) => badge(row.success ? "success" : "failed")],
    ["Session", (row) => row.session_id && link(query("session", { id: row.session_id }), short(row.session_id))],
  ], found.rows, { empty: during.from ? "No such call within this time." : "No such call within 24 hours." }), h("p", { className: "pages" }, link(query("operation", { name, failed: !failed, ...during }), failed ? "All calls" : "Only failed calls"),
    h("button", { type: "button", className: "plain", "data-key": "reload", onclick: () => { fill(day, numbers); fill(list, load); } }, "Read again"))];
}

const day = h("div");
const numbers = async () => {
  const [one] = (await read(query("operations", { operation: name }))).rows;
  return one ? facts([["Calls", count(one.total_calls)], ["Failed", count(one.failed_calls)], ["Error rate", percent(one.failed_calls / one.total_calls, 2)], ["Mean", `${fixed(one.avg_duration_ms)} ms`], ["p95", `${fixed(one.p95_duration_ms)} ms`], ["Longest", `${count(one.max_duration_ms)} ms`]])
    : h("p", { className: "muted" }, "It was not called within 24 hours.");
};

start(h("section", { className: "card wide", "aria-labelledby": "day" }, h("h2", { id: "day" }, "24 hours"), day), h("section", { className: "card wide", "aria-labelledby": "calls" }, h("h2", { id: "calls" }, failed ? "Last failed calls" : "Last calls"), h("p", { className: "muted" }, during.from ? ["At most 100, from ", stamp(new Date(during.from)).slice(0, 16), during.to ? ` to ${stamp(new Date(during.to)).slice(0, 16)}` : "", ". ", link(query("operation", { name, failed }), "Of 24 hours")] : "At most 100, of 24 hours"), list));
fill(day, numbers);
fill(list, load);
