// One dialog for whatever must be confirmed, or seen once. Escape closes it, and the focus goes back to where it was.

import { byId, complain, h } from "./dom.js";

let settle = null;

/**
 * Shows a dialog, and returns the button that it was closed by; `null` where it was left. A button is
 * `{ label, kind, act, keepOpen }`: `act` is waited for, and the dialog stays as long as it fails.
 */
export function show({ title, body, buttons }) {
  const dialog = byId("dialog");
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(...body);
  complain(byId("dialog-problem"), null);
  const row = byId("dialog-buttons");
  row.replaceChildren(...buttons.map((button) => h("button", { type: button.kind?.includes("primary") ? "submit" : "button", class: button.kind, onclick: (event) => press(event, button) }, button.label)));
  settle?.(null);
  dialog.showModal();
  return new Promise((resolve) => (settle = resolve));
}

async function press(event, button) {
  event.preventDefault();
  const pressed = event.currentTarget;
  pressed.disabled = true;
  try {
    await button.act?.();
    if (!button.keepOpen) close(button);
  } catch (error) {
    complain(byId("dialog-problem"), error);
  } finally {
    pressed.disabled = false;
  }
}

/** Closes what is open. */
export function close(button = null) {
  const done = settle;
  settle = null;
  byId("dialog").close();
  // What was shown once is not to be found in the page afterwards.
  byId("dialog-body").replaceChildren();
  done?.(button);
}

// The event comes late: by then the next dialog may be open.
byId("dialog").addEventListener("close", () => {
  if (settle && !byId("dialog").open) close();
});
