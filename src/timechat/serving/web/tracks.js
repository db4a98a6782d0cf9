// The tracks of the open video: one for each answer, with the edits of all tabs.

import { browserKept } from "./storage.js";
import { NEW, newEvent, Track } from "./track.js";

const ORDER = ["dense_caption", "steps", "summary", "highlights", "transcribe", "grounding", "ask"];

/** All tracks of the open video. Emits "change" (tracks or events) and "select" (the selected track). */
export class Tracks extends EventTarget {
  film = null;
  duration = 0;
  all = [];
  track = null;
  eventId = null;
  border = null; // "start" or "end": what the arrow keys move; null moves the whole event

  constructor() {
    super();
    browserKept.listen((name) => this.readAgain(name));
  }

  open(film, duration) {
    Object.assign(this, { film, duration, all: [], track: null, eventId: null, border: null });
    this.openOwn();
    this.tell("change");
  }

  /** Show the events of the user, if there are any. */
  openOwn() {
    const own = new Track(this.film, "own", this.emptyAnswer());
    if (own.events.length) this.put(own, false);
  }

  /** Take over an edit of another tab. */
  readAgain(name) {
    const track = this.all.find((other) => other.isKept && name.startsWith(other.prefix));
    if (track) {
      track.read();
      if (!this.event) this.eventId = null;
      this.tell("change");
    } else if (this.film && this.film !== NEW && name.startsWith(Track.prefix(this.film, "dense_caption", "own"))) {
      this.openOwn();
    }
  }

  /** Move the edits of the video "new" to its id after the upload. */
  rename(film, duration) {
    Object.assign(this, { film, duration });
    for (const track of this.all) track.rename(film, duration);
    if (!this.all.some((track) => track.source === "own")) this.openOwn();
    this.tell("change");
  }

  emptyAnswer() {
    return { video: this.film, duration: this.duration || null, task: "dense_caption", question: "", text: "", events: [],
      model: null, found: null, score: null, step: null, timings: {}, notes: [] };
  }

  tell(kind) { this.dispatchEvent(new Event(kind)); }

  get event() {
    return this.track?.events.find((event) => event.id === this.eventId) ?? null;
  }

  /** Show an answer as a track; it replaces the track of the same source. */
  add(source, answer, { isSelected = true } = {}) {
    const kept = this.all.find((track) => track.source === source);
    if (kept && !Track.isPassing(source)) { if (isSelected) this.select(kept); return kept; }
    return this.put(new Track(this.film, source, answer), isSelected);
  }

  /** Show a new answer; it replaces an answer to the same question that was not edited. */
  renew(source, answer, options) {
    const outdated = this.all.filter((track) => track.source !== source && track.source !== "own" && !track.isEdited
      && track.task === answer.task && track.answer.question === answer.question);
    this.all = this.all.filter((track) => !outdated.includes(track));
    return this.add(source, answer, options);
  }

  put(track, isSelected) {
    this.all = this.all.filter((other) => other.source !== track.source);
    this.all.push(track);
    this.all.sort((one, other) => ORDER.indexOf(one.task) - ORDER.indexOf(other.task));
    if (isSelected || !this.track || !this.all.includes(this.track)) Object.assign(this, { track, eventId: null, border: null });
    this.tell("change");
    return track;
  }

  close(track) {
    this.all = this.all.filter((other) => other !== track);
    if (this.track === track) Object.assign(this, { track: this.all[0] ?? null, eventId: null, border: null });
    this.tell("change");
  }

  select(track, eventId = null, border = null) {
    Object.assign(this, { track, eventId, border });
    this.tell("select");
  }

  /** The event before (`step` -1) or after (1) the selected one, or else a time, in the selected track. */
  neighbour(time, step) {
    const ordered = this.track?.ordered ?? [];
    const at = ordered.findIndex((event) => event.id === this.eventId);
    if (at >= 0) return ordered[at + step] ?? null;
    return step > 0 ? (ordered.find((event) => event.start > time + 0.05) ?? null)
      : (ordered.findLast((event) => event.start < time - 0.05) ?? null);
  }

  replace(track, events) {
    if (track.replace(events)) this.tell("change");
  }

  /** Change an event; times are kept inside the video, in order, and in thousandths. */
  edit(track, id, change) {
    const events = track.events.map((event) => {
      if (event.id !== id) return event;
      const next = { ...event, ...change };
      const inside = (time) => Math.round(Math.min(Math.max(0, time), this.duration || Infinity) * 1000) / 1000;
      next.start = inside(next.start);
      next.end = inside(next.end);
      if (next.start > next.end) {
        if ("start" in change && "end" in change) [next.start, next.end] = [next.end, next.start];
        else if ("start" in change) next.end = next.start;
        else next.start = next.end;
      }
      return next;
    });
    this.replace(track, events);
  }

  /** Move the last used border, or the whole event, by some seconds. */
  nudge(seconds) {
    const event = this.event;
    if (!event) return;
    if (this.border) return this.edit(this.track, event.id, { [this.border]: event[this.border] + seconds });
    const shift = Math.min(Math.max(seconds, -event.start), (this.duration || Infinity) - event.end);
    return this.edit(this.track, event.id, { start: event.start + shift, end: event.end + shift });
  }

  /** Set a border of the selected event; the arrow keys then move this border. */
  setBorder(border, time) {
    if (!this.event) return;
    this.border = border;
    this.edit(this.track, this.eventId, { [border]: time });
    this.tell("select");
  }

  /** Add an event of a few seconds to the selected track, or to a track of the user. */
  insert(time) {
    const track = this.track ?? this.put(new Track(this.film, "own", this.emptyAnswer()), true);
    const start = Math.min(time, Math.max(0, (this.duration || Infinity) - 0.1));
    const end = track.task === "highlights" ? start : Math.min(start + 3, this.duration || Infinity);
    const event = newEvent({ start: Math.round(start * 100) / 100, end: Math.round(end * 100) / 100, caption: "",
      saliency: track.task === "highlights" ? 1 : null });
    this.replace(track, [...track.events, event]);
    this.select(track, event.id);
    return event;
  }

  remove(track, id) {
    const at = track.ordered.findIndex((event) => event.id === id);
    this.replace(track, track.events.filter((event) => event.id !== id));
    this.select(track, track.ordered[Math.min(at, track.events.length - 1)]?.id ?? null);
  }

  revert(track) {
    this.replace(track, track.original);
  }

  undo() { if (this.track?.undo()) this.tell("change"); }

  redo() { if (this.track?.redo()) this.tell("change"); }
}
