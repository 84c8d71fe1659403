/** The relay between a pool and its server in a check: it counts the server's bytes, and misbehaves at one place. */

import { SHUT_WR } from "../../net/constants.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { memoryPair } from "../memory-streams.ts";
import type { MemoryTarget } from "./memory.ts";

/** The misbehaviour on the first connection. */
export interface Mischief {
  /** The side whose bytes are counted. */
  readonly of: "server" | "client";
  /** The number of bytes before it happens. */
  readonly at: number;
  /**
   * The connection ends, or is reset; everything that follows is lost in silence; a caller gives up; or something unsolicited
   * of this many bytes is sent.
   */
  readonly does: "end" | "reset" | "silence" | "leave" | "notice";
  readonly notice?: Uint8Array;
}

/** The connections of a pool to one server; `mischief` happens on the first. */
export class Relay implements MemoryTarget {
  /** The bytes that the server has sent on the first connection. */
  said = 0;
  /** The bytes that the pool has received. */
  asked = 0;
  /** The number of connections so far. */
  connections = 0;
  /** Called at the point where a caller should give up. */
  onleave: () => void = () => {};
  readonly #target: MemoryTarget;
  readonly #mischief: Mischief | null;
  readonly #slice: number;
  readonly #open = new Set<StreamSocket>();

  /** `slice`: the bytes that pass at a time. */
  constructor(target: MemoryTarget, mischief: Mischief | null = null, slice = Number.POSITIVE_INFINITY) {
    this.#target = target;
    this.#mischief = mischief;
    this.#slice = slice;
  }

  async connect(): Promise<StreamSocket> {
    const first = this.connections++ === 0;
    const server = await this.#target.connect();
    const [outer, inner] = memoryPair({ timeout: null, capacity: 2 ** 24 });
    server.settimeout(null);
    this.#open.add(inner).add(server);
    void this.#carry(server, inner, first, "server");
    void this.#carry(inner, server, first, "client");
    return outer;
  }

  /** Closes all connections. */
  close(): void {
    for (const socket of this.#open) socket.abort();
    this.#open.clear();
  }

  /** Relays what `from` sends to `to`, up to the place of the misbehaviour. */
  async #carry(from: StreamSocket, to: StreamSocket, first: boolean, of: "server" | "client"): Promise<void> {
    const mischief = first && this.#mischief?.of === of ? this.#mischief : null;
    let carried = 0;
    const count = (size: number): void => {
      carried += size;
      if (!first) return;
      if (of === "server") this.said += size;
      else this.asked += size;
    };
    /** Returns whether it continues. */
    const happen = async (): Promise<boolean> => {
      if (mischief?.does === "notice") await to.sendall(mischief.notice as Uint8Array);
      else if (mischief?.does === "leave") this.onleave();
      else if (mischief?.does === "reset") {
        to.abort();
        from.abort();
        return false;
      } else if (mischief?.does === "end") {
        await to.shutdown(SHUT_WR);
        return false;
      } else if (mischief?.does === "silence") return false;
      return true;
    };
    try {
      if (mischief?.at === 0 && !(await happen())) return;
      for await (const bytes of from) {
        for (let at = 0; at < bytes.length; ) {
          const left = mischief !== null && mischief.at > carried ? mischief.at - carried : this.#slice;
          const piece = bytes.subarray(at, at + Math.min(left, this.#slice));
          await to.sendall(piece);
          count(piece.length);
          at += piece.length;
          if (carried === mischief?.at && !(await happen())) return;
        }
      }
      await to.shutdown(SHUT_WR);
    } catch {
      from.abort(); // one end is gone, and so is the other
      to.abort();
    }
  }
}
