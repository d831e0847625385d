// Which view is shown: the part of the address after `#` says it.

import * as compare from "./compare.js";
import * as create from "./create.js";
import { byId, notice, repeated } from "./dom.js";
import * as lists from "./lists.js";
import * as watch from "./watch.js";

const NETWORK_MS = 10000;

let leave = null;

function route() {
  leave?.();
  leave = null;
  if (byId("notice").classList.contains("bad")) notice("");
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/");
  const known = { new: create.show, watch: () => watch.show(decodeURIComponent(id ?? "")), compare: () => compare.show(new URLSearchParams(query).getAll("id")) };
  const name = known[view] ? view : "experiments";
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  leave = (known[name] ?? lists.show)() ?? null;
}

create.prepare();
lists.prepare();
addEventListener("hashchange", () => {
  route();
  byId("main").focus();
});
route();
repeated(lists.showNetwork, NETWORK_MS);
