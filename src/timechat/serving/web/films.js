// The list of videos: uploads, the library of the server, and new files.

import { json, thumbnailAddress, upload } from "./api.js";
import { byId, element, icon, iconButton } from "./dom.js";
import { announce, tell, tellError } from "./status.js";
import { formatBytes, formatLength } from "./time.js";

const MANY = 8;

/** `open(film)` is called with a video of the server; `openFile(file, name)` with a dropped file. */
export class Films {
  constructor({ open, openFile }) {
    this.open = open;
    this.openFile = openFile;
    this.films = [];
    byId("choose-file").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", (event) => {
      if (event.target.files[0]) this.openFile(event.target.files[0]);
      event.target.value = "";
    });
    byId("film-search").addEventListener("input", () => this.draw());
    this.listenForDrops();
  }

  listenForDrops() {
    const over = byId("drop-over");
    const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      over.hidden = false;
    });
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over.hidden = true; });
    document.addEventListener("drop", (event) => {
      over.hidden = true;
      if (!hasFile(event)) return;
      event.preventDefault();
      if (event.dataTransfer.files[0]) this.openFile(event.dataTransfer.files[0]);
    });
  }

  /** Read the list and show it. `showAbove(films)` shows what stands above it first: a list that moves during a click loses the click. */
  async refresh(showAbove = async () => {}) {
    const films = (await json("v1/files")).data;
    await showAbove(films);
    const list = byId("film-list");
    const isShown = list.firstChild && !list.querySelector("img:not([src])") && JSON.stringify(films) === JSON.stringify(this.films);
    this.films = films;
    if (!isShown) this.draw(); // a card that is replaced during a click loses the click
  }

  draw() {
    byId("film-filter").hidden = this.films.length <= MANY;
    const words = byId("film-search").value.trim().toLowerCase();
    const shown = this.films.filter((film) => film.filename.toLowerCase().includes(words));
    const uploads = shown.filter((film) => film.purpose !== "library");
    const library = shown.filter((film) => film.purpose === "library");
    byId("film-list").replaceChildren(...this.shelf("Your videos", uploads), ...this.shelf("Library", library),
      ...(words && !shown.length ? [element("p", { class: "nothing" }, "No video has this in its name.")] : []));
  }

  /** Show that a video of the list is about to open. Its request does not wait for thumbnails: those are no longer fetched. */
  startOpening(id) {
    const card = byId("film-list").querySelector(`[data-film="${CSS.escape(id)}"]`);
    card?.setAttribute("aria-busy", "true");
    if (card) announce(`Opening ${card.querySelector(".film-name").textContent}`);
    this.stopThumbnails();
  }

  endOpening() { byId("film-list").querySelector("[aria-busy]")?.removeAttribute("aria-busy"); }

  /** End all requests for thumbnails that have no response yet. */
  stopThumbnails() {
    for (const image of byId("films").querySelectorAll("img")) if (!image.complete) image.removeAttribute("src");
  }

  shelf(title, films) {
    if (!films.length) return [];
    return [element("section", { class: "shelf", "aria-label": title },
      element("h2", {}, title, element("span", { class: "count" }, String(films.length))),
      element("ul", {}, ...films.map((film) => this.card(film))))];
  }

  card(film) {
    const image = element("img", { fetchpriority: "low", loading: "lazy", src: thumbnailAddress(film.id, film.video ? film.video.duration / 3 : 1, 180), alt: "" });
    image.addEventListener("error", () => image.replaceWith(icon("film")));
    const folder = film.filename.split("/");
    const name = folder.pop();
    const facts = [folder.join("/"), formatBytes(film.bytes)].filter(Boolean).join(" · ");
    const card = element("li", { class: "film-card", "data-film": film.id },
      element("button", { type: "button", class: "film-open", on: { click: () => this.open(film) } },
        element("span", { class: "film-picture" }, image,
          film.video ? element("span", { class: "film-length" }, formatLength(film.video.duration)) : null,
          element("span", { class: "film-opening" }, element("span", { class: "spinner" }), "Opening …")),
        element("span", { class: "film-name", title: film.filename }, name),
        element("span", { class: "film-facts" }, facts)));
    if (film.purpose !== "library") card.append(iconButton("trash", `Delete ${name}`, (event) => { if (event.detail < 2) this.remove(film, card); }, { // the second click of a double click is no answer
       class: "icon-button small film-delete" }));
    return card;
  }

  async remove(film, card) {
    if (card.dataset.isAsked !== "true") {
      card.dataset.isAsked = "true";
      card.querySelector(".film-delete").focus();
      tell(`Press again to delete ${film.filename} from the server.`);
      setTimeout(() => { delete card.dataset.isAsked; }, 5000);
      return;
    }
    try {
      await json(`v1/files/${encodeURIComponent(film.id)}`, { method: "DELETE" });
      await this.refresh();
    } catch (error) { tellError(error); }
  }
}

/** Upload a file with its progress on the page; resolves with its file object, or null if it was cancelled, also by `signal`. */
export async function uploadWithProgress(file, signal) {
  const box = byId("upload");
  const bar = byId("upload-progress");
  const words = byId("upload-words");
  box.hidden = false;
  bar.value = 0;
  words.textContent = `Uploading ${formatBytes(file.size)}`;
  const running = upload(file, (share) => {
    if (signal.aborted) return;
    bar.value = share;
    words.textContent = share < 1 ? `Uploading, ${Math.floor(share * 100)} % of ${formatBytes(file.size)}` : "Reading the video";
  });
  const cancel = () => running.cancel();
  const askBeforeLeaving = (event) => event.preventDefault();
  addEventListener("beforeunload", askBeforeLeaving);
  byId("upload-cancel").addEventListener("click", cancel);
  signal.addEventListener("abort", () => { // another video is opened, and the page belongs to it
    byId("upload-cancel").removeEventListener("click", cancel);
    box.hidden = true;
    cancel();
  });
  try {
    return await running.done;
  } catch (error) {
    if (signal.aborted) return null;
    if (error.name === "AbortError") tell("The upload was cancelled. Choose the video again to ask about it.");
    else tellError(error);
    return null;
  } finally {
    removeEventListener("beforeunload", askBeforeLeaving);
    byId("upload-cancel").removeEventListener("click", cancel);
    if (!signal.aborted) box.hidden = true;
  }
}
