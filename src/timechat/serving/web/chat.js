// Chat about the video: streamed answers with times that can be clicked.

import { readStream, request, ServerError } from "./api.js";
import { byId, element } from "./dom.js";
import { tabKept } from "./storage.js";
import { splitTimes } from "./time.js";

const SUGGESTIONS = ["What happens in this video?", "How does it end?", "When does something new begin?"];

/** `seek(time)` follows a clicked time; `answered(answer)` gets the answer with its events. */
export class Chat {
  constructor({ seek, linkTo, answered, explained, duration }) {
    this.seek = seek;
    this.linkTo = linkTo;
    this.answered = answered;
    this.explained = explained;
    this.duration = duration;
    this.film = null;
    this.messages = [];
    this.running = null;
    const question = byId("question");
    byId("ask").addEventListener("submit", (event) => { event.preventDefault(); this.ask(question.value); });
    question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.ask(question.value); }
      if (event.key === "Escape") { if (this.running) this.stop(); else question.blur(); }
    });
    question.addEventListener("input", () => this.fit());
    byId("stop").addEventListener("click", () => this.stop());
    addEventListener("pagehide", () => { if (this.running) this.keep(); });
  }

  get storageKey() { return `timechat.chat:${this.film}`; }

  /** Open a video; null during its upload. */
  open(film) {
    this.stop();
    this.running = null;
    this.film = film;
    this.messages = [];
    try { this.messages = film ? (JSON.parse(tabKept.get(this.storageKey)) ?? []) : []; } catch { /* begin anew */ }
    const last = this.messages.at(-1); // without an end if the page was left during the answer
    if (last?.role === "assistant" && !last.isOver) Object.assign(last, { isError: !last.text, failure: "The page was left before the answer was complete." });
    this.isReady = film !== null;
    this.draw();
  }

  set isReady(isReady) {
    byId("question").disabled = !isReady;
    byId("send").disabled = !isReady;
    byId("question").placeholder = isReady ? "Ask about this video" : "You can ask once the video is uploaded";
  }

  keep() {
    tabKept.set(this.storageKey, JSON.stringify(this.messages));
  }

  fit() {
    const question = byId("question");
    question.style.height = "auto";
    question.style.height = `${Math.min(question.scrollHeight, 160)}px`;
  }

  stop() { this.running?.abort(); }

  clear() {
    this.stop();
    this.messages = [];
    this.keep();
    this.draw();
    byId("question").focus();
  }

  /** The messages for the server; the video is part of the first question. */
  history() {
    const said = this.messages.filter((message) => !message.isError && message.text);
    return said.map((message, at) => ({
      role: message.role,
      content: at === 0 ? [{ type: "file", file: { file_id: this.film } }, { type: "text", text: message.text }] : message.text,
    }));
  }

  async ask(words) {
    const text = words.trim();
    if (!text || this.running || !this.film) return;
    byId("question").value = "";
    this.fit();
    // What failed or was stopped before its first word is no part of the conversation.
    while (this.messages.length && (this.messages.at(-1).isError || this.messages.at(-1).role === "user")) this.messages.pop();
    this.messages.push({ role: "user", text });
    const messages = this.history();
    const answer = { role: "assistant", text: "" };
    this.messages.push(answer);
    const { film } = this;
    this.keep(); // so that a reload does not lose the question
    const controller = new AbortController();
    this.running = controller;
    this.draw();
    try {
      await this.listen(messages, answer, controller.signal);
    } catch (error) {
      if (error.name !== "AbortError") Object.assign(answer, { isError: !answer.text, failure: this.explained(error).message });
      else answer.isStopped = true;
    } finally {
      answer.isOver = true;
      if (this.running === controller) this.running = null;
      if (this.film === film) {
        if (answer.isStopped && !answer.text) this.messages = this.messages.filter((message) => message !== answer);
        this.keep();
        this.draw();
      }
    }
  }

  /** Ask the last question once more, in place of its answer. */
  askAgain() {
    const at = this.messages.findLastIndex((message) => message.role === "user");
    if (at < 0 || this.running) return;
    const { text } = this.messages[at];
    this.messages = this.messages.slice(0, at);
    this.ask(text);
  }

  async listen(messages, answer, signal) {
    const model = byId("model").textContent || "nano";
    const reply = await request("v1/chat/completions", { method: "POST", signal, body: { model, messages, stream: true } });
    let read = null;
    for await (const chunk of readStream(reply)) {
      if (chunk.error) throw new ServerError(chunk.error.message);
      const words = chunk.choices?.[0]?.delta?.content;
      if (words) { answer.text += words; this.drawAnswer(answer); }
      read = chunk.timechat ?? read;
    }
    if (!answer.text) throw new ServerError("The model had nothing to say.");
    if (read) { answer.notes = read.notes ?? []; this.answered(read); }
  }

  draw() {
    const list = byId("messages");
    byId("send").hidden = this.running !== null;
    byId("stop").hidden = this.running === null;
    list.classList.toggle("is-empty", !this.messages.length);
    list.setAttribute("aria-busy", String(this.running !== null)); // screen readers read it once, when it is complete
    list.replaceChildren(...(this.messages.length ? this.messages.map((message) => this.bubble(message)) : [this.welcome()]));
    if (this.messages.length && !this.running) list.append(element("button", { type: "button", class: "quiet small clear-chat", on: { click: () => this.clear() } }, "New conversation"));
    list.scrollTop = list.scrollHeight;
  }

  welcome() {
    return element("div", { class: "welcome" },
      element("h2", {}, "Ask about the video"),
      element("p", {}, "Times in an answer can be clicked."),
      ...(this.film ? SUGGESTIONS.map((words) => element("button", { type: "button", class: "suggestion", on: { click: () => this.ask(words) } }, words)) : []));
  }

  bubble(message) {
    const bubble = element("div", { class: `message ${message.role}${message.isError ? " error" : ""}` });
    const body = element("div", { class: "words", dir: "auto" });
    bubble.append(element("span", { class: "unseen" }, message.role === "user" ? "You: " : "TimeChat: "), body);
    this.fill(body, message);
    if (message === this.messages.at(-1)) this.lastBody = body;
    if (message.isStopped) bubble.append(element("p", { class: "aside" }, "Stopped."));
    if (message.failure) bubble.append(element("p", { class: "aside wrong", role: "alert" }, message.failure));
    if (message.failure && message === this.messages.at(-1)) {
      bubble.append(element("button", { type: "button", class: "quiet small again", on: { click: () => this.askAgain() } }, "Ask again"));
    }
    for (const note of message.notes ?? []) bubble.append(element("p", { class: "aside" }, note));
    return bubble;
  }

  fill(body, message) {
    if (message.role === "user") { body.textContent = message.text; return; }
    body.replaceChildren(...this.linked(message.text));
    if (this.running && message === this.messages.at(-1)) body.append(element("span", { class: message.text ? "cursor" : "thinking", "aria-label": "is writing" }));
  }

  drawAnswer(answer) {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      if (answer !== this.messages.at(-1)) return;
      const list = byId("messages");
      const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
      this.fill(this.lastBody, answer);
      if (isAtEnd) list.scrollTop = list.scrollHeight;
    });
  }

  /** Text with a link for every time in it. */
  linked(text) {
    return splitTimes(text, this.duration()).map(({ text: words, time }) => (time === null ? document.createTextNode(words)
      : element("a", { class: "time", href: this.linkTo(time), "data-time": time, on: { click: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.seek(time);
      } } }, words)));
  }
}
