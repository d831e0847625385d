// The form of a new experiment.

import { get, post, save } from "./api.js";
import { CurveEditor } from "./curve-editor.js";
import { addressOf } from "./compare.js";
import { attempt, byId, el, notice } from "./dom.js";
import * as policies from "./policies.js";
import { fromSubmission, intervals, newWorkload, problemsOf, ratesOf, seconds, toSubmissions } from "./submission.js";

const MOST_SHOWN = 2000; // rates in the text field; more would make the page slow

const form = byId("create");
let workloads = [];

/** Prepares the form, with one workload in it. */
export function prepare() {
  byId("add").addEventListener("click", () => add(newWorkload()).querySelector("input").focus());
  byId("save").addEventListener("click", exportIt);
  byId("load").addEventListener("change", importIt);
  form.addEventListener("submit", submit);
  for (const name of ["duration", "interval"]) form.elements[name].addEventListener("input", redraw);
  add(newWorkload());
  policies.prepare();
}

/** Shows it; the services and clients that can be named are asked for anew. */
export function show() {
  redraw();
  suggest("services", "services", (service) => service.name);
  suggest("apps", "apps", (app) => app.name);
}

async function suggest(list, path, nameOf) {
  try {
    byId(list).replaceChildren(...(await get(path)).map((one) => el("option", { value: nameOf(one) })));
  } catch {
    // In no network nothing can be suggested; a name can be typed all the same.
  }
}

function add(workload) {
  const place = byId("workload").content.cloneNode(true).firstElementChild;
  const entry = { workload, place };
  workloads.push(entry);
  byId("workloads").append(place);
  fill(place, workload);
  entry.editor = new CurveEditor(
    place.querySelector("canvas"), place.querySelector(".spoken"), workload,
    () => seconds(form.elements.duration.value), () => showTicks(entry),
  );
  for (const field of fieldsOf(place)) field.addEventListener("input", () => changed(entry, field));
  place.querySelector(".clear").addEventListener("click", () => entry.editor.set([], -1));
  place.querySelector(".remove").addEventListener("click", () => removeEntry(entry));
  showTicks(entry);
  return place;
}

function removeEntry(entry) {
  entry.editor.close();
  entry.place.remove();
  workloads = workloads.filter((one) => one !== entry);
  byId("add").focus();
}

const fieldsOf = (place) => place.querySelectorAll("input, select, textarea");

function fill(place, workload) {
  for (const field of fieldsOf(place)) {
    if (field.name !== "ticks") field.value = workload[field.name];
  }
}

function changed(entry, field) {
  const { workload, editor } = entry;
  if (field.name === "ticks") workload.ticks = numbers(field.value);
  else if (field.type === "number") workload[field.name] = field.valueAsNumber;
  else workload[field.name] = field.value;
  if (field.name === "most" && !workload.ticks) showTicks(entry);
  editor.draw();
}

/** The numbers in a text, however they are separated; null if there are none. */
function numbers(text) {
  const words = text.split(/[\s,;]+/).filter(Boolean);
  return words.length ? words.map(Number) : null;
}

function showTicks({ workload, place }) {
  const field = place.querySelector("textarea");
  const count = intervals(form.elements.duration.value, form.elements.interval.value);
  const many = count > MOST_SHOWN;
  field.disabled = many;
  if (many) field.value = `${count} rates are too many to be shown`;
  else if (Number.isNaN(count) && !workload.ticks) field.value = "";
  else if (workload.ticks || workload.points.length) field.value = ratesOf(workload, count).join(", ");
  else field.value = "";
}

function redraw() {
  for (const entry of workloads) {
    entry.editor.draw();
    showTicks(entry);
  }
}

function formSaid() {
  const { name, creator, duration, interval } = form.elements;
  return {
    name: name.value,
    creator: creator.value,
    duration: duration.value,
    interval: interval.value,
    policies: policies.chosen(),
    workloads: workloads.map((entry) => entry.workload),
  };
}

/** What the form says as JSON, an experiment for each policy, or null with what is wrong shown. */
function submissions() {
  const said = formSaid();
  const problems = problemsOf(said);
  byId("problems").replaceChildren(...problems.map((problem) => el("li", {}, problem)));
  return problems.length ? null : toSubmissions(said);
}

async function submit(event) {
  event.preventDefault();
  const bodies = submissions();
  if (!bodies) return;
  await attempt(async () => {
    const ids = [];
    for (const body of bodies) ids.push(await post("experiments", body));
    const [first] = ids.map(encodeURIComponent);
    location.hash = ids.length === 1 ? `#/watch/${first}` : addressOf(ids);
    notice(ids.length === 1 ? `${ids[0]} is queued.` : `${ids.length} experiments are queued.`);
  });
}

function exportIt() {
  const bodies = submissions();
  if (!bodies) return;
  if (bodies.length > 1) {
    notice("A file has one experiment: choose one balancing policy to export it.", true);
    return;
  }
  const [body] = bodies;
  const text = JSON.stringify(body, null, 2);
  save(new Blob([text], { type: "application/json" }), `${body.experiment?.name ?? "experiment"}.json`);
}

async function importIt(event) {
  const file = event.target.files[0];
  if (!file) return;
  await attempt(async () => {
    const text = await file.text();
    event.target.value = "";
    put(fromSubmission(JSON.parse(text)));
    notice(`${file.name} is in the form.`);
  });
}

/** Has the form say this. */
export function put(said) {
  for (const name of ["name", "creator", "duration", "interval"]) form.elements[name].value = said[name];
  policies.choose(said.policies);
  for (const entry of [...workloads]) removeEntry(entry);
  said.workloads.forEach(add);
  byId("problems").replaceChildren();
  redraw();
}
