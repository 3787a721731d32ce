// The public REST API, as far as this page uses it. Every path of the page stands in this file.

/** An answer of the service that is not a success: RFC 9457 problem details. */
export class Problem extends Error {
  constructor(status, problem) {
    const wrong = (problem.errors ?? []).map((error) => `${error.field}: ${error.message}`);
    super([problem.detail ?? `the service answered ${status}`, ...wrong].join(" · "));
    this.status = status;
    this.isProblem = true;
  }
}

const path = (parts, ...ids) => String.raw({ raw: parts }, ...ids.map(encodeURIComponent));

async function call(method, address, body) {
  const request = { method, headers: { accept: "application/json" } };
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["content-type"] = "application/json";
  }
  const response = await fetch(address, request).catch(() => {
    throw new Problem(0, { detail: "The service does not answer. Is it still running?" });
  });
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  const answer = isJson ? await response.json() : {};
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

const get = (address, query = {}) => call("GET", `${address}?${new URLSearchParams(query)}`);
const post = (address, body) => call("POST", address, body);
const put = (address, body) => call("PUT", address, body);
const del = (address) => call("DELETE", address);

export const readStatus = () => get("/v1/status");
export const popularItems = (n) => get("/v1/items/popular", { n });
export const searchItems = (title, limit) => get("/v1/items", { title, limit });
export const ratingsOf = (userId, query) => get(path`/v1/users/${userId}/ratings`, query);
export const rate = (userId, itemId, value) => put(path`/v1/users/${userId}/ratings/${itemId}`, { value });
export const unrate = (userId, itemId) => del(path`/v1/users/${userId}/ratings/${itemId}`);
export const recommend = (userId, n) => get(path`/v1/users/${userId}/recommendations`, { n });
export const startRun = () => post("/v1/training-runs", {});
export const latestRuns = (limit) => get("/v1/training-runs", { limit });
export const readRun = (id) => get(path`/v1/training-runs/${id}`);
export const cancelRun = (id) => post(path`/v1/training-runs/${id}/cancel`);
export const runEvents = (id) => new EventSource(path`/v1/training-runs/${id}/events`);
export const startSearch = (search) => post("/v1/searches", search);
export const latestSearches = (limit) => get("/v1/searches", { limit });
export const readSearch = (id) => get(path`/v1/searches/${id}`);
export const cancelSearch = (id) => post(path`/v1/searches/${id}/cancel`);
export const plotOfSearch = (id, nDone) => path`/v1/searches/${id}/plot?n_done=${nDone}`; // another address: no old picture
export const listModels = () => get("/v1/models");
export const activateModel = (version) => post(path`/v1/models/${version}/activate`);
