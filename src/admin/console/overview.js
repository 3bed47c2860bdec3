// Live traffic, latency and upstreams, from /metrics; recent errors, from the ledger.

import { ask, open } from "./api.js";
import { columns, lines } from "./chart.js";
import { byId, count, dollars, few, fill, h, moment, row, seconds, state } from "./dom.js";
import { Metrics, between, growth, quantile } from "./prometheus.js";

/** How many looks are kept: five minutes of one every two seconds. */
const KEPT = 150;
/** Over how many looks latencies and rates of upstreams are reckoned: a minute. */
const WINDOW = 30;

/** How many places a drawing has at least, so that the first looks are not lost in it. */
const ROOM = 45;

/** The looks, the oldest first. */
let looks = [];
let latest = null;

/** Looks at the metrics once more. What the gateway does not count, or not yet, is simply not shown. */
export async function look() {
  const response = await open("/metrics");
  const metrics = new Metrics(await response.text());
  latest = metrics;
  const began = metrics.sum("weir_start_time_seconds");
  // Nothing of a process that is gone is compared with what the next one counts.
  if (looks.length > 0 && looks.at(-1).began !== began) looks = [];
  looks.push({
    at: performance.now() / 1000,
    began,
    ...outcomes(metrics),
    inFlight: metrics.sum("weir_requests_in_flight"),
    tokens: metrics.total("weir_tokens_total"),
    cost: metrics.total("weir_cost_nanodollars_total") / 1e9,
    durations: metrics.buckets("weir_request_duration_seconds"),
    firstTokens: metrics.buckets("weir_time_to_first_token_seconds"),
    attempts: metrics.of("weir_upstream_attempts_total"),
    upstreamDurations: new Map(metrics.of("weir_upstream_ready").map(({ labels: { upstream } }) => [upstream, metrics.buckets("weir_upstream_duration_seconds", { upstream })])),
  });
  looks = looks.slice(-KEPT);
}

/** What nobody may see who signs in after somebody else. */
export function forget() {
  looks = [];
  latest = null;
}

/** How requests ended, by who is to blame. */
function outcomes(metrics) {
  const sums = { answered: 0, refused: 0, failed: 0 };
  for (const { labels: { cause = "" }, value } of metrics.of("weir_requests_total")) {
    if (/^(upstream|gateway)_/.test(cause)) sums.failed += value;
    else if (cause !== "") sums.refused += value;
    else sums.answered += value;
  }
  return sums;
}

export function draw() {
  if (!latest || looks.length === 0) return;
  drawTraffic();
  drawLatency();
  drawTiles();
  drawUpstreams();
  drawNotes();
}

/** For each look but the first, what `read` says of it and of the one before. */
const steps = (read) => looks.slice(1).map((now, index) => read(looks[index], now));
/** For each look, what `read` says of it and of the one a minute before. */
const minutes = (read) => looks.slice(1).map((now, index) => read(looks[Math.max(0, index + 1 - WINDOW)], now));
const places = () => Math.max(ROOM, looks.length - 1);
const elapsed = (before, now) => Math.max(now.at - before.at, 1e-3);
const rate = (field) => (before, now) => growth(before[field], now[field]) / elapsed(before, now);

function drawTraffic() {
  const parts = steps((before, now) => ["answered", "refused", "failed"].map((outcome) => rate(outcome)(before, now)));
  const [first, last] = [looks[Math.max(0, looks.length - 6)], looks.at(-1)];
  const recent = ["answered", "refused", "failed"].reduce((sum, outcome) => sum + rate(outcome)(first, last), 0);
  byId("rate").textContent = looks.length > 1 ? few(recent) : "–";
  columns(byId("traffic-chart"), parts, ["good", "warn", "bad"], places(), `Requests per second in the last minutes, now ${few(recent)}`, (top) => `${few(top)}/s`);
}

function drawLatency() {
  const at = (q) => minutes((before, now) => quantile(q, between(before.durations, now.durations)));
  const [middle, high] = [at(0.5), at(0.95)];
  byId("latency-middle").textContent = seconds(middle.at(-1));
  byId("latency-high").textContent = seconds(high.at(-1));
  lines(byId("latency-chart"), [["soft", middle], ["accent", high]], places(), `Latency in the last minutes: 95th percentile now ${seconds(high.at(-1))}, median ${seconds(middle.at(-1))}`, { scale: seconds });
}

function drawTiles() {
  const pace = minutes((before, now) => rate("cost")(before, now) * 3600);
  const failures = minutes((before, now) => {
    const [answered, refused, failed] = ["answered", "refused", "failed"].map((outcome) => growth(before[outcome], now[outcome]));
    const all = answered + refused + failed;
    return all > 0 ? failed / all : NaN;
  });
  const tokens = minutes(rate("tokens"));
  const firstToken = minutes((before, now) => quantile(0.95, between(before.firstTokens, now.firstTokens)));
  const inFlight = looks.map((look) => look.inFlight);
  tile("in-flight", few(inFlight.at(-1)), inFlight, "accent", 4);
  tile("first-token", seconds(firstToken.at(-1)), firstToken, "accent");
  tile("tokens", few(tokens.at(-1)), tokens, "accent");
  tile("pace", Number.isFinite(pace.at(-1)) ? dollars(pace.at(-1).toFixed(2)) : "–", pace, "accent");
  const failed = failures.at(-1);
  tile("failures", Number.isFinite(failed) ? `${few(failed * 100)} %` : "–", failures, failed > 0.01 ? "bad" : "good", 0.05);
}

function tile(id, words, numbers, kind, floor = 0) {
  byId(id).textContent = words;
  lines(byId(`${id}-spark`), [[kind, numbers]], places(), "The last minutes", { filled: true, floor });
}

function drawUpstreams() {
  const [before, now] = [looks[Math.max(0, looks.length - 1 - WINDOW)], looks.at(-1)];
  const names = latest.of("weir_upstream_ready").map((series) => series.labels.upstream).sort();
  const rows = names.map((upstream) => {
    const one = (metric, labels) => latest.sum(metric, { upstream, ...labels });
    const [word, kind] = health(one);
    const tries = triesOf(upstream, before, now);
    const high = quantile(0.95, between(before.upstreamDurations.get(upstream) ?? new Map(), now.upstreamDurations.get(upstream) ?? new Map()));
    return row([
      ["Upstream", upstream],
      ["State", state(word, kind)],
      ["In flight", ofLimit(one("weir_upstream_in_flight"), one("weir_upstream_in_flight_limit")), "number"],
      ["Queue", ofLimit(one("weir_upstream_queue_length"), one("weir_upstream_queue_limit")), "number"],
      ["Endpoints", parts(one("weir_upstream_endpoints", { state: "in_use" }), one("weir_upstream_endpoints", { state: "ejected" }), "left out"), "number"],
      ["Credentials", parts(one("weir_upstream_credentials", { state: "in_use" }), one("weir_upstream_credentials", { state: "limited" }) + one("weir_upstream_credentials", { state: "refused" }), "aside"), "number"],
      ["Tries a minute", few(tries.all), "number"],
      ["Failed", tries.all > 0 ? `${few((tries.failed / tries.all) * 100)} %` : "–", "number"],
      ["95th percentile", seconds(high), "number"],
    ]);
  });
  fill(byId("upstreams"), rows, "No upstream is configured.");
}

function health(one) {
  const [used, ejected] = [one("weir_upstream_endpoints", { state: "in_use" }), one("weir_upstream_endpoints", { state: "ejected" })];
  const refused = one("weir_upstream_credentials", { state: "refused" }) > 0;
  if (one("weir_upstream_ready") !== 1) {
    if (ejected > 0 && !(used > 0)) return ["left out", "bad"];
    return [refused ? "its credentials are refused" : "not ready", "bad"];
  }
  if (ejected > 0) return ["partly left out", "warn"];
  if (refused) return ["a credential is refused", "warn"];
  return ["ready", "good"];
}

function triesOf(upstream, before, now) {
  const old = new Map(before.attempts.map((series) => [JSON.stringify(series.labels), series.value]));
  const scale = 60 / elapsed(before, now);
  const tries = { all: 0, failed: 0 };
  if (before === now) return { all: NaN, failed: NaN };
  for (const { labels, value } of now.attempts) {
    if (labels.upstream !== upstream) continue;
    const grown = growth(old.get(JSON.stringify(labels)) ?? 0, value) * scale;
    tries.all += grown;
    if (labels.result !== "answered" && labels.result !== "abandoned") tries.failed += grown;
  }
  return tries;
}

const ofLimit = (used, limit) => (Number.isFinite(limit) ? `${few(used)} / ${count(limit)}` : few(used));
const parts = (used, aside, word) => (aside > 0 ? `${few(used)}, ${few(aside)} ${word}` : few(used));

/** What an operator should know and would not look for. */
function drawNotes() {
  const notes = [];
  const is = (metric, value) => latest.sum(metric) === value;
  if (is("weir_ready", 0)) notes.push("The gateway is not ready.");
  if (is("weir_ledger_failing", 1)) notes.push(`The ledger cannot be written; ${count(latest.total("weir_ledger_owed_rows"))} rows wait.`);
  if (latest.sum("weir_redis_up", { of: "limits" }) === 0) notes.push("Redis does not answer: limits are in outage mode.");
  if (latest.sum("weir_redis_up", { of: "cache" }) === 0) notes.push("The cache's Redis does not answer: only what is in memory is served from the cache.");
  if (is("weir_config_last_reload_successful", 0)) notes.push("The last reload of the configuration was refused; the one before it is served.");
  const panics = latest.total("weir_panics_total");
  if (panics > 0) notes.push(`${count(panics)} panics since the start: please report them.`);
  byId("gateway-notes").replaceChildren(...notes.map((note) => h("span", { class: "state bad" }, `${note} `)));
}

export async function drawErrors() {
  const { data } = await ask("requests?status=error&limit=8");
  const rows = data.map((request) =>
    row([
      ["When", moment(request.time)],
      ["Cause", request.cause ?? "–"],
      ["Key", request.key],
      ["Model", request.model ?? "–"],
      ["Upstream", request.upstream ?? "–"],
      ["Status", request.http_status ?? "–", "number"],
    ]),
  );
  fill(byId("recent-errors"), rows, "None in the ledger.");
}
