/** The events of a server: kept, and waited for. */

import type { SockletEvent } from "../../core/handlers/events.ts";

type OfType<Type extends SockletEvent["type"]> = Extract<SockletEvent, { readonly type: Type }>;

/** Give its `on` as `onEvent`. */
export class Told {
  readonly all: SockletEvent[] = [];
  #look: (() => void)[] = [];

  readonly on = (event: SockletEvent): void => {
    this.all.push(event);
    for (const look of this.#look.splice(0)) look();
  };

  /** Those of one type. */
  of<Type extends SockletEvent["type"]>(type: Type): OfType<Type>[] {
    return this.all.filter((event): event is OfType<Type> => event.type === type);
  }

  /** The `count`th event of a type that is `such`, as soon as it is reported. */
  async next<Type extends SockletEvent["type"]>(
    type: Type,
    count = 1,
    such: (event: OfType<Type>) => boolean = () => true,
  ): Promise<OfType<Type>> {
    for (;;) {
      const found = this.of(type).filter(such)[count - 1];
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#look.push(resolve));
    }
  }
}
