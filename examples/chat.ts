/**
 * A chat: everybody who connects says a name, and then each line goes to all members. Try it with two `nc`s.
 *
 * The members share one context, so all must meet in one place: in Node a process, in a Worker one Durable Object (see
 * `worker/main.ts`). A member that does not read harms nobody: see docs/broadcasts.md.
 */

import { StreamRequestHandler } from "socklet";

const MAX_LINE = 1_000; // bytes of a line or a name
const MAX_PENDING = 256 * 1024; // bytes that may wait for a member; one that is further behind is cut

/** What the members of one chat share. */
export interface ChatContext {
  readonly members: Set<Chat>;
}

/** One member, from its name to its end. */
export class Chat extends StreamRequestHandler<ChatContext> {
  override readonly timeout = null; // a member may be silent for hours
  name = "";

  override async handle(): Promise<void> {
    const { members } = this.context;
    this.rfile.maxLine = MAX_LINE;
    this.wfile.maxPending = MAX_PENDING;
    this.wfile.write("What is your name?\n");
    this.name = printable((await this.rfile.line()) ?? "").trim();
    if (this.name === "") return;
    members.add(this);
    try {
      this.#tellAll(`* ${this.name} is here, of ${members.size}`);
      for await (const line of this.rfile.lines()) {
        this.#tellAll(`${this.name}: ${printable(line)}`);
        await this.wfile.flush(); // nobody may send faster than they read
      }
    } finally {
      members.delete(this); // however it ended: by the peer's end, by a reset, or by being cut
      this.#tellAll(`* ${this.name} has left`);
    }
  }

  /** Writes a line to every member, including this one, and waits for nobody. */
  #tellAll(line: string): void {
    for (const member of this.context.members) member.wfile.write(`${line}\n`);
  }
}

/** Removes what could steer the reader's terminal. */
const printable = (text: string): string => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "");
