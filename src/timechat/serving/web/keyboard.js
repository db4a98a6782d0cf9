// Keyboard shortcuts, and the dialog that lists them.

import { byId, element } from "./dom.js";

const SMALL_STEP = 5;
const LARGE_STEP = 10;
const NUDGE = 0.1;
const FRAME = 1 / 25; // of a video with unknown frame rate

const SHORTCUTS = [
  [["Space", "K"], "Play or pause"],
  [["←", "→"], `${SMALL_STEP} seconds back or on`],
  [["J", "L"], `${LARGE_STEP} seconds back or on`],
  [[",", "."], "One frame back or on"],
  [["N", "P"], "Next or previous event"],
  [["M", "F"], "Sound, full screen"],
  [["/"], "Ask a question; in the list of videos, search"],
  [["A"], "Add an event at the playhead"],
  [["E"], "Edit the caption of the selected event"],
  [["[", "]"], "Set its start or end to the playhead"],
  [["Shift ←", "Shift →"], `Nudge it, or the border touched last, by ${NUDGE} s`],
  [["Delete"], "Delete the selected event"],
  [["Ctrl Z", "Ctrl Shift Z"], "Undo, redo"],
  [["+", "−", "0"], "Zoom the timeline; the whole video"],
  [["Esc"], "Close, or select nothing"],
  [["?"], "This help"],
];

/** Whether the press is beside the box of a dialog, not on its padding. */
function isOutside(dialog, { clientX, clientY }) {
  const { left, right, top, bottom } = dialog.getBoundingClientRect();
  return clientX < left || clientX > right || clientY < top || clientY > bottom;
}

export function startKeyboard({ player, tracks, timeline, goTo, addEvent, editCaption, showChat, hasFilm }) {
  byId("shortcuts").append(...SHORTCUTS.flatMap(([keys, words]) => [
    element("dt", {}, ...keys.map((key) => element("kbd", {}, key))), element("dd", {}, words)]));
  const showHelp = () => byId("shortcuts-dialog").showModal();
  byId("show-shortcuts").addEventListener("click", showHelp);
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("pointerdown", (event) => { if (isOutside(dialog, event)) dialog.dispatchEvent(new Event("cancel", { cancelable: true })) && dialog.close(); });
  }

  const frame = () => 1 / (player.film?.video?.fps || 1 / FRAME);
  const step = (seconds) => player.seek(player.time + seconds);
  const plain = {
    " ": () => player.toggle(), k: () => player.toggle(),
    j: () => step(-LARGE_STEP), l: () => step(LARGE_STEP),
    ArrowLeft: () => step(-SMALL_STEP), ArrowRight: () => step(SMALL_STEP),
    ",": () => step(-frame()), ".": () => step(frame()),
    n: () => goTo(1), p: () => goTo(-1),
    m: () => player.toggleSound(), f: () => player.toggleFullscreen(),
    a: addEvent, e: editCaption,
    "[": () => tracks.setBorder("start", player.time), "]": () => tracks.setBorder("end", player.time),
    Delete: () => tracks.event && tracks.remove(tracks.track, tracks.eventId),
    Backspace: () => tracks.event && tracks.remove(tracks.track, tracks.eventId),
    "+": () => timeline.zoomBy(1.6), "=": () => timeline.zoomBy(1.6), "-": () => timeline.zoomBy(1 / 1.6), 0: () => timeline.zoomTo(1),
    "/": () => { showChat(); byId("question").focus(); },
    Escape: () => tracks.track && tracks.select(tracks.track),
  };

  // A held Enter presses a button once: what follows, such as the question of a deletion, is not answered by it.
  document.addEventListener("keydown", (event) => { if (event.repeat && event.key === "Enter" && event.target.matches?.("button, a, summary")) event.preventDefault(); });
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const isWriting = event.target.matches("textarea, select, input:not([type=checkbox], [type=radio])");
    const isAltCharacter = event.key === "[" || event.key === "]"; // some keyboards need Option or AltGr for them
    if (isWriting || (event.altKey && !isAltCharacter) || event.target.controls) return; // in full screen the browser's own controls use the keys
    if (event.key === "?") { event.preventDefault(); showHelp(); return; }
    if (!hasFilm()) {
      if (event.key === "/" && !byId("search").hidden) { event.preventDefault(); byId("search-words").focus(); }
      return;
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && !(event.altKey && isAltCharacter)) { // Windows reports AltGr as both
      if (key !== "z" && key !== "y") return;
      event.preventDefault();
      if (key === "y" || event.shiftKey) tracks.redo();
      else tracks.undo();
      return;
    }
    if (event.shiftKey && event.key.startsWith("Arrow")) {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      event.preventDefault();
      tracks.nudge(event.key === "ArrowLeft" ? -NUDGE : NUDGE);
      return;
    }
    const isOnTab = event.target.matches("[role=tab]") && event.key.startsWith("Arrow");
    const isPressing = event.key === " " && event.target.matches("button, a, summary, input") && event.target.id !== "play" && !event.target.matches(".bar, .row-open");
    if (isOnTab || isPressing || !(key in plain)) return;
    event.preventDefault();
    plain[key]();
  });
  // A space on a bar or row plays or pauses; without this the button would also be pressed when the key comes up.
  document.addEventListener("keyup", (event) => { if (event.key === " " && event.target.matches?.("#play, .bar, .row-open")) event.preventDefault(); });
}
