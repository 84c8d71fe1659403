/**
 * A chat with a member that never reads, in any place: the others go on unharmed, and get every line. What its server then
 * tells of the slow member is `checkTold()`'s to look at. Without a test framework: it runs inside workerd, too.
 */

import type { SockletEvent, StreamSocket } from "socklet";

const LINE = "x".repeat(900);
const BATCH = 50; // lines, fewer bytes than any place buffers
const MOST = 200_000; // lines: several times what all kernels on the way hold

const same = (what: string, got: unknown, expected: unknown): void => {
  if (got !== expected) throw new Error(`${what}: ${String(got).slice(0, 80)}, not ${expected}`);
};

/** Joins a chat at the other end of `stream`, and waits for the confirmation. */
const join = async (stream: StreamSocket, name: string, members: number): Promise<StreamSocket> => {
  await stream.sendall(`${name}\n`);
  same(name, await stream.rfile.line(), "What is your name?");
  same(name, await stream.rfile.line(), `* ${name} is here, of ${members}`);
  return stream;
};

/**
 * Three join; one speaks until the chat has lost the one that does not read. Gives the connection of that one, to see
 * what its peer sees.
 */
export const slowMember = async (dial: () => Promise<StreamSocket>): Promise<StreamSocket> => {
  const speaker = await join(await dial(), "speaker", 1);
  const slow = await join(await dial(), "slow", 2);
  same("the speaker", await speaker.rfile.line(), "* slow is here, of 2");
  const other = await join(await dial(), "other", 3);
  same("the speaker", await speaker.rfile.line(), "* other is here, of 3");

  let cut = false;
  /** Reads up to line `last`, and sees that none is missing; among them may be that the slow one has left. */
  const hear = async (member: StreamSocket, first: number, last: number): Promise<void> => {
    for (let next = first; next <= last; ) {
      const line = await member.rfile.line();
      if (line === "* slow has left") cut = true;
      else same("a line", line, `speaker: ${next++} ${LINE}`);
    }
  };
  let said = 0;
  while (!cut) {
    if (said > MOST) throw new Error("the member that never reads is there still");
    const first = said + 1;
    let batch = "";
    for (let i = 0; i < BATCH; i++) batch += `${++said} ${LINE}\n`;
    await speaker.sendall(batch);
    await Promise.all([hear(speaker, first, said), hear(other, first, said)]);
  }

  await other.sendall("still here\n"); // both can speak and hear; told of what left before
  for (const member of [speaker, other]) {
    let line = await member.rfile.line();
    if (line === "* slow has left") line = await member.rfile.line();
    same("the others", line, "other: still here");
  }
  await Promise.all([speaker.close(), other.close()]);
  return slow;
};

/** Checks the server's events once all have ended: the slow member failed, with its reason, and the others did not. */
export const checkTold = (events: readonly SockletEvent[], code: (error: unknown) => unknown): void => {
  const ends = events.flatMap((event) => (event.type === "end" ? [`${event.id} ${event.failed}`] : []));
  same("ends", ends.toSorted().join(), "1 false,2 true,3 false");
  const errors = events.flatMap((event) =>
    event.type === "error" ? [`${event.id} ${code(event.error)}`] : [],
  );
  same("errors", errors.join(), "2 ENOBUFS");
};
