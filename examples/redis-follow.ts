/**
 * Two lasting sessions, on Redis (https://redis.io/docs/latest/commands/xread/, …/subscribe/). A stream keeps its entries, so its
 * reader goes on after the last one that it told. A channel keeps nothing: its subscriber says for how long it was away.
 */

import { SocketError, StreamRequestHandler } from "socklet";
import { Push, type Reply, readReply, writeCommand } from "./resp/replies.ts";

const BLOCK = 300_000; // ms until Redis answers that nothing came: an idle connection is used, and a dead one found, within it
const BATCH = 100; // entries of one reply: they are told and saved together

/** What `RedisStreamReader` takes as its params. */
export interface FollowedStream {
  readonly key: string;
  /** How many entries it tells in all; default: it goes on for ever. */
  readonly limit?: number;
}

/** Tells each entry of a stream once, as `{ id, fields }`, from the first on. */
export class RedisStreamReader extends StreamRequestHandler<
  unknown,
  FollowedStream,
  { readonly last: string; readonly told: number }
> {
  override readonly initialState = { last: "0-0", told: 0 };
  override readonly timeout = BLOCK + 10_000; // ms: Redis answers before

  override async handle(): Promise<number> {
    const { key, limit = Number.POSITIVE_INFINITY } = this.params;
    let { last, told } = this.state;
    while (told < limit) {
      const count = Math.min(BATCH, limit - told);
      writeCommand(this.wfile, ["XREAD", "COUNT", `${count}`, "BLOCK", `${BLOCK}`, "STREAMS", key, last]);
      for (const [id, fields] of entriesOf(await readReply(this.rfile))) {
        this.emit({ id, fields });
        last = id;
        told++;
      }
      await this.save({ last, told }); // in the turn of what was told: both are kept, or neither
    }
    return this.done(told);
  }
}

/** `[[key, [[id, [name, value, …]], …]]]`, or `null` where nothing came. */
const entriesOf = (reply: Reply | Push): [id: string, fields: Reply][] => {
  if (reply === null) return [];
  if (!Array.isArray(reply)) {
    throw new SocketError("ERR_REFUSED", (reply as { error?: string }).error ?? "that is no answer to XREAD");
  }
  return (reply as [[string, [string, Reply][]]])[0][1];
};

/** What `RedisSubscriber` takes as its params. */
export interface FollowedChannel {
  readonly channel: string;
  /** How many messages it tells on one connection; default: it goes on for ever. */
  readonly limit?: number;
}

/** Tells what is said on a channel, as `{ message }`, and, as `{ missing: { from, to } }`, while it could not hear. */
export class RedisSubscriber extends StreamRequestHandler<
  unknown,
  FollowedChannel,
  { readonly heard: Date }
> {
  override readonly timeout = null; // a channel may be silent for as long as it likes

  override async handle(): Promise<number> {
    const { channel, limit = Number.POSITIVE_INFINITY } = this.params;
    const before = this.state;
    writeCommand(this.wfile, ["SUBSCRIBE", channel]);
    let told = 0;
    while (told < limit) {
      const got = await readReply(this.rfile);
      const [kind, , message] = (got instanceof Push ? got.items : got) as Reply[];
      const heard = new Date();
      if (kind === "message") {
        this.emit({ message });
        told++;
      } else if (before !== undefined) this.emit({ missing: { from: before.heard, to: heard } });
      await this.save({ heard });
    }
    return this.done(told);
  }
}
