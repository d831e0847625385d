// Small things that every view needs.

/** Makes an element: attributes (functions become listeners), and children, text or elements. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);

let hiding;

/** Says something to the person, also to one who does not see it. */
export function notice(words, bad = false) {
  const place = byId("notice");
  place.textContent = words;
  place.classList.toggle("bad", bad);
  clearTimeout(hiding);
  if (words && !bad) hiding = setTimeout(() => notice(""), 8000);
}

/** Does something, and says what went wrong with it. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    notice(error.message, true);
    return undefined;
  }
}

/** Asks a question in a dialog; true if the answer is yes. */
export function confirmed(words, yes) {
  const dialog = byId("ask");
  byId("ask-text").textContent = words;
  byId("ask-yes").textContent = yes;
  return new Promise((resolve) => {
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

/** Does something now and again after each `ms`, while the page is seen; returns what ends that. */
export function repeated(work, ms) {
  let over = false;
  let timer;
  async function turn() {
    if (!document.hidden) await attempt(work);
    if (!over) timer = setTimeout(turn, ms);
  }
  turn();
  return () => {
    over = true;
    clearTimeout(timer);
  };
}
