import { Card, ago, code, confirmation, counted, facts, h, hideable, mayAct, send, lengthy, short, start, table, tile } from "./app.js";

const statement = (text, running) => running ? text === null ? hideable(null) : code(text.length > 200 ? `${text.slice(0, 200)}…` : text) : h("span", { className: "muted" }, "idle");

function end(one, cancel) {
  const who = one.username || "unknown";
  confirmation({
    title: cancel ? "Cancel this statement?" : "End this connection?", verb: cancel ? "Cancel the statement" : "End it", repeat: one.session_id.slice(-4),
    choices: cancel ? null : [["escalate", "cancel its statement first, and end it if that does not help"], ["terminate", "end it at once: its transaction is rolled back"]],
    lines: [facts([["Who", who], ["Application", one.application_name], ["From", one.peer || one.hostname], ["Connected since", ago(one.start_time)], ["Server process", one.backend_pid === null ? "–" : String(one.backend_pid)],
      ["Running for", one.execution_start_time ? ago(one.execution_start_time, "for") : "idle"]]), one.sql_text && lengthy(one, "sql_text", `statements/${one.statement_id}`), h("p", { className: "muted" }, "The attempt is recorded with your name, also if it is refused.")],
    act: async (mode) => { const done = await send(`connections/${one.session_id}/kill`, { mode: cancel ? "cancel" : mode, grace: 2 }); return `${who}: ${done.reason}.`; },
  });
}

const connections = (rows) => table("Connections", [
  ["Session", (row) => short(row.session_id)], ["User", (row) => row.username], ["Application", (row) => row.application_name], ["From", (row) => row.peer || row.hostname],
  ["Connected", (row) => ago(row.start_time, "for"), "n"], ["Running for", (row) => row.execution_start_time ? ago(row.execution_start_time, "for") : "–", "n"],
  ["Statement", (row) => statement(row.sql_text, row.execution_start_time), "wide"],
  ...(mayAct() ? [["", (row) => h("div", { className: "buttons" },
    row.execution_start_time && h("button", { type: "button", "data-key": `cancel ${row.session_id}`, "aria-label": `Cancel… the statement of ${row.username} ${row.session_id.slice(-8)}`, onclick: () => end(row, true) }, "Cancel…"),
    h("button", { type: "button", className: "danger", "data-key": `end ${row.session_id}`, "aria-label": `End… the connection of ${row.username} ${row.session_id.slice(-8)}`, onclick: () => end(row, false) }, "End…"))]] : []),
], [...rows].sort((a, b) => (a.execution_start_time || "9").localeCompare(b.execution_start_time || "9")), { key: (row) => `connection-${row.session_id}`, empty: "No instrumented connection is active. Applications appear here after instrument(engine, recorder)." });

const statements = (rows) => table("Statements that are executing", [
  ["Running for", (row) => ago(row.execution_start_time, "for"), "n"], ["User", (row) => row.username], ["Application", (row) => row.application_name],
  ["Session", (row) => h("a", { href: `#connection-${row.session_id}` }, short(row.session_id))], ["Statement", (row) => statement(row.sql_text, true), "wide"],
], rows, { empty: "No statement is executing." });

start(
  new Card("Now", ["connections", "live_statements"], () => h("div", { className: "tiles" }, tile("connections", counted("connections"), "#connections"), tile("statements executing", counted("live_statements"), "#statements")), { bare: true }),
  h("div", { id: "statements" }, new Card("Statements that are executing", ["live_statements"], statements, { wide: true, note: "The longest first" }).element),
  h("div", { id: "connections" }, new Card("Connections", ["connections"], connections, { wide: true }).element));
