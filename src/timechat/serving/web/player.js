// The video and its controls. If the browser cannot play it, stills of the server are shown, so that all times work.

import { contentAddress, thumbnailAddress } from "./api.js";
import { byId } from "./dom.js";
import { formatLength, formatTime } from "./time.js";

const STILL_HEIGHT = 360;
const RETRY_MS = 3000;
const WAITING_EVENTS = ["play", "pause", "waiting", "stalled", "playing", "seeking", "seeked", "loadeddata", "canplay", "ended", "emptied", "error"];

/**
 * All times are those of the frames, which start with the first frame. The browser counts from the start of the file,
 * where the sound may begin earlier: its clock is `offset` seconds ahead.
 *
 * Emits "time" (it changed), "state" (playing or not), "seeked", "duration" and "unplayable".
 */
export class Player extends EventTarget {
  constructor() {
    super();
    this.video = byId("video");
    this.film = null;
    this.isPlayable = true;
    this.stillTime = 0;
    this.knownDuration = 0;
    this.stopAt = null;
    this.wanted = null;
    this.isFresh = true; // not played and no seek yet: the large button is shown
    this.listen();
  }

  listen() {
    const { video } = this;
    const tell = (kind) => this.dispatchEvent(new Event(kind));
    video.addEventListener("timeupdate", () => this.moved());
    video.addEventListener("seeking", () => this.moved());
    video.addEventListener("seeked", () => { this.moved(); tell("seeked"); });
    for (const kind of ["play", "pause", "ended"]) video.addEventListener(kind, () => this.stateChanged());
    for (const kind of WAITING_EVENTS) video.addEventListener(kind, () => this.markWaiting());
    video.addEventListener("durationchange", () => tell("duration"));
    video.addEventListener("loadedmetadata", () => {
      if (!video.videoWidth) return this.cannotPlay(); // the browser can decode only the sound
      if (this.wanted !== null) video.currentTime = this.offset + Math.min(this.wanted, this.duration || Infinity);
      this.wanted = null;
      byId("unplayable").hidden = true;
      return undefined;
    });
    video.addEventListener("error", () => video.getAttribute("src") && this.failed());
    video.addEventListener("click", () => { if (!video.controls) this.toggle(); }); // in full screen the browser does it
    byId("big-play").addEventListener("click", () => this.toggle());
    byId("play").addEventListener("click", () => this.toggle());
    byId("mute").addEventListener("click", () => this.toggleSound());
    byId("fullscreen").addEventListener("click", () => this.toggleFullscreen());
    byId("speed").addEventListener("change", (event) => { video.playbackRate = Number(event.target.value); });
    document.addEventListener("fullscreenchange", () => { video.controls = document.fullscreenElement === byId("screen"); });
    const frame = () => { // timeupdate comes four times a second, not often enough for a playhead
      if (!video.paused) this.moved();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  /** Show a video from `blob`, a local address of the page, or from the server. */
  open(film, { blob = null, time = null, isPlaying = false } = {}) {
    this.film = film;
    this.isPlayable = true;
    this.isFresh = true;
    this.stillTime = 0;
    this.stopAt = null;
    this.wanted = time;
    this.knownDuration = film.video?.duration ?? 0;
    byId("still").hidden = true;
    byId("unplayable").hidden = true;
    this.video.hidden = false;
    this.video.src = blob ?? contentAddress(film.id);
    this.video.playbackRate = Number(byId("speed").value);
    if (film.video && film.id) this.video.poster = thumbnailAddress(film.id, time ?? 0, STILL_HEIGHT);
    else this.video.removeAttribute("poster");
    if (isPlaying) this.play();
    this.stateChanged();
    this.moved();
  }

  /** Take the properties from the server for a video that already plays. */
  learn(film) {
    this.film = film;
    this.knownDuration = film.video?.duration ?? this.knownDuration;
    if (!this.isPlayable) this.cannotPlay();
    this.dispatchEvent(new Event("duration"));
    this.moved();
  }

  close() {
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    this.film = null;
  }

  get duration() {
    return this.knownDuration || (Number.isFinite(this.video.duration) ? Math.max(0, this.video.duration - this.offset) : 0);
  }

  /** Seconds by which the clock of the browser is ahead of the clock of the frames. */
  get offset() { return this.film?.video?.player_offset ?? 0; }

  get time() {
    if (this.wanted !== null) return this.wanted;
    return this.isPlayable ? Math.max(0, this.video.currentTime - this.offset) : this.stillTime;
  }

  get isPlaying() {
    return this.isPlayable && !this.video.paused && !this.video.ended;
  }

  seek(time) {
    const inside = Math.min(Math.max(0, time), this.duration || Infinity);
    this.stopAt = null;
    this.isFresh = false;
    byId("big-play").hidden = true;
    if (!this.isPlayable) {
      this.stillTime = inside;
      this.showStill();
      this.moved();
      this.dispatchEvent(new Event("seeked"));
    } else if (this.video.readyState === 0) {
      this.wanted = inside;
      this.moved();
    } else {
      this.video.currentTime = inside + this.offset;
    }
  }

  play() {
    if (!this.isPlayable) return;
    this.video.play().catch((error) => {
      if (error.name !== "NotAllowedError" || this.video.muted) return;
      this.video.muted = true; // browsers start a video without a click only if it is muted
      this.stateChanged();
      this.video.play().catch(() => {});
    });
  }

  pause() { this.video.pause(); }

  toggle() {
    this.stopAt = null;
    if (this.isPlaying) this.pause();
    else this.play();
  }

  /** Play from `start`, and stop at `end` unless it is the same. */
  playRange(start, end) {
    this.seek(start);
    this.stopAt = end > start ? end : null;
    this.play();
  }

  toggleSound() {
    this.video.muted = !this.video.muted;
    this.stateChanged();
  }

  toggleFullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else byId("screen").requestFullscreen?.().catch(() => {});
  }

  moved() {
    if (this.stopAt !== null && this.isPlaying && this.video.currentTime - this.offset >= this.stopAt) {
      this.stopAt = null;
      this.pause();
    }
    byId("time").textContent = formatTime(this.time, 1);
    byId("duration").textContent = formatLength(this.duration);
    this.dispatchEvent(new Event("time"));
  }

  stateChanged() {
    const { isPlaying } = this;
    document.body.classList.toggle("is-playing", isPlaying);
    document.body.classList.toggle("is-muted", this.video.muted);
    byId("play").setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    byId("play").title = isPlaying ? "Pause (space)" : "Play (space)";
    byId("play").disabled = !this.isPlayable;
    byId("mute").setAttribute("aria-pressed", String(this.video.muted));
    if (isPlaying) this.isFresh = false;
    byId("big-play").hidden = !this.isFresh || !this.isPlayable;
    this.dispatchEvent(new Event("state"));
  }

  /** Show that the video waits for data: it shall play or show another time, and the data is not there yet. */
  markWaiting() {
    const { video } = this;
    const isStuck = video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA && !video.ended && (!video.paused || video.seeking);
    const isWaiting = isStuck && this.isPlayable && video.error === null && video.hasAttribute("src");
    byId("waiting").hidden = !isWaiting;
    byId("screen").setAttribute("aria-busy", String(isWaiting));
  }

  /** Handle an error: of the video, or of the connection, in which case the request is repeated until it works. */
  async failed() {
    const { film, video } = this;
    const address = video.currentSrc;
    if (!film?.id || address.startsWith("blob:")) { this.cannotPlay(); return; }
    const isLost = video.error?.code === MediaError.MEDIA_ERR_NETWORK;
    const time = this.time;
    const isThere = await fetch(address, { headers: { Range: "bytes=0-0" } }).then((reply) => reply.ok, () => false);
    if (this.film !== film || video.currentSrc !== address || !this.isPlayable) return;
    if (isThere && !isLost) { this.cannotPlay(); return; }
    this.wanted ??= time;
    byId("unplayable").textContent = "The server does not send the video. Trying again …";
    byId("unplayable").hidden = false;
    setTimeout(() => {
      if (this.film !== film || !video.error) return;
      video.load();
      video.playbackRate = Number(byId("speed").value);
    }, RETRY_MS);
  }

  cannotPlay() {
    if (this.isPlayable) this.stillTime = this.wanted ?? 0;
    this.isPlayable = false;
    this.wanted = null;
    this.video.hidden = true;
    this.markWaiting();
    const codec = this.film?.video?.codec;
    byId("unplayable").textContent =
      `This browser cannot play this video${codec ? ` (${codec})` : ""}. Stills are shown; the timeline and all tasks work.`;
    byId("unplayable").hidden = false;
    this.showStill();
    if (document.activeElement === byId("play")) byId("playhead").focus(); // the button is about to be disabled
    this.stateChanged();
    this.dispatchEvent(new Event("unplayable"));
  }

  showStill() {
    const still = byId("still");
    still.hidden = !this.film?.id;
    if (this.film?.id) still.src = thumbnailAddress(this.film.id, this.stillTime, STILL_HEIGHT);
  }
}
