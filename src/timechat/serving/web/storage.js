// Storage of the browser. If it is disabled or full, values last until the page is closed.

class Kept {
  constructor(find) {
    this.instead = new Map();
    try { this.storage = find(); } catch { this.storage = null; }
  }

  get(name) {
    if (this.instead.has(name)) return this.instead.get(name);
    return this.storage?.getItem(name) ?? null;
  }

  set(name, value) {
    this.instead.delete(name);
    try { this.storage.setItem(name, value); } catch { this.instead.set(name, value); }
  }

  remove(name) {
    this.instead.delete(name);
    this.storage?.removeItem(name);
  }

  /** The names of all values whose name begins with `prefix`. */
  keys(prefix) {
    return [...new Set([...Object.keys(this.storage ?? {}), ...this.instead.keys()])].filter((name) => name.startsWith(prefix));
  }

  /** Call `changed(name)` when another tab has changed a value. */
  listen(changed) {
    addEventListener("storage", (event) => { if (event.key !== null) changed(event.key); });
  }
}

export const browserKept = new Kept(() => localStorage);
export const tabKept = new Kept(() => sessionStorage);
