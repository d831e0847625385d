// One experiment, live while it runs.

import { download, get, remove } from "./api.js";
import { Course } from "./course.js";
import { attempt, byId, confirmed, el, notice, repeated } from "./dom.js";
import { fillFiguresOf } from "./figures.js";
import { isOver, length, moment, took } from "./words.js";

const REFRESH_MS = 1000;
const EVENTS = 200;

/** Shows an experiment and follows it until it is over; returns what ends that. */
export function show(id) {
  const course = new Course(id);
  const path = `experiments/${encodeURIComponent(id)}`;
  for (const place of ["watch-title", "watch-state", "watch-actions", "watch-charts", "watch-events"]) byId(place).replaceChildren();
  let over = false;
  let actionsFor = "";

  async function refresh() {
    if (over) return;
    const experiment = await get(path);
    await course.refresh();
    const rows = await get(`${path}/events?limit=${EVENTS}`);
    drawHead(experiment);
    if (actionsFor !== experiment.status) drawActions(experiment, path);
    actionsFor = experiment.status;
    fillFiguresOf(byId("watch-figures"), experiment);
    byId("watch-charts").replaceChildren(...course.charts());
    drawEvents(rows, experiment.start);
    over = isOver(experiment);
  }

  return repeated(refresh, REFRESH_MS);
}

function drawHead(experiment) {
  byId("watch-title").textContent = experiment.name;
  const said = { QUEUED: "It waits for those before it, or for myxo lab experimentd to run.", RUNNING: `It runs since ${moment(experiment.start)}.` }[experiment.status]
    ?? `It ${{ FINISHED: "has finished", FAILED: "has failed", CANCELLED: "was cancelled" }[experiment.status]}` +
       ` after ${length(took(experiment))}.`;
  const text = `${experiment.id}, by ${experiment.creator}. ${said} ${experiment.error}`;
  if (byId("watch-state").textContent !== text) byId("watch-state").textContent = text;
}

function drawActions(experiment, path) {
  const save = (format) => el("button", {
    type: "button", "data-export": format,
    click: () => attempt(() => download(`${path}/export?format=${format}`, `${experiment.id}-${format}.zip`)),
  }, `Export ${format === "csv" ? "CSV" : "Parquet"}`);
  const stop = el("button", { type: "button", id: "watch-cancel", click: () => cancel(experiment, path) }, "Cancel");
  byId("watch-actions").replaceChildren(...(isOver(experiment) ? [] : [stop]), save("csv"), save("parquet"));
}

async function cancel(experiment, path) {
  if (!(await confirmed(`Cancel ${experiment.name}? What it has recorded is kept.`, "Cancel it"))) return;
  await attempt(async () => {
    await remove(path);
    notice(`${experiment.name} is being cancelled.`);
  });
}

function drawEvents(rows, start) {
  byId("watch-events").replaceChildren(
    el("thead", {}, el("tr", {}, ...["After", "What", "Which"].map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map((row) =>
      el("tr", {}, el("td", {}, length(Math.max(0, row.timestamp - start))), el("td", {}, row.name), el("td", {}, row.value)))));
}
