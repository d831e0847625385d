// The choice of balancing policies in the form of a new experiment.

import { get } from "./api.js";
import { byId, el } from "./dom.js";
import { AS_DEFINED } from "./words.js";

const place = byId("policies");

/** Fills it with what the API knows; until then, and if it does not answer, there is "as defined" alone. */
export async function prepare() {
  place.append(choice({ name: "", description: "What each service’s definition says." }));
  choose([""]);
  place.addEventListener("change", summarise);
  try {
    place.append(...(await get("policies")).map(choice));
  } catch {
    // An experiment can be queued all the same.
  }
}

function choice({ name, description }) {
  const box = el("input", { type: "checkbox", name: "policy", value: name });
  return el("label", {}, box, ` ${name || AS_DEFINED}`, el("span", { class: "hint" }, description));
}

/** The names of those that are chosen; "" is as defined. */
export const chosen = () => boxes().filter((box) => box.checked).map((box) => box.value);

/** Has these be chosen, and no others. */
export function choose(names) {
  for (const box of boxes()) box.checked = names.includes(box.value);
  summarise();
}

const boxes = () => [...place.querySelectorAll("input")];

function summarise() {
  byId("policies-chosen").textContent = chosen().map((name) => name || AS_DEFINED).join(", ") || "none";
}
