// What the form says as the JSON that the API takes, and back. Pure.

import { ticksOf } from "./curve.js";
import { AS_DEFINED } from "./words.js";

export const CLIENTS = 3;
export const MOST = 1000;
export const MOST_TICKS = 100000;
export const MOST_COMPARED = 8; // experiments that the API shows side by side, one for each policy

const UNITS = { ms: 0.001, s: 1, m: 60, min: 60, h: 3600, "": 1 };

/** A text such as 10s, 2m or 1h in seconds; NaN if it is none. */
export function seconds(text) {
  const found = /^\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|min|m|h|)\s*$/.exec(String(text));
  return found ? Number(found[1]) * UNITS[found[2]] : NaN;
}

/** How many intervals a duration has; NaN if it is no whole number of them. */
export function intervals(duration, interval) {
  const count = seconds(duration) / seconds(interval);
  const whole = Math.round(count);
  return whole >= 1 && Math.abs(count - whole) < 1e-9 * whole ? whole : NaN;
}

/** A workload as a new form has it. */
export function newWorkload() {
  return {
    service: "",
    client: "",
    clients: CLIENTS,
    most: MOST,
    arrival: "constant",
    parameters: "",
    points: [], // of the curve; or, if it is null, the rates are
    ticks: null,
  };
}

/** A workload's rates: those given as numbers, or else those of its curve. */
export function ratesOf(workload, count) {
  return workload.ticks ?? ticksOf(workload.points, count, workload.most);
}

/** Everything that is wrong, in words; an empty list if it can be submitted. */
export function problemsOf(form) {
  const problems = [];
  for (const field of ["duration", "interval"]) {
    if (!(seconds(form[field]) > 0)) problems.push(`The ${field} ${JSON.stringify(form[field])} is no time; such as 10s, 2m or 1h.`);
  }
  const count = intervals(form.duration, form.interval);
  if (problems.length === 0 && Number.isNaN(count)) problems.push("The duration is no multiple of the interval.");
  if (count > MOST_TICKS) problems.push(`There are ${count} intervals; ${MOST_TICKS} are the most. Make the interval longer.`);
  if (form.policies.length === 0) problems.push("No balancing policy is chosen: choose one, or “as defined”.");
  if (form.policies.length > MOST_COMPARED) problems.push(`${form.policies.length} balancing policies are chosen; ${MOST_COMPARED} are the most.`);
  if (form.workloads.length === 0) problems.push("There is no workload: add one.");
  form.workloads.forEach((workload, i) => {
    for (const problem of problemsOfWorkload(workload, count)) problems.push(`Workload ${i + 1}: ${problem}`);
  });
  const services = form.workloads.map((w) => w.service.trim());
  services.forEach((service, i) => {
    if (service && services.indexOf(service) < i) problems.push(`Workload ${i + 1}: ${service} has a workload already.`);
    if (service.includes("://") && form.policies.some(Boolean)) problems.push(`Workload ${i + 1}: a balancing policy is for services of the network, and ${service} is a URL.`);
  });
  return problems;
}

function problemsOfWorkload(workload, count) {
  const problems = [];
  if (!workload.service.trim()) problems.push("it has no service.");
  if (!(Number.isInteger(workload.clients) && workload.clients >= 1)) problems.push("it needs 1 client or more on each host.");
  if (!(workload.most >= 1)) problems.push("the max requests/s must be 1 or more.");
  if (parametersOf(workload) === null) problems.push("the client parameters are no JSON object.");
  if (workload.ticks?.some((rate) => !(rate >= 0))) problems.push("its rates must be numbers, 0 or more.");
  else if (workload.ticks && count >= 1 && workload.ticks.length !== count) problems.push(`it has ${workload.ticks.length} rates, and there are ${count} intervals.`);
  else if (count <= MOST_TICKS && !ratesOf(workload, count).some((rate) => rate > 0)) problems.push("its curve is empty: draw one.");
  return problems;
}

function parametersOf(workload) {
  if (!workload.parameters.trim()) return {};
  try {
    const value = JSON.parse(workload.parameters);
    return value && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

/** The form, which has no problems, as JSON for the API: an experiment for each policy, named for it if there are several. */
export function toSubmissions(form) {
  if (form.policies.length === 1) return [toSubmission(form, form.policies[0])];
  return form.policies.map((policy) => {
    const name = [form.name.trim(), policy || AS_DEFINED].filter(Boolean).join(", ");
    return toSubmission({ ...form, name }, policy);
  });
}

function toSubmission(form, policy) {
  const count = intervals(form.duration, form.interval);
  const experiment = {};
  if (form.name.trim()) experiment.name = form.name.trim();
  if (form.creator.trim()) experiment.creator = form.creator.trim();
  const workloads = form.workloads.map((workload) => {
    const made = {
      service: workload.service.trim(),
      ticks: ratesOf(workload, count),
      clients_per_host: workload.clients,
      arrival_pattern: workload.arrival,
    };
    if (workload.client.trim()) made.client = workload.client.trim();
    const parameters = parametersOf(workload);
    if (Object.keys(parameters).length) made.client_parameters = parameters;
    return made;
  });
  const configuration = { duration: form.duration.trim(), interval: form.interval.trim(), workloads };
  if (policy) configuration.policy = policy;
  return Object.keys(experiment).length ? { experiment, configuration } : { configuration };
}

/** The form of a submission, as it was exported or written by hand; throws what is wrong with it. */
export function fromSubmission(value) {
  const configuration = value?.configuration;
  if (!Array.isArray(configuration?.workloads)) throw new Error("This is no experiment with a configuration of workloads.");
  const described = value.experiment ?? value;
  return {
    name: text(described.name),
    creator: text(described.creator),
    duration: time(configuration.duration),
    interval: time(configuration.interval),
    policies: [text(configuration.policy)], // "" is as defined
    workloads: configuration.workloads.map(fromWorkload),
  };
}

function fromWorkload(workload) {
  if (!Array.isArray(workload?.ticks)) throw new Error("A workload has no ticks.");
  const ticks = workload.ticks.map(Number);
  return {
    service: text(workload.service),
    client: text(workload.client),
    clients: Number(workload.clients_per_host ?? CLIENTS),
    most: Math.max(1, Math.ceil(ticks.reduce((most, tick) => Math.max(most, tick), 0))),
    arrival: workload.arrival_pattern === undefined || workload.arrival_pattern === "constant" ? "constant" : "exponential",
    parameters: workload.client_parameters ? JSON.stringify(workload.client_parameters) : "",
    points: [],
    ticks,
  };
}

const text = (value) => (value == null ? "" : String(value));
const time = (value) => (typeof value === "number" ? `${value}s` : text(value));
