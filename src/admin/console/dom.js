// Elements, and how figures are written. Whatever comes from the gateway goes into text nodes and attributes alone.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Makes an element: `h("a", { href: "#x", onclick }, "text", child)`. What is null or false is left out. */
export function h(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** Makes an element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Makes a row of a table. Each cell is `[label, content, class]`; the first one names the row. */
export function row(cells) {
  const [[label, content, kind], ...rest] = cells;
  return h(
    "tr",
    { role: "row" },
    h("th", { role: "rowheader", scope: "row", class: kind, "data-label": label }, content),
    rest.map(([label, content, kind]) =>
      h("td", { role: "cell", class: kind, "data-label": label }, h("span", { class: "cell" }, content)),
    ),
  );
}

/**
 * Puts rows into a table's body, or a word where there are none. Whoever stands on a button in it keeps standing there, and
 * what somebody has marked, to copy it, stays until the next time.
 */
export function fill(body, rows, nothing) {
  const marked = getSelection();
  if (!marked.isCollapsed && body.contains(marked.anchorNode)) return;
  const focused = body.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  const columns = body.parentElement.querySelectorAll("thead th").length;
  const empty = h("tr", { role: "row" }, h("td", { role: "cell", class: "empty", colspan: columns }, nothing));
  body.replaceChildren(...(rows.length > 0 ? rows : [empty]));
  if (focused) body.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

/** Shows a state: a dot and a word, so that nobody depends on the colour. */
export const state = (word, kind) => h("span", { class: `state ${kind ?? ""}` }, word);

/** Shows how much of a budget is used, `used` being 1 where it is all. */
export function meter(text, used, warnAt = 0.8) {
  const percent = Math.round(used * 100);
  const bar = h("span", {});
  bar.style.inlineSize = `${Math.min(100, Math.max(0, used * 100))}%`;
  const kind = used >= 1 ? "bad" : used >= warnAt ? "warn" : "accent";
  return h(
    "span",
    { class: "budget" },
    `${percent} % of ${text}`,
    h("span", {
      class: `meter ${kind}`, role: "meter", "aria-label": text,
      "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.min(100, percent), "aria-valuetext": `${percent} %`,
    }, bar),
  );
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const calendar = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

export const count = (number) => (number < 100_000 ? whole.format(number) : compact.format(number));

/** Writes a rate or a small number, with as many digits as say something. */
export function few(number) {
  if (!Number.isFinite(number)) return "–";
  return Number.isInteger(number) ? count(number) : number < 10 ? number.toFixed(number < 1 ? 2 : 1) : count(number);
}

/** Writes seconds as people say them. */
export function seconds(number) {
  if (!Number.isFinite(number)) return "–";
  if (number < 0.0995) return `${(number * 1000).toFixed(number < 0.00995 ? 1 : 0)} ms`;
  if (number < 0.9995) return `${Math.round(number * 1000)} ms`;
  if (number < 99.95) return `${number.toFixed(number < 9.995 ? 2 : 1)} s`;
  if (number < 3600) return `${Math.floor(number / 60)} min ${Math.floor(number % 60)} s`;
  return `${Math.floor(number / 3600)} h ${Math.floor((number % 3600) / 60)} min`;
}

/** Writes US dollars that came as a decimal text, or as a number that is only a rate. */
export function dollars(amount) {
  if (amount === null || amount === undefined || amount === "") return "–";
  const number = Number(amount);
  if (!Number.isFinite(number)) return `${amount}`;
  const digits = number === 0 || Math.abs(number) >= 1 ? 2 : Math.abs(number) >= 0.01 ? 4 : 6;
  return `$${number.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: digits })}`;
}

/** Shows a moment: the hour of today, the day of another; the whole of it on hovering. */
export function moment(text) {
  if (!text) return "–";
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return `${text}`;
  const today = time.toDateString() === new Date().toDateString();
  return h("time", { datetime: text, title: text }, today ? clock.format(time) : `${calendar.format(time)} ${clock.format(time)}`);
}

/** Writes a day. */
export function day(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? `${text}` : h("time", { datetime: text, title: text }, calendar.format(time));
}

/** Says what an error means, and marks the field that it names. */
export function complain(place, error, fields = null) {
  for (const field of fields?.querySelectorAll("[aria-invalid]") ?? []) field.removeAttribute("aria-invalid");
  place.textContent = error ? error.message : "";
  if (!error?.param || !fields) return;
  const named = [...fields.querySelectorAll("[data-field]")].find((field) =>
    error.param === field.dataset.field || error.param.startsWith(`${field.dataset.field}[`) || error.param.startsWith(`${field.dataset.field}.`),
  );
  named?.setAttribute("aria-invalid", "true");
  named?.focus();
}
