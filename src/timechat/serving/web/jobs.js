// Jobs: tasks of the server, followed while they run and kept when the page is reloaded.

import { address, json } from "./api.js";
import { byId, element, icon, iconButton } from "./dom.js";
import { announce, tell, tellError } from "./status.js";
import { formatAgo } from "./time.js";
import { TASKS } from "./track.js";

const STAGES = { decode: "Reading the video", encode: "Encoding the frames", windows: "Answering window by window", answer: "Writing the answer", index: "Reading the videos" };
const FOLLOWED_AT_ONCE = 2; // a browser opens six connections to a server, and the video needs some
const POLL_SECONDS = 2;
const MAX_JOBS = 1000; // number of finished jobs that the server keeps
const AGE_SECONDS = 30;

const isActive = (job) => job.status === "queued" || job.status === "running";
const nameOf = (job) => (isIndex(job) ? "Index" : TASKS[job.task]?.name ?? job.task);
export const isIndex = (job) => job.task === "index";

function stateWords(job) {
  if (job.status === "queued") return "Waiting for its turn";
  if (job.status === "running") {
    const { stage, done } = job.progress ?? {};
    return stage ? `${STAGES[stage] ?? "Working"}, ${Math.floor(100 * done)} %` : "Starting";
  }
  if (job.status === "failed") return job.error?.message ?? "Failed";
  if (job.status === "cancelled") return "Cancelled";
  if (job.found === false) return "Not found in this video";
  return job.num_events ? `${job.num_events} ${job.num_events === 1 ? "event" : "events"}` : "Done";
}

/** Calls `open(job)` when a finished job is clicked, `finished(job)` when a job ends while the page is open, and `indexing(job)` with the job that indexes videos, or null. */
export class Jobs {
  constructor({ open, finished, indexing }) {
    Object.assign(this, { open, finished, indexing });
    this.all = new Map();
    this.followed = new Map();
    this.film = null;
    setInterval(() => this.draw(), AGE_SECONDS * 1000); // updates the ages
  }

  get list() {
    return [...this.all.values()].sort((one, other) => other.created_at - one.created_at);
  }

  async refresh() {
    const { data } = await json(`v1/jobs?limit=${MAX_JOBS}`);
    this.all = new Map(data.map((job) => [job.id, this.latest(job)]));
    this.followActive();
    this.draw();
  }

  start(body) { return this.post("v1/jobs", body); }

  /** Index the videos of the server's folders. */
  startIndex() { return this.post("v1/index", {}); }

  async post(path, body) {
    const job = await json(path, { method: "POST", body });
    this.update(job);
    this.followActive();
    return job;
  }

  /** A job with its answer, which a list may leave out. */
  async whole(job) {
    return job.result ? job : json(`v1/jobs/${encodeURIComponent(job.id)}`);
  }

  followActive() {
    const waiting = this.list.filter((job) => isActive(job) && !this.followed.has(job.id)).reverse();
    for (const job of waiting.slice(0, Math.max(0, FOLLOWED_AT_ONCE - this.followed.size))) this.follow(job.id);
  }

  follow(id) {
    const source = new EventSource(address(`v1/jobs/${encodeURIComponent(id)}/events`));
    this.followed.set(id, source);
    source.addEventListener("progress", (event) => this.update({ ...this.all.get(id), status: "running", progress: JSON.parse(event.data) }));
    source.addEventListener("status", (event) => this.update(JSON.parse(event.data)));
    source.addEventListener("done", (event) => this.ended(id, JSON.parse(event.data)));
    source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) this.poll(id); });
  }

  /** Follow jobs by polling where a stream of events does not work. */
  poll(id) {
    setTimeout(async () => {
      if (!this.followed.has(id)) return;
      try {
        const job = await json(`v1/jobs/${encodeURIComponent(id)}`);
        if (!isActive(job)) return this.ended(id, job);
        this.update(job);
      } catch (error) {
        if (error.status === 404) return this.forget(id);
      }
      return this.poll(id);
    }, POLL_SECONDS * 1000);
  }

  stopFollowing(id) {
    this.followed.get(id)?.close();
    this.followed.delete(id);
  }

  ended(id, job) {
    if (!this.followed.has(id)) return;
    this.stopFollowing(id);
    this.update(job);
    this.finished(job);
    this.followActive();
  }

  forget(id) {
    this.stopFollowing(id);
    this.all.delete(id);
    this.followActive();
    this.draw();
  }

  update(job) {
    this.all.set(job.id, this.latest(job));
    this.draw();
  }

  /** The job, or what is known of it if it has ended: a response can arrive after a later event. */
  latest(job) {
    const known = this.all.get(job.id);
    return known && !isActive(known) && isActive(job) ? known : job;
  }

  async cancel(job) {
    try {
      this.update(await json(`v1/jobs/${encodeURIComponent(job.id)}/cancel`, { method: "POST" }));
    } catch (error) { tellError(error); }
  }

  async remove(job) {
    if (this.asked !== job.id) {
      this.asked = job.id;
      tell(`Press again to delete the result of ${nameOf(job)}.`);
      setTimeout(() => { if (this.asked === job.id) this.asked = null; }, 5000);
      return;
    }
    this.asked = null;
    try {
      await json(`v1/jobs/${encodeURIComponent(job.id)}`, { method: "DELETE" });
      this.forget(job.id);
    } catch (error) { tellError(error); }
  }

  draw() {
    if (this.isDrawing) return; // progress may arrive many times between two frames
    this.isDrawing = true;
    requestAnimationFrame(() => { this.isDrawing = false; this.drawNow(); });
  }

  drawNow() {
    const list = this.list;
    const active = list.filter(isActive);
    this.indexing(active.findLast(isIndex) ?? null);
    byId("job-count").textContent = active.length ? String(active.length) : "";
    this.sync(byId("running"), active.filter((job) => job.video === this.film).reverse(), (job) => this.strip(job));
    const panel = byId("jobs");
    if (!list.length) {
      panel.replaceChildren(element("p", { class: "nothing" }, "Nothing has been looked for yet. Captions, moments and highlights that you start are kept here."));
      return;
    }
    if (!panel.querySelector("ul")) panel.replaceChildren(element("ul", { class: "job-list", "aria-label": "Jobs" }));
    this.sync(panel.querySelector("ul"), list, (job) => this.row(job));
  }

  /** Update the rows; an unchanged job keeps its element and its focus. */
  sync(parent, list, make) {
    const kept = new Map([...parent.children].map((child) => [child.dataset.job, child]));
    const rows = list.map((job) => {
      const version = JSON.stringify([job.status, job.progress, formatAgo(job.created_at)]);
      const old = kept.get(job.id);
      if (old?.dataset.version === version) return old;
      const isFocused = old?.contains(document.activeElement);
      const row = make(job);
      Object.assign(row.dataset, { job: job.id, version });
      if (isFocused) queueMicrotask(() => row.querySelector("button:enabled")?.focus());
      return row;
    });
    if (rows.length !== parent.children.length || rows.some((row, at) => parent.children[at] !== row)) parent.replaceChildren(...rows);
  }

  bar(job) {
    const { stage, done } = job.progress ?? {};
    const bar = element("progress", { max: 1, "aria-label": `${nameOf(job)}: ${stateWords(job)}` });
    if (job.status === "running" && stage) bar.value = done;
    return bar;
  }

  strip(job) {
    return element("div", { class: "running-job", "data-task": job.task },
      icon(job.task),
      element("span", { class: "running-name" }, nameOf(job), job.query ? element("q", {}, job.query) : null),
      element("span", { class: "running-state" }, stateWords(job)),
      this.bar(job),
      iconButton("close", `Cancel ${nameOf(job)}`, () => this.cancel(job)));
  }

  row(job) {
    const isDone = job.status === "succeeded";
    const facts = [job.filename, formatAgo(job.created_at)].filter(Boolean).join(" · ");
    return element("li", { class: "job", "data-task": job.task, "data-status": job.status },
      element("button", { type: "button", class: "job-open", disabled: !isDone || isIndex(job), on: { click: () => this.open(job) } },
        icon(job.task),
        element("span", { class: "job-name" }, nameOf(job), job.query ? element("q", {}, job.query) : null),
        element("span", { class: "job-state" }, stateWords(job)),
        element("span", { class: "job-facts" }, facts)),
      isActive(job) ? this.bar(job) : null,
      isActive(job) ? iconButton("close", `Cancel ${nameOf(job)}`, () => this.cancel(job))
        : iconButton("trash", `Delete the result of ${nameOf(job)}`, (event) => { if (event.detail < 2) this.remove(job); })); // the second click of a double click is no answer
  }
}

/** Show how a job ended; `show` opens the result of a job about another video. */
export function tellEnd(job, show) {
  const name = `${nameOf(job)}${job.query ? ` “${job.query}”` : ""}`;
  if (job.status === "failed") tell(`${name}: ${job.error?.message ?? "failed"}`, { isError: true });
  else if (job.status === "succeeded" && show) tell(`${name}: ${stateWords(job)}`, { action: { name: "Show", run: show } });
  else announce(`${name}: ${stateWords(job)}`);
}
