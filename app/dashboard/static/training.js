// "Training": start and cancel a run, and watch it learn, epoch by epoch.

import { cancelRun, latestRuns, readRun, runEvents, startRun } from "/dashboard/api.js";
import { ago, drawing, find, lossText, number, trying } from "/dashboard/dom.js";

const WIDTH = 560, HEIGHT = 220, LEFT = 42, RIGHT = 12, TOP = 10, BOTTOM = 24;
const WORDS = {
  queued: "is waiting for the trainer",
  running: "is learning",
  searching: "is trying hyperparameters",
  succeeded: "succeeded",
  failed: "failed",
  cancelled: "was cancelled",
  rejected: "was rejected: it predicts worse than the active version",
};

let run = null; // the run on show
let epochs = [];
let events = null;
let whenEnded = () => {};

/** onEnded() is called when a run that is being watched has come to its end. */
export function startTraining(onEnded) {
  whenEnded = onEnded;
  find("train").addEventListener("click", () => trying(async () => follow(await startRun())));
  find("cancel").addEventListener("click", () => trying(async () => cancelRun(run.id)));
  draw();
}

/** Shows the run with this number; without one, the latest. */
export async function showTraining(id) {
  if (id != null) return follow(await readRun(id));
  const { runs } = await latestRuns(1);
  if (runs.length && runs[0].id !== run?.id) follow(await readRun(runs[0].id));
  return undefined;
}

const isOver = (status) => !["queued", "running"].includes(status);

function follow(newRun) {
  if (events && run?.id === newRun.id) return;
  events?.close();
  events = null;
  show(newRun);
  if (isOver(newRun.status)) return;
  events = runEvents(newRun.id);
  events.addEventListener("epoch", (event) => {
    // ids are attempt.number; the stream begins with the first epoch, and so does a trainer that takes the run over
    if (event.lastEventId.endsWith(".1")) epochs = [];
    epochs.push(JSON.parse(event.data));
    draw();
  });
  events.addEventListener("status", (event) => {
    run = { ...run, ...JSON.parse(event.data) };
    draw();
    if (isOver(run.status)) trying(end);
  });
}

function show(newRun) {
  run = newRun;
  epochs = [...(newRun.epochs ?? [])];
  draw();
}

async function end() {
  events?.close();
  events = null;
  show(await readRun(run.id));
  whenEnded();
}

function draw() {
  const isOn = run != null && !isOver(run.status);
  const last = epochs.at(-1);
  find("run").textContent = run == null ? "No run yet." : [told(last), ...minimised(), ...details(last)].join(" · ");
  find("train").disabled = isOn && run.kind !== "search"; // a search makes room for a training
  find("cancel").hidden = !isOn;
  find("progress").classList.toggle("off", !isOn);
  if (last) find("progress").value = share(last);
  else find("progress").removeAttribute("value"); // moves to and fro
  const watched = epochs.filter((epoch) => epoch.phase === "fit");
  const fit = watched.length ? watched : epochs; // few ratings are learned at once, with nothing held out
  find("training").classList.toggle("empty", !fit.length);
  find("chart").replaceChildren(...(fit.length ? chart(fit) : []));
}

function told(last) {
  const isSearching = run.kind === "search" && run.status === "running" && !last;
  return `${run.kind === "search" ? "Search" : "Run"} ${run.id} ${WORDS[isSearching ? "searching" : run.status]}`;
}

/** How much is done: learning with a hold-out and then with everything takes about half of the time each. */
function share(last) {
  const done = last.epoch / last.n_epochs;
  if (epochs[0].phase === "final") return done;
  return last.phase === "fit" ? done / 2 : (1 + done) / 2;
}

/** What the run minimises, where that is not the usual. */
function minimised() {
  if (!run.loss || run.loss.name === "squared") return [];
  return [run.loss.name === "declared" ? lossText(run.loss) : `loss ${run.loss.name}`];
}

function details(last) {
  if (run.error) return [run.error];
  if (isOver(run.status)) return [ago(run.finished_at)];
  if (!last) return [];
  const phase = last.phase === "final" ? "now with the held-out ratings, " : "";
  return [`${phase}epoch ${last.epoch} of ${last.n_epochs}`, `${number(last.ratings_per_second / 1e6, 1)} M ratings/s`];
}

function chart(fit) {
  const values = fit.flatMap((epoch) => [epoch.train_rmse, epoch.holdout_rmse]).filter((value) => value != null);
  const low = Math.floor(Math.min(...values) * 10) / 10, high = Math.ceil(Math.max(...values) * 10) / 10 + 0.001;
  const x = (epoch) => LEFT + ((WIDTH - LEFT - RIGHT) * (epoch - 1)) / Math.max(fit[0].n_epochs - 1, 1);
  const y = (value) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - value)) / (high - low);
  const line = (key, name) => {
    const points = fit.filter((epoch) => epoch[key] != null).map((epoch) => `${x(epoch.epoch).toFixed(1)} ${y(epoch[key]).toFixed(1)}`);
    return drawing("path", { class: name, d: points.length ? `M${points.join("L")}` : "" });
  };
  const levels = [low, (low + high) / 2, high].map((level) => [
    drawing("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(level), y2: y(level) }),
    drawing("text", { x: LEFT - 6, y: y(level) + 4, "text-anchor": "end" }, number(level, 2)),
  ]);
  const ends = [[1, "start"], [fit[0].n_epochs, "end"]].map(([epoch, anchor]) =>
    drawing("text", { x: x(epoch), y: HEIGHT - 6, "text-anchor": anchor }, epoch === 1 ? "epoch 1" : epoch),
  );
  return [...levels.flat(), ...ends, line("train_rmse", "train"), line("holdout_rmse", "holdout"), ...mark(fit, x, y)];
}

function mark(fit, x, y) {
  const watched = fit.filter((epoch) => epoch.holdout_rmse != null);
  if (!watched.length) return [];
  const best = watched.reduce((lowest, epoch) => (epoch.holdout_rmse < lowest.holdout_rmse ? epoch : lowest));
  const place = { x: x(best.epoch) - 6, y: y(best.holdout_rmse) - 10, "text-anchor": "end" };
  return [
    drawing("circle", { cx: x(best.epoch), cy: y(best.holdout_rmse), r: 4 }),
    drawing("text", place, number(best.holdout_rmse, 4)),
  ];
}
