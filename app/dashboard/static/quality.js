// The quality report of a version, beside that of the active one.

import { element, find, number } from "/dashboard/dom.js";

const MEASURES = [
  ["RMSE", (metrics) => metrics.holdout_rmse],
  ["RMSE of item and user means", (metrics) => metrics.report?.baselines.biases.rmse],
  ["Mean absolute error", (metrics) => metrics.holdout_mae],
  ["nDCG@10", (metrics) => metrics.ndcg_at_10],
  ["nDCG@10 of the most rated", (metrics) => metrics.report?.baselines.popularity.ndcg_at_10],
  ["Recall@10", (metrics) => metrics.recall_at_10],
  ["Inside the 80 % interval", (metrics) => metrics.holdout_interval_80_coverage],
];

/** Shows the report of a version, and that of the active one if it is a different version. */
export function showQuality(version, active) {
  const shown = [version, active?.version === version?.version ? null : active].filter((each) => each != null);
  find("quality").hidden = version?.metrics.holdout_rmse == null;
  if (find("quality").hidden) return;
  const columns = shown.map((each) => `Version ${each.version}${each.is_active ? ", active" : ""}`);
  find("quality-head").replaceChildren(...["On ratings held out", ...columns].map((text) => heading(text, "col")));
  find("measures").replaceChildren(
    ...MEASURES.map(([name, of]) => line(name, shown.map((each) => number(of(each.metrics), 4)))),
    ...buckets("user", shown),
    ...buckets("item", shown),
  );
}

/** A row per bucket of the version's report: RMSE, and how many ratings are inside their interval. */
function buckets(side, shown) {
  const reports = shown.map((each) => each.metrics.report?.[`by_ratings_of_${side}`] ?? []);
  return reports[0].map((bucket) => {
    const same = reports.map((report) => report.find((other) => other.from === bucket.from));
    const cells = same.map((other) => (other ? `${number(other.rmse, 4)} · ${number(100 * other.coverage)} % inside` : "–"));
    return line(`RMSE, ${side} with ${range(bucket)} ratings`, cells);
  });
}

function range(bucket) {
  if (bucket.to == null) return `${bucket.from} or more`;
  return bucket.from === bucket.to ? bucket.from : `${bucket.from} to ${bucket.to}`;
}

const heading = (text, scope) => element("th", { scope }, text);

const line = (name, values) =>
  element("tr", {}, heading(name, "row"), ...values.map((value) => element("td", {}, value)));
