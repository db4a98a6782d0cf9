// One answer and its events, with edits that the browser keeps event by event and undo.

import { browserKept } from "./storage.js";

export const TASKS = {
  dense_caption: { name: "Captions", lane: "Events", hint: "What happens, event by event" },
  grounding: { name: "Find a moment", lane: "Moments", hint: "When something happens", query: "What to find: “someone opens the door”" },
  highlights: { name: "Highlights", lane: "Highlights", hint: "The best moments", query: "Highlights of what? (may be empty)" },
  steps: { name: "Steps", lane: "Steps", hint: "The steps of what is being done" },
  summary: { name: "Summary", lane: "Summary", hint: "The whole video in a few sentences" },
  transcribe: { name: "Speech", lane: "Speech", hint: "The subtitles, or what the model guesses is said" },
  ask: { name: "Question", lane: "Answer", hint: "" },
};
const MOST_UNDO = 100;
export const NEW = "new"; // a video during its upload
const PASSING = ["chat", "search"]; // sources with one answer at a time, which the next one replaces

let lastId = 0;
/**
 * An event with two names: `id` is its number on this page, `key` its name in the storage, the same in all tabs.
 * Results and edits that version 0.1 stored hold the saliency of a highlight, above 1, as its score.
 */
const withId = ({ start, end, caption, score, saliency }, key, id = ++lastId) => ({ id, key, start, end, caption: caption ?? "",
  score: score > 1 ? null : score ?? null, saliency: saliency ?? (score > 1 ? score : null) });
const plain = ({ start, end, caption, score, saliency }) => ({ start, end, caption, score, saliency });
const same = (one, other) => JSON.stringify(one && plain(one)) === JSON.stringify(other && plain(other));
const byKey = (events) => new Map(events.map((event) => [event.key, event]));

/** An event that the user makes. Its key sorts behind those of earlier ones. */
export const newEvent = (event) => withId(event, `new-${Date.now()}-${Math.random().toString(36).slice(2)}`);

/** The events that differ: their keys, and the event `before` and `after`; null where there is none. */
function changesBetween(before, after) {
  const [then, now] = [byKey(before), byKey(after)];
  return [...new Set([...then.keys(), ...now.keys()])]
    .map((key) => ({ key, before: then.get(key) ?? null, after: now.get(key) ?? null }))
    .filter((change) => !same(change.before, change.after));
}

export class Track {
  constructor(film, source, answer) {
    this.source = source; // id of the job, or "chat", "search" or "own"
    this.answer = answer;
    this.task = answer.task;
    this.original = answer.events.map((event, at) => withId(event, String(at)));
    this.past = []; // lists of changes
    this.future = [];
    this.open(film);
  }

  open(film) {
    this.film = film;
    this.prefix = Track.prefix(film, this.task, this.source);
    this.read();
  }

  /** What the storage keys of all edited events begin with. */
  static prefix(film, task, source) { return `timechat.edits:${film}:${task}:${source}:`; }

  static isStored(film, task, source) {
    const prefix = Track.prefix(film, task, source);
    return browserKept.keys(prefix).length > 0 || browserKept.get(prefix.slice(0, -1)) !== null;
  }

  /** Whether the next answer of the source replaces this one. Its edits are not stored, because they belong to one answer only. */
  static isPassing(source) { return PASSING.includes(source); }

  get isKept() { return !Track.isPassing(this.source) && this.film !== NEW; }

  /** Give the track of a video that has been uploaded the id of the video. */
  rename(film, duration) {
    const { events } = this;
    this.open(film);
    this.answer = { ...this.answer, video: film, duration: duration || null };
    this.apply(changesBetween(this.original, events), "after");
  }

  get title() {
    const { question, task } = this.answer;
    if (this.source === "own") return "My events";
    if (this.source === "search") return `Search: ${question}`;
    return question && task !== "ask" ? `${TASKS[task].lane}: ${question}` : (TASKS[task]?.lane ?? task);
  }

  get ordered() {
    return [...this.events].sort((one, other) => one.start - other.start || one.end - other.end);
  }

  get isEdited() {
    return changesBetween(this.original, this.events).length > 0;
  }

  /** The edited answer, for export. */
  edited() {
    if (!this.isEdited) return this.answer;
    const note = "The events were edited by hand.";
    return { ...this.answer, events: this.events.map(plain), notes: [...(this.answer.notes ?? []), note] };
  }

  // ------------------------------------------------------------------ storage

  /** Read the events with the edits of all tabs. An event that is known keeps its id. */
  read() {
    const known = byKey(this.events ?? this.original);
    const events = byKey(this.original);
    if (this.isKept) {
      this.splitOldList();
      for (const name of browserKept.keys(this.prefix)) {
        const key = name.slice(this.prefix.length);
        try {
          const event = JSON.parse(browserKept.get(name));
          if (event) events.set(key, withId(event, key, known.get(key)?.id));
          else events.delete(key);
        } catch { /* not ours */ }
      }
    }
    this.put(events);
  }

  /** Earlier versions stored all events of a track as one list. Its events without an equal one in the answer were edited or added. */
  splitOldList() {
    const name = this.prefix.slice(0, -1);
    const stored = browserKept.get(name);
    if (stored === null) return;
    browserKept.remove(name);
    try {
      const list = JSON.parse(stored).map((event, at) => withId(event, `old-${String(at).padStart(4, "0")}`));
      const find = (events, event) => events.find((other) => same(other, event));
      for (const event of this.original) if (!find(list, event)) this.keep(event.key, null);
      for (const event of list) if (!find(this.original, event)) this.keep(event.key, event);
    } catch { /* not ours */ }
  }

  /** Store the state of one event; null if it is deleted. */
  keep(key, event) {
    if (!this.isKept) return;
    const original = this.original.find((other) => other.key === key) ?? null;
    if (same(event, original)) browserKept.remove(this.prefix + key);
    else browserKept.set(this.prefix + key, JSON.stringify(event && plain(event)));
  }

  // ------------------------------------------------------------------ changes

  /** Set the events: those of the answer in its order, then added ones in the order of their keys. */
  put(events) {
    const order = (event) => (/^\d+$/.test(event.key) ? event.key.padStart(6, "0") : event.key);
    this.events = [...events.values()].sort((one, other) => (order(one) < order(other) ? -1 : 1));
  }

  /** Give each changed event its state `before` or `after` the change; other events stay as they are. */
  apply(changes, side) {
    const events = byKey(this.events);
    for (const change of changes) {
      if (change[side]) events.set(change.key, change[side]);
      else events.delete(change.key);
      this.keep(change.key, change[side]);
    }
    this.put(events);
  }

  /** Replace the events; the changes can be undone. */
  replace(events) {
    const changes = changesBetween(this.events, events);
    if (!changes.length) return false;
    this.past = [...this.past.slice(1 - MOST_UNDO), changes];
    this.future = [];
    this.apply(changes, "after");
    return true;
  }

  undo() {
    const changes = this.past.pop();
    if (!changes) return false;
    this.future.push(changes);
    this.apply(changes, "before");
    return true;
  }

  redo() {
    const changes = this.future.pop();
    if (!changes) return false;
    this.past.push(changes);
    this.apply(changes, "after");
    return true;
  }
}
