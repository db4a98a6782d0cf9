// Saving a track in any format that the server writes.

import { json, request } from "./api.js";
import { byId, element } from "./dom.js";
import { tellError } from "./status.js";
import { browserKept } from "./storage.js";

const KEPT = "timechat.format";

export class ExportDialog {
  /** `film()` is the open video. */
  constructor({ film }) {
    this.formats = null;
    this.film = film;
    byId("export-form").addEventListener("submit", (event) => { event.preventDefault(); this.save(); });
    byId("export-close").addEventListener("click", () => byId("export-dialog").close());
  }

  async open(track) {
    this.track = track;
    try {
      this.formats ??= (await json("v1/export/formats")).data;
    } catch (error) { tellError(error); return; }
    const count = track.events.length;
    byId("export-what").textContent = `${track.title}, ${count} ${count === 1 ? "event" : "events"}${track.isEdited ? ", as edited" : ""}`;
    byId("export-notes").replaceChildren();
    const kept = browserKept.get(KEPT);
    const chosen = this.formats.some(({ format }) => format === kept) ? kept : "srt";
    byId("formats").replaceChildren(...this.formats.map(({ format, title, extension }) => element("label", { class: "format" },
      element("input", { type: "radio", name: "format", value: format, checked: format === chosen }),
      element("span", {}, title, element("small", {}, extension)))));
    byId("export-dialog").showModal();
    byId("formats").querySelector("input:checked")?.focus();
  }

  async save() {
    const format = byId("formats").querySelector("input:checked").value;
    browserKept.set(KEPT, format);
    try {
      const { filename, video } = this.film();
      const answer = { ...this.track.edited(), video: filename.split("/").at(-1), player_offset: video?.player_offset ?? 0 };
      const reply = await request("v1/export", { method: "POST", body: { answer, format, fps: video?.fps >= 0.1 && video.fps <= 1000 ? video.fps : null, start_timecode: video?.start_timecode ?? null } });
      const file = await reply.blob();
      const link = element("a", { href: URL.createObjectURL(file), download: fileName(reply.headers.get("Content-Disposition"), `timechat${this.extension(format)}`) });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      const notes = JSON.parse(reply.headers.get("X-Notes") || "[]");
      byId("export-notes").replaceChildren(...notes.map((note) => element("p", {}, note)));
      if (!notes.length) byId("export-dialog").close();
    } catch (error) {
      byId("export-notes").replaceChildren(element("p", { class: "wrong" }, error.message));
    }
  }

  extension(format) { return this.formats.find((other) => other.format === format)?.extension ?? ""; }
}

/** The name that a Content-Disposition header gives its file (RFC 6266). */
function fileName(header, otherwise) {
  const encoded = /filename\*=UTF-8''([^;]+)/i.exec(header ?? "");
  if (encoded) { try { return decodeURIComponent(encoded[1]); } catch { /* take the plain one */ } }
  return /filename="?([^";]+)"?/i.exec(header ?? "")?.[1] ?? otherwise;
}
