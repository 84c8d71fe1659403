/**
 * Events as bytes: server-sent events (WHATWG HTML 9.2), written and read. This is the one form in which
 * events are transferred: by HTTP, and by a Durable Object's RPC, which carries streams of bytes but no iterables.
 */

import { encoder, withDeadline } from "../../bytes/data.ts";
import { printableJson } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import type { SessionEvent } from "../plane.ts";

/** What every transferred event has. */
interface Numbered {
  readonly id: number;
  readonly type: string;
}

const HEARTBEAT = 15_000; // ms: WHATWG HTML advises a comment every 15 seconds, for proxies that drop silent connections
const RETRY = 2_000; // ms after which a browser connects again
const MAX_EVENT = 64 * 1024; // characters that a reader gathers for one event; ours are below 20 KiB

/**
 * A stream of `events`, each a chunk of its own, with a comment as a heartbeat while nothing happens. It reads one event at a
 * time, when the consumer asks, and aborts `leaving` when the consumer leaves: pass its signal to the source of the
 * events.
 *
 *     const leaving = new AbortController();
 *     return eventStream(session.events(after, leaving.signal), leaving);
 */
export const eventStream = (
  events: AsyncIterable<Numbered>,
  leaving: AbortController,
  heartbeat: number = HEARTBEAT,
): ReadableStream<Uint8Array> => {
  const source = events[Symbol.asyncIterator]();
  let next: Promise<IteratorResult<Numbered>> | undefined; // the read that a heartbeat came before
  return new ReadableStream(
    {
      type: "bytes", // the kind that a Durable Object's RPC carries
      start(controller) {
        controller.enqueue(encoder.encode(`retry: ${RETRY}\n\n`)); // so that the head of the answer leaves at once
      },
      async pull(controller: ReadableByteStreamController) {
        next ??= source.next();
        let timer: ReturnType<typeof setTimeout> | undefined;
        const silence = new Promise<null>((resolve) => {
          timer = setTimeout(resolve, heartbeat, null);
        });
        const got = await Promise.race([next, silence]).finally(() => clearTimeout(timer));
        if (leaving.signal.aborted) return;
        if (got === null) return controller.enqueue(encoder.encode(":\n\n"));
        next = undefined;
        if (!got.done) return controller.enqueue(encoder.encode(eventText(got.value)));
        controller.close();
        controller.byobRequest?.respond(0); // a reader with its own buffer waits for this
      },
      cancel() {
        leaving.abort();
        void source.return?.().catch(() => {}); // frees its resources, even between two events
      },
    },
    { highWaterMark: 0 },
  );
};

/** One event as text. JSON contains no raw line ends, so the data is one line, and it is safe to print. */
const eventText = (event: Numbered): string =>
  `id: ${event.id}\nevent: ${event.type}\ndata: ${printableJson(JSON.stringify(event))}\n\n`;

/**
 * The events of a stream that `eventStream` wrote. Ends with the stream or when `signal` aborts. Rejects if
 * the stream breaks or has another format, and with `ETIMEDOUT` if it is silent for `silence` ms.
 */
export async function* readEvents<Event extends Numbered = SessionEvent>(
  stream: ReadableStream<Uint8Array>,
  signal?: AbortSignal,
  silence: number | null = null,
): AsyncGenerator<Event, void, undefined> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  const leave = (): void => void reader.cancel().catch(() => {});
  signal?.addEventListener("abort", leave, { once: true });
  if (signal?.aborted) leave();
  let text = "";
  try {
    for (;;) {
      const read = reader.read();
      const { value, done } = await (silence === null ? read : withDeadline(read, silence, "no heartbeat"));
      if (done || signal?.aborted) return;
      text += decoder.decode(value, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop() as string;
      if (text.length > MAX_EVENT)
        throw new SocketError("ERR_LIMIT", `an event is longer than ${MAX_EVENT} characters`);
      for (const block of blocks) {
        const data = /(?:^|\n)data: ([^\n]*)/.exec(block)?.[1]; // not `.`, which ends at U+2028, too
        if (data !== undefined) yield JSON.parse(data) as Event;
      }
    }
  } finally {
    signal?.removeEventListener("abort", leave);
    leave();
  }
}
