// The last requests of the ledger, and why those failed that did.

import { ask } from "./api.js";
import { byId, count, fill, h, moment, row, seconds, state } from "./dom.js";

const PAGE = 50;
let shown = [];

const query = (before) => `requests?status=${byId("requests-status").value}&limit=${PAGE}${before ? `&before=${before}` : ""}`;

/** Shows the newest; unless somebody has gone back to older ones, who is left in peace. */
export async function refresh() {
  if (shown.length > PAGE) return;
  shown = (await ask(query())).data;
  draw();
}

async function again() {
  shown = [];
  await refresh();
}

async function more() {
  shown = shown.concat((await ask(query(shown.at(-1).id))).data);
  draw();
}

function draw() {
  fill(byId("requests-rows"), shown.map(requestRow), byId("requests-status").value === "error" ? "No errors in the last requests." : "There were no requests yet.");
  byId("requests-more").hidden = shown.length === 0 || shown.length % PAGE !== 0;
}

function requestRow(request) {
  const { key, team, model, served_model: served, attempts } = request;
  return row([
    ["When", moment(request.time)],
    ["Outcome", [state(request.cause ?? request.status, kindOf(request)), h("span", { class: "sub" }, request.endpoint)]],
    ["Key", team ? [key, h("span", { class: "sub" }, team)] : key],
    ["Model", served && served !== model ? [model ?? "–", h("span", { class: "sub" }, `as ${served}`)] : (model ?? "–")],
    ["Tries", attempts.length > 0 ? attempts.map(attemptWords) : "none"],
    ["Status", request.http_status ?? "–", "number"],
    ["Took", seconds(request.total_ms === null ? NaN : request.total_ms / 1000), "number"],
    ["Tokens", `${count(request.prompt_tokens)} + ${count(request.completion_tokens)}`, "number"],
    ["Request id", request.request_id, "mono"],
  ]);
}

const attemptWords = (attempt) =>
  h("span", { class: "budget" }, `${attempt.upstream}: ${attempt.result}`, attempt.http_status && attempt.result !== "answered" && ` (${attempt.http_status})`, h("span", { class: "sub" }, attempt.time_ms === null ? "" : `after ${seconds(attempt.time_ms / 1000)}`));

function kindOf({ cause, status }) {
  if (!cause) return status === "complete" ? "good" : "warn";
  return /^(upstream|gateway)_/.test(cause) ? "bad" : "warn";
}

byId("requests-status").addEventListener("change", () => again().catch(() => {}));
byId("requests-again").addEventListener("click", () => again().catch(() => {}));
byId("requests-more").addEventListener("click", () => more().catch(() => {}));
