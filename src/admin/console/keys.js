// Keys: made, rotated and revoked. A secret is shown once, and kept nowhere.

import { ask } from "./api.js";
import { show } from "./dialog.js";
import { byId, complain, day, fill, h, row, state } from "./dom.js";
import { useKey } from "./playground.js";
import { budgetWords } from "./spend.js";

const STATES = {
  active: ["active", "good"], expired: ["expired", "warn"], revoked: ["revoked", ""], shadowed: ["shadowed by the configuration", "warn"],
  team_missing: ["its team is gone", "bad"], uncounted: ["not counted yet", "warn"],
};

export async function refresh() {
  const [keys, teams] = await Promise.all([ask("keys"), ask("teams")]);
  const shown = keys.data.filter((key) => key.state !== "revoked" || byId("keys-revoked").checked);
  fill(byId("keys-rows"), shown.map(keyRow), "There is no key yet.");
  const select = byId("key-team");
  const names = ["", ...teams.data.filter((team) => !team.shadowed).map((team) => team.name)];
  // A choice that somebody is about to make stays.
  if (names.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => h("option", { value: name }, name || "none")));
    select.value = names.includes(chosen) ? chosen : "";
  }
}

function keyRow(key) {
  const [word, kind] = STATES[key.state] ?? [key.state, ""];
  return row([
    ["Name", [key.name, h("span", { class: "sub mono" }, key.id ?? "of the configuration")]],
    ["State", [state(word, kind), key.previous && h("span", { class: "sub" }, "also ", h("code", {}, key.previous.id), " until ", day(key.previous.expires))]],
    ["Team", key.team ?? "–"],
    ["Models", key.models.join(", ")],
    ["Budgets", key.budgets.length > 0 ? key.budgets.map((budget) => h("span", { class: "budget" }, budgetWords(budget))) : "–"],
    ["Expires", key.expires ? day(key.expires) : "never"],
    ["Actions", actions(key)],
  ]);
}

function actions(key) {
  if (key.source !== "admin" || key.state === "revoked") return "–";
  const button = (word, kind, act) => h("button", { type: "button", class: `small ${kind}`, "aria-label": `${word} ${key.name}`, "data-focus": `${word} ${key.id}`, onclick: () => act(key) }, word);
  return h("span", { class: "buttons" }, button("Rotate", "", rotate), button("Revoke", "danger", revoke));
}

/** A key is named by its id where it has one: the configuration may have another of its name. */
const path = (key) => `keys/${encodeURIComponent(key.id ?? key.name)}`;

async function make(event) {
  event.preventDefault();
  const [form, problem] = [byId("new-key-form"), byId("new-key-problem")];
  complain(problem, null, form);
  try {
    const made = await ask("keys", { method: "POST", body: terms() });
    form.reset();
    byId("new-key").open = false;
    await Promise.all([reveal(made, `The key ${made.name} is made`), refresh()]);
    byId("new-key").querySelector("summary").focus();
    say(`The key ${made.name} is made.`);
  } catch (error) {
    complain(problem, error, form);
  }
}

/** What the form says of a key. What is left empty is not said. */
function terms() {
  const value = (id) => byId(id).value.trim();
  const terms = { name: value("key-name") };
  if (value("key-team")) terms.team = value("key-team");
  if (value("key-models")) terms.models = value("key-models").split(",").map((pattern) => pattern.trim()).filter(Boolean);
  if (value("key-expires")) terms.expires = value("key-expires");
  if (value("key-budget")) terms.budgets = [{ amount: `${value("key-budget").replace(/^\$|\s*USD$/gi, "")} USD`, per: value("key-per") }];
  if (value("key-requests")) {
    const requests = Number(value("key-requests"));
    terms.limits = { requests_per_minute: Number.isInteger(requests) ? requests : value("key-requests") };
  }
  return terms;
}

/** Shows a secret for the only time that there is. */
async function reveal(made, title) {
  const secret = h("code", { class: "secret", "data-secret": true }, made.key);
  const said = h("p", { class: "muted", role: "status" }, "It is shown this once. Copy it to where it will be used.");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(made.key);
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(secret);
      said.textContent = "The browser does not let this page copy: it is marked now, copy it by the keyboard.";
    }
  };
  const pressed = await show({
    title,
    body: [secret, said],
    buttons: [
      { label: "Try it", act: () => useKey(made.key) },
      { label: "Copy", act: copy, keepOpen: true },
      { label: "Done", kind: "primary" },
    ],
  });
  if (pressed?.label === "Try it") location.hash = "#playground";
}

async function rotate(key) {
  const grace = h("select", { id: "grace" }, h("option", { value: "24h" }, "for 24 hours"), h("option", { value: "1h" }, "for an hour"), h("option", { value: "168h" }, "for a week"), h("option", { value: "0" }, "not at all"));
  const force = h("input", { type: "checkbox", id: "force" });
  let made = null;
  const act = async () => (made = await ask(`${path(key)}/rotate`, { method: "POST", body: { grace: grace.value, force: force.checked } }));
  const body = [
    h("p", {}, "The key gets another secret, and keeps its name, its terms and what it has used."),
    h("p", {}, h("label", { for: "grace" }, "The secret of now stays valid"), grace),
  ];
  // Two secrets are the most: what is left of the time of the older one ends by this.
  if (key.previous) body.push(h("p", {}, h("label", {}, force, ` End ${key.previous.id}, from before the last rotation, now`)));
  const pressed = await show({ title: `Rotate ${key.name}`, body, buttons: [{ label: "Cancel" }, { label: "Rotate", kind: "primary", act }] });
  if (pressed?.label !== "Rotate") return;
  await Promise.all([reveal(made, `The new secret of ${key.name}`), refresh()]);
  say(`The key ${key.name} is rotated.`);
}

async function revoke(key) {
  const act = () => ask(path(key), { method: "DELETE" });
  const pressed = await show({
    title: `Revoke ${key.name}?`,
    body: [h("p", {}, "It opens nothing from now on. This cannot be undone, and its name is not given again.")],
    buttons: [{ label: "Cancel" }, { label: "Revoke", kind: "primary danger", act }],
  });
  if (pressed?.label !== "Revoke") return;
  await refresh();
  say(`The key ${key.name} is revoked.`);
}

function say(words) {
  byId("keys-said").textContent = words;
}

byId("new-key-form").addEventListener("submit", make);
byId("keys-revoked").addEventListener("change", () => refresh().catch((error) => say(error.message)));
