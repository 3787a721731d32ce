// "Training": start and cancel a run, and show its progress by epoch.

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
  find("run").textContent = run == null ? "No run yet." : [statusText(last), ...minimized(), ...details(last)].join(" · ");
  find("train").disabled = isOn && run.kind !== "search"; // a search makes room for a training
  find("cancel").hidden = !isOn;
  find("progress").classList.toggle("off", !isOn);
  if (last) find("progress").value = share(last);
  else find("progress").removeAttribute("value"); // indeterminate
  const watched = epochs.filter((epoch) => ["fit", "sample"].includes(epoch.phase));
  const shown = watched.length ? watched : epochs; // few ratings are learned at once, with nothing held out
  find("training").classList.toggle("empty", !shown.length);
  find("chart").replaceChildren(...(shown.length ? chart(shown) : []));
}

function statusText(last) {
  const isSearching = run.kind === "search" && run.status === "running" && !last;
  return `${run.kind === "search" ? "Search" : "Run"} ${run.id} ${WORDS[isSearching ? "searching" : run.status]}`;
}

const WEIGHTS = { fit: 1, sample: 4, final: 1, resample: 4 };
const isSweep = (epoch) => ["sample", "resample"].includes(epoch.phase);

/** Fraction done: a fit with a hold-out, the average over models, then both on all ratings. */
function share(last) {
  const donePhases = new Set(epochs.map((epoch) => epoch.phase));
  const isAskedFor = run.hyperparameters?.posterior !== "off" && run.loss?.name === "squared";
  const averages = donePhases.has("sample") || donePhases.has("resample") || (isAskedFor && !(donePhases.has("fit") && donePhases.has("final")));
  const phases = Object.keys(WEIGHTS).filter(
    (phase) => (averages || !isSweep({ phase })) && (donePhases.has("fit") || ["final", "resample"].includes(phase)),
  );
  const weigh = (some) => some.reduce((sum, phase) => sum + WEIGHTS[phase], 0);
  const done = weigh(phases.slice(0, phases.indexOf(last.phase)));
  return (done + (WEIGHTS[last.phase] * last.epoch) / last.n_epochs) / weigh(phases);
}

/** The loss of the run, if it is not the default. */
function minimized() {
  if (!run.loss || run.loss.name === "squared") return [];
  return [run.loss.name === "declared" ? lossText(run.loss) : `loss ${run.loss.name}`];
}

function details(last) {
  if (run.error) return [run.error];
  if (isOver(run.status)) return [ago(run.finished_at)];
  if (!last) return [];
  const phase = ["final", "resample"].includes(last.phase) ? "now with the held-out ratings, " : "";
  const step = isSweep(last) ? "averaging, sweep" : "epoch";
  return [`${phase}${step} ${last.epoch} of ${last.n_epochs}`, `${number(last.ratings_per_second / 1e6, 1)} M ratings/s`];
}

/** Errors along all epochs and sweeps shown, from the first to the last that the newest phase may take. */
function chart(shown) {
  const values = shown.flatMap((epoch) => [isSweep(epoch) ? null : epoch.train_rmse, epoch.holdout_rmse]);
  const there = values.filter((value) => value != null);
  const low = Math.floor(Math.min(...there) * 10) / 10, high = Math.ceil(Math.max(...there) * 10) / 10 + 0.001;
  const last = shown.at(-1), n = shown.length - last.epoch + last.n_epochs;
  const x = (place) => LEFT + ((WIDTH - LEFT - RIGHT) * place) / Math.max(n - 1, 1);
  const y = (value) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - value)) / (high - low);
  const line = (value, name) => {
    const points = shown
      .map((epoch, place) => [x(place), value(epoch)])
      .filter(([, found]) => found != null)
      .map(([across, found]) => `${across.toFixed(1)} ${y(found).toFixed(1)}`);
    return drawing("path", { class: name, d: points.length ? `M${points.join("L")}` : "" });
  };
  const levels = [low, (low + high) / 2, high].map((level) => [
    drawing("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(level), y2: y(level) }),
    drawing("text", { x: LEFT - 6, y: y(level) + 4, "text-anchor": "end" }, number(level, 2)),
  ]);
  const ends = [
    drawing("text", { x: x(0), y: HEIGHT - 6, "text-anchor": "start" }, isSweep(shown[0]) ? "sweep 1" : "epoch 1"),
    drawing("text", { x: x(n - 1), y: HEIGHT - 6, "text-anchor": "end" }, `${isSweep(last) ? "sweep" : "epoch"} ${last.n_epochs}`),
  ];
  const learned = line((epoch) => (isSweep(epoch) ? null : epoch.train_rmse), "train");
  return [...levels.flat(), ...ends, learned, line((epoch) => epoch.holdout_rmse, "holdout"), ...mark(shown, x, y)];
}

function mark(shown, x, y) {
  const watched = shown.map((epoch, place) => ({ place, error: epoch.holdout_rmse })).filter(({ error }) => error != null);
  if (!watched.length) return [];
  const best = watched.reduce((lowest, point) => (point.error < lowest.error ? point : lowest));
  const at = { x: x(best.place) - 6, y: y(best.error) - 10, "text-anchor": "end" };
  return [
    drawing("circle", { cx: x(best.place), cy: y(best.error), r: 4 }),
    drawing("text", at, number(best.error, 4)),
  ];
}
