// The list of events of the selected track, and the editor of the selected event.

import { byId, element, icon, iconButton } from "./dom.js";
import { formatRange, formatTime, parseTime, splitTimes } from "./time.js";
import { TASKS } from "./tracks.js";

const MANY = 12;

export class EventList {
  constructor({ player, tracks, closeTrack, exportTrack, linkTo }) {
    Object.assign(this, { player, tracks, closeTrack, exportTrack, linkTo });
    this.filter = "";
    tracks.addEventListener("change", () => this.draw());
    tracks.addEventListener("select", () => this.draw(true));
    player.addEventListener("time", () => this.markNow());
  }

  draw(isShown = false) {
    const { track, all } = this.tracks;
    byId("event-count").textContent = track ? String(track.events.length) : "";
    const panel = byId("events");
    if (!track) {
      panel.replaceChildren(element("p", { class: "nothing" }, "No events yet. Start a task, or add an event of your own at the playhead (A)."));
      return;
    }
    const isWriting = this.isEditing || (panel.contains(document.activeElement) && document.activeElement.matches("input, textarea"));
    if (isWriting && !isShown && this.drawnFor === track) {
      this.refreshRows(); // keep the field with the focus, and what is pressed or focused next
      return;
    }
    const focused = panel.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const scrolled = panel.scrollTop;
    this.drawnFor = track;
    panel.replaceChildren(
      all.length > 1 ? this.chooser() : null,
      this.head(track),
      ...this.facts(track),
      track.events.length > MANY ? this.filterField() : null,
      element("ol", { class: "event-rows", "data-task": track.task, "aria-label": track.title }, ...this.rows(track)),
    );
    for (const child of [...panel.childNodes]) if (child.nodeType === Node.TEXT_NODE) child.remove();
    panel.scrollTop = scrolled;
    if (focused) panel.querySelector(`[data-focus="${focused}"]`)?.focus({ preventScroll: true });
    if (isShown) this.show(panel.querySelector(".event-row.is-selected"));
    this.markNow();
  }

  /** Scroll the list, not the page, to a row. */
  show(row) {
    if (!row) return;
    const panel = byId("events").getBoundingClientRect();
    const { top, bottom } = row.getBoundingClientRect();
    if (top < panel.top) byId("events").scrollTop -= panel.top - top;
    else if (bottom > panel.bottom) byId("events").scrollTop += bottom - panel.bottom;
  }

  refreshRows() {
    byId("events").querySelector(".revert").hidden = !this.canRevert(this.tracks.track);
    for (const event of this.tracks.track.events) {
      const row = byId("events").querySelector(`[data-row="${event.id}"]`);
      if (!row) continue;
      row.querySelector(".row-time").textContent = formatRange(event);
      row.querySelector(".row-words").textContent = event.caption;
      for (const name of ["start", "end"]) {
        const field = row.querySelector(`[name="${name}"]`);
        if (field && field !== document.activeElement) field.value = formatTime(event[name], 2);
      }
    }
  }

  chooser() {
    return element("div", { class: "track-chips", role: "group", "aria-label": "Tracks" }, ...this.tracks.all.map((track) => element("button", {
      type: "button", class: "chip", "data-task": track.task, "data-focus": `chip-${track.source}`, "aria-pressed": String(track === this.tracks.track),
      on: { click: () => this.tracks.select(track) },
    }, track.title)));
  }

  canRevert(track) { return track.isEdited && track.source !== "own"; }

  head(track) {
    return element("div", { class: "events-head" },
      element("h2", {}, track.title),
      element("button", { type: "button", class: "quiet small revert", hidden: !this.canRevert(track), title: "Back to the model's answer", on: { click: () => this.tracks.revert(track) } }, "Revert"),
      element("button", { type: "button", class: "quiet small export", on: { click: () => this.exportTrack(track) } }, icon("download"), "Export"),
      iconButton("close", `Hide ${track.title}`, () => this.closeTrack(track)));
  }

  /** The parts of the answer beside its events. */
  facts(track) {
    const { answer } = track;
    const facts = [];
    if (answer.found === false) facts.push(element("p", { class: "fact" }, `“${answer.question}” was not found in this video.`));
    else if (answer.found && answer.score !== null) facts.push(element("p", { class: "fact" }, `Found; the model is ${Math.round(100 * answer.score)} % sure.`));
    if (answer.text && (track.task === "summary" || track.task === "ask" || (!track.events.length && answer.found !== false))) {
      facts.push(element("p", { class: "answer-text", dir: "auto" }, ...splitTimes(answer.text, this.player.duration).map(({ text, time }) => (time === null ? text
        : element("a", { class: "time", href: this.linkTo(time), on: { click: (event) => { event.preventDefault(); this.player.seek(time); } } }, text)))));
    }
    for (const note of answer.notes ?? []) facts.push(element("p", { class: "fact note" }, note));
    return facts;
  }

  filterField() {
    return element("input", { type: "search", class: "filter", placeholder: "Filter events", "aria-label": "Filter events", value: this.filter, "data-focus": "filter",
      on: { input: (event) => {
        this.filter = event.target.value;
        byId("events").querySelector(".event-rows").replaceChildren(...this.rows(this.tracks.track));
      } } });
  }

  rows(track) {
    const words = track.events.length > MANY ? this.filter.trim().toLowerCase() : "";
    const best = Math.max(...track.events.map((event) => event.saliency ?? 0), 1e-9);
    return track.ordered.filter((event) => event.caption.toLowerCase().includes(words)).map((event) => this.row(track, event, best));
  }

  row(track, event, best) {
    const isSelected = event.id === this.tracks.eventId;
    const row = element("li", { class: isSelected ? "event-row is-selected" : "event-row", "data-row": event.id });
    const isRated = event.saliency !== null;
    row.append(element("button", {
      type: "button", class: "row-open", "data-focus": `row-${event.id}`, "aria-current": isSelected ? "true" : null,
      on: { click: () => { this.tracks.select(track, event.id); this.player.playRange(event.start, event.end); } },
    },
      element("span", { class: "row-time" }, formatRange(event)),
      isRated ? element("span", { class: "row-score", "aria-label": `saliency ${event.saliency}` }, element("i", { style: { width: `${(100 * event.saliency) / best}%` } })) : null,
      isRated ? element("span", { class: "row-number" }, event.saliency.toFixed(1)) : null,
      element("span", { class: "row-words", dir: "auto" }, event.caption)));
    if (isSelected) row.append(this.editor(track, event));
    return row;
  }

  editor(track, event) {
    const change = (wish) => {
      this.isEditing = true;
      this.tracks.edit(track, event.id, wish);
      this.isEditing = false;
    };
    const now = () => track.events.find(({ id }) => id === event.id) ?? event;
    const timeField = (name, label) => element("div", { class: "time-field" },
      element("label", {}, element("span", {}, label),
        element("input", { type: "text", name, inputmode: "decimal", value: formatTime(event[name], 2), "data-focus": `${name}-${event.id}`,
          on: { change: (changed) => {
            const time = parseTime(changed.target.value);
            if (time !== null) change({ [name]: time });
            changed.target.value = formatTime(now()[name], 2); // the accepted time, inside the video
          } } })),
      element("button", { type: "button", class: "quiet small", "data-focus": `set-${name}`, title: `Set the ${name} to the playhead (${name === "start" ? "[" : "]"})`, "aria-label": `Set the ${name} to the playhead`,
        on: { click: () => this.tracks.setBorder(name, this.player.time) } }, "Here"));
    const caption = element("textarea", { name: "caption", rows: "2", value: event.caption, dir: "auto", "aria-label": "Caption", placeholder: TASKS[track.task]?.hint || "What happens", "data-focus": `caption-${event.id}`,
      on: {
        change: (changed) => change({ caption: changed.target.value.trim() }),
        keydown: (pressed) => {
          if (pressed.key === "Enter" && !pressed.shiftKey) { pressed.preventDefault(); pressed.target.blur(); }
          if (pressed.key === "Escape") { pressed.target.value = now().caption; pressed.target.blur(); }
        },
      } });
    return element("div", { class: "editor", role: "group", "aria-label": "Edit this event" }, caption,
      element("div", { class: "editor-times" }, timeField("start", "Start"), timeField("end", "End"),
        iconButton("trash", "Delete this event (Delete)", () => this.tracks.remove(track, event.id))));
  }

  /** Focus the caption of the selected event. */
  editCaption() { byId("events").querySelector(".editor textarea")?.focus(); }

  markNow() {
    const { time } = this.player;
    for (const event of this.tracks.track?.events ?? []) {
      const isNow = time >= event.start - 0.01 && time < Math.max(event.end, event.start + 0.5);
      byId("events").querySelector(`[data-row="${event.id}"]`)?.classList.toggle("is-now", isNow);
    }
  }
}
