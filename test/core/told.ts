/** The events of a server: kept, and waited for. */

import type { SockletEvent } from "../../core/handlers/events.ts";
import { awaited } from "../awaited.ts";

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
    const find = () => this.of(type).filter(such)[count - 1];
    const wait = async (): Promise<OfType<Type>> => {
      for (let found = find(); ; found = find()) {
        if (found !== undefined) return found;
        await new Promise<void>((resolve) => this.#look.push(resolve));
      }
    };
    return find() ?? awaited(wait(), () => `event "${type}", number ${count}; told were ${this.#told(100)}`);
  }

  /** The types of the last `most` events. */
  #told(most: number): string {
    const types = this.all.slice(-most).map(({ type }) => type);
    return `${this.all.length > most ? "…, " : ""}${types.join(", ")}`;
  }
}
