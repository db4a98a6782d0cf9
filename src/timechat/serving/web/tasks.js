// The buttons that start a task, and the form for its query.

import { byId, element, icon } from "./dom.js";
import { tellError } from "./status.js";
import { TASKS } from "./tracks.js";

/** `start({task, query, find_all})` starts a task. */
export class TaskButtons {
  constructor(start) {
    this.start = start;
    this.task = null;
    const names = Object.keys(TASKS).filter((task) => task !== "ask");
    byId("task-buttons").append(...names.map((task) => element("button", {
      type: "button", class: "task", title: TASKS[task].hint, "data-task": task, on: { click: ({ detail }) => { if (detail < 2) this.choose(task); } }, // a double click is one
    }, icon(task), element("span", {}, TASKS[task].name))));
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

  submit() {
    const query = byId("task-query").value.trim();
    if (this.task === "grounding" && !query) return;
    const wish = { task: this.task, query: query || null };
    if (this.task === "grounding" && byId("task-all").checked) wish.find_all = true;
    byId("task-query").value = "";
    this.close();
    this.run(wish);
  }

  async run(wish) {
    try { await this.start(wish); } catch (error) { tellError(error); }
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
