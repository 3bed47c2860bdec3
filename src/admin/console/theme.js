// Light, dark, or as the system has it.

import { byId } from "./dom.js";

const PLACE = "weir.theme";
const THEMES = ["system", "light", "dark"];

function apply(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

let theme = THEMES.includes(localStorage.getItem(PLACE)) ? localStorage.getItem(PLACE) : "system";
apply(theme);

byId("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  localStorage.setItem(PLACE, theme);
  apply(theme);
});
