// The console: signs in, shows one view at a time, and keeps what it shows current as long as somebody can see it.

import { session, signIn, signOut, token } from "./api.js";
import { close } from "./dialog.js";
import { byId, complain } from "./dom.js";
import * as explain from "./explain.js";
import * as keys from "./keys.js";
import * as overview from "./overview.js";
import * as playground from "./playground.js";
import * as requests from "./requests.js";
import * as spend from "./spend.js";
import "./theme.js";

/** How often the metrics are looked at, and how often everything else, in milliseconds. */
const LOOK_EVERY = 2_000;
const READ_EVERY = 10_000;

/** What each view shows, and how it is brought up to date. */
const VIEWS = {
  overview: { refresh: overview.drawErrors },
  spend: { refresh: spend.refresh },
  keys: { refresh: keys.refresh },
  requests: { refresh: requests.refresh },
  playground: {},
  explain: { refresh: explain.refresh },
};

let current = "overview";
/** The timers and what they do end with the session that began them. */
let ended = new AbortController();

function show() {
  const asked = location.hash.slice(1);
  // The skip link's target is no view.
  if (asked === "content") return;
  current = asked in VIEWS ? asked : "overview";
  for (const name of Object.keys(VIEWS)) byId(name).hidden = name !== current;
  for (const link of byId("nav").children) {
    if (link.hash === `#${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  document.title = `${byId(`${current}-title`).textContent} · Weir`;
}

/** Brings the current view up to date. */
const read = () => attempt(async () => {
  await VIEWS[current].refresh?.();
});

const look = () => attempt(async () => {
  await overview.look();
  if (current === "overview") overview.draw();
});

/** Does something, and says whether the gateway could be asked. */
async function attempt(work) {
  try {
    await work();
    pulse(true);
  } catch (error) {
    if (token()) pulse(false, error.message);
  }
}

function pulse(alive, words = "") {
  const place = byId("pulse");
  const text = alive ? "live" : words;
  place.classList.toggle("lost", !alive);
  // Told anew only when it changes: whoever listens is not told every two seconds.
  if (place.textContent !== text) place.textContent = text;
}

/** Does something again and again, while the page can be seen, the next time only when it was done before. */
async function keep(work, every, signal) {
  while (!signal.aborted) {
    const began = performance.now();
    if (!document.hidden) await work();
    // A gateway that is slow to tell is asked less often.
    const pause = Math.max(every, (performance.now() - began) * 10);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function begin() {
  byId("login").hidden = true;
  for (const id of ["nav", "sign-out", "pulse"]) byId(id).hidden = false;
  ended = new AbortController();
  show();
  keep(look, LOOK_EVERY, ended.signal);
  keep(read, READ_EVERY, ended.signal);
}

function end(reason) {
  ended.abort();
  close();
  overview.forget();
  playground.forget();
  explain.forget();
  for (const body of document.querySelectorAll("main tbody")) body.replaceChildren();
  for (const id of [...Object.keys(VIEWS), "nav", "sign-out", "pulse"]) byId(id).hidden = true;
  byId("login").hidden = false;
  document.title = "Sign in · Weir";
  complain(byId("login-problem"), reason ? new Error(reason) : null);
  byId("token").value = "";
  byId("token").focus();
}

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("token");
  complain(byId("login-problem"), null);
  field.removeAttribute("aria-invalid");
  try {
    await signIn(field.value.trim());
    field.value = "";
    begin();
    byId("content").focus({ preventScroll: true });
  } catch (error) {
    field.setAttribute("aria-invalid", "true");
    complain(byId("login-problem"), error.isOfToken ? new Error("That is not the admin token of this gateway.") : error);
    field.select();
    field.focus();
  }
});
byId("sign-out").addEventListener("click", () => signOut());
byId("spend-period").addEventListener("change", read);
session.addEventListener("ended", ({ detail }) => end(detail));
addEventListener("hashchange", () => {
  if (!token()) return;
  show();
  read();
  if (current === "overview") overview.draw();
});
document.addEventListener("visibilitychange", () => !document.hidden && token() && read());

if (token()) begin();
else end("");
