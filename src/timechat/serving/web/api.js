// Requests to the server: error messages, retries while it is busy, and the API key.

import { byId } from "./dom.js";
import { tell } from "./status.js";
import { tabKept } from "./storage.js";

const KEY = "timechat.key";
const MOST_TRIES = 8;

let key = tabKept.get(KEY);
let signingIn = null;

export const address = (path) => new URL(path, new URL(".", document.baseURI)).href;

/** An error of the server or of the connection. */
export class ServerError extends Error {
  constructor(message, status = 0, type = "", code = "") {
    super(message);
    this.name = "ServerError";
    this.status = status;
    this.type = type;
    this.code = code;
  }
}

const IN_WORDS = {
  401: "The server asks for a key.",
  403: "The server does not allow this.",
  404: "The server does not have this any more.",
  408: "This took longer than the server allows.",
  413: "This is larger than the server takes.",
  415: "The server does not take this kind of file.",
  422: "This cannot be read as a video.",
  429: "The server is busy.",
  503: "The server is not ready yet.",
};

/** The error of a response, with the server's message if there is one. */
export function errorOf(status, text) {
  let said = null;
  try {
    const body = JSON.parse(text);
    said = body.error ?? (typeof body.detail === "string" ? { message: body.detail } : null);
  } catch { /* not JSON: a proxy's page, perhaps */ }
  const words = said?.message ? said.message.charAt(0).toUpperCase() + said.message.slice(1) : IN_WORDS[status];
  return new ServerError(words ?? `The server answered with an error (${status}).`, status, said?.type, said?.code);
}

/** Whether the video of a request is not there any more. */
export const isGone = (error) => error.status === 404 && ["file_not_found", "not_found"].includes(error.code);

const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

/** Wait for the time that the server gave and show it; rejects when `signal` is aborted. */
function waitAndTell(seconds, signal) {
  const stopTelling = tell(`The server is busy. Trying again in ${Math.ceil(seconds)} s.`, { seconds: 0 });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => { stopTelling(); resolve(); }, seconds * 1000);
    signal?.addEventListener("abort", () => { clearTimeout(timer); stopTelling(); reject(new DOMException("stopped", "AbortError")); });
  });
}

/** Fetch a response of any status. */
async function reach(path, options) {
  try {
    return await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
}

/** Fetch a response that is not an error. Waits while the server is busy; asks the user for the key if the server needs one. */
export async function request(path, { method = "GET", body = null, signal = null } = {}) {
  for (let tries = 1; ; tries++) {
    const isJson = body !== null && !(body instanceof FormData);
    const reply = await reach(path, {
      method, signal,
      headers: isJson ? { ...headers(), "Content-Type": "application/json" } : headers(),
      body: isJson ? JSON.stringify(body) : body,
    });
    if (reply.ok) return reply;
    if (reply.status === 401 && tries < MOST_TRIES) { await signIn(); continue; }
    if (reply.status === 429 && tries < MOST_TRIES) {
      await waitAndTell(Number(reply.headers.get("Retry-After")) || 2, signal);
      continue;
    }
    throw errorOf(reply.status, await reply.text());
  }
}

export const json = async (path, options) => (await request(path, options)).json();

/** Ask for the key until the server accepts one; all callers share one dialog. */
function signIn() {
  signingIn ??= askForKey().finally(() => { signingIn = null; });
  return signingIn;
}

function askForKey() {
  const dialog = byId("key-dialog");
  const form = byId("key-form");
  const wrong = byId("key-wrong");
  wrong.hidden = true;
  byId("key").value = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    const giveUp = () => { end(); reject(new ServerError(IN_WORDS[401], 401)); };
    const end = () => {
      form.removeEventListener("submit", submit);
      dialog.removeEventListener("cancel", giveUp);
      byId("key-cancel").removeEventListener("click", giveUp);
      dialog.close();
    };
    const submit = async (event) => {
      event.preventDefault();
      const given = byId("key").value.trim();
      try {
        await openSession(given);
        key = given;
        tabKept.set(KEY, key);
        end();
        resolve();
      } catch (error) {
        wrong.textContent = error.status === 401 ? "The server does not take this key." : error.message;
        wrong.hidden = false;
        byId("key").select();
      }
    };
    form.addEventListener("submit", submit);
    dialog.addEventListener("cancel", giveUp);
    byId("key-cancel").addEventListener("click", giveUp);
  });
}

/** Let the server set its cookie, which is sent with requests for videos, images and job events. */
async function openSession(given) {
  const reply = await reach("v1/session", { method: "POST", headers: { Authorization: `Bearer ${given}` } });
  if (!reply.ok) throw errorOf(reply.status, await reply.text());
}

/** Renew the cookie after a reload. A key that the server does not know any more is dropped, and the first request asks for another. */
export async function resumeSession() {
  if (!key) return;
  try { await openSession(key); } catch (error) {
    if (error.status !== 401 && error.status !== 404) return; // the server is busy or away, and the key may still be right
    key = null;
    tabKept.remove(KEY);
  }
}

/** Upload a file; `onProgress` gets the share that is sent, 0 to 1. `cancel()` of the result stops it. */
export function upload(file, onProgress) {
  let sending = null;
  let isCancelled = false;
  const send = () => new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("purpose", "user_data");
    form.append("file", file, file.name);
    sending = new XMLHttpRequest();
    sending.open("POST", address("v1/files"));
    for (const [name, value] of Object.entries(headers())) sending.setRequestHeader(name, value);
    sending.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    sending.onload = () => (sending.status < 300 ? resolve(JSON.parse(sending.responseText)) : reject(Object.assign(
      errorOf(sending.status, sending.responseText), { retryAfter: Number(sending.getResponseHeader("Retry-After")) || 2 })));
    sending.onerror = () => reject(new ServerError("The upload was cut off. Is the server still running?"));
    sending.onabort = () => reject(new DOMException("stopped", "AbortError"));
    sending.send(form);
  });
  const whole = async () => {
    for (let tries = 1; ; tries++) {
      if (isCancelled) throw new DOMException("stopped", "AbortError");
      try { return await send(); } catch (error) {
        if (tries >= MOST_TRIES) throw error;
        if (error.status === 401) await signIn();
        else if (error.status === 429) await waitAndTell(error.retryAfter);
        else throw error;
      }
    }
  };
  return { done: whole(), cancel: () => { isCancelled = true; sending?.abort(); } };
}

const CUT_OFF = "The connection to the server was lost before the answer was complete.";

/** The JSON messages of a stream of server-sent events, until `[DONE]`. */
export async function* readStream(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ServerError(CUT_OFF);
    });
    rest += value ?? "";
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = done ? "" : blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
    if (done) throw new ServerError(CUT_OFF);
  }
}

export const contentAddress = (id) => address(`v1/files/${encodeURIComponent(id)}/content`);
export const thumbnailAddress = (id, time, height) =>
  address(`v1/files/${encodeURIComponent(id)}/thumbnail?time=${Number(time.toFixed(2))}&height=${height}`);
