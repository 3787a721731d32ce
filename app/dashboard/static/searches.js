// "Search": searches of hyperparameters and their trials.

import { cancelSearch, latestSearches, plotOfSearch, readSearch, startSearch } from "/dashboard/api.js";
import { ago, element, find, number, trying } from "/dashboard/dom.js";

const SHOWN = 5; // trials in the table
const WORDS = {
  queued: "is waiting for the trainer",
  running: "is under way",
  succeeded: "is done",
  failed: "failed",
  cancelled: "was cancelled",
  rejected: "is done; the best predicts worse than the active version",
};

let search = null; // the search on show

export function startSearches() {
  find("new-search").addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = {
      strategy: find("strategy").value,
      n_trials: find("n-trials").valueAsNumber,
      publish: find("publish").checked,
    };
    trying(async () => show(await readSearch((await startSearch(wanted)).id)));
  });
  find("cancel-search").addEventListener("click", () => trying(async () => {
    await cancelSearch(search.id);
    await showSearches();
  }));
  draw();
}

/** Shows the latest search, if it has changed. */
export async function showSearches() {
  const { searches } = await latestSearches(1);
  const [latest] = searches;
  const hasChanged = latest && ["id", "status", "n_done", "is_cancel_requested"].some((key) => latest[key] !== search?.[key]);
  if (hasChanged) show(await readSearch(latest.id));
}

function show(newSearch) {
  search = newSearch;
  draw();
}

function draw() {
  const isOn = search != null && ["queued", "running"].includes(search.status);
  find("search-status").textContent = search == null ? "No search yet." : [`Search ${search.id} ${WORDS[search.status]}`, ...details(isOn)].join(" · ");
  find("start-search").disabled = isOn;
  find("cancel-search").hidden = !isOn;
  find("search-progress").classList.toggle("off", !isOn);
  find("search-progress").value = search == null ? 0 : search.n_done / search.n_trials;
  const hasTrials = search != null && search.n_done > 0;
  find("plot").hidden = find("trials").hidden = !hasTrials;
  if (!hasTrials) return;
  trying(showPlot);
  const complete = search.trials.filter((trial) => trial.status === "complete");
  const best = complete.sort((one, other) => one.value - other.value || one.number - other.number).slice(0, SHOWN);
  find("best-trials").replaceChildren(...best.map(row));
}

async function showPlot() {
  const shown = find("plot").src;
  find("plot").src = await plotOfSearch(search.id);
  if (shown) URL.revokeObjectURL(shown);
}

function details(isOn) {
  const parts = [`${search.n_done} of ${search.n_trials} trials`];
  if (search.best) parts.push(`best ${number(search.best.value, 4)}`);
  if (search.version != null) parts.push(`published as version ${search.version}`);
  if (search.error) parts.push(search.error);
  if (!isOn) parts.push(ago(search.finished_at));
  return parts;
}

function row(trial) {
  return element(
    "tr",
    { class: trial.number === search.best.number ? "active" : "" },
    element("th", { scope: "row" }, trial.number),
    element("td", {}, number(trial.value, 4)),
    element("td", {}, number(trial.seconds, 1)),
    element("td", {}, Object.entries(trial.parameters).map(([name, value]) => `${name} ${shown(value)}`).join(", ")),
  );
}

const shown = (value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(3)) : value);
