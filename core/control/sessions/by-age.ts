/** The sessions of a plane by id, and so by age: reading a page takes the same time however many sessions are newer. */

/** Values with ids that sort by age. */
export class ByAge<T extends { readonly id: string }> {
  readonly #byId = new Map<string, T>();
  #ids: string[] = []; // ascending
  #sorted: (T | undefined)[] = []; // the values of the ids; `undefined`: deleted

  get(id: string): T | undefined {
    return this.#byId.get(id);
  }

  /** All of them, in the order in which they were added. */
  values(): IterableIterator<T> {
    return this.#byId.values();
  }

  /** Adds a value, or replaces the one with the same id. */
  set(value: T): void {
    const { id } = value;
    this.#byId.set(id, value);
    const last = this.#ids.at(-1);
    // Usually it is the newest. Only a session whose record took a while to make is added after younger ones.
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
    // Compacts once half are gone: removing each from its position would move all younger ones.
    if (this.#ids.length > 2 * this.#byId.size + 64) {
      this.#sorted = this.#sorted.filter((value) => value !== undefined);
      this.#ids = this.#sorted.map((value) => (value as T).id);
    }
  }

  /** The newest first; with `before`, only those older than that id, which need not exist. */
  *newest(before?: string): Generator<T, void, undefined> {
    for (let i = before === undefined ? this.#ids.length : this.#placeOf(before); i-- > 0; ) {
      const value = this.#sorted[i];
      if (value !== undefined) yield value;
    }
  }

  /** The position of `id`, or where it would be inserted. */
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
