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
}

export const browserKept = new Kept(() => localStorage);
export const tabKept = new Kept(() => sessionStorage);
