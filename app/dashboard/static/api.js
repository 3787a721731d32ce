// The part of the public REST API that this page uses. All paths are in this file.

/** An error response of the service: RFC 9457 problem details. */
export class Problem extends Error {
  constructor(status, problem) {
    const wrong = (problem.errors ?? []).map((error) => `${error.field}: ${error.message}`);
    super([problem.detail ?? `the service answered ${status}`, ...wrong].join(" · "));
    this.status = status;
    this.isProblem = true;
  }
}

const path = (parts, ...ids) => String.raw({ raw: parts }, ...ids.map(encodeURIComponent));

const STORAGE_KEY = "palate.api_key"; // for this tab only
const RECONNECT_AFTER = 1000; // ms after a stream of events broke off

export const useKey = (key) => sessionStorage.setItem(STORAGE_KEY, key.trim());

/** The response, if it is successful. If a key is needed, dispatches the event `key-needed`. */
async function ask(method, address, request = {}) {
  const key = sessionStorage.getItem(STORAGE_KEY);
  const headers = { ...request.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const response = await fetch(address, { ...request, method, headers }).catch(() => {
    throw new Problem(0, { detail: "The service does not answer. Is it still running?" });
  });
  if (response.ok) return response;
  if (response.status === 401) document.dispatchEvent(new Event("key-needed"));
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  throw new Problem(response.status, isJson ? await response.json() : {});
}

async function call(method, address, body) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await ask(method, address, { headers, body: JSON.stringify(body) });
  return (response.headers.get("content-type") ?? "").includes("json") ? response.json() : {};
}

/** A blob URL of an image, because an <img> cannot send a key. */
async function picture(address) {
  const response = await ask("GET", address);
  return URL.createObjectURL(await response.blob());
}

/** Server-sent events, because EventSource cannot send a key either. */
class Events extends EventTarget {
  #closing = new AbortController();
  #lastEventId = "";

  constructor(address) {
    super();
    this.#follow(address);
  }

  close() {
    this.#closing.abort();
  }

  async #follow(address) {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        const headers = this.#lastEventId ? { "last-event-id": this.#lastEventId } : {};
        await this.#read(await ask("GET", address, { headers, signal }));
      } catch (error) {
        if (error.status >= 400) return; // refused; anything else is a connection that broke off
      }
      await new Promise((goOn) => setTimeout(goOn, RECONNECT_AFTER));
    }
  }

  async #read(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) this.#tell(block);
    }
  }

  #tell(block) {
    const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
    if (fields.data === undefined || this.#closing.signal.aborted) return;
    this.#lastEventId = fields.id ?? this.#lastEventId;
    this.dispatchEvent(new MessageEvent(fields.event, { data: fields.data, lastEventId: this.#lastEventId }));
  }
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
export const runEvents = (id) => new Events(path`/v1/training-runs/${id}/events`);
export const startSearch = (search) => post("/v1/searches", search);
export const latestSearches = (limit) => get("/v1/searches", { limit });
export const readSearch = (id) => get(path`/v1/searches/${id}`);
export const cancelSearch = (id) => post(path`/v1/searches/${id}/cancel`);
export const plotOfSearch = (id) => picture(path`/v1/searches/${id}/plot`);
export const listModels = () => get("/v1/models");
export const activateModel = (version) => post(path`/v1/models/${version}/activate`);
