/**
 * A chat: whoever connects says a name, and then each line goes to everybody. Try it with two of `nc`.
 *
 * Its members share one context, so all must meet in one place: a process in Node, in a Worker one Durable Object
 * (`worker/main.ts` has it). A member that does not read harms nobody: see docs/broadcasts.md.
 */

import { StreamRequestHandler } from "socklet";

const MAX_LINE = 1_000; // bytes of a line or a name
const MAX_PENDING = 256 * 1024; // bytes that may wait for a member; who is further behind than that is cut

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
        await this.wfile.flush(); // nobody speaks faster than he reads
      }
    } finally {
      members.delete(this); // whatever ended it: the end, a reset, or being cut
      this.#tellAll(`* ${this.name} has left`);
    }
  }

  /** To each member, this one too. It waits for nobody. */
  #tellAll(line: string): void {
    for (const member of this.context.members) member.wfile.write(`${line}\n`);
  }
}

/** Without what could steer the terminal of who reads it. */
const printable = (text: string): string => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "");
