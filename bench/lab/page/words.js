// Figures as a person reads them. Pure.

/** How requests are spread where an experiment says nothing of it. */
export const AS_DEFINED = "as defined";

/** Seconds as a length: 9.5 s, 3:20 min, 2:05 h. */
export function length(s) {
  if (s == null) return "–";
  if (s < 100) return `${Number(s.toFixed(1))} s`;
  const minutes = Math.round(s / 60);
  if (s < 3600) return `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")} min`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")} h`;
}

/** Seconds since 1970 as a date and time. */
export function moment(s) {
  return s == null ? "–" : new Date(s * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
}

/** Seconds as milliseconds. */
export function ms(s) {
  return s == null ? "–" : `${number(s * 1000)} ms`;
}

/** A number with three figures that count. */
export function number(value) {
  if (value == null) return "–";
  return Math.abs(value) >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

/** What an experiment took, in seconds; null if it has not ended. */
export function took(experiment) {
  return experiment.start == null || experiment.end == null ? null : experiment.end - experiment.start;
}

/** The policy by which an experiment's requests were spread. */
export function policyOf(experiment) {
  return experiment.configuration?.policy ?? AS_DEFINED;
}

const OVER = new Set(["FINISHED", "FAILED", "CANCELLED"]);

/** Whether an experiment has ended, in whichever way. */
export const isOver = (experiment) => OVER.has(experiment.status);
