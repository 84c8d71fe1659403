/** Replaying a transcript: a script that plays one side again, and expects what the other side sent. */

import { joinBytes } from "../../bytes/data.ts";
import { checkOptions, checkWord, optionNamesOf } from "../../options.ts";
import { TLS_NAMES, type TlsOptions } from "../../sockets/tls/tls.ts";
import { Conversation } from "../script/conversation.ts";
import type { Normalise } from "./compare.ts";
import {
  peerOf,
  SIDES,
  type Side,
  type Transcript,
  type TranscriptEnd,
  type TranscriptEvent,
  whole,
} from "./form.ts";

/** Options of a replay. */
export interface ReplayOptions {
  /** Removes differences that the other end's output may have. */
  readonly normalise?: Normalise;
  /** Pause before each piece as long as it took when it was recorded. Default false: as fast as possible. */
  readonly paced?: boolean;
  /** The number of the client or connection to replay, if there are several. */
  readonly peer?: number;
  /** For `startTls()`, if the transcript has TLS. */
  readonly tls?: TlsOptions;
}

const REPLAY_NAMES = optionNamesOf<ReplayOptions>("a replay")({
  normalise: "function",
  paced: "boolean",
  peer: true,
  tls: TLS_NAMES,
});

/**
 * The script that sends what `side` sent in `transcript`, byte by byte and piece by piece, and expects what the other
 * end sent: against a handler (`runScript`), against any server or client (`run`), or as a server (`scriptHandler`).
 *
 *     await runScript(MailRequestHandler, replay(transcript, "client"), { context });
 *
 * The ends at the very end are replayed in an order that cannot deadlock: first this side's, then the other's. Where the
 * conversation turned to TLS the other's is not checked.
 */
export const replay = (transcript: Transcript, side: Side, options: ReplayOptions = {}): Conversation => {
  checkWord("side", side, SIDES);
  checkOptions("replay()", options, REPLAY_NAMES);
  const { normalise, paced = false, tls = {} } = options;
  const events = eventsOf(whole(transcript), options.peer);
  const last = events.findLastIndex((event) => !("end" in event));
  let script = new Conversation();
  let expected: Uint8Array[] = []; // what the other end said since this one spoke
  const other = side === "client" ? "server" : "client";
  const expectAll = (): void => {
    if (expected.length === 0) return;
    const whole = joinBytes(
      expected,
      expected.reduce((sum, { length }) => sum + length, 0),
    );
    expected = [];
    script = script.expect(whole, normalise && ((text) => normalise(text, other)));
  };
  events.slice(0, last + 1).forEach((event, i) => {
    if ("data" in event && event.from === other) {
      expected.push(event.data);
      if (transcript.kind === "datagrams") expectAll();
      return;
    }
    expectAll();
    const waited = event.at - (events[i - 1]?.at ?? 0);
    if (paced && waited > 0 && !("from" in event && event.from === other)) script = script.pause(waited);
    if ("tls" in event) script = script.startTls(tls);
    else if ("data" in event) script = script.send(event.data);
    else script = event.from === side ? script.halfClose() : script.expectEnd(); // what is in the middle is a half-close
  });
  expectAll();
  const ends = events.slice(last + 1).flatMap((event) => ("end" in event ? [event] : []));
  const ours = ends.filter(({ from }) => from === side).map(({ end }) => end);
  if (ours.length > 0 && !ours.includes("reset")) script = script.halfClose();
  const theirs = ends.find(({ from }) => from === other);
  // After an end nothing can be read, not even a reset.
  const before = events.slice(0, last + 1).some((event) => "end" in event && event.from === other);
  // Who closes TLS with a session ticket unread resets the connection: how it is left is chance.
  const secured = events.some((event) => "tls" in event);
  if (theirs !== undefined && !before && !secured) script = expectGone(script, theirs.end);
  if (ours.includes("reset")) script = script.reset();
  else if (ours.includes("close")) script = script.close();
  return script;
};

const expectGone = (script: Conversation, end: TranscriptEnd): Conversation =>
  end === "reset" ? script.expectReset() : script.expectEnd();

/** The events of one client, without those that are not part of the conversation. */
const eventsOf = ({ events }: Transcript, peer: number | undefined): readonly TranscriptEvent[] => {
  if (peer === undefined && events.some((event) => peerOf(event) > 1)) {
    throw new TypeError("this transcript has several clients: say which by the option peer, from 1");
  }
  return events.filter((event) => peerOf(event) === (peer ?? 1) && !("fault" in event));
};
