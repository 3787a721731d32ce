// The page: who is rating, what follows from what, and a look at the service every few seconds.

import { readStatus, useKey } from "/dashboard/api.js";
import { find, say, trying } from "/dashboard/dom.js";
import { showModels, showStatus, startModels } from "/dashboard/models.js";
import { showRatingsOf, startRating } from "/dashboard/rate.js";
import { showRecommendations } from "/dashboard/recommendations.js";
import { showSearches, startSearches } from "/dashboard/searches.js";
import { showTraining, startTraining } from "/dashboard/training.js";

const LOOK_EVERY = 3000; // ms; runs and activations may come from elsewhere
const SWAPPED_AFTER = 1000; // ms; the service looks for a new version twice a second
const KEPT_AS = "palate.user_id";

let user = "";
let seen = {}; // what the last look found

async function switchTo(userId) {
  user = userId;
  localStorage.setItem(KEPT_AS, userId);
  find("user-id").value = userId;
  await Promise.all([showRatingsOf(userId), showRecommendations(userId, seen.rating_scale)]);
}

async function look() {
  const before = seen;
  seen = await readStatus();
  if (!before.service_version) startRating(seen.rating_scale, rated);
  showStatus(seen);
  if (seen.training_run !== before.training_run) await showTraining(seen.training_run);
  await showSearches();
  const isFilled = before.n_items === 0 && seen.n_items > 0; // an import began while the page was open
  if (isFilled && user) await showRatingsOf(user);
  const hasSwapped = seen.model_version !== before.model_version;
  if (hasSwapped || !before.service_version) await showModels();
  if ((hasSwapped || isFilled) && user) await showRecommendations(user, seen.rating_scale);
}

const rated = () => trying(() => Promise.all([showRecommendations(user, seen.rating_scale), look()]));

async function watch() {
  if (document.visibilityState === "visible") {
    const wasLost = seen.isLost;
    await look().then(() => wasLost && say(null), (error) => { seen.isLost = true; say(error); });
  }
  setTimeout(watch, LOOK_EVERY);
}

document.addEventListener("click", () => say(null), true); // an error stays until one goes on
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
startModels(() => trying(look));
startSearches();
startTraining(() => {
  trying(look);
  setTimeout(() => trying(look), SWAPPED_AFTER);
});

await trying(look);
const visitor = () => `visitor-${Math.floor(1000 + Math.random() * 9000)}`;
if (seen.rating_scale) await trying(() => switchTo(localStorage.getItem(KEPT_AS) || visitor()));
setTimeout(watch, LOOK_EVERY);
