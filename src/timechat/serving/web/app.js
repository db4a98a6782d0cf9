// Joins the parts of the page: the open video, its answers, and the address.

import { isGone, json, resumeSession } from "./api.js";
import { Chat } from "./chat.js";
import { byId } from "./dom.js";
import { EventList } from "./events.js";
import { ExportDialog } from "./export.js";
import { Films, uploadWithProgress } from "./films.js";
import { isIndex, Jobs, tellEnd } from "./jobs.js";
import { startKeyboard } from "./keyboard.js";
import { Player } from "./player.js";
import { Search } from "./search.js";
import { tell, tellError } from "./status.js";
import { browserKept } from "./storage.js";
import { TaskButtons } from "./tasks.js";
import { startTheme } from "./theme_toggle.js";
import { formatLength, formatTime } from "./time.js";
import { Timeline } from "./timeline.js";
import { NEW, Track } from "./track.js";
import { Tracks } from "./tracks.js";

const MOST_QUERIES = 3; // maximum number of lanes of found moments when a video opens
const TABS = ["chat", "events", "jobs"];

let isTabChosen = false; // by the user, since the video was opened or a task was started
let film = null; // file object of the server; its id is null during the upload
let blob = null;
let opening = 0;
let leaving = new AbortController(); // ends the work for the previous video

const player = new Player();
const tracks = new Tracks();
const exporter = new ExportDialog({ film: () => film });
const exportTrack = (track) => exporter.open(track);
const timeline = new Timeline({ player, tracks, closeTrack, exportTrack });
const events = new EventList({ player, tracks, closeTrack, exportTrack, linkTo });
const chat = new Chat({ seek: (time) => player.seek(time), linkTo, answered: showRead, explained, duration: () => player.duration || Infinity });
const tasks = new TaskButtons(startTask);
const jobs = new Jobs({ open: openJob, finished: jobFinished, indexing: (job) => search.showJob(job) });
const search = new Search({ open: openMoment, startIndex: () => jobs.startIndex(), cancel: (job) => jobs.cancel(job) });
const films = new Films({ open: (chosen) => openFilm(chosen.id).catch(tellError), openFile: (file) => openFile(file).catch(tellError) });

// ---------------------------------------------------------------------- videos

/** Change to another video; waiting code compares its number with `opening` to see whether it is still current. */
function nextTurn() {
  leaving.abort();
  leaving = new AbortController();
  films.endOpening();
  return ++opening;
}

async function showFilms() {
  nextTurn();
  film = null;
  player.close();
  chat.open(null);
  setBlob(null);
  document.body.dataset.view = "films";
  byId("film-title").hidden = true;
  document.title = "TimeChat";
  writeAddress();
  await films.refresh((list) => search.refresh(list).catch(tellError));
}

/** Open a video of the server, at a time if one is given; `shown` is called as soon as the video is shown. */
async function openFilm(id, time = null, shown = () => {}) {
  const turn = nextTurn();
  films.startOpening(id);
  try {
    const found = await json(`v1/files/${encodeURIComponent(id)}`);
    if (turn !== opening) return;
    setBlob(null);
    show(found, { time });
    if (time === null) player.moved();
    shown();
    await jobs.refresh();
    if (turn === opening) await openKnown();
  } catch (error) {
    if (turn !== opening) return;
    films.endOpening();
    if (error.status === 401) throw error; // the user gave no key: all other requests would fail too
    tellError(error);
    if (film) return;
    history.replaceState(null, "", location.pathname); // so that the history does not lead back to a missing video
    await showFilms();
  }
}

/** Open the video of a moment that was searched, play the moment, and show all of its moments with the curve of the scores. */
async function openMoment(moment, result) {
  await openFilm(moment.video, moment.start, () => {
    player.playRange(moment.start, moment.end);
    showMoments(moment, result).catch(tellError);
  });
}

async function showMoments(moment, result) {
  const turn = opening;
  const events = result.moments.filter((other) => other.video === moment.video)
    .map(({ start, end, score, text }) => ({ start, end, score, caption: text ?? result.query, saliency: null }));
  const curve = await json("v1/search/curve", { method: "POST", body: { query: result.query, video: moment.video } });
  if (turn !== opening) return;
  const score = Math.max(...events.map((event) => event.score));
  const answer = { ...tracks.emptyAnswer(), task: "grounding", question: result.query, events, model: result.encoder, found: score >= curve.threshold, score,
    notes: result.notes };
  const track = tracks.add("search", { ...answer, curve: curve.times.length ? curve : null });
  tracks.select(track, track.events.find((event) => event.start === moment.start)?.id ?? null);
  offerTab("events");
}

/** Play a file of this computer at once, and upload it in the background. */
async function openFile(file) {
  const endings = byId("file").accept.split(",").filter((kind) => kind.startsWith(".")); // some have the type of another kind of file
  if (/^(?:audio|image|text)\//.test(file.type) && !endings.some((ending) => file.name.toLowerCase().endsWith(ending))) {
    tell(`${file.name} is not a video.`, { isError: true });
    return;
  }
  const turn = nextTurn();
  films.stopThumbnails();
  setBlob(URL.createObjectURL(file));
  show({ id: null, filename: file.name, bytes: file.size, video: null }, { blob, isPlaying: true });
  const uploaded = await uploadWithProgress(file, leaving.signal);
  if (turn !== opening) return;
  if (!uploaded) { // a file that the browser cannot play either is not a video
    if (!player.isPlayable) await showFilms();
    return;
  }
  film = uploaded;
  player.learn(film);
  timeline.open(film);
  tracks.rename(film.id, player.duration);
  chat.open(film.id);
  tasks.isReady = true;
  jobs.film = film.id;
  showTitle();
  writeAddress();
  await jobs.refresh().catch(tellError);
}

function show(next, { time = null, blob: source = null, isPlaying = false } = {}) {
  film = next;
  isTabChosen = false;
  const hasFocus = byId("films").contains(document.activeElement);
  document.body.dataset.view = "studio";
  films.endOpening();
  scrollTo(0, 0);
  jobs.film = film.id;
  player.open(film, { blob: source, time, isPlaying });
  tracks.open(film.id ?? NEW, player.duration);
  timeline.open(film);
  chat.open(film.id);
  tasks.isReady = film.id !== null;
  if (hasFocus) byId("play").focus({ preventScroll: true }); // what had the focus is hidden now
  showTitle();
  writeAddress();
}

function showTitle() {
  const name = film.filename.split("/").at(-1);
  const { video } = film;
  byId("film-title").hidden = false;
  byId("film-name").textContent = name;
  byId("film-name").title = film.filename;
  byId("film-facts").textContent = video ? [formatLength(video.duration), `${video.width}×${video.height}`, video.codec].filter(Boolean).join(" · ") : "";
  document.title = `${name} · TimeChat`;
}

function setBlob(next) {
  if (blob) URL.revokeObjectURL(blob);
  blob = next;
}

// ---------------------------------------------------------------------- answers

const hiddenKey = () => `timechat.hidden:${film.id}`;
const hidden = () => new Set(JSON.parse(browserKept.get(hiddenKey()) ?? "[]"));

function setHidden(source, isHidden) {
  const sources = hidden();
  if (isHidden) sources.add(source);
  else sources.delete(source);
  browserKept.set(hiddenKey(), JSON.stringify([...sources]));
}

function closeTrack(track) {
  if (film.id) setHidden(track.source, true);
  tracks.close(track);
}

/** Show the newest earlier answer to each task for this video. */
async function openKnown() {
  const turn = opening;
  const seen = new Map();
  const asked = new Set();
  const away = hidden();
  const known = jobs.list.filter((job) => {
    if (job.video !== film.id || job.status !== "succeeded" || away.has(job.id)) return false;
    if (Track.isStored(film.id, job.task, job.id)) return true; // edited by hand
    const question = `${job.task}: ${job.query ?? ""}`;
    if (asked.has(question)) return false; // a newer one has answered it
    asked.add(question);
    seen.set(job.task, (seen.get(job.task) ?? 0) + 1);
    return seen.get(job.task) <= (job.task === "grounding" ? MOST_QUERIES : 1);
  });
  let selected = tracks.track;
  let isTouched = false; // the user has selected something meanwhile
  for (const job of known) {
    const whole = await jobs.whole(job).catch(() => null);
    if (turn !== opening) return;
    isTouched ||= tracks.track !== selected || tracks.eventId !== null;
    if (whole?.result && !hidden().has(job.id)) tracks.add(job.id, whole.result, { isSelected: false });
    selected = tracks.track;
  }
  if (tracks.all.length && !isTouched) tracks.select(tracks.all[0]);
  if (known.length && !chat.messages.length) offerTab("events");
}

async function openJob(job) {
  try {
    const whole = await jobs.whole(job);
    if (film?.id !== job.video) await openFilm(job.video);
    if (film?.id !== job.video) return;
    setHidden(job.id, false);
    tracks.add(job.id, whole.result);
    showTab("events");
  } catch (error) { tellError(error); }
}

async function jobFinished(job) {
  if (isIndex(job)) {
    search.ended(job);
    if (!film) await search.refresh(films.films).catch(tellError);
    return;
  }
  const isHere = film?.id === job.video;
  tellEnd(job, isHere ? null : () => openJob(job));
  if (job.status !== "succeeded" || !isHere) return;
  const isTyping = document.activeElement === byId("question") || chat.running;
  const whole = await jobs.whole(job).catch(() => null);
  if (!whole?.result || film?.id !== job.video) return;
  tracks.renew(job.id, whole.result, { isSelected: !isTyping });
  if (!isTyping) offerTab("events");
}

function startTask(wish) {
  isTabChosen = false;
  return jobs.start({ video: film.id, ...wish }).catch((error) => { throw explained(error); });
}

/** An error in the words of the page: a video that was deleted, perhaps in another tab, is called by its name. */
function explained(error) {
  if (film && isGone(error)) error.message = `“${film.filename.split("/").at(-1)}” was deleted from the server.`;
  return error;
}

/** Show the events of a chat answer in a lane. */
function showRead(answer) {
  if (answer.events?.length) tracks.add("chat", { ...answer, task: "ask" }, { isSelected: false });
}

function goTo(step) {
  const event = tracks.neighbour(player.time, step);
  if (!event) return;
  tracks.select(tracks.track, event.id);
  player.seek(event.start);
}

function addEvent() {
  tracks.insert(player.time);
  chooseTab("events");
  events.editCaption();
}

// ---------------------------------------------------------------------- the address

function linkTo(time) {
  const query = new URLSearchParams();
  if (film?.id) query.set("film", film.id);
  query.set("t", String(Number(time.toFixed(2))));
  return `?${query}`;
}

/** Another video and the list of videos are steps of the browser's history; another time is not. */
function writeAddress() {
  if (film && !film.id) return; // it is being uploaded
  const isStep = readAddress().id !== (film?.id ?? null);
  const query = film && (player.time > 0.005 ? linkTo(player.time) : `?${new URLSearchParams({ film: film.id })}`);
  history[isStep ? "pushState" : "replaceState"](null, "", query ?? location.pathname);
}

/** Show the video and the time of the address. */
async function followAddress() {
  const { id, time } = readAddress();
  if (id) await openFilm(id, time);
  else if (time !== null) await openOnly(time);
  else await showFilms();
}

async function copyLink() {
  const link = new URL(linkTo(player.time), location.href).href;
  try {
    await navigator.clipboard.writeText(link);
    tell(`Copied a link to ${formatTime(player.time, 1)}.`);
  } catch {
    tell(link, { seconds: 20 }); // not allowed here: it can be copied by hand
  }
}

function readAddress() {
  const query = new URLSearchParams(location.search);
  const time = Number.parseFloat(query.get("t"));
  return { id: query.get("film"), time: Number.isFinite(time) && time >= 0 ? time : null };
}

// ---------------------------------------------------------------------- tabs

function showTab(name) {
  for (const tab of TABS) {
    const isShown = tab === name;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(isShown));
    byId(`tab-${tab}`).tabIndex = isShown ? 0 : -1;
    byId(tab).hidden = !isShown;
  }
}

/** Show a tab because the user asks for it. */
function chooseTab(name) {
  isTabChosen = true;
  showTab(name);
}

/** Show a tab because something is new in it, unless the user has chosen one since the video was opened or a task was started. */
function offerTab(name) {
  if (!isTabChosen) showTab(name);
}

function startTabs() {
  for (const [at, name] of TABS.entries()) {
    byId(`tab-${name}`).addEventListener("click", () => chooseTab(name));
    byId(`tab-${name}`).addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const next = TABS[(at + step + TABS.length) % TABS.length];
      chooseTab(next);
      byId(`tab-${next}`).focus();
    });
  }
}

// ---------------------------------------------------------------------- start

async function showModel() {
  const { data } = await json("v1/models");
  if (!data.length) return;
  byId("model").textContent = data[0].id;
  byId("model").title = ["The model that answers", ...(data[0].notes ?? [])].join("\n");
  byId("model").hidden = false;
}

async function start() {
  startTheme();
  startTabs();
  startKeyboard({ player, tracks, timeline, goTo, addEvent, editCaption: () => { chooseTab("events"); events.editCaption(); },
    showChat: () => chooseTab("chat"), hasFilm: () => film !== null });
  byId("show-films").addEventListener("click", () => showFilms().catch(tellError));
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); chooseTab("chat"); byId("question").focus(); });
  byId("copy-link").addEventListener("click", copyLink);
  byId("previous-event").addEventListener("click", () => goTo(-1));
  byId("next-event").addEventListener("click", () => goTo(1));
  byId("add-event").addEventListener("click", addEvent);
  byId("undo").addEventListener("click", () => tracks.undo());
  byId("redo").addEventListener("click", () => tracks.redo());
  for (const kind of ["seeked", "state"]) player.addEventListener(kind, () => { if (!player.isPlaying) writeAddress(); });
  player.addEventListener("duration", () => { tracks.duration = player.duration; });
  await resumeSession();
  addEventListener("popstate", () => followAddress().catch(tellError));
  await followAddress();
  await Promise.all([jobs.refresh(), showModel()]);
}

/** Handle a link with a time but without a video: open the only video, or let the user choose. */
async function openOnly(time) {
  await films.refresh();
  if (films.films.length === 1) {
    await openFilm(films.films[0].id, time);
  } else {
    const { open } = films;
    films.open = (chosen) => { films.open = open; openFilm(chosen.id, time).catch(tellError); };
  }
}

start().catch(tellError);
