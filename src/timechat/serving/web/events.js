// The list of events of the selected track, and the editor of the selected event.

import { byId, element, icon, iconButton } from "./dom.js";
import { markOverflow } from "./overflow.js";
import { tell } from "./status.js";
import { formatRange, formatTime, parseTime, splitTimes, timeProblem } from "./time.js";
import { TASKS } from "./track.js";

const MANY = 12;

const mostSalient = (track) => Math.max(...track.events.map((event) => event.saliency ?? 0), 1e-9);

/** What is not as it was written: a time after the end of the video, or the other border that moved along. */
function movedWords(name, time, before, after) {
  const other = name === "start" ? "end" : "start";
  const sentences = [];
  if (time - after[name] > 0.001) sentences.push(`${formatTime(time, 2)} is after the end of the video: the ${name} was set to the end, ${formatTime(after[name], 2)}.`);
  if (after[other] !== before[other]) sentences.push(`The ${other} was moved to ${formatTime(after[other], 2)}, since an event cannot end before it starts.`);
  return sentences.join(" ");
}

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
    const chipsScrolled = panel.querySelector(".track-chips")?.scrollLeft ?? 0;
    this.drawnFor = track;
    panel.replaceChildren(
      all.length > 1 ? this.chooser() : null,
      this.head(track),
      ...this.facts(track),
      track.events.length > MANY ? this.filterField() : null,
      element("ol", { class: "event-rows", "data-task": track.task, "aria-label": track.title }, ...this.rows(track)),
    );
    for (const child of [...panel.childNodes]) if (child.nodeType === Node.TEXT_NODE) child.remove();
    this.showChips(panel.querySelector(".track-chips"), chipsScrolled);
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

  /** Update the rows in place: the field with the focus stays, also when another tab adds or deletes an event. */
  refreshRows() {
    const { track } = this.tracks;
    byId("events").querySelector(".revert").hidden = !this.canRevert(track);
    const list = byId("events").querySelector(".event-rows");
    const shown = this.shown(track);
    for (const row of [...list.children]) if (!shown.some((event) => String(event.id) === row.dataset.row)) row.remove();
    for (const event of shown) {
      const row = list.querySelector(`[data-row="${event.id}"]`);
      if (!row) {
        const next = shown.slice(shown.indexOf(event) + 1).map((later) => list.querySelector(`[data-row="${later.id}"]`)).find(Boolean);
        list.insertBefore(this.row(track, event), next ?? null);
        continue;
      }
      row.querySelector(".row-time").textContent = formatRange(event);
      row.querySelector(".row-words").textContent = event.caption;
      const values = { start: formatTime(event.start, 2), end: formatTime(event.end, 2), caption: event.caption };
      for (const field of row.querySelectorAll(".editor [name]")) if (field !== document.activeElement) field.value = values[field.name];
    }
  }

  chooser() {
    return element("div", { class: "track-chips", role: "group", "aria-label": "Tracks" }, ...this.tracks.all.map((track) => element("button", {
      type: "button", class: "chip", "data-task": track.task, "data-focus": `chip-${track.source}`, "aria-pressed": String(track === this.tracks.track),
      on: { click: () => this.tracks.select(track) },
    }, track.title)));
  }

  /** Keep the place of the chips, and scroll to the selected one. */
  showChips(chips, scrolled) {
    if (!chips) return;
    markOverflow(chips);
    chips.scrollLeft = scrolled;
    const selected = chips.querySelector("[aria-pressed=true]");
    if (!selected) return;
    const outer = chips.getBoundingClientRect();
    const inner = selected.getBoundingClientRect();
    if (inner.left < outer.left || inner.right > outer.right) chips.scrollLeft += inner.left - outer.left - outer.width / 4;
  }

  canRevert(track) { return track.isEdited && track.source !== "own"; }

  head(track) {
    return element("div", { class: "events-head" },
      element("h2", {}, track.title),
      element("div", { class: "events-actions" },
        element("button", { type: "button", class: "quiet small revert", hidden: !this.canRevert(track), title: "Back to the model's answer", on: { click: () => this.tracks.revert(track) } }, "Revert"),
        element("button", { type: "button", class: "quiet small export", on: { click: () => this.exportTrack(track) } }, icon("download"), "Export"),
        iconButton("close", `Hide ${track.title}`, () => this.closeTrack(track))));
  }

  /** The parts of the answer beside its events. */
  facts(track) {
    const { answer } = track;
    const facts = [];
    const isSearch = track.source === "search";
    if (isSearch && !answer.found) facts.push(element("p", { class: "fact" }, `Nothing matches “${answer.question}” well. These moments are the nearest.`));
    else if (answer.found === false) facts.push(element("p", { class: "fact" }, `“${answer.question}” was not found in this video.`));
    else if (answer.found && answer.score !== null) facts.push(element("p", { class: "fact" }, `Found; the ${isSearch ? "search" : "model"} is ${Math.round(100 * answer.score)} % sure.`));
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

  /** The events that pass the filter. */
  shown(track) {
    const words = track.events.length > MANY ? this.filter.trim().toLowerCase() : "";
    return track.ordered.filter((event) => event.caption.toLowerCase().includes(words));
  }

  rows(track) {
    const best = mostSalient(track);
    return this.shown(track).map((event) => this.row(track, event, best));
  }

  row(track, event, best = mostSalient(track)) {
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
            const written = changed.target.value;
            const time = parseTime(written);
            const before = now();
            if (time !== null) change({ [name]: time });
            changed.target.value = formatTime(now()[name], 2); // the accepted time, inside the video
            this.tellTime(time === null ? timeProblem(written) : movedWords(name, time, before, now()));
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

  /** Report on the time that was written last, in place of an earlier report. */
  tellTime(words) {
    this.removeReport?.();
    this.removeReport = words ? tell(words, { seconds: 8 }) : null;
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
