// "Model": the active version, its counts, and the versions to roll back to.

import { activateModel, listModels } from "/dashboard/api.js";
import { showQuality } from "/dashboard/quality.js";
import { ago, element, find, lossText, number, trying } from "/dashboard/dom.js";

let whenActivated = () => {};

/** onActivated() is called after the service has switched to another version. */
export function startModels(onActivated) {
  whenActivated = onActivated;
}

export function showStatus(status) {
  const waiting = status.changes_since_training;
  find("active").textContent = status.problem ?? activeText(status);
  find("counts").replaceChildren(
    count("Ratings", number(status.n_ratings)),
    count("Users", number(status.n_users)),
    count("Items", number(status.n_items)),
    count("Trained through", status.trained_through == null ? "–" : `revision ${number(status.trained_through)}`),
    count("Since then", `${number(waiting)} ${waiting === 1 ? "change" : "changes"}`),
  );
}

function activeText(status) {
  if (status.model_version != null) return `Version ${status.model_version} is active.`;
  return status.n_ratings ? "No model yet: train one." : "No ratings yet.";
}

const count = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

export async function showModels() {
  const { models } = await listModels();
  const active = models.find((model) => model.is_active) ?? models[0];
  const rows = models.map((model) => row(model, active));
  showQuality(models[0], active);
  if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: 6, class: "muted" }, "No version yet.")));
  find("versions").replaceChildren(...rows);
}

function row(model, active) {
  const made = element("time", { datetime: model.created_at, title: new Date(model.created_at).toLocaleString() });
  made.textContent = ago(model.created_at);
  return element(
    "tr",
    { class: model.is_active ? "active" : "" },
    element("th", { scope: "row" }, model.version),
    element("td", {}, made),
    element("td", {}, number(model.n_ratings)),
    element("td", {}, element("abbr", { title: lossText(model.loss) }, model.loss.name)),
    element("td", {}, qualityButton(model, active)),
    element("td", {}, model.is_active ? element("span", { class: "badge" }, "active") : activateButton(model.version)),
  );
}

function qualityButton(model, active) {
  const label = `Accuracy of version ${model.version}`;
  const button = element("button", { class: "quiet", "aria-label": label }, number(model.metrics.holdout_rmse, 4));
  button.addEventListener("click", () => showQuality(model, active));
  return button;
}

function activateButton(version) {
  const button = element("button", { class: "quiet", "aria-label": `Activate version ${version}` }, "Activate");
  button.addEventListener("click", () =>
    trying(async () => {
      button.disabled = true;
      await activateModel(version).finally(() => (button.disabled = false));
      await showModels();
      whenActivated();
    }),
  );
  return button;
}
