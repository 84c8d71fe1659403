/**
 * A client of Redis for a pool: it logs in once a connection, sends many commands before their replies come, and is told
 * what the server pushes (RESP3).
 *
 *     await using redis = pool("tcp://127.0.0.1:6379", Redis, { max: 4, pipeline: 64 });
 *     await redis.call(["SET", "k", "v"]);
 *
 *     await using one = await redis.lease(); // MULTI, WATCH and SUBSCRIBE need a connection of one's own
 *     await one.call(["MULTI"]);
 */

import { ClientHandler, ErrorReply, Notice } from "socklet";
import { Push, type Reply, readReply, type Word, writeCommand } from "./resp/replies.ts";

export type { Reply, Word };

/** Who logs in, and where. */
export interface RedisLogin {
  /** Default `default`. */
  readonly username?: string;
  readonly password?: string;
  /** The number of the database. Default 0. */
  readonly database?: number;
}

/** The server's error: its first word is its kind, `WRONGTYPE`. */
export class RedisError extends Error {}

const SUBSCRIBES = /^(?:[PS]?UN)?[PS]?SUBSCRIBE$/i;
const REFUSED = /^(?:MONITOR|SYNC|PSYNC|QUIT)$/i; // they change what the connection is

export class Redis extends ClientHandler<readonly Word[], Reply> {
  #multi = false;
  #subscribed = false;

  override async setup(): Promise<void> {
    await super.setup();
    await this.#logIn();
  }

  async #logIn(): Promise<void> {
    const { username = "default", password, database = 0 } = this.login;
    const proof = password === undefined ? [] : ["AUTH", username, password];
    await this.exchange(["HELLO", "3", ...proof]);
    if (database !== 0) await this.exchange(["SELECT", `${database}`]);
    await this.exchange(["PING"]); // a server that still loads its data greets, and answers all else by an error
  }

  /** Who logs in: the pool's `context`. In an app, whose context has more, a class of your own says where it is. */
  protected get login(): RedisLogin {
    return (this.context ?? {}) as RedisLogin;
  }

  override send(command: readonly Word[]): void {
    const [name = "", ...args] = command;
    if (typeof name !== "string" || name === "")
      throw new TypeError('a command begins with its name: ["GET", "k"]');
    if (REFUSED.test(name)) throw new TypeError(`${name} is not for a pool's connection`);
    if (/^CLIENT$/i.test(name) && /^REPLY$/i.test(String(args[0])))
      throw new TypeError("CLIENT REPLY is not for a pool");
    if (SUBSCRIBES.test(name)) {
      if (args.length !== 1) throw new TypeError(`${name} takes one channel at a time here`);
      this.#subscribed = true;
    }
    writeCommand(this.wfile, command);
  }

  override async receive(
    command: readonly Word[] | undefined,
  ): Promise<Reply | Notice<readonly Reply[]> | ErrorReply> {
    const got = await readReply(this.rfile);
    const name = command === undefined ? "" : String(command[0]).toUpperCase();
    if (got instanceof Push) {
      // RESP3 confirms a subscription by a push, and by nothing else.
      const confirms = SUBSCRIBES.test(name) && String(got.items[0]).toUpperCase() === name;
      return confirms ? [...got.items] : new Notice(got.items);
    }
    if (typeof got === "object" && got !== null && "error" in got)
      return new ErrorReply(new RedisError(got.error));
    if (name === "MULTI") this.#multi = true;
    else if (name === "EXEC" || name === "DISCARD" || name === "RESET") this.#multi = false;
    return got;
  }

  override get inTransaction(): boolean {
    return this.#multi;
  }

  override async idle(): Promise<void> {
    await this.exchange(["PING"]);
  }

  /** As if it had just been made: no watched keys, the first database, nobody logged in; and then logged in. */
  override async reset(): Promise<void> {
    if (this.#subscribed) throw new RedisError("it has subscribed, and messages may be under way");
    await this.exchange(["RESET"]);
    await this.#logIn();
  }
}
