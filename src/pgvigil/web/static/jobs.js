import { Card, ago, badge, code, confirmation, copyButton, count, fixed, h, hideable, mayAct, send, start, table } from "./app.js";

function run(one) {
  confirmation({
    title: `Run job ${one.job} now?`, verb: "Run it", danger: false, lines: [h("p", {}, `It ${one.purpose}.`), h("p", { className: "muted" }, "The run is recorded with your name.")],
    act: async () => `${one.job}: ${(await send(`jobs/${one.job}/run`)).reason}.`,
  });
}

const outcome = (one) => !one.enabled ? badge("off") : one.waits_for_consent ? badge("waits for consent", "warning") : one.overdue ? [badge(one.state), badge("overdue", "critical")] : badge(one.state);

const jobs = (rows) => table("Jobs", [
  ["Job", (row) => h("b", {}, row.job)], ["What it does", (row) => row.purpose, "wide"], ["State", outcome], ["Last success", (row) => ago(row.last_success)], ["Due", (row) => row.due ? "now" : ago(row.next_due)], ["Rows", (row) => count(row.last_rows), "n"],
  ...(rows.some((row) => row.last_error || row.state === "failed" || row.state === "died") ? [["Error", (row) => row.state === "failed" || row.state === "died" ? row.last_error === null ? hideable(null) : row.last_error : "", "wide"]] : []),
  ...(mayAct() ? [["", (row) => row.waits_for_consent ? code(`pgvigil maintain accept ${row.job}`) : row.needs_client ? code(`pgvigil maintain run ${row.job}`)
    : h("button", { type: "button", "data-key": `run ${row.job}`, "aria-label": `Run now… job ${row.job}`, disabled: row.state === "running", onclick: () => run(row) }, "Run now…")]] : []),
], rows, { key: (row) => `job-${row.job}` });

const value = (n) => n === null ? "–" : Math.abs(n) < 10 ? fixed(n, 2) : count(n);
const checks = (rows) => table("Checks", [
  ["Check", (row) => h("b", {}, row.check_name.replaceAll("_", " "))], ["Level", (row) => badge(row.level)], ["Value", (row) => value(row.value), "n"], ["Warning from", (row) => value(row.warning), "n"], ["Critical from", (row) => value(row.critical), "n"],
  ["Meaning", (row) => [row.meaning, row.detail && h("div", { className: "muted" }, row.detail)], "wide"],
  ...(rows.some((row) => row.fix || row.shortened.includes("fix")) ? [["Fix", (row) => row.fix ? [code(row.fix), " ", copyButton(row.fix, `the fix of ${row.check_name}`)] : row.shortened.includes("fix") && ["too long for this page: ", code("pgvigil health"), " prints it"], "wide"]] : []),
], rows, { key: (row) => `check-${row.check_name}` });

start(new Card("Jobs", ["jobs"], jobs, { wide: true, note: "Run by pgvigil maintain; times are those of this browser" }), new Card("Checks", ["health"], checks, { wide: true, note: "pgvigil.integrity_report(), the worst first" }));
