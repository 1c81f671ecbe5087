// Charts drawn by uPlot, each with a name, a legend that does not lean on colour alone, and the same numbers as a table.

import { count, h, link, newId, query, stamp, table } from "./app.js";

const DASHES = [[], [7, 3], [2, 3], [10, 3, 2, 3], [4, 4], [1, 4]];
const SVG = "http://www.w3.org/2000/svg";

function swatch(series, bars) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 26 10");
  svg.setAttribute("class", `swatch ${series.color}`);
  svg.setAttribute("aria-hidden", "true");
  const mark = document.createElementNS(SVG, bars ? "rect" : "line");
  const at = bars ? { x: 6, y: 0, width: 12, height: 10, rx: 2 } : { x1: 1, x2: 25, y1: 5, y2: 5, "stroke-dasharray": series.dash.join(" ") };
  for (const [name, value] of Object.entries(at)) mark.setAttribute(name, value);
  svg.append(mark);
  return svg;
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const hour = (date) => `${date.getHours()}:00`;

/**
 * name     what it shows
 * times    beginnings of the hours, as text
 * series   [{label, values, color, head}]; head: a link for the table
 * format   a value in words
 * stacked  draw bars on each other
 */
export function chart({ name, times, series, format, stacked = false, empty }) {
  if (!times.length || !series.length) return h("p", { className: "muted empty" }, empty);
  series = series.map((one, number) => ({ ...one, color: one.color || `c${number + 1}`, dash: stacked ? [] : DASHES[number % DASHES.length] }));
  const place = h("div", { className: "plot" }), readout = h("p", { className: "readout", "aria-hidden": "true" });
  const seconds = times.map((one) => Date.parse(one) / 1000);
  const names = series.map((one) => one.label).join(", ");
  const figure = h("figure", { className: "chart" },
    h("ul", { className: "legend" }, series.map((one) => h("li", {}, swatch(one, stacked), one.label))),
    place, readout,
    h("details", { "data-key": `numbers ${name}` }, h("summary", {}, "The same as a table"),
      table(`${name}, by hour`, [["Hour", (row) => stamp(new Date(times[row])).slice(0, 16)], ...series.map((one) => [one.head || one.label, (row) => one.cell ? one.cell(row) : format(one.values[row]), "n"])],
        times.map((_, number) => times.length - 1 - number))));
  requestAnimationFrame(() => { if (place.isConnected) draw(place, readout, name, names, seconds, series, format, stacked); });
  return figure;
}

function draw(place, readout, name, names, seconds, series, format, stacked) {
  const ink = color("muted"), grid = color("grid");
  const sums = new Array(seconds.length).fill(0);
  // From the bottom up each series is the sum of those below it and its own; the last one is drawn first.
  const data = stacked ? series.map((one) => one.values.map((value, at) => (sums[at] += value || 0))) : series.map((one) => one.values);
  const order = stacked ? series.map((_, number) => series.length - 1 - number) : series.map((_, number) => number);
  const width = () => Math.max(220, Math.floor(place.clientWidth));
  const font = '11px system-ui, sans-serif';
  const axis = { stroke: ink, font, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
  const plot = new window.uPlot({
    width: width(), height: 200, legend: { show: false }, padding: [8, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { show: !stacked, size: 7 } },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
    axes: [{ ...axis, grid: { show: false }, size: 30, space: 64, values: (_, ticks) => ticks.map((tick) => { const d = new Date(tick * 1000); return d.getHours() ? hour(d) : `${d.toLocaleDateString("en", { month: "short" })} ${d.getDate()}`; }) },
      { ...axis, size: 58, space: 34, values: (_, ticks) => ticks.map(format) }],
    series: [{}, ...order.map((number) => stacked
      ? { label: series[number].label, fill: color(series[number].color), stroke: color(series[number].color), width: 0, points: { show: false }, paths: window.uPlot.paths.bars({ size: [0.86, 28], align: 1 }) }
      : { label: series[number].label, stroke: color(series[number].color), width: 1.75, dash: series[number].dash, spanGaps: false, points: { show: seconds.length < 3, size: 5 } })],
    hooks: {
      setCursor: [(u) => {
        const at = u.cursor.idx;
        readout.textContent = at === null || at === undefined ? "" : `${stamp(new Date(seconds[at] * 1000)).slice(5, 16)}  ${series.map((one) => `${one.label} ${format(one.values[at])}`).join(" · ")}`;
      }],
    },
  }, [seconds, ...order.map((number) => data[number])], place);
  const canvas = place.querySelector("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Chart: ${name}. ${names}. The same numbers are in the table below.`);
  new ResizeObserver(() => { if (place.isConnected && place.clientWidth && Math.abs(width() - plot.width) > 1) plot.setSize({ width: width(), height: 200 }); }).observe(place);
}

/** Hours between the first and the last, those without a row too. */
export function hours(rows) {
  if (!rows.length) return [];
  const first = Date.parse(rows[0].bucket), last = Date.parse(rows[rows.length - 1].bucket);
  return Array.from({ length: Math.round((last - first) / 3600000) + 1 }, (_, at) => new Date(first + at * 3600000).toISOString());
}

export const byHour = (rows) => new Map(rows.map((row) => [new Date(row.bucket).toISOString(), row]));

/** The address of a list of the rows of an hour. */
export const hourOf = (page, time, values) => query(page, { ...values, from: time, to: new Date(Date.parse(time) + 3600000).toISOString() });

const OUTCOMES = [["success", "c3"], ["failed", "c5"], ["error", "c6"], ["timeout", "c4"]];

export function executionsPerHour(rows) {
  const times = hours(rows), found = byHour(rows);
  return chart({
    name: "Query executions per hour", times, stacked: true, format: count,
    series: OUTCOMES.map(([status, color]) => ({
      label: status, color, head: link(query("executions", { status }), status), values: times.map((time) => found.get(time)?.[status] || 0),
      cell: (at) => link(hourOf("executions", times[at], { status }), count(found.get(times[at])?.[status] || 0)),
    })),
    empty: "No query execution within 72 hours, or job totals has not run yet.",
  });
}
