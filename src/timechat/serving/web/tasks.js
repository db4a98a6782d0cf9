// The buttons that start a task, and the form for its query.

import { byId, element, icon } from "./dom.js";
import { markOverflow } from "./overflow.js";
import { tellError } from "./status.js";
import { TASKS } from "./track.js";

/** `start({task, query, find_all})` starts a task. */
export class TaskButtons {
  constructor(start) {
    this.start = start;
    this.task = null;
    const names = Object.keys(TASKS).filter((task) => task !== "ask");
    byId("task-buttons").append(...names.map((task) => element("button", {
      type: "button", class: "task", title: TASKS[task].hint, "data-task": task, on: { click: ({ detail }) => { if (detail < 2) this.choose(task); } }, // a double click is one
    }, icon(task), element("span", {}, TASKS[task].name))));
    markOverflow(byId("task-buttons"));
    byId("task-form").addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
    byId("task-close").addEventListener("click", () => this.leave());
    byId("task-query").addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); this.leave(); } });
  }

  set isReady(isReady) {
    for (const button of byId("task-buttons").children) button.disabled = !isReady;
    if (!isReady) this.close();
  }

  choose(task) {
    if (!TASKS[task].query) { this.close(); this.run({ task }); return; }
    if (this.task === task) { this.close(); return; }
    this.task = task;
    this.mark();
    byId("task-form").hidden = false;
    byId("task-all-label").hidden = task !== "grounding";
    byId("task-start").textContent = task === "grounding" ? "Find" : "Start";
    const query = byId("task-query");
    query.required = task === "grounding";
    query.placeholder = TASKS[task].query;
    query.setAttribute("aria-label", TASKS[task].query);
    query.focus();
  }

  /** Start the task of the form. The form stays, with its query, until the server has accepted the task. */
  async submit() {
    const query = byId("task-query").value.trim();
    const { task } = this;
    if (this.isStarting || (task === "grounding" && !query)) return;
    const wish = { task, query: query || null };
    if (task === "grounding" && byId("task-all").checked) wish.find_all = true;
    this.isStarting = true;
    const isStarted = await this.run(wish);
    this.isStarting = false;
    if (!isStarted || this.task !== task) return;
    byId("task-query").value = "";
    if (byId("task-form").contains(document.activeElement)) this.leave();
    else this.close();
  }

  /** Start a task; false if the server does not accept it. */
  async run(wish) {
    try { await this.start(wish); return true; } catch (error) { tellError(error); return false; }
  }

  /** Close the form and give the focus back to the button of its task. */
  leave() {
    const { task } = this;
    this.close();
    byId("task-buttons").querySelector(`[data-task="${task}"]`)?.focus();
  }

  close() {
    this.task = null;
    byId("task-form").hidden = true;
    this.mark();
  }

  mark() {
    for (const button of byId("task-buttons").children) {
      if (TASKS[button.dataset.task].query) button.setAttribute("aria-expanded", String(button.dataset.task === this.task));
    }
  }
}
