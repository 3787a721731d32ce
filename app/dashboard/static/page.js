// The page: the current user, the connections between its parts, and polling of the service.

import { readStatus, useKey } from "/dashboard/api.js";
import { find, say, trying } from "/dashboard/dom.js";
import { showModels, showStatus, startModels } from "/dashboard/models.js";
import { showRatingsOf, startRating } from "/dashboard/rate.js";
import { showRecommendations } from "/dashboard/recommendations.js";
import { showSearches, startSearches } from "/dashboard/searches.js";
import { showTraining, startTraining } from "/dashboard/training.js";

const POLL_EVERY = 3000; // ms; other clients may start runs and activate versions
const ACTIVATED_AFTER = 1000; // ms; the service polls for a new version twice a second
const STORAGE_KEY = "palate.user_id";

let user = "";
let status = {}; // the last polled status

async function switchTo(userId) {
  user = userId;
  localStorage.setItem(STORAGE_KEY, userId);
  find("user-id").value = userId;
  await Promise.all([showRatingsOf(userId), showRecommendations(userId, status.rating_scale)]);
}

async function poll() {
  const before = status;
  status = await readStatus();
  if (!before.service_version) startRating(status.rating_scale, rated);
  showStatus(status);
  if (status.training_run !== before.training_run) await showTraining(status.training_run);
  await showSearches();
  const isFilled = before.n_items === 0 && status.n_items > 0; // an import began while the page was open
  if (isFilled && user) await showRatingsOf(user);
  const hasNewVersion = status.model_version !== before.model_version;
  if (hasNewVersion || !before.service_version) await showModels();
  if ((hasNewVersion || isFilled) && user) await showRecommendations(user, status.rating_scale);
}

const rated = () => trying(() => Promise.all([showRecommendations(user, status.rating_scale), poll()]));

async function watch() {
  if (document.visibilityState === "visible") {
    const wasLost = status.isLost;
    await poll().then(() => wasLost && say(null), (error) => { status.isLost = true; say(error); });
  }
  setTimeout(watch, POLL_EVERY);
}

document.addEventListener("click", () => say(null), true); // an error stays until the next click
find("who").addEventListener("submit", (event) => {
  event.preventDefault();
  trying(() => switchTo(find("user-id").value.trim()));
});
document.addEventListener("key-needed", () => { find("ask-key").hidden = false; });
find("ask-key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(find("api-key").value);
  location.reload();
});
startModels(() => trying(poll));
startSearches();
startTraining(() => {
  trying(poll);
  setTimeout(() => trying(poll), ACTIVATED_AFTER);
});

await trying(poll);
const visitor = () => `visitor-${Math.floor(1000 + Math.random() * 9000)}`;
if (status.rating_scale) await trying(() => switchTo(localStorage.getItem(STORAGE_KEY) || visitor()));
setTimeout(watch, POLL_EVERY);
