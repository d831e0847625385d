// Two experiments side by side, their charts with the same bounds.

import { get } from "./api.js";
import { Course, boundsOf } from "./course.js";
import { attempt, byId, el } from "./dom.js";
import { fillFigures } from "./figures.js";

/** Shows the experiments of these ids. */
export function show(ids) {
  byId("compare-charts").replaceChildren();
  attempt(async () => {
    const query = ids.map((id) => `id=${encodeURIComponent(id)}`).join("&");
    const experiments = await get(`compare?${query}`);
    fillFigures(byId("compare-figures"), experiments);
    const courses = ids.map((id) => new Course(id));
    await Promise.all(courses.map((course) => course.refresh()));
    const bounds = boundsOf(courses);
    byId("compare-charts").replaceChildren(...courses.map((course, i) =>
      el("div", {}, el("h3", {}, experiments[i].name), ...course.charts(bounds))));
  });
}
