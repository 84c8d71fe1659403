/**
 * The control routes for recording traffic, in front of a plane's `RecordingPlane`.
 *
 * | | scope | |
 * |---|---|---|
 * | `GET /v1/recording` | read | `{ recording }`: whether traffic is kept, and the bounds; in a Worker from its sessions, if `workerFor()` was given `recording` |
 * | `PUT /v1/recording` | run | starts a recording, or changes its bounds: `{ maxBytes, maxConnections }` |
 * | `PATCH /v1/recording` | run | changes its bounds, and those that apply while somebody watches; starts nothing |
 * | `DELETE /v1/recording` | run | stops it, and deletes what was kept |
 * | `GET /v1/recording/events` | run | the sessions and flows that change, as it happens (SSE); traffic is kept while it is open |
 * | `GET /v1/recording/flows` | read | `{ flows }`: the senders of datagrams |
 * | `GET /v1/recording/find` | run | the ids of the conversations that contain `?text=` or `?hex=` |
 * | `GET /v1/recording/:id` | run | the conversation of a session or a flow: `?after= &bytes=` |
 * | `GET /v1/recording/:id/messages` | run | the messages that the `decode` of its entry makes of it |
 * | `GET /v1/recording/:id/transcript` | run | the same as a transcript |
 * | `GET /v1/entries` | read | `{ entries }`: what can be replayed to by name, and what fault rules may be set on |
 * | `POST /v1/replays` | run | replays bytes to a listener or a server; the answer |
 *
 * Reading bytes needs the scope `run`: they may contain the passwords of clients.
 */

import { BOUNDS, type ControlPlane, isSessionId, type RecordingPlane, type ReplaySpec } from "../plane.ts";
import { RECORDING_BOUNDS } from "../recording/bounds.ts";
import { count, field, milliseconds, read, readData, text } from "./fields.ts";
import { HttpError } from "./problem.ts";
import { type AddRoute, found, json, jsonBody, queryOf, stream } from "./routes.ts";

/** Adds the routes: `controlRoutes(setup, recordingRoutes)`. A plane without a recording answers 501. */
export const recordingRoutes = (route: AddRoute): void => {
  route("GET", "/v1/recording", "read", async (c, plane) =>
    json(c, { recording: await recordingOf(plane).info() }),
  );

  route("PUT", "/v1/recording", "run", async (c, plane) => {
    const recording = recordingOf(plane);
    const limits = read(await jsonBody(c), LIMITS);
    return json(c, { recording: await recording.start(limits) });
  });

  route("PATCH", "/v1/recording", "run", async (c, plane) => {
    const recording = recordingOf(plane);
    return json(c, { recording: await recording.limit(read(await jsonBody(c), LIMITS)) });
  });

  route("DELETE", "/v1/recording", "run", async (c, plane) =>
    json(c, { recording: await recordingOf(plane).stop() }),
  );

  // Bytes may contain passwords: reading them needs the same scope as sending them.
  route("GET", "/v1/recording/events", "run", (c, plane) => {
    const recording = recordingOf(plane);
    return stream(c, (_, signal) => recording.watch(signal));
  });

  route("GET", "/v1/recording/flows", "read", async (c, plane) =>
    json(c, { flows: await recordingOf(plane).flows() }),
  );

  route("GET", "/v1/recording/find", "run", async (c, plane) => {
    const recording = recordingOf(plane);
    return json(c, await recording.find(readWanted(queryOf(c)), c.req.raw.signal));
  });

  const unrecorded =
    "nothing is kept of such a session or flow: what passed before the recording began is not, what is over its bounds is let go of, and all is lost with the memory that had it";

  route("GET", "/v1/recording/:id", "run", async (c, plane) => {
    const recording = recordingOf(plane);
    const { after = 0, bytes = RECORDING_BOUNDS.part } = read(queryOf(c), PART);
    const id = c.req.param("id") as string;
    return json(c, found(isSessionId(id) ? await recording.part(id, after, bytes) : null, unrecorded));
  });

  route("GET", "/v1/recording/:id/messages", "run", async (c, plane) => {
    recordingOf(plane);
    const messages = (await plane.messages?.(c.req.param("id") as string)) ?? null;
    return json(c, found(messages, `${unrecorded}; or its entry of the app has no decode`));
  });

  route("GET", "/v1/recording/:id/transcript", "run", async (c, plane) => {
    const recording = recordingOf(plane);
    const lines = (async function* () {
      yield* recording.transcript(c.req.param("id") as string);
    })();
    const first = await lines.next();
    const head = first.done ? found<string>(null, unrecorded) : first.value;
    const encoder = new TextEncoder();
    const text = new ReadableStream({
      start: (controller) => controller.enqueue(encoder.encode(head)),
      pull: async (controller) => {
        const { done, value } = await lines.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
    });
    return c.body(text, 200, { "Content-Type": "application/jsonl; charset=utf-8" });
  });

  route("GET", "/v1/entries", "read", async (c, plane) => {
    if (plane.entries === undefined) throw unrecordable("does not replay what was said");
    return json(c, { entries: await plane.entries() });
  });

  route("POST", "/v1/replays", "run", async (c, plane) => {
    if (plane.replay === undefined) throw unrecordable("does not replay what was said");
    const spec = readReplay(await jsonBody(c, "", BOUNDS.dataBody * 2));
    return json(c, await plane.replay(spec));
  });
};

const unrecordable = (what: string): HttpError =>
  new HttpError(501, "ERR_UNSUPPORTED", `this control plane ${what}; that of \`socklet serve\` does`);

const recordingOf = ({ recording }: ControlPlane): RecordingPlane => {
  if (recording !== undefined) return recording;
  throw unrecordable("does not record what passes");
};

// ---- The requests ----

/** A number in a body. */
const whole = (least: number, most: number) =>
  field<number>(
    `must be a whole number, ${least} to ${most}`,
    (given) => Number.isInteger(given) && (given as number) >= least && (given as number) <= most,
  );

const LIMITS = {
  maxBytes: whole(RECORDING_BOUNDS.leastBytes, RECORDING_BOUNDS.mostBytes),
  maxConnections: whole(1, RECORDING_BOUNDS.mostConnections),
};

const WANTED = {
  text: text(1_000),
  hex: field<string>("must be 1 to 1000 pairs of hex digits", (given) =>
    /^(?:[\da-f]{2}){1,1000}$/i.test(given as string),
  ),
};

/** The bytes to search for. */
const readWanted = (query: object): Uint8Array => {
  const { text, hex = "" } = read(query, WANTED, [
    {
      right: 'must have either "text" or "hex"',
      holds: ({ text, hex }) => (text === undefined) !== (hex === undefined),
    },
  ]);
  if (text !== undefined) return new TextEncoder().encode(text);
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
};

const PART = {
  after: count(0, Number.MAX_SAFE_INTEGER),
  bytes: count(1, RECORDING_BOUNDS.mostPart),
};

const REPLAY = {
  to: text(512),
  pieces: field<readonly unknown[]>("must be a list of pieces, each with text or base64", Array.isArray),
  halfClose: field<boolean>("must be true or false", (given) => typeof given === "boolean"),
  timeout: milliseconds(BOUNDS.maxRunDeadline),
};

/** What to replay, and where. */
const readReplay = (given: unknown): ReplaySpec => {
  const {
    to,
    pieces,
    halfClose = true,
    timeout = 10_000,
  } = read(given, REPLAY, [
    {
      right: 'must have "to" (a listener, an entry of dial, or an address) and "pieces"',
      holds: ({ to, pieces }) => to !== undefined && pieces !== undefined,
    },
  ]);
  const bytes = (pieces ?? []).map((piece, i) => readData(piece, `pieces[${i}]`));
  return { to: to as string, pieces: bytes, halfClose, timeout };
};
