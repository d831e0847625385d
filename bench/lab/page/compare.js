// Several experiments side by side, their charts with the same bounds, live while one of them runs.

import { get } from "./api.js";
import { Course, boundsOf } from "./course.js";
import { byId, el, repeated } from "./dom.js";
import { fillFigures } from "./figures.js";
import { isOver } from "./words.js";

const REFRESH_MS = 2000;

const query = (ids) => ids.map((id) => `id=${encodeURIComponent(id)}`).join("&");

/** The address of the view of these experiments. */
export const addressOf = (ids) => `#/compare?${query(ids)}`;

/** Shows the experiments of these ids and follows them until all are over; returns what ends that. */
export function show(ids) {
  for (const place of ["compare-charts", "compare-state"]) byId(place).replaceChildren();
  const courses = ids.map((id) => new Course(id));
  let over = false;

  async function refresh() {
    if (over) return;
    const experiments = await get(`compare?${query(ids)}`);
    await Promise.all(courses.map((course) => course.refresh()));
    fillFigures(byId("compare-figures"), experiments);
    const bounds = boundsOf(courses);
    byId("compare-charts").replaceChildren(...courses.map((course, i) =>
      el("div", {}, el("h3", {}, experiments[i].name), ...course.charts(bounds))));
    const left = experiments.filter((experiment) => !isOver(experiment)).length;
    over = left === 0;
    const state = over ? "" : `${experiments.length - left} of ${experiments.length} are over; the others follow.`;
    if (byId("compare-state").textContent !== state) byId("compare-state").textContent = state;
  }

  return repeated(refresh, REFRESH_MS);
}
