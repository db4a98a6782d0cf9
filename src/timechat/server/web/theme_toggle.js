// The button that changes between light and dark, and remembers it.

import { byId } from "./dom.js";

export function startTheme() {
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  byId("toggle-theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("timechat.theme", root.dataset.theme);
  });
}
