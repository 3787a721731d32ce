// "Rate": popular items or a search, with this user's stars.

import { popularItems, rate, ratingsOf, searchItems, unrate } from "/dashboard/api.js";
import { element, find, trying } from "/dashboard/dom.js";
import { stars } from "/dashboard/stars.js";

const PAGE = 18;
const SEARCH_PAUSE = 200; // ms after the last key

let user = "";
let scale = null;
let ratings = new Map(); // item_id -> value, of `user`
let shown = PAGE;
let latestRequest = 0; // only the answer to the latest request is drawn
let whenRated = () => {};

/** onRated() is called after every rating that the service has stored. */
export function startRating(ratingScale, onRated) {
  scale = ratingScale;
  whenRated = onRated;
  let pause = 0;
  find("search").addEventListener("input", () => {
    clearTimeout(pause);
    shown = PAGE;
    pause = setTimeout(() => trying(draw), SEARCH_PAUSE);
  });
  find("more").addEventListener("click", () => {
    shown += PAGE;
    trying(draw);
  });
}

export async function showRatingsOf(userId) {
  user = userId;
  ratings = await allRatings(userId);
  note();
  await draw();
}

async function allRatings(userId) {
  const values = new Map();
  let cursor = null;
  do {
    const page = await ratingsOf(userId, cursor ? { limit: 1000, cursor } : { limit: 1000 });
    for (const rating of page.ratings) values.set(rating.item_id, rating.value);
    cursor = page.next_cursor;
  } while (cursor);
  return values;
}

function note() {
  const count = ratings.size;
  find("user-note").textContent = count ? `${count} ${count === 1 ? "rating" : "ratings"}` : "no ratings yet";
}

async function draw() {
  const request = ++latestRequest;
  const list = find("items");
  list.setAttribute("aria-busy", "true");
  const search = find("search").value.trim();
  const { items } = await (search ? searchItems(search, Math.min(shown, 100)) : popularItems(shown));
  if (request !== latestRequest) return;
  list.replaceChildren(...items.map(card));
  if (!items.length) list.append(element("li", { class: "empty" }, nothingFor(search)));
  list.setAttribute("aria-busy", "false");
  find("more").hidden = items.length < shown || (search !== "" && shown >= 100);
}

function nothingFor(search) {
  if (search) return `No title contains “${search}”.`;
  return "Nothing to rate yet. Import ratings (palate import ratings.csv) and titles (palate import-items movies.csv).";
}

function card(item) {
  const title = item.title ?? item.item_id;
  const widget = stars(scale, ratings.get(item.item_id) ?? null, `Your rating of ${title}`, async (value) => {
    const stored = await trying(() => store(item.item_id, value));
    if (!stored) widget.set(ratings.get(item.item_id) ?? null);
  });
  return element(
    "li",
    { class: "item" },
    element("span", { class: "title" }, title),
    element("span", { class: "muted" }, (item.categories ?? []).join(" · ")),
    widget.element,
  );
}

async function store(itemId, value) {
  const rater = user;
  if (value == null) await unrate(rater, itemId);
  else await rate(rater, itemId, value);
  if (rater === user) {
    if (value == null) ratings.delete(itemId);
    else ratings.set(itemId, value);
    note();
    whenRated();
  }
  return true;
}
