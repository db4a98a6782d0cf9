// The timeline: thumbnails, a lane for each track, the playhead, zoom, and borders that can be dragged.

import { thumbnailAddress } from "./api.js";
import { byId, element, iconButton, svg } from "./dom.js";
import { markOverflow } from "./overflow.js";
import { formatRange, formatTime } from "./time.js";

const TICK_STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
const TICK_PIXELS = 72;
const STRIP_HEIGHT = 48;
const ROW_HEIGHT = 26;
const MOST_ROWS = 5;
const CURVE_HEIGHT = 44; // pixels of the curve above the moments of a search
const CLOSEST = 200; // pixels per second at the closest zoom
const EDGE_PIXELS = 8;
const ZOOM_STEP = 1.6;
const STRIP_WAIT_MS = 120;
const RETRY_MS = 2000;

export class Timeline {
  constructor({ player, tracks, closeTrack, exportTrack }) {
    Object.assign(this, { player, tracks, closeTrack, exportTrack });
    this.zoom = 1;
    this.scroll = byId("timeline-scroll");
    this.content = byId("timeline-content");
    this.thumbnails = new Map();
    tracks.addEventListener("change", () => this.draw());
    tracks.addEventListener("select", () => this.markSelected(true));
    player.addEventListener("time", () => this.movePlayhead());
    player.addEventListener("duration", () => this.refresh());
    this.scroll.addEventListener("scroll", () => this.drawVisible());
    this.scroll.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.refresh()).observe(this.scroll);
    markOverflow(this.scroll);
    byId("more-lanes").addEventListener("click", () => this.scroll.scrollBy({ top: this.scroll.clientHeight / 2, behavior: "smooth" }));
    for (const [id, change] of [["zoom-in", () => this.zoomBy(ZOOM_STEP)], ["zoom-out", () => this.zoomBy(1 / ZOOM_STEP)], ["zoom-fit", () => this.zoomTo(1)]]) {
      byId(id).addEventListener("click", change);
    }
    this.listenForScrubbing();
    this.listenForHover();
    this.listenForPlayheadKeys();
  }

  open(film) {
    this.film = film;
    this.zoom = 1;
    this.thumbnails.clear();
    byId("strip").replaceChildren();
    this.refresh();
  }

  get duration() { return this.player.duration; }

  get width() { return this.content.clientWidth; }

  share(time) { return this.duration ? `${(100 * Math.min(time, this.duration)) / this.duration}%` : "0%"; }

  timeAt(clientX) {
    const box = this.content.getBoundingClientRect();
    return Math.min(Math.max(0, (clientX - box.left) / box.width), 1) * this.duration;
  }

  refresh() {
    this.content.style.width = `${this.zoom * 100}%`;
    byId("playhead").setAttribute("aria-valuemax", this.duration.toFixed(1));
    const most = this.mostZoom;
    byId("zoom-in").disabled = this.zoom >= most;
    byId("zoom-out").disabled = this.zoom <= 1;
    byId("zoom-fit").disabled = this.zoom <= 1;
    this.draw();
    this.drawVisible();
    this.movePlayhead();
  }

  // ------------------------------------------------------------------ zoom

  get mostZoom() { return Math.max(1, (this.duration * CLOSEST) / Math.max(1, this.scroll.clientWidth)); }

  zoomBy(factor, clientX = null) { this.zoomTo(this.zoom * factor, clientX); }

  /** Zoom so that the time under the pointer, or else the playhead, stays where it is. */
  zoomTo(zoom, clientX = null) {
    if (!this.duration) return;
    const box = this.scroll.getBoundingClientRect();
    const time = clientX === null ? this.player.time : this.timeAt(clientX);
    const place = clientX === null ? box.width / 2 : clientX - box.left;
    this.zoom = Math.min(Math.max(1, zoom), this.mostZoom);
    this.refresh();
    this.scroll.scrollLeft = (time / this.duration) * this.width - place;
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 300), event.clientX);
  }

  // ------------------------------------------------------------------ ruler and thumbnails

  /** Draw ticks and thumbnails of the visible part and a little beside it. */
  drawVisible() {
    const ruler = byId("ruler");
    const { duration, width } = this;
    if (!duration || !width) { ruler.replaceChildren(); byId("strip").replaceChildren(); return; }
    const margin = this.scroll.clientWidth / 2;
    const from = Math.max(0, this.scroll.scrollLeft - margin) / width * duration;
    const until = Math.min(width, this.scroll.scrollLeft + this.scroll.clientWidth + margin) / width * duration;
    const step = TICK_STEPS.find((seconds) => (seconds / duration) * width >= TICK_PIXELS) ?? TICK_STEPS.at(-1);
    const ticks = [];
    for (let at = Math.floor(from / step); at * step <= until; at++) {
      const time = at * step;
      if (((duration - time) / duration) * width < 14) break;
      ticks.push(element("span", { style: { left: this.share(time) } }, formatTime(time, step < 1 ? 1 : 0)));
    }
    ruler.replaceChildren(...ticks);
    clearTimeout(this.waiting); // parts that are only passed while zooming or scrolling are not requested
    this.waiting = setTimeout(() => this.drawThumbnails(from, until), byId("strip").childElementCount ? STRIP_WAIT_MS : 0);
  }

  drawThumbnails(from, until) {
    const strip = byId("strip");
    const video = this.film?.video;
    if (!this.film?.id || !video) { strip.replaceChildren(); return; }
    const tile = Math.max(40, Math.min(140, (STRIP_HEIGHT * video.width) / video.height || 85));
    const count = Math.max(1, Math.ceil(this.width / tile));
    const seconds = this.duration / count;
    const unit = this.duration / 2 ** Math.ceil(Math.log2(count)); // a closer zoom includes the images of this one
    const wanted = [];
    for (let at = Math.floor(from / seconds); at < count && at * seconds <= until; at++) {
      const key = `${count}:${at}`;
      let image = this.thumbnails.get(key);
      if (!image) {
        image = element("img", { fetchpriority: "low", src: thumbnailAddress(this.film.id, Math.floor(((at + 0.5) * seconds) / unit) * unit, 72), alt: "", draggable: "false",
          style: { left: `${(100 * at) / count}%`, width: `${100 / count}%` } });
        retryOnce(image);
        this.thumbnails.set(key, image);
      }
      wanted.push(image);
    }
    strip.replaceChildren(...wanted);
  }

  // ------------------------------------------------------------------ lanes

  draw() {
    if (this.dragging) return;
    const { all } = this.tracks;
    // An answer without events, such as a summary, has no lane; the list beside tells its words.
    byId("lanes").replaceChildren(...all.filter((track) => track.events.length).map((track) => this.lane(track)));
    if (!all.length) byId("lanes").append(element("p", { class: "nothing" }, "Start a task above: what it finds appears here."));
    byId("undo").disabled = !this.tracks.track?.past.length;
    byId("redo").disabled = !this.tracks.track?.future.length;
    this.markSelected();
  }

  lane(track) {
    const body = element("div", { class: "lane-body" });
    const isCurve = track.task === "highlights";
    const ordered = track.ordered;
    const rows = isCurve ? new Map(ordered.map((event) => [event.id, 0])) : rowsOf(ordered);
    const rowCount = Math.max(1, ...[...rows.values()].map((row) => row + 1));
    const above = track.answer.curve ? CURVE_HEIGHT : 0;
    body.style.height = `${isCurve ? 56 : above + rowCount * ROW_HEIGHT + 2}px`;
    if (isCurve) body.append(...this.curve(ordered));
    if (above) body.append(...this.scoreCurve(track.answer.curve));
    for (const event of ordered) body.append(this.bar(track, event, rows.get(event.id), isCurve, above));
    const title = element("button", { type: "button", class: "lane-title", on: { click: () => this.tracks.select(track) } }, track.title);
    return element("div", { class: "lane", "data-task": track.task, "data-source": track.source, role: "group", "aria-label": track.title },
      element("div", { class: "lane-head" }, title,
        track.isEdited && track.source !== "own" ? element("span", { class: "edited", title: "Edited by hand" }, "edited") : null,
        iconButton("download", `Export ${track.title}`, () => this.exportTrack(track)),
        iconButton("close", `Hide ${track.title}`, () => this.closeTrack(track))),
      body);
  }

  bar(track, event, row, isCurve, above) {
    const isMoment = event.end <= event.start;
    const kind = isCurve && isMoment ? "needle" : isMoment ? "pin" : "span";
    const words = event.caption || track.answer.question || track.title;
    const bar = element("button", {
      type: "button", class: `bar ${kind}`, tabindex: "-1", "data-event": event.id,
      "aria-label": `${formatRange(event)} ${words}`,
      style: { left: this.share(event.start) },
    });
    if (!isCurve) bar.style.top = `${above + row * ROW_HEIGHT + 1}px`;
    if (kind === "needle") bar.style.bottom = `${Math.round(40 * this.height(track, event))}px`;
    if (!isMoment) {
      bar.style.width = this.share(event.end - event.start);
      bar.append(element("span", { class: "bar-words", dir: "auto" }, event.caption), element("i", { class: "edge left" }), element("i", { class: "edge right" }));
    }
    bar.addEventListener("pointerdown", (pointer) => this.grab(pointer, track, event, bar));
    bar.addEventListener("click", () => {
      if (this.wasDragged) { this.wasDragged = false; return; }
      this.tracks.select(track, event.id);
      this.player.playRange(event.start, event.end);
    });
    return bar;
  }

  height(track, event) {
    const best = Math.max(...track.events.map((other) => other.saliency ?? 0), 1e-9);
    return Math.max(0, event.saliency ?? 0) / best;
  }

  /** The saliency as a line over the whole lane, through the highlights and down to zero at both ends of the video. */
  curve(ordered) {
    const { duration } = this;
    if (!duration || ordered.length < 2) return [];
    const best = Math.max(...ordered.map((event) => event.saliency ?? 0), 1e-9);
    const points = ordered.map((event) => [(1000 * Math.min((event.start + event.end) / 2, duration)) / duration, 46 - (40 * (event.saliency ?? 0)) / best]);
    const [first, last] = [points[0], points.at(-1)];
    let line = `M${first[0].toFixed(2)},${first[1].toFixed(2)}`;
    for (let at = 1; at < points.length; at++) {
      const [x0, y0] = points[at - 1];
      const [x1, y1] = points[at];
      const middle = ((x0 + x1) / 2).toFixed(2);
      line += ` C${middle},${y0.toFixed(2)} ${middle},${y1.toFixed(2)} ${x1.toFixed(2)},${y1.toFixed(2)}`;
    }
    return [svg("svg", { class: "curve", viewBox: "0 0 1000 50", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("path", { class: "curve-area", d: `${line} L${last[0].toFixed(2)},50 L${first[0].toFixed(2)},50 Z` }),
      svg("path", { class: "curve-line", d: line }))];
  }

  /** The score of each frame for a search, and the score from which a moment counts as found. */
  scoreCurve({ times, scores, threshold }) {
    const { duration } = this;
    if (!duration || times.length < 2) return [];
    const height = (score) => (48 - 46 * score).toFixed(2);
    const points = times.map((time, at) => `${((1000 * Math.min(time, duration)) / duration).toFixed(2)},${height(scores[at])}`);
    const line = `M${points.join(" L")} L1000,${height(scores.at(-1))}`;
    return [svg("svg", { class: "curve scores", viewBox: "0 0 1000 50", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("path", { class: "curve-area", d: `${line} L1000,50 L0,50 Z` }),
      svg("path", { class: "curve-threshold", d: `M0,${height(threshold)} L1000,${height(threshold)}` }),
      svg("path", { class: "curve-line", d: line }))];
  }

  markSelected(isShown = false) {
    const { track, eventId } = this.tracks;
    byId("undo").disabled = !track?.past.length;
    byId("redo").disabled = !track?.future.length;
    for (const lane of byId("lanes").querySelectorAll(".lane")) lane.classList.toggle("is-selected", lane.dataset.source === track?.source);
    for (const bar of byId("lanes").querySelectorAll(".bar")) {
      const isSelected = Number(bar.dataset.event) === eventId;
      bar.classList.toggle("is-selected", isSelected);
      bar.tabIndex = isSelected ? 0 : -1;
      bar.dataset.border = isSelected ? (this.tracks.border ?? "") : "";
      if (isSelected) bar.setAttribute("aria-current", "true");
      else bar.removeAttribute("aria-current");
      if (isSelected && isShown) this.show(Number.parseFloat(bar.style.left) / 100);
    }
  }

  /** Scroll to a position of the video, given as a share of it. */
  show(share) {
    const place = share * this.width;
    const { scrollLeft, clientWidth } = this.scroll;
    if (place < scrollLeft || place > scrollLeft + clientWidth - 20) this.scroll.scrollLeft = place - clientWidth * 0.2;
  }

  // ------------------------------------------------------------------ borders

  /** Begin to drag an edge if the pointer is on one. */
  grab(pointer, track, event, bar) {
    if (pointer.button !== 0 || event.end <= event.start) return;
    const box = bar.getBoundingClientRect();
    const reach = Math.min(EDGE_PIXELS, box.width / 3);
    const border = pointer.clientX - box.left <= reach ? "start" : box.right - pointer.clientX <= reach ? "end" : null;
    if (!border) return;
    if (pointer.pointerType === "touch" && this.tracks.eventId !== event.id) return; // a touch first selects
    pointer.preventDefault();
    bar.setPointerCapture(pointer.pointerId);
    this.player.pause();
    const startedAt = pointer.clientX;
    const grip = pointer.clientX - (border === "start" ? box.left : box.right);
    this.dragging = { track, id: event.id, border, time: event[border] };
    const move = (moving) => {
      if (Math.abs(moving.clientX - startedAt) > 2) this.wasDragged = true;
      if (!this.wasDragged) return;
      const shortest = 0.05;
      const raw = this.timeAt(moving.clientX - grip);
      const bounded = border === "start" ? Math.min(raw, event.end - shortest) : Math.max(raw, event.start + shortest);
      const unit = this.width / this.duration > 60 ? 100 : 10; // steps of about one pixel
      const time = Math.max(0, Math.round(bounded * unit) / unit);
      this.dragging.time = time;
      const [start, end] = border === "start" ? [time, event.end] : [event.start, time];
      bar.style.left = this.share(start);
      bar.style.width = this.share(end - start);
      this.showTip(formatRange({ start, end }), event.caption, moving.clientX, box.top);
      this.player.seek(time);
    };
    const end = () => {
      bar.removeEventListener("pointermove", move);
      bar.removeEventListener("pointerup", end);
      bar.removeEventListener("pointercancel", end);
      const { time } = this.dragging;
      this.dragging = null;
      byId("tip").hidden = true;
      this.tracks.select(track, event.id, border);
      if (this.wasDragged) this.tracks.edit(track, event.id, { [border]: time });
      this.draw();
      setTimeout(() => { this.wasDragged = false; });
    };
    bar.addEventListener("pointermove", move);
    bar.addEventListener("pointerup", end);
    bar.addEventListener("pointercancel", end);
  }

  // ------------------------------------------------------------------ playhead

  movePlayhead() {
    const playhead = byId("playhead");
    const { time } = this.player;
    playhead.style.left = this.share(time);
    playhead.setAttribute("aria-valuenow", time.toFixed(1));
    playhead.setAttribute("aria-valuetext", formatTime(time, 1));
    if (this.player.isPlaying && this.zoom > 1 && this.duration) this.show(time / this.duration);
  }

  listenForPlayheadKeys() {
    byId("playhead").addEventListener("keydown", (event) => {
      if (event.key === "Home") this.player.seek(0);
      else if (event.key === "End") this.player.seek(this.duration);
      else return;
      event.preventDefault();
    });
  }

  /** A click anywhere seeks; on the ruler and the thumbnails the pointer can be dragged. */
  listenForScrubbing() {
    this.content.addEventListener("click", (event) => {
      if (event.target.closest("button") || this.wasDragged) return;
      this.player.seek(this.timeAt(event.clientX));
    });
    for (const part of [byId("ruler"), byId("strip"), byId("playhead")]) {
      part.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        if (event.pointerType === "touch" && part !== byId("playhead")) return; // a touch scrolls
        event.preventDefault();
        part.setPointerCapture(event.pointerId);
        const move = (moving) => this.player.seek(this.timeAt(moving.clientX));
        const end = () => { part.removeEventListener("pointermove", move); part.removeEventListener("pointerup", end); part.removeEventListener("pointercancel", end); };
        part.addEventListener("pointermove", move);
        part.addEventListener("pointerup", end);
        part.addEventListener("pointercancel", end);
      });
    }
  }

  // ------------------------------------------------------------------ hover

  listenForHover() {
    const line = byId("hover-line");
    this.content.addEventListener("pointermove", (event) => {
      if (this.dragging || event.pointerType === "touch" || !this.duration) return;
      const time = this.timeAt(event.clientX);
      line.hidden = false;
      line.style.left = this.share(time);
      const bar = event.target.closest(".bar");
      const found = bar && this.find(Number(bar.dataset.event));
      const top = (bar ?? byId("ruler")).getBoundingClientRect().top;
      if (found) this.showTip(formatRange(found.event), found.event.caption || found.track.answer.question, event.clientX, top, ratingText(found.event));
      else this.showTip(formatTime(time, 1), "", event.clientX, top, this.scoreText(event.target.closest(".lane")?.dataset.source, time));
    });
    this.content.addEventListener("pointerleave", () => { line.hidden = true; byId("tip").hidden = true; });
  }

  /** The score of a search at a time; empty on another lane. */
  scoreText(source, time) {
    const curve = this.tracks.all.find((track) => track.source === source)?.answer.curve;
    const at = curve ? curve.times.findLastIndex((other) => other <= time) : -1;
    return at < 0 ? "" : ratingText({ score: curve.scores[at], saliency: null });
  }

  find(id) {
    for (const track of this.tracks.all) {
      const event = track.events.find((other) => other.id === id);
      if (event) return { track, event };
    }
    return null;
  }

  showTip(time, words, x, top, rating = "") {
    const tip = byId("tip");
    tip.replaceChildren(element("b", {}, time), ...(rating ? [element("span", { class: "tip-score" }, rating)] : []),
      ...(words ? [element("span", { class: "tip-words", dir: "auto" }, words)] : []));
    tip.hidden = false;
    const width = tip.offsetWidth;
    tip.style.left = `${Math.min(Math.max(8, x - width / 2), document.documentElement.clientWidth - width - 8)}px`;
    tip.style.top = `${Math.max(8, top - tip.offsetHeight - 8)}px`;
  }
}

/** The score or the saliency of an event with its name; empty for an event without either. */
function ratingText({ score, saliency }) {
  if (saliency !== null) return `saliency ${Number(saliency.toPrecision(2))}`;
  return score === null ? "" : `score ${Number(score.toPrecision(2))}`;
}

/** Request an image once more if it does not arrive, for example because the server is busy. */
function retryOnce(image) {
  const { src } = image;
  image.addEventListener("error", () => {
    image.hidden = true;
    setTimeout(() => { image.hidden = false; image.src = src; }, RETRY_MS);
    image.addEventListener("error", () => { image.hidden = true; }, { once: true });
  }, { once: true });
}

/** The row of each event by its id, so that simultaneous events are below one another. */
function rowsOf(ordered) {
  const ends = [];
  const rows = new Map();
  for (const event of ordered) {
    let row = ends.findIndex((end) => end <= event.start + 1e-6);
    if (row < 0) row = ends.length < MOST_ROWS ? ends.length : ends.indexOf(Math.min(...ends));
    ends[row] = Math.max(event.end, event.start + 0.01);
    rows.set(event.id, row);
  }
  return rows;
}
