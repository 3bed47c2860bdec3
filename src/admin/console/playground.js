// A conversation with any model that is routed, streamed. Leaving the page, or Stop, cancels the call at its upstream.

import { Refused, ask, fitsHeader, open } from "./api.js";
import { byId, complain, count, h, seconds } from "./dom.js";
import { events } from "./events.js";

const MODELS_AFTER = 400;

let turns = [];
let running = null;
let listing = null;

/** Takes a key over, from where it was made. */
export function useKey(key) {
  byId("play-key").value = key;
  listModels();
}

export function forget() {
  running?.abort();
  byId("play-key").value = "";
  byId("play-models").replaceChildren();
  clear();
}

const value = (id) => byId(id).value.trim();
const problem = (error) => complain(byId("play-problem"), error);

/** What header names the key that a call of the playground goes on; the admin token goes no further than the admin plane. */
const withKey = () => ({ "x-weir-key": value("play-key") });

/** Offers the models that the key may use. Patterns are in no list: any name can be written. */
async function listModels() {
  try {
    const response = await open("/admin/v1/playground/models", { headers: withKey() });
    const { data } = await response.json();
    byId("play-models").replaceChildren(...data.map((model) => h("option", { value: model.id })));
    if (!value("play-model") && data.length > 0) byId("play-model").value = data[0].id;
    problem(null);
  } catch (error) {
    problem(error);
  }
}

async function makeKey() {
  const button = byId("play-make-key");
  button.disabled = true;
  try {
    const name = `playground-${new Date().toISOString().replace(/\.\d+Z$/, "").replace(/[T:]/g, "-")}`;
    const expires = new Date(Date.now() + 3_600_000).toISOString();
    const made = await ask("keys", { method: "POST", body: { name, expires } });
    useKey(made.key);
    byId("play-facts").textContent = `The key ${made.name} is made, and expires in an hour.`;
  } catch (error) {
    problem(error);
  } finally {
    button.disabled = false;
  }
}

function request(prompt) {
  const body = { model: value("play-model"), stream: true, stream_options: { include_usage: true } };
  if (byId("play-endpoint").value === "completions") body.prompt = prompt;
  else {
    const system = value("play-system");
    body.messages = [...(system ? [{ role: "system", content: system }] : []), ...turns, { role: "user", content: prompt }];
  }
  for (const [field, id] of [["max_tokens", "play-most"], ["temperature", "play-temperature"]]) {
    const number = Number(value(id));
    if (value(id) === "") continue;
    if (!Number.isFinite(number)) throw new Refused(0, { message: `${field} must be a number.` });
    body[field] = number;
  }
  return body;
}

async function send(event) {
  event.preventDefault();
  const prompt = byId("play-prompt").value.trim();
  if (running) return;
  problem(null);
  if (!value("play-key")) return demand("play-key", "A key of the gateway is needed.");
  if (!fitsHeader(value("play-key"))) return demand("play-key", "No key looks like that.");
  if (!value("play-model")) return demand("play-model", "Which model?");
  if (!prompt) return demand("play-prompt", "There is nothing to send.");
  const [asked, answer, controller] = [turn("user", prompt), turn("assistant", ""), new AbortController()];
  running = controller;
  busy(answer, true);
  try {
    await exchange(prompt, answer, controller.signal);
    byId("play-prompt").value = "";
  } catch (error) {
    if (error.name === "AbortError") byId("play-facts").textContent += " Stopped.";
    else problem(error);
    // What was said is kept on the screen; what was not answered is no part of the conversation.
    if (!answer.lastChild.data) {
      answer.remove();
      asked.remove();
    }
  } finally {
    running = null;
    busy(answer, false);
  }
}

async function exchange(prompt, answer, signal) {
  const began = performance.now();
  const facts = { began, first: null, usage: null };
  byId("play-facts").textContent = "Asking…";
  const response = await open(`/admin/v1/playground/${byId("play-endpoint").value}`, { method: "POST", body: request(prompt), headers: withKey(), signal });
  facts.headers = response.headers;
  const text = answer.lastChild;
  const streams = response.headers.get("content-type")?.startsWith("text/event-stream");
  for await (const data of streams ? events(response.body) : [await response.text()]) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(0, chunk.error);
    facts.usage = chunk.usage ?? facts.usage;
    const [choice] = chunk.choices ?? [];
    const piece = choice?.delta?.content ?? choice?.message?.content ?? choice?.text;
    if (!piece) continue;
    facts.first ??= performance.now();
    text.appendData(piece);
    tell(facts);
  }
  facts.ended = performance.now();
  tell(facts);
  turns.push({ role: "user", content: prompt }, { role: "assistant", content: text.data });
}

function tell({ began, first, ended, usage, headers }) {
  const total = (ended ?? performance.now()) - began;
  const words = [
    headers.get("x-weir-upstream") && `from ${headers.get("x-weir-upstream")}`,
    first && `first token after ${seconds((first - began) / 1000)}`,
    ended && `all after ${seconds(total / 1000)}`,
    usage && `${count(usage.prompt_tokens)} + ${count(usage.completion_tokens)} tokens`,
    usage && ended > first && usage.completion_tokens > 1 && `${Math.round((usage.completion_tokens * 1000) / (ended - first))} a second`,
    ended && headers.get("cache-status"),
    ended && headers.get("x-request-id"),
  ];
  byId("play-facts").textContent = words.filter(Boolean).join(" · ");
}

function turn(role, text) {
  const shown = h("div", { class: `turn ${role}` }, h("b", {}, role === "user" ? "You" : value("play-model")), document.createTextNode(text));
  byId("play-turns").append(shown);
  return shown;
}

/** While an answer is read aloud word by word nobody can listen: it is told when it is whole. */
function busy(answer, is) {
  answer.setAttribute("aria-busy", is);
  byId("play-turns").setAttribute("aria-busy", is);
  byId("play-send").disabled = is;
  byId("play-stop").disabled = !is;
  if (is) answer.scrollIntoView({ block: "nearest" });
  else byId("play-prompt").focus();
}

function demand(id, message) {
  problem(new Error(message));
  byId(id).focus();
}

function clear() {
  running?.abort();
  turns = [];
  byId("play-turns").replaceChildren();
  byId("play-facts").textContent = "";
  problem(null);
}

byId("playground-form").addEventListener("submit", send);
byId("play-stop").addEventListener("click", () => running?.abort());
byId("play-clear").addEventListener("click", clear);
byId("play-make-key").addEventListener("click", makeKey);
byId("play-key").addEventListener("input", () => {
  clearTimeout(listing);
  if (value("play-key").length >= 8 && fitsHeader(value("play-key"))) listing = setTimeout(listModels, MODELS_AFTER);
});
byId("play-endpoint").addEventListener("change", () => {
  const chats = byId("play-endpoint").value === "chat/completions";
  byId("play-system").hidden = byId("play-system-label").hidden = !chats;
});
byId("play-prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("playground-form").requestSubmit();
});
