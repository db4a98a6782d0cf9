// Short messages at the foot of the page, read out by screen readers.

import { byId, element, iconButton } from "./dom.js";

/** Show a message; errors stay until they are closed. Returns a function that removes it. */
export function tell(words, { isError = false, seconds = 5, action = null } = {}) {
  const toast = element("div", { class: isError ? "toast error" : "toast", role: isError ? "alert" : null });
  const remove = () => toast.remove();
  if (isError) [...byId("toasts").querySelectorAll(".error")].filter((other) => other.firstChild.textContent === words).forEach((other) => other.remove());
  toast.append(element("span", {}, words));
  if (action) toast.append(element("button", { type: "button", class: "quiet small", on: { click: () => { remove(); action.run(); } } }, action.name));
  toast.append(iconButton("close", "Close", remove));
  byId("toasts").append(toast);
  if (!isError && seconds) setTimeout(remove, seconds * 1000);
  return remove;
}

/** Show an error, unless the user has cancelled. */
export function tellError(error) {
  if (error.name === "AbortError") return;
  const action = error.status === 401 ? { name: "Enter the key", run: () => location.reload() } : null;
  tell(error.message, { isError: true, action });
}

/** Announce to screen readers what is visible on the page. */
export function announce(words) {
  byId("announcement").textContent = words;
}
