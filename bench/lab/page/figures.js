// The figures of experiments as tables.

import { el } from "./dom.js";
import { length, ms, number, policyOf, took } from "./words.js";

const ROWS = [
  ["State", (e) => e.status.toLowerCase()],
  ["Balancing", (e) => policyOf(e)],
  ["Length", (e) => length(took(e))],
  ["Requests", (e) => String(e.summary.requests)],
  ["Failed", (e) => String(e.summary.failed)],
  ["Requests/s", (e) => number(e.summary.rate)],
  ["Mean latency", (e) => ms(e.summary.mean)],
  ["p50", (e) => ms(e.summary.p50)],
  ["p95", (e) => ms(e.summary.p95)],
  ["p99", (e) => ms(e.summary.p99)],
  ["Longest", (e) => ms(e.summary.longest)],
];

const RATIOS = {
  "Requests/s": (e) => e.summary.rate,
  "Mean latency": (e) => e.summary.mean,
  p50: (e) => e.summary.p50,
  p95: (e) => e.summary.p95,
  p99: (e) => e.summary.p99,
  Longest: (e) => e.summary.longest,
};

/** Fills a table with one experiment's figures, side by side. */
export function fillFiguresOf(table, experiment) {
  table.replaceChildren(table.querySelector("caption"),
    el("thead", {}, el("tr", {}, ...ROWS.map(([name]) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, el("tr", {}, ...ROWS.map(([, text]) => el("td", {}, text(experiment))))));
}

/** Fills a table with several experiments' figures; with two experiments a last column says how many times the first the second is. */
export function fillFigures(table, experiments) {
  const caption = table.querySelector("caption");
  const heads = experiments.map((e) => el("th", { scope: "col" }, el("a", { href: `#/watch/${encodeURIComponent(e.id)}` }, e.name)));
  if (experiments.length === 2) heads.push(el("th", { scope: "col" }, "Second ÷ first"));
  table.replaceChildren(caption,
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Figure"), ...heads)),
    el("tbody", {}, ...ROWS.map(([name, text]) =>
      el("tr", {}, el("th", { scope: "row" }, name), ...experiments.map((e) => el("td", {}, text(e))), ...ratio(name, experiments)))));
}

function ratio(name, experiments) {
  if (experiments.length !== 2) return [];
  const [a, b] = experiments.map(RATIOS[name] ?? (() => null));
  return [el("td", {}, a > 0 && b != null ? `${(b / a).toFixed(2)} ×` : "")];
}
