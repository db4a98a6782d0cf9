// The tracks of the open video: one for each answer, with edited events and undo.

import { browserKept } from "./storage.js";

export const TASKS = {
  dense_caption: { name: "Captions", lane: "Events", hint: "What happens, event by event" },
  grounding: { name: "Find a moment", lane: "Moments", hint: "When something happens", query: "What to find: “someone opens the door”" },
  highlights: { name: "Highlights", lane: "Highlights", hint: "The best moments", query: "Highlights of what? (may be empty)" },
  steps: { name: "Steps", lane: "Steps", hint: "The steps of what is being done" },
  summary: { name: "Summary", lane: "Summary", hint: "The whole video in a few sentences" },
  transcribe: { name: "Speech", lane: "Speech", hint: "What the model guesses is said" },
  ask: { name: "Question", lane: "Answer", hint: "" },
};
const ORDER = ["dense_caption", "steps", "summary", "highlights", "transcribe", "grounding", "ask"];
const MOST_UNDO = 100;
export const NEW = "new"; // a video during its upload

let lastId = 0;
/** Results and edits that version 0.1 stored hold the saliency of a highlight, above 1, as its score. */
const withId = ({ start, end, caption, score, saliency }) => ({ id: ++lastId, start, end, caption: caption ?? "",
  score: score > 1 ? null : score ?? null, saliency: saliency ?? (score > 1 ? score : null) });
const plain = ({ start, end, caption, score, saliency }) => ({ start, end, caption, score, saliency });
const same = (one, other) => JSON.stringify(one.map(plain)) === JSON.stringify(other.map(plain));

/** One answer and its events. `events` are in the order of the answer, `ordered` in that of time. */
export class Track {
  constructor(film, source, answer) {
    this.source = source; // id of the job, or "chat", or "own"
    this.answer = answer;
    this.task = answer.task;
    this.storageKey = Track.storageKey(film, this.task, source);
    this.original = answer.events.map(withId);
    this.events = this.stored() ?? this.original;
    this.past = [];
    this.future = [];
  }

  static storageKey(film, task, source) { return `timechat.edits:${film}:${task}:${source}`; }

  rename(film, duration) {
    this.forget();
    this.storageKey = Track.storageKey(film, this.task, this.source);
    this.answer = { ...this.answer, video: film, duration: duration || null };
    this.keep();
  }

  get title() {
    const { question, task } = this.answer;
    if (this.source === "own") return "My events";
    return question && task !== "ask" ? `${TASKS[task].lane}: ${question}` : (TASKS[task]?.lane ?? task);
  }

  get ordered() {
    return [...this.events].sort((one, other) => one.start - other.start || one.end - other.end);
  }

  get isEdited() {
    return !same(this.events, this.original);
  }

  /** The edited answer, for export. */
  edited() {
    if (!this.isEdited) return this.answer;
    const note = "The events were edited by hand.";
    return { ...this.answer, events: this.events.map(plain), notes: [...(this.answer.notes ?? []), note] };
  }

  stored() {
    if (this.source === "chat") return null; // all chat answers have this source, and edits belong to one answer only
    try {
      const kept = JSON.parse(browserKept.get(this.storageKey));
      return Array.isArray(kept) ? kept.map(withId) : null;
    } catch { return null; }
  }

  forget() {
    browserKept.remove(this.storageKey);
  }

  keep() {
    if (this.source === "chat") return;
    if (this.isEdited) browserKept.set(this.storageKey, JSON.stringify(this.events.map(plain)));
    else this.forget();
  }
}

/** All tracks of the open video. Emits "change" (tracks or events) and "select" (the selected track). */
export class Tracks extends EventTarget {
  film = null;
  duration = 0;
  all = [];
  track = null;
  eventId = null;
  border = null; // "start" or "end": what the arrow keys move; null moves the whole event

  open(film, duration) {
    Object.assign(this, { film, duration, all: [], track: null, eventId: null, border: null });
    const own = new Track(film, "own", this.emptyAnswer());
    if (film === NEW) Object.assign(own, { events: own.original }).forget(); // edits of another video that never got an id
    if (own.events.length) this.put(own, false);
    this.tell("change");
  }

  /** Move the edits of the video "new" to its id after the upload. */
  rename(film, duration) {
    Object.assign(this, { film, duration });
    for (const track of this.all) track.rename(film, duration);
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
    if (kept && source !== "chat") { if (isSelected) this.select(kept); return kept; }
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

  replace(track, events, isUndo = false) {
    if (!isUndo) {
      track.past = [...track.past.slice(-MOST_UNDO), track.events];
      track.future = [];
    }
    track.events = events;
    track.keep();
    this.tell("change");
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
    if (!same(events, track.events)) this.replace(track, events);
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
    const event = withId({ start: Math.round(start * 100) / 100, end: Math.round(end * 100) / 100, caption: "",
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

  undo() { this.travel("past", "future"); }

  redo() { this.travel("future", "past"); }

  travel(from, to) {
    const track = this.track;
    if (!track?.[from].length) return;
    track[to] = [...track[to], track.events];
    const events = track[from].at(-1);
    track[from] = track[from].slice(0, -1);
    this.replace(track, events, true);
  }
}
