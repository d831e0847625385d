// Line charts in SVG: few lines, over seconds since an experiment's start.

import { el } from "./dom.js";
import { number } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [560, 210];
const BOX = { left: 48, right: 8, top: 8, bottom: 22 };

/**
 * A figure with a title, a key and lines.
 *
 * `lines` are `{name, values, colour}`, where a value may be null; `times` are seconds. Charts that
 * are to be compared are given the same `most` and `end`.
 */
export function chart({ title, unit, times, lines, most, end }) {
  const height = nice(most ?? largest(lines));
  const width = end ?? Math.max(1, times.at(-1) ?? 1);
  const x = (time) => BOX.left + (time / width) * (WIDTH - BOX.left - BOX.right);
  const y = (value) => HEIGHT - BOX.bottom - (value / height) * (HEIGHT - BOX.top - BOX.bottom);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": spoken(title, unit, lines) },
    ...grid(x, y, width, height),
    ...lines.flatMap((line) => drawn(line, times, x, y)));
  return el("figure", {}, el("figcaption", {}, `${title} (${unit})`), picture, key(lines));
}

/** The largest value of lines. */
export function largest(lines) {
  let most = 0;
  for (const { values } of lines) for (const value of values) if (value > most) most = value;
  return most;
}

/** What a person who does not see a chart is told: each line's last value, and its largest. */
function spoken(title, unit, lines) {
  const parts = lines.map(({ name, values }) => {
    const known = values.filter((value) => value != null);
    return known.length ? `${name}: last ${number(known.at(-1))}, most ${number(largest([{ values }]))} ${unit}` : `${name}: nothing yet`;
  });
  return `${title}. ${parts.join("; ")}.`;
}

const STEPS = [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10];

/** The next number above that people like to read, and its quarters too. */
function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return STEPS.map((n) => n * power).find((n) => n >= value * 0.999);
}

function grid(x, y, width, height) {
  const parts = [];
  for (let i = 0; i <= 4; i += 1) {
    const value = (i / 4) * height;
    parts.push(svg("line", { class: "grid", x1: x(0), x2: x(width), y1: y(value), y2: y(value) }));
    parts.push(svg("text", { x: BOX.left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  const step = nice(width / 5);
  for (let at = 0; at <= width * 0.97; at += step) {
    parts.push(svg("text", { x: x(at), y: HEIGHT - 6, "text-anchor": at ? "middle" : "start" }, `${number(at)} s`));
  }
  return parts;
}

/** A line is in pieces where values are missing; a piece of one value is a dot. */
function drawn({ values, colour }, times, x, y) {
  const pieces = [[]];
  values.forEach((value, i) => {
    if (value == null) pieces.push([]);
    else pieces.at(-1).push([x(times[i]).toFixed(1), y(value).toFixed(1)]);
  });
  return pieces.filter((piece) => piece.length).map((piece) =>
    piece.length === 1
      ? svg("circle", { class: `line s${colour}`, cx: piece[0][0], cy: piece[0][1], r: 2 })
      : svg("polyline", { class: `line s${colour}`, points: piece.map((place) => place.join(",")).join(" ") }));
}

function key(lines) {
  return el("ul", { class: "key" }, ...lines.map(({ name, colour }) =>
    el("li", {}, svg("svg", { "aria-hidden": "true", viewBox: "0 0 26 8" },
      svg("line", { class: `line s${colour}`, x1: 0, x2: 26, y1: 4, y2: 4 })), name)));
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
