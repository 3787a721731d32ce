// "For you": the current list, and how the last rating changed it.

import { recommend } from "/dashboard/api.js";
import { element, find, number } from "/dashboard/dom.js";

const N = 10;
const SOURCES = {
  folded_in: "from your current ratings",
  trained: "from your trained factors",
  prior: "you have not rated anything: what most users like",
  means: "no model yet: means of all ratings",
  popular: "no model yet: the best-rated items",
};

let places = new Map(); // item_id -> place in the list before
let owner = "";
let latestRequest = 0;

export async function showRecommendations(userId, scale) {
  const request = ++latestRequest;
  const list = find("recommendations");
  list.setAttribute("aria-busy", "true");
  const began = performance.now();
  const answer = await recommend(userId, N);
  if (request !== latestRequest) return;
  const took = performance.now() - began;
  const before = owner === userId ? places : new Map();
  const model = answer.model_version == null ? "" : `version ${answer.model_version}, `;
  find("answer").textContent = `${model}${SOURCES[answer.source] ?? answer.source} · ${number(took)}\u00a0ms`;
  moving(list, () => list.replaceChildren(...answer.items.map((item, place) => row(item, place, before, scale))));
  if (!answer.items.length) list.append(element("li", { class: "empty" }, "Nothing to recommend yet."));
  list.setAttribute("aria-busy", "false");
  owner = userId;
  places = new Map(answer.items.map((item, place) => [item.item_id, place]));
}

function row(item, place, before, scale) {
  return element(
    "li",
    { "data-item": item.item_id },
    element("span", { class: "place" }, place + 1),
    element(
      "span",
      { class: "what" },
      element("span", { class: "title" }, item.title ?? item.item_id),
      element("span", { class: "muted" }, (item.categories ?? []).join(" · ")),
    ),
    move(item, place, before),
    element("span", { class: "value" }, number(item.value, 2)),
    interval(item, scale),
  );
}

function move(item, place, before) {
  if (!before.size) return element("span", { class: "move" });
  if (!before.has(item.item_id)) return element("span", { class: "move new" }, "new");
  const steps = before.get(item.item_id) - place;
  if (!steps) return element("span", { class: "move" });
  const words = `${Math.abs(steps)} ${steps > 0 ? "up" : "down"}`;
  const text = `${steps > 0 ? "▲" : "▼"} ${Math.abs(steps)}`;
  return element("span", { class: `move ${steps > 0 ? "up" : "down"}`, title: words, "aria-label": words }, text);
}

function interval(item, scale) {
  const share = (value) => `${(100 * (value - scale.min)) / (scale.max - scale.min)}%`;
  const range = element("span", { class: "range" });
  range.style.left = share(item.lower);
  range.style.width = `calc(${share(item.upper)} - ${share(item.lower)})`;
  const tick = element("span", { class: "tick" });
  tick.style.left = share(item.value);
  const words = `four times out of five between ${number(item.lower, 1)} and ${number(item.upper, 1)}`;
  return element("span", { class: "interval", role: "img", title: words, "aria-label": words }, range, tick);
}

/** Animates rows that stay from their old to their new position. */
function moving(list, change) {
  const tops = new Map([...list.children].map((child) => [child.dataset.item, child.getBoundingClientRect().top]));
  change();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const child of list.children) {
    const distance = (tops.get(child.dataset.item) ?? NaN) - child.getBoundingClientRect().top;
    if (distance) child.animate([{ transform: `translateY(${distance}px)` }, { transform: "none" }], { duration: 350, easing: "ease-out" });
    else if (tops.size && Number.isNaN(distance)) child.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 350 });
  }
}
