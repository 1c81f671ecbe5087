import { Card, ago, badge, count, facts, h, link, percent, span, start, table } from "./app.js";
import { alertList } from "./alert_list.js";

function application(one, place, all) {
  const { session_metrics: s, recovery_metrics: r, performance_metrics: p, pool_metrics: pools } = one.metrics;
  // An application may be called like a part of the page, and two logins may report for one.
  const isFirst = all.findIndex((other) => other.application === one.application) === place;
  const id = `app-${encodeURIComponent(isFirst ? one.application : `${one.application} ${one.reported_by}`)}`;
  return h("section", { className: "card wide", "aria-labelledby": id }, h("h2", { id, tabindex: -1 }, one.application, " ", badge(one.status)),
    one.issues.length ? h("p", {}, one.issues.join(", ")) : null,
    facts([
      ["Workers", link("#workers", count(one.workers)), h("span", { className: "muted" }, " seen ", ago(one.last_seen_at))], ["Login", one.reported_by], ["Sessions open", `${count(s.active_sessions)} (most ${count(s.peak_active_sessions)})`], ["Created", count(s.creations)], ["Closed", count(s.closures)],
      ["Leaked", h("span", { className: s.leaked ? "bad" : "" }, count(s.leaked))], ["Committed", count(s.commits)], ["Rolled back", count(s.rollbacks)], ["Ended by neither", count(s.discarded)],
      ["Errors", `${count(s.errors)} (${percent(s.error_rate)})`], ["Detached instances", `${count(r.detached_instance_errors)} (recovered ${count(r.successful_recoveries)})`], ["Missing greenlet", count(r.missing_greenlet_errors)], ["Session p95", span(p.p95)],
    ]),
    Object.keys(s.error_types || {}).length ? h("p", { className: "muted" }, "Errors: ", Object.entries(s.error_types).map(([name, n]) => `${name} ${count(n)}`).join(", ")) : null,
    h("h3", {}, "Connection pools"),
    table(`Pools of ${one.application}`, [
      ["Pool", ([name]) => name], ["In use", ([, pool]) => `${count(pool.checked_out)} of ${count(pool.capacity)}`, "n"], ["Overflow", ([, pool]) => count(pool.overflow), "n"], ["Waiting", ([, pool]) => count(pool.pending), "n"],
      ["Wait p95", ([, pool]) => span(pool.p95_wait_time), "n"], ["Use p95", ([, pool]) => span(pool.p95_use_time), "n"], ["Connect p95", ([, pool]) => span(pool.p95_create_time), "n"], ["Timeouts", ([, pool]) => count(pool.timeouts), "n"],
    ], Object.entries(pools.pools), { empty: "No pool is monitored." }),
    Object.keys(p.operations).length ? [h("h3", {}, "Operations"), table(`Operations of ${one.application}`, [
      ["Operation", ([name]) => name, "wide"], ["Calls", ([, timed]) => count(timed.count), "n"], ["Mean", ([, timed]) => span(timed.average), "n"], ["p95", ([, timed]) => span(timed.p95), "n"],
    ], Object.entries(p.operations))] : null,
    one.alerts.length ? [h("h3", {}, "Alerts"), alertList(one.alerts.map((alert) => ({ ...alert, application: one.application, source: "session monitor" })), one.alerts.length)] : null);
}

const workers = (rows) => table("Workers", [
  ["Application", (row) => row.application], ["Host", (row) => row.hostname], ["Process", (row) => String(row.pid), "n"], ["State", (row) => badge(row.alive ? "alive" : "silent")],
  ["Reported", (row) => ago(row.seen_at)], ["Every", (row) => row.report_interval], ["Started", (row) => ago(row.started_at)], ["Login", (row) => row.reported_by],
], rows, { empty: "No worker has reported." });

start(
  new Card("Applications", ["applications"], (rows) => rows.length ? rows.map(application) : h("p", { className: "card wide muted" }, "No application with a session monitor is running: no worker was seen within three of its intervals. initialize_performance_monitoring() makes one report."), { bare: true }),
  h("div", { id: "workers" }, new Card("Workers", ["workers"], workers, { wide: true, note: "Processes that report, and those that ended within the last hour" }).element));
