// The button that switches between light and dark, and stores the choice.

import { byId } from "./dom.js";
import { browserKept } from "./storage.js";

export function startTheme() {
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  byId("toggle-theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    browserKept.set("timechat.theme", root.dataset.theme);
  });
}
