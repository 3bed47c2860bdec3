// What teams and keys have spent, against their budgets.

import { ask, open } from "./api.js";
import { byId, count, dollars, fill, h, meter, row } from "./dom.js";
import { Metrics } from "./prometheus.js";

export async function refresh() {
  const from = since(byId("spend-period").value).toISOString();
  const usage = (group) => ask(`usage?group_by=${group}&from=${encodeURIComponent(from)}`);
  const [teams, keys, byTeam, byKey, metrics] = await Promise.all([
    ask("teams"), ask("keys"), usage("team"), usage("key"),
    open("/metrics").then(async (response) => new Metrics(await response.text())),
  ]);
  const { total } = byKey;
  byId("spend-total").textContent = dollars(knownCost(total));
  byId("spend-summary").textContent = [
    `for ${count(total.requests)} requests`,
    `${count(total.prompt_tokens)} prompt tokens`,
    `${count(total.completion_tokens)} generated`,
    total.unpriced_requests > 0 && `${count(total.unpriced_requests)} requests at unknown prices`,
  ].filter(Boolean).join(", ");
  const living = keys.data.filter((key) => key.state !== "revoked" && key.state !== "shadowed");
  table(byId("spend-teams"), "team", teams.data.filter((team) => !team.shadowed), byTeam.data, metrics, "No team is configured.");
  table(byId("spend-keys"), "key", living, byKey.data, metrics, "There is no key.");
}

/** What is known of a cost, as `weir usage` shows it: nothing where some requests are unpriced and the others cost nothing. */
function knownCost({ cost, unpriced_requests }) {
  return unpriced_requests > 0 && Number(cost) === 0 ? null : cost;
}

/** The beginning of a period. Days and months begin as budgets count them, in UTC. */
export function since(period, now = new Date()) {
  const [year, month, day] = [now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()];
  switch (period) {
    case "day": return new Date(Date.UTC(year, month, day));
    case "week": return new Date(Date.UTC(year, month, day - 6));
    default: return new Date(Date.UTC(year, month, 1));
  }
}

function table(body, holder, holders, used, metrics, nothing) {
  const terms = new Map(holders.map((one) => [one.name, one]));
  // Whoever spent most comes first; whoever spent nothing, but could, is there as well.
  const names = [...new Set([...used.map((group) => group.key), ...terms.keys()])];
  const figures = new Map(used.map((group) => [group.key, group]));
  const rows = names.map((name) => {
    const group = figures.get(name) ?? { requests: 0, prompt_tokens: 0, completion_tokens: 0, cost: "0", unpriced_requests: 0 };
    const title = name ?? `no ${holder}`;
    const team = terms.get(name)?.team;
    return row([
      [holder === "team" ? "Team" : "Key", team ? [title, h("span", { class: "sub" }, team)] : title],
      ["Requests", count(group.requests), "number"],
      ["Prompt tokens", count(group.prompt_tokens), "number"],
      ["Generated", count(group.completion_tokens), "number"],
      ["Cost", dollars(knownCost(group)), "number"],
      ["Budgets", budgets(holder, name, terms.get(name)?.budgets ?? [], metrics)],
    ]);
  });
  fill(body, rows, nothing);
}

/** What a holder's budgets are, and how much of each is used. */
function budgets(holder, name, terms, metrics) {
  return terms.map((budget) => {
    const unit = budget.amount === undefined ? "tokens" : "usd";
    const per = budget.window === "rolling" ? `rolling ${budget.per}` : budget.per;
    const used = metrics.sum("weir_budget_used_ratio", { holder, name, unit, per });
    const words = budgetWords(budget);
    return Number.isFinite(used) ? meter(words, used, budget.warn_at) : h("span", { class: "budget" }, words);
  });
}

/** Writes a budget as its words: `$50.00 a month`. */
export function budgetWords({ amount, tokens, per, window }) {
  const size = amount === undefined ? `${count(tokens)} tokens` : dollars(amount.replace(/ USD$/, ""));
  const time = { day: "a day", month: "a month", total: "in all" }[per] ?? per;
  return `${size} ${time}${window === "rolling" ? ", rolling" : ""}`;
}
