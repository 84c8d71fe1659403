/** The sessions of a plane by id, which is by age: a page begins at its place, however many sessions are newer. */

/** Values with ids that sort by age. */
export class ByAge<T extends { readonly id: string }> {
  readonly #byId = new Map<string, T>();
  #ids: string[] = []; // ascending
  #sorted: (T | undefined)[] = []; // those of the ids; `undefined`: it was deleted

  get(id: string): T | undefined {
    return this.#byId.get(id);
  }

  /** All of them, in the order in which they were added. */
  values(): IterableIterator<T> {
    return this.#byId.values();
  }

  /** Adds one, or replaces that of the same id. */
  set(value: T): void {
    const { id } = value;
    this.#byId.set(id, value);
    const last = this.#ids.at(-1);
    // Most often it is the newest. Only a session whose record took a while to make comes after younger ones.
    if (last === undefined || last < id) {
      this.#ids.push(id);
      this.#sorted.push(value);
      return;
    }
    const at = this.#placeOf(id);
    if (this.#ids[at] === id) {
      this.#sorted[at] = value;
    } else {
      this.#ids.splice(at, 0, id);
      this.#sorted.splice(at, 0, value);
    }
  }

  delete(id: string): void {
    if (!this.#byId.delete(id)) return;
    this.#sorted[this.#placeOf(id)] = undefined;
    // All at once, when half are gone: to take each out of its place would move all that are younger.
    if (this.#ids.length > 2 * this.#byId.size + 64) {
      this.#sorted = this.#sorted.filter((value) => value !== undefined);
      this.#ids = this.#sorted.map((value) => (value as T).id);
    }
  }

  /** The newest first; with `before`, only those that are older than that id, which need not be there. */
  *newest(before?: string): Generator<T, void, undefined> {
    for (let i = before === undefined ? this.#ids.length : this.#placeOf(before); i-- > 0; ) {
      const value = this.#sorted[i];
      if (value !== undefined) yield value;
    }
  }

  /** Where `id` is, or would be. */
  #placeOf(id: string): number {
    let [low, high] = [0, this.#ids.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#ids[middle] as string) < id) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
