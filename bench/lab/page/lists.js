// The experiments: what waits, what runs, what has ended; some on a page, always fresh.

import { call, get, remove } from "./api.js";
import { addressOf } from "./compare.js";
import { attempt, byId, confirmed, el, notice, repeated } from "./dom.js";
import { MOST_COMPARED } from "./submission.js";
import { length, moment, took } from "./words.js";

const PAGE = 8;
const REFRESH_MS = 2000;

const chosen = new Set();
const lists = [...document.querySelectorAll("[data-list]")].map((place) => ({
  name: place.dataset.list,
  states: place.dataset.states.split(" "),
  place,
  body: el("div"),
  page: 0,
  shown: "",
}));

/** Prepares the lists. */
export function prepare() {
  for (const list of lists) list.place.append(list.body);
  byId("compare").addEventListener("click", () => {
    location.hash = addressOf([...chosen]);
  });
}

/** Shows them and keeps them fresh; returns what ends that. */
export function show() {
  return repeated(() => Promise.all(lists.map(refresh)), REFRESH_MS);
}

async function refresh(list) {
  const query = new URLSearchParams({ limit: PAGE, offset: list.page * PAGE, newest: list.name === "finished" });
  for (const state of list.states) query.append("status", state);
  const { said, count } = await call("GET", `experiments?${query}`);
  if (said.length === 0 && list.page > 0) {
    list.page = Math.max(0, Math.ceil(count / PAGE) - 1);
    return refresh(list);
  }
  const shown = JSON.stringify([list.page, count, said, list.name === "running" && Math.floor(Date.now() / 1000)]);
  if (shown !== list.shown) draw(list, said, count);
  list.shown = shown;
}

/** Draws a list anew; what had the focus in it has it again. */
function draw(list, experiments, count) {
  const focused = list.body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  list.body.replaceChildren(
    experiments.length ? table(list, experiments) : el("p", { class: "none" }, "None."),
    ...(count > PAGE ? [pages(list, count)] : []),
  );
  if (focused) list.body.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function table(list, experiments) {
  const heads = ["Name", "Creator", ...COLUMNS[list.name].map(([head]) => head), "Actions"];
  return el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...experiments.map((experiment) => row(list, experiment))));
}

const COLUMNS = {
  queued: [["Queued", (e) => moment(e.created)]],
  running: [["Started", (e) => moment(e.start)], ["Runs for", (e) => length(Math.max(0, Date.now() / 1000 - e.start))]],
  finished: [
    ["State", (e) => e.status.toLowerCase()],
    ["Ended", (e) => moment(e.end)],
    ["Length", (e) => length(took(e))],
    ["Error", (e) => e.error],
  ],
};

function row(list, experiment) {
  const cells = COLUMNS[list.name].map(([head, text]) => el("td", { class: head === "Error" ? "error" : null }, text(experiment)));
  const watch = el("a", { href: `#/watch/${encodeURIComponent(experiment.id)}`, "data-key": `watch ${experiment.id}` }, experiment.name);
  return el("tr", { "data-id": experiment.id },
    el("th", { scope: "row" }, watch), el("td", {}, experiment.creator), ...cells,
    el("td", {}, el("div", { class: "actions" }, ...actions(list, experiment))));
}

function actions(list, experiment) {
  if (list.name !== "finished") return [button("Cancel", experiment, () => cancel(list, experiment))];
  return [choice(experiment), button("Delete", experiment, () => erase(list, experiment))];
}

function button(words, experiment, click) {
  return el("button", {
    type: "button", click, "data-key": `${words} ${experiment.id}`, "aria-label": `${words} ${experiment.name}`,
  }, words);
}

function choice(experiment) {
  const box = el("input", {
    type: "checkbox", checked: chosen.has(experiment.id), "data-key": `choose ${experiment.id}`,
    change: () => {
      if (box.checked) chosen.add(experiment.id);
      else chosen.delete(experiment.id);
      allowComparing();
    },
  });
  return el("label", {}, box, " compare");
}

function allowComparing() {
  byId("compare").disabled = chosen.size < 2 || chosen.size > MOST_COMPARED;
}

async function cancel(list, experiment) {
  if (!(await confirmed(`Cancel ${experiment.name}? What it has recorded is kept.`, "Cancel it"))) return;
  await attempt(async () => {
    await remove(`experiments/${encodeURIComponent(experiment.id)}`);
    notice(`${experiment.name} is cancelled.`);
    await Promise.all(lists.map(refresh));
  });
}

async function erase(list, experiment) {
  if (!(await confirmed(`Delete ${experiment.name} with all its data?`, "Delete it"))) return;
  await attempt(async () => {
    await remove(`experiments/${encodeURIComponent(experiment.id)}`);
    chosen.delete(experiment.id);
    allowComparing();
    notice(`${experiment.name} is deleted.`);
    await refresh(list);
  });
}

function pages(list, count) {
  const last = Math.ceil(count / PAGE) - 1;
  const turn = (words, by) => el("button", {
    type: "button", disabled: list.page + by < 0 || list.page + by > last, "data-key": words,
    click: () => {
      list.page += by;
      attempt(() => refresh(list));
    },
  }, words);
  return el("nav", { class: "pages", "aria-label": `Pages of ${list.name} experiments` },
    turn("Previous", -1), `page ${list.page + 1} of ${last + 1}`, turn("Next", 1));
}

/** Says in the head which load hosts there are. */
export async function showNetwork() {
  try {
    const hosts = await get("hosts");
    byId("network").textContent = hosts.length ? `Load hosts: ${hosts.join(", ")}` : "There is no load host: start myxo lab host";
  } catch (error) {
    byId("network").textContent = error.message.split(";")[0];
  }
}
