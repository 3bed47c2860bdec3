// What would become of a call, told without making it.

import { ask } from "./api.js";
import { byId, complain, count, dollars, fill, h, moment, row, seconds, state } from "./dom.js";

/** Offers the names of the keys. */
export async function refresh() {
  const { data } = await ask("keys");
  const names = data.filter((key) => key.state !== "revoked").map((key) => key.name);
  byId("explain-keys").replaceChildren(...names.map((name) => h("option", { value: name })));
}

/** The question as JSON text. A body that was written stays as it is, byte for byte: what is wrong with it is to be told. */
function question() {
  const value = (id) => byId(id).value.trim();
  const [key, path, model, body] = [value("explain-key"), value("explain-path"), value("explain-model"), value("explain-body")];
  const usual = path === "/v1/chat/completions" ? { messages: [{ role: "user", content: "Hello!" }] } : path === "/v1/completions" ? { prompt: "Hello!" } : { input: "Hello!" };
  const asked = body || JSON.stringify(model ? { model, ...usual } : usual);
  return `{"key":${JSON.stringify(key)},"path":${JSON.stringify(path)},"body":${asked}}`;
}

async function explain(event) {
  event.preventDefault();
  const [problem, answer] = [byId("explain-problem"), byId("explain-answer")];
  complain(problem, null);
  try {
    const outlook = await ask("explain", { method: "POST", body: question() });
    answer.replaceChildren(...words(outlook));
  } catch (error) {
    answer.replaceChildren();
    complain(problem, error);
  }
}

function words({ verdict, key, request, route, estimate, limits, budgets, cache, targets }) {
  const served = verdict.outcome === "served";
  return [
    h("div", { class: `card verdict ${served ? "good" : "bad"}` },
      h("strong", {}, served ? "It would be served" : `It would be refused: ${verdict.status} ${verdict.code ?? ""}`),
      h("span", {}, verdict.message ?? ""),
      verdict.retry_after_ms !== null && h("span", { class: "sub" }, `Again in ${seconds(verdict.retry_after_ms / 1000)}.`)),
    pairs([
      ["Key", key.found ? [key.name, key.team && `team ${key.team}`, key.state].filter(Boolean).join(", ") : (key.reason ?? "not known")],
      ["Request", [request.method, request.path, request.model && `model ${request.model}`, request.stream && "streamed", request.error].filter(Boolean).join(", ")],
      ["Route", route && [route.pattern ?? "by its path", `shared by ${route.balance}`].join(", ")],
      ["Estimate", estimate && [`${count(estimate.prompt_tokens)} prompt tokens (${estimate.prompt_from})`, `${count(estimate.completion_tokens)} generated (${estimate.completion_from})`, estimate.cost ? dollars(estimate.cost) : "no price is known"].join(", ")],
      ["Cache", `${cache.decision}: ${cache.reason}`],
    ]),
    ...table("Places, in the order in which they would be asked", ["Upstream", "State", "Model there", "Turn", "Asked first"], targets.map((target) => [
      [target.upstream, h("span", { class: "sub mono" }, target.endpoint)],
      state(target.state, target.state === "healthy" ? "good" : target.state === "ejected" ? "bad" : "warn"),
      target.model ?? "–",
      `${target.turn.replaceAll("_", " ")}, priority ${target.priority}`,
      `${target.first_percent} %`,
    ])),
    ...table("Limits", ["Limit", "Of", "Models", "Left", "Takes", "Says"], limits.map((limit) => [
      [limit.dimension.replaceAll("_", " "), limit.shadow && h("span", { class: "sub" }, "shadow")],
      [limit.of, limit.name].filter(Boolean).join(" "),
      limit.models.join(", ") || "all",
      `${count(limit.remaining)} of ${count(limit.limit)}`,
      count(limit.wanted),
      verdictOf(limit),
    ])),
    ...table("Budgets", ["Budget", "Of", "Used", "Reserved", "Takes", "Says"], budgets.map((budget) => [
      [`${amount(budget.limit, budget)} per ${budget.per}`, budget.renewed && h("span", { class: "sub" }, "anew ", moment(budget.renewed))],
      `${budget.of} ${budget.name}`,
      amount(budget.used, budget),
      amount(budget.reserved, budget),
      amount(budget.wanted, budget),
      verdictOf(budget),
    ])),
  ];
}

const amount = (value, { unit }) => (unit === "usd" ? dollars(value) : `${count(value)} tokens`);
const verdictOf = ({ refuses, shadow }) => (refuses ? state(shadow ? "would refuse" : "refuses", shadow ? "warn" : "bad") : state("has room", "good"));
const pairs = (list) => h("dl", { class: "card pairs" }, list.filter(([, words]) => words).flatMap(([name, words]) => [h("dt", {}, name), h("dd", {}, words)]));

function table(title, labels, lines) {
  if (lines.length === 0) return [];
  const body = h("tbody", { role: "rowgroup" });
  const head = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, labels.map((label) => h("th", { role: "columnheader", scope: "col" }, label))));
  const made = h("table", { class: "card", role: "table", "aria-label": title }, head, body);
  fill(body, lines.map((line) => row(line.map((content, index) => [labels[index], content]))), "");
  return [h("h2", {}, title), made];
}

export function forget() {
  byId("explain-form").reset();
  byId("explain-answer").replaceChildren();
}

byId("explain-form").addEventListener("submit", explain);
