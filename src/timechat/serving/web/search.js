// Search in all indexed videos: the box above the list, the moments that were found, and the state of the index.

import { json, thumbnailAddress } from "./api.js";
import { byId, element, icon, iconButton } from "./dom.js";
import { announce, tell, tellError } from "./status.js";
import { formatRange } from "./time.js";

const BEST = 24;
const THUMBNAIL_HEIGHT = 180;
const SOURCES = { picture: "seen", speech: "said", text: "on screen", caption: "caption" };

const percent = (score) => `${Math.round(100 * score)} %`;

/** `open(moment, result)` is called with a moment that was chosen and the result with the shown moments, `startIndex()` and `cancel(job)` for jobs. */
export class Search {
  constructor({ open, startIndex, cancel }) {
    Object.assign(this, { open, startIndex, cancel });
    this.library = null;
    this.result = null;
    this.job = null;
    this.numFilms = 0;
    this.turn = 0;
    byId("search-form").addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    byId("search-words").addEventListener("input", (event) => { if (!event.target.value) this.clear(); });
    byId("search-words").addEventListener("keydown", (event) => { if (event.key === "Escape") { event.target.value = ""; this.clear(); } });
  }

  /** Read the state of the library, and show the moments again. */
  async refresh(films) {
    this.numFilms = films.filter((film) => film.purpose === "library").length;
    this.library = await json("v1/library");
    byId("search").hidden = !this.library.exists && !(this.library.can_index && this.numFilms);
    this.drawState();
    this.draw();
  }

  async run() {
    const query = byId("search-words").value.trim();
    if (!query) { this.clear(); byId("search-words").focus(); return; }
    const turn = ++this.turn;
    this.setBusy(true);
    try {
      const result = await json("v1/search", { method: "POST", body: { query, best: BEST } });
      if (turn !== this.turn) return;
      this.result = result;
      this.draw();
      announce(`${this.headline()}: ${this.moments.length}`);
    } catch (error) {
      if (turn !== this.turn) return;
      if (error.code === "no_library") { this.library = { ...this.library, exists: false }; this.clear(); this.drawState(); }
      else tellError(error);
    } finally {
      if (turn === this.turn) this.setBusy(false);
    }
  }

  clear() {
    this.turn++;
    this.result = null;
    this.setBusy(false);
    this.draw();
  }

  setBusy(isBusy) {
    byId("search-results").setAttribute("aria-busy", String(isBusy));
    byId("search-start").disabled = isBusy;
    byId("search-start").textContent = isBusy ? "Searching …" : "Search";
  }

  // ------------------------------------------------------------------ results

  /** The moments that count as found; all of them if none does. */
  get moments() {
    const { found, threshold, moments } = this.result;
    return found ? moments.filter((moment) => moment.score >= threshold) : moments;
  }

  headline() {
    const { query, found, moments } = this.result;
    if (!moments.length) return `Nothing was found for “${query}”.`;
    if (!found) return `Nothing matches “${query}” well. These moments are the nearest.`;
    return `Moments for “${query}”`;
  }

  draw() {
    const { result } = this;
    if (!result) { byId("search-results").replaceChildren(); return; }
    byId("search-results").replaceChildren(
      element("div", { class: "search-head" }, element("h2", {}, this.headline()),
        iconButton("close", "Close the results", () => { byId("search-words").value = ""; this.clear(); byId("search-words").focus(); })),
      ...result.notes.map((note) => element("p", { class: "search-note" }, note)),
      ...(result.moments.length ? [element("ul", {}, ...this.moments.map((moment) => this.card(moment)))] : []));
  }

  card(moment) {
    const name = moment.filename.split("/").at(-1);
    const image = element("img", { fetchpriority: "low", loading: "lazy", src: thumbnailAddress(moment.video, (moment.start + moment.end) / 2, THUMBNAIL_HEIGHT), alt: "" });
    image.addEventListener("error", () => image.replaceWith(icon("film")));
    const sources = moment.by.map((source) => SOURCES[source] ?? source).join(", ");
    const content = [
      element("span", { class: "film-picture" }, moment.offline ? icon("film") : image,
        element("span", { class: "film-length" }, formatRange(moment)),
        element("span", { class: "film-opening" }, element("span", { class: "spinner" }), "Opening …")),
      element("span", { class: "film-name", title: moment.filename }, name),
      moment.text ? element("span", { class: "moment-words", dir: "auto" }, `“${moment.text}”`) : null,
      element("span", { class: "moment-score", title: "How probably this moment matches" },
        element("span", { class: "row-score", "aria-hidden": "true" }, element("i", { style: { width: `${100 * moment.score}%` } })),
        element("span", {}, `${percent(moment.score)} · ${sources}`)),
    ];
    if (moment.offline) {
      return element("li", { class: "film-card is-offline" }, element("div", { class: "film-open" }, ...content,
        element("span", { class: "film-facts" }, "The file is not there now.")));
    }
    const query = new URLSearchParams({ film: moment.video, t: String(moment.start) });
    const card = element("li", { class: "film-card" }, element("a", { class: "film-open", href: `?${query}`, on: { click: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // another tab or window
      event.preventDefault();
      card.setAttribute("aria-busy", "true");
      this.open(moment, { ...this.result, moments: this.moments }).finally(() => card.removeAttribute("aria-busy"));
    } } }, ...content));
    return card;
  }

  // ------------------------------------------------------------------ index

  /** Show the progress of the job that indexes videos; null if there is none. */
  showJob(job) {
    if (job === this.job || (!job && !this.job)) return;
    this.job = job;
    if (this.library) this.drawState();
  }

  /** Say how a job that indexed videos has ended. */
  ended({ status, error, result }) {
    if (status === "failed") tell(`The videos were not indexed: ${error?.message ?? "failed"}`, { isError: true });
    const failed = Object.entries(result?.failed ?? {});
    if (failed.length) {
      const more = failed.length > 1 ? `, and ${failed.length - 1} more` : "";
      tell(`Could not be read: ${failed[0][0]} (${failed[0][1]})${more}.`, { isError: true });
    }
    if (status === "succeeded") announce("The videos are indexed.");
  }

  drawState() {
    const state = byId("search-state");
    const { library, job } = this;
    const numLeft = this.numFilms - library.num_videos;
    byId("search-form").hidden = !library.exists;
    if (job) {
      const { stage, done, message } = job.progress ?? {};
      const bar = element("progress", { max: 1, "aria-label": "Indexing the videos" });
      if (stage && done) bar.value = done;
      state.replaceChildren(
        element("span", { class: "search-progress" }, `Indexing the videos${done ? `, ${Math.floor(100 * done)} %` : ""}${message ? ` · ${message}` : ""}`),
        element("button", { type: "button", class: "quiet small", on: { click: () => this.cancel(job) } }, "Cancel"), bar);
    } else if (library.can_index && numLeft > 0) {
      const words = library.num_videos ? `${library.num_videos} of ${this.numFilms} videos are indexed.`
        : "Search finds moments in all videos of the library. The videos must be indexed first.";
      state.replaceChildren(element("span", {}, words), element("button", { type: "button", class: library.num_videos ? "quiet small" : "primary small",
        on: { click: (event) => { event.target.disabled = true; this.startIndex().catch((error) => { event.target.disabled = false; tellError(error); }); } } },
      library.num_videos ? "Index the others" : "Index the videos"));
    } else {
      state.replaceChildren();
    }
  }
}
