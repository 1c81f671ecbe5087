import { Card, count, fixed, h, link, percent, query, span, start, table, tile, total } from "./app.js";
import { byHour, chart, executionsPerHour, hourOf, hours } from "./charts.js";
import { alertList } from "./alert_list.js";

const COLORS = { active: "c1", pending: "c2", completed: "c3", expired: "c4", archived: "c6", failed: "c5" };

function tiles([now], alerts) {
  const first = (status) => status === "active" ? 2 : status === "pending" ? 1 : 0;
  const statuses = Object.entries(now.by_status).sort((a, b) => first(b[0]) - first(a[0]) || b[1] - a[1]);
  const shown = statuses.slice(0, 4), rest = statuses.slice(4).reduce((sum, [, n]) => sum + n, now.others);
  const critical = alerts.filter((one) => one.severity === "critical").length;
  return h("div", { className: "tiles" },
    shown.map(([status, n]) => tile(`sessions ${status}`, count(n), query("sessions", { status }))),
    rest ? tile("sessions in another status", count(rest), "sessions") : null,
    shown.length ? null : tile("sessions", "0", "sessions"),
    tile("dormant", count(now.dormant), query("sessions", { dormant: true, order: "idle" })),
    tile("expire within an hour", count(now.expiring), query("sessions", { expires_hours: 1 })),
    tile(critical ? `alerts, ${count(critical)} critical` : "alerts", count(total("alerts")), "alerts", critical ? "critical" : alerts.length ? "warning" : "fine"));
}

function created(rows) {
  const times = hours(rows), found = byHour(rows);
  const sums = {};
  for (const row of rows) for (const [status, n] of Object.entries(row.by_status || {})) sums[status] = (sums[status] || 0) + n;
  const names = Object.keys(sums).sort((a, b) => sums[b] - sums[a]).slice(0, 6);
  return chart({
    name: "Sessions created, by their status now", times, stacked: true, format: count,
    series: names.map((status, number) => ({ label: status, color: COLORS[status] || `c${number % 6 + 1}`, head: link(query("sessions", { status }), status), values: times.map((time) => found.get(time)?.by_status?.[status] || 0),
      cell: (at) => link(hourOf("sessions", times[at], { status }), count(found.get(times[at])?.by_status?.[status] || 0)) })),
    empty: "No session was created within seven days, or job aggregation has not run yet.",
  });
}

function top(rows) {
  const calls = {};
  for (const row of rows) for (const [name, one] of Object.entries(row.operations || {})) calls[name] = (calls[name] || 0) + one.count;
  return Object.keys(calls).sort((a, b) => calls[b] - calls[a]).slice(0, 5);
}

function trend(name, value, format) {
  return (rows) => {
    const times = hours(rows), found = byHour(rows);
    return chart({
      name, times, format,
      series: top(rows).map((operation) => ({ label: operation, head: link(query("operation", { name: operation }), operation), values: times.map((time) => { const one = found.get(time)?.operations?.[operation]; return one ? value(one) : null; }),
        cell: (at) => { const one = found.get(times[at])?.operations?.[operation]; return one ? link(hourOf("operation", times[at], { name: operation }), format(value(one))) : format(null); } })),
      empty: "No operation was logged within 24 hours, or job aggregation has not run yet.",
    });
  };
}

function pools(applications) {
  const rows = applications.flatMap((one) => Object.entries(one.metrics.pool_metrics.pools).map(([name, pool]) => ({ application: one.application, status: one.status, name, pool })));
  return table("Connection pools", [
    ["Application", (row) => link(`application#app-${encodeURIComponent(row.application)}`, row.application)],
    ["Pool", (row) => row.name],
    ["In use", (row) => row.pool.capacity === null ? count(row.pool.checked_out)
      : [h("meter", { min: 0, max: row.pool.capacity, low: 0.8 * row.pool.capacity, high: 0.95 * row.pool.capacity, optimum: 0, value: row.pool.checked_out, "aria-label": `${row.application} ${row.name}: connections in use` }), ` ${count(row.pool.checked_out)} of ${count(row.pool.capacity)}`]],
    ["Waiting", (row) => count(row.pool.pending), "n"],
    ["Wait p95", (row) => span(row.pool.p95_wait_time), "n"],
    ["Timeouts", (row) => count(row.pool.timeouts), "n"],
  ], rows, { empty: "No application with a session monitor is running." });
}

function operations(rows) {
  return table("Operations of 24 hours", [
    ["Operation", (row) => link(query("operation", { name: row.operation }), row.operation), "wide"],
    ["Calls", (row) => link(query("operation", { name: row.operation }), count(row.total_calls)), "n"],
    ["Failed", (row) => link(query("operation", { name: row.operation, failed: true }), count(row.failed_calls)), "n"],
    ["Error rate", (row) => percent(row.total_calls ? row.failed_calls / row.total_calls : null, 2), "n"],
    ["Mean", (row) => `${fixed(row.avg_duration_ms)} ms`, "n"],
    ["p95", (row) => `${fixed(row.p95_duration_ms)} ms`, "n"],
    ["Longest", (row) => `${count(row.max_duration_ms)} ms`, "n"],
  ], rows.slice(0, 20), { empty: "No operation was logged within 24 hours." });
}

start(
  new Card("Now", ["sessions_now", "alerts"], tiles, { bare: true }),
  h("div", { className: "grid" }, ...[
    new Card("Alerts", ["alerts"], (rows) => alertList(rows.slice(0, 4), total("alerts")), { wide: true }),
    new Card("Sessions created per hour, by their status now", ["sessions_created"], created, { note: "7 days" }),
    new Card("Query executions per hour", ["executions_hours"], executionsPerHour, { note: "72 hours" }),
    new Card("p95 of the five busiest operations", ["trends"], trend("p95 by operation", (one) => one.p95 / 1000, span), { note: "24 hours" }),
    new Card("Error rate of the five busiest operations", ["trends"], trend("Error rate by operation", (one) => one.count ? one.failed / one.count : null, percent), { note: "24 hours" }),
    new Card("Operations", ["operations"], operations, { note: "24 hours; a number leads to the calls", wide: true }),
    new Card("Connection pools", ["applications"], pools, { wide: true }),
  ].map((card) => card.element)));
