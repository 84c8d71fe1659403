/** What a server tells, kept, and waited for. */

import type { SockletEvent } from "../../core/serve/events.ts";

type Type = SockletEvent["type"];

/** Give its `on` as `onEvent`. */
export class Told {
  readonly all: SockletEvent[] = [];
  readonly #awaited: { when: (event: SockletEvent) => boolean; resolve: (event: SockletEvent) => void }[] =
    [];

  readonly on = (event: SockletEvent): void => {
    this.all.push(event);
    for (const { when, resolve } of this.#awaited) if (when(event)) resolve(event);
  };

  /** The first event of which this is true; those already told count. */
  until(when: (event: SockletEvent) => boolean): Promise<SockletEvent> {
    const told = this.all.find(when);
    return told !== undefined
      ? Promise.resolve(told)
      : new Promise((resolve) => this.#awaited.push({ when, resolve }));
  }

  /** Those of one type. */
  of<T extends Type>(type: T): Extract<SockletEvent, { readonly type: T }>[] {
    return this.all.filter(
      (event): event is Extract<SockletEvent, { readonly type: T }> => event.type === type,
    );
  }

  /** When so many of a type were told. */
  async count(type: Type, count: number): Promise<void> {
    await this.until(() => this.of(type).length >= count);
  }
}
