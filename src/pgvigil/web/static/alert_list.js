import { ago, badge, code, copyButton, count, fixed, h, link } from "./app.js";

const value = (n) => n === null || n === undefined ? "–" : Math.abs(n) < 10 ? fixed(n, 3) : count(n);
const list = (one) => one.source === "check" ? `jobs#check-${one.type}` : one.source === "anomaly" ? "executions" : `application#app-${encodeURIComponent(one.application)}`;

/** Alerts as a list, the worst first; `of` of them exist. */
export function alertList(rows, of) {
  if (!rows.length) return h("p", { className: "fine quiet" }, "All checks pass, and no application reports a problem.");
  return [h("ul", { className: "alerts" }, rows.map((one) => h("li", { className: one.severity },
    h("div", { className: "line" }, badge(one.severity), h("b", {}, link(list(one), one.type.replaceAll("_", " "))), one.application && h("span", { className: "muted" }, one.application),
      h("span", { className: "measure" }, "value ", h("b", {}, value(one.value)), one.threshold !== null && one.threshold !== undefined ? `, threshold ${value(one.threshold)}` : "", one.since ? [", since ", ago(one.since, "for")] : "")),
    h("p", {}, one.message), one.detail && h("p", { className: "muted" }, one.detail),
    one.fix && h("div", { className: "fix" }, h("span", { className: "muted" }, "To fix: "), code(one.fix), copyButton(one.fix, `the fix of ${one.type}`))))),
  of > rows.length ? h("p", {}, link("alerts", `All ${count(of)} alerts`)) : null];
}
