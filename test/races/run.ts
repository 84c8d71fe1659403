/**
 * Races: many clients start, send to, half-close, follow and end the same few sessions at once, and leave in the
 * middle, while what keeps the sessions is lost, evicted and killed. Afterwards nothing may have lied, and nothing may be left.
 *
 * What a client does is drawn from the seed; how the clients interleave is not.
 */

import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import type { SessionEvent, SessionInfo } from "socklet/control";
import { chanceOf } from "../../core/testing/clock.ts";
import { type Place, TOKEN } from "./places.ts";

export interface RaceOptions {
  readonly seed: number;
  /** Clients at once. */
  readonly clients: number;
  /** What each does, one thing after the other. */
  readonly steps: number;
  /** Which of the place's faults happen, besides `kill`; default none. */
  readonly faults?: readonly string[];
  /** Whether some sessions are lost while they start. */
  readonly early?: boolean;
  /** How often the process is killed meanwhile. */
  readonly kills?: number;
  /** Whether the place is closed in the middle, for good. */
  readonly stop?: boolean;
}

/** What happened: how often each operation was answered how, and every breach of a rule. */
export interface RaceReport {
  readonly counts: Record<string, number>;
  readonly breaches: string[];
  readonly sessions: number;
  readonly connections: number;
}

// ---- The other end of the sessions ----

interface Connection {
  readonly socket: net.Socket;
  token: number | null;
  sent: number; // bytes
  received: number; // bytes
  lines: number; // sent
  plan: "fin" | "reset" | "return" | "throw" | "hang" | "hold" | "deaf";
  ended: boolean; // it has read our end
  failed: boolean; // by a reset
  closed: boolean;
}

class Peer {
  readonly connections: Connection[] = [];
  readonly #server: net.Server;
  readonly #seed: number;
  readonly #heard = Promise.withResolvers<void>();

  private constructor(server: net.Server, seed: number) {
    this.#server = server;
    this.#seed = seed;
    server.on("connection", (socket) => this.#serve(socket));
  }

  static async listen(seed: number): Promise<Peer> {
    const server = net.createServer({ allowHalfOpen: true });
    const peer = new Peer(server, seed);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return peer;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  get open(): Connection[] {
    return this.connections.filter(({ closed }) => !closed);
  }

  /** Those that took nothing take all. */
  hear(): void {
    this.#heard.resolve();
  }

  close(): void {
    this.#server.close();
    for (const { socket } of this.open) socket.destroy();
  }

  #serve(socket: net.Socket): void {
    const one: Connection = {
      socket,
      token: null,
      sent: 0,
      received: 0,
      lines: 0,
      plan: "hold",
      ended: false,
      failed: false,
      closed: false,
    };
    this.connections.push(one);
    let first = "";
    socket.on("data", (bytes) => {
      one.received += bytes.length;
      if (one.token !== null) return;
      first += bytes.toString("latin1");
      const end = first.indexOf("\n");
      if (end < 0) return;
      one.token = Number(first.slice(0, end));
      void this.#play(one);
    });
    socket.on("end", () => {
      one.ended = true;
      if (one.plan === "hold" || one.plan === "hang" || one.plan === "deaf" || one.token === null)
        socket.end();
    });
    socket.on("error", () => {
      one.failed = true;
    });
    socket.on("close", () => {
      one.closed = true;
    });
  }

  /** What it does is drawn from the seed and the session's token. */
  async #play(one: Connection): Promise<void> {
    const { socket, token } = one;
    const chance = chanceOf(this.#seed ^ ((token as number) * 2_654_435_761));
    const say = (line: string): void => {
      if (socket.destroyed || !socket.writable) return;
      socket.write(`${line}\n`);
      one.sent += line.length + 1;
      one.lines++;
    };
    const plans = ["fin", "reset", "return", "throw", "hang", "deaf", "hold", "hold", "hold"] as const;
    one.plan = plans[Math.floor(chance() * plans.length)] as Connection["plan"];
    for (let left = Math.floor(chance() * 6); left > 0; left--) {
      say(chance() < 0.1 ? "burst" : `line ${left}`);
      for (let turns = Math.floor(chance() * 8); turns > 0; turns--) await turn();
    }
    if (one.plan === "fin") socket.end();
    else if (one.plan === "reset") socket.resetAndDestroy();
    else if (one.plan === "deaf") {
      socket.pause(); // it takes nothing any more, until those who race are done
      await this.#heard.promise;
      socket.resume();
    } else if (one.plan !== "hold") {
      say(one.plan);
      if (one.plan !== "hang") socket.end();
    }
    if (one.ended) socket.end();
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

// ---- One client's requests ----

interface Answer {
  /** The HTTP status; 0 where the connection failed, -1 if this client left, -2 where there was no answer. */
  readonly status: number;
  readonly body: unknown;
  readonly text: string;
  /** Whether the answer came to its end. */
  readonly complete: boolean;
}

/** When a client leaves: before its body is sent whole, before the answer, in its head or in its body. */
type Leave = "in the body" | "at once" | "at the head" | "in the answer";

const request = (
  url: string,
  method: string,
  path: string,
  {
    json,
    bytes,
    leave,
    turns = 0,
    patience,
    onText,
  }: {
    json?: unknown;
    bytes?: string;
    leave?: Leave | undefined;
    turns?: number;
    /** The turns after which it leaves where it has no answer. */
    patience?: number;
    onText?: (text: string) => boolean;
  } = {},
): Promise<Answer> =>
  new Promise((resolve) => {
    const body = json === undefined ? bytes : JSON.stringify(json);
    const type = json === undefined ? "application/octet-stream" : "application/json";
    let text = "";
    let status = 0;
    let left = false;
    let complete = false;
    const done = (): void => {
      clearTimeout(late);
      let parsed: unknown;
      try {
        parsed = JSON.parse(text);
      } catch {
        parsed = null;
      }
      resolve({ status: left ? -1 : status, body: parsed, text, complete });
    };
    const late = setTimeout(() => {
      status = -2;
      sent.destroy();
      done();
    }, ANSWERED);
    const sent = http.request(`${url}${path}`, {
      method,
      agent: false,
      headers: {
        authorization: `Bearer ${TOKEN}`,
        ...(body !== undefined && { "content-type": type, "content-length": String(body.length) }),
      },
    });
    const go = async (): Promise<void> => {
      for (let more = turns; more > 0; more--) await turn();
      left = true;
      sent.destroy();
      done();
    };
    const giveUp = async (patience: number): Promise<void> => {
      for (let more = patience; more > 0 && status === 0; more--) await turn();
      if (status !== 0) return;
      left = true;
      sent.destroy();
      done();
    };
    sent.on("error", () => {
      if (!left) status = status || 0;
      done();
    });
    sent.on("response", (answer) => {
      status = answer.statusCode ?? 0;
      answer.setEncoding("utf8");
      answer.on("data", (piece: string) => {
        text += piece;
        if (onText !== undefined && !onText(text)) {
          left = true;
          sent.destroy();
          done();
        }
      });
      answer.on("end", () => {
        complete = true;
        done();
      });
      answer.on("error", done);
      answer.on("close", done);
      if (leave === "at the head" || leave === "in the answer") void go();
    });
    if (leave === "in the body" && body !== undefined) {
      sent.write(body.slice(0, body.length >> 1));
      void go();
    } else {
      sent.end(body);
      if (patience !== undefined) void giveUp(patience);
      if (leave === "at once") void go();
    }
  });

/** The events in a text of server-sent events. */
const eventsIn = (text: string): SessionEvent[] =>
  text
    .split("\n\n")
    .slice(0, -1)
    .flatMap((block) => {
      const data = /(?:^|\n)data: ([^\n]*)/.exec(block)?.[1];
      return data === undefined ? [] : [JSON.parse(data) as SessionEvent];
    });

const UNASKED = 40_000; // ms: two of a session's alarms
const ANSWERED = 60_000; // ms: a request that has no answer by then counts as a breach
const PATIENT = 60_000; // turns that a client waits for an answer which its session's peer may hold up
const PATIENCE = 60_000; // ms that something which must go may take to be gone, before it counts as a breach

const OVER = new Set(["ended", "failed", "cut"]);

/** What is known of one session. */
interface Known {
  readonly id: string;
  hot: boolean;
  final: string | null; // its record, once anybody saw it over
  seen: number; // how far in its life it was seen
  sends: { ok: number; tried: number };
  halfClosed: number; // answered with 200
  follows: SessionEvent[][];
}

const STAGE: Record<string, number> = { connecting: 0, running: 1, ended: 2, failed: 2, cut: 2 };

/** What one answer may be, where nothing is wrong with the platform. */
const ALLOWED: Record<string, readonly number[]> = {
  start: [201, 429],
  run: [200, 429],
  get: [200],
  list: [200],
  send: [200, 409, 429],
  halfClose: [200, 409],
  end: [200],
  follow: [200],
  head: [200],
};

export const race = async (place: Place, options: RaceOptions): Promise<RaceReport> => {
  const { seed, clients, steps, faults = [], kills = 0, early = false, stop = false } = options;
  const peer = await Peer.listen(seed);
  const known = new Map<string, Known>();
  const counts: Record<string, number> = {};
  const breaches: string[] = [];
  let token = seed * 100_000;
  const earlier = new Set<string>(); // sessions of another race
  let up = Promise.resolve(); // when the place serves again
  let answered = 0;
  let down = 0; // kills so far, and one more while the place is down: what a request meets meanwhile is the platform's

  const count = (what: string): void => {
    counts[what] = (counts[what] ?? 0) + 1;
  };
  const breach = (what: string): void => {
    breaches.push(what);
  };

  const learn = (id: string): Known => {
    let session = known.get(id);
    if (session === undefined) {
      session = {
        id,
        hot: true,
        final: null,
        seen: 0,
        sends: { ok: 0, tried: 0 },
        halfClosed: 0,
        follows: [],
      };
      known.set(id, session);
    }
    return session;
  };

  /** Takes note of a record; `since`: how far the session was when it was asked. */
  const note = (info: SessionInfo, since: number, whole = true): void => {
    const session = learn(info.id);
    const stage = STAGE[info.state] ?? -1;
    if (stage < since) breach(`${info.id} went back to ${info.state}`);
    session.seen = Math.max(session.seen, stage);
    if (!OVER.has(info.state) || !whole) return;
    const text = JSON.stringify(info);
    if (session.final !== null && session.final !== text)
      breach(`the record of ${info.id} changed after its end: ${session.final} became ${text}`);
    session.final = text;
  };

  const isInfo = (body: unknown): body is SessionInfo =>
    typeof body === "object" && body !== null && "state" in body && "id" in body;

  const ask = async (
    what: string,
    method: string,
    path: string,
    more: Parameters<typeof request>[3] = {},
    id?: string,
  ): Promise<Answer> => {
    const since = id === undefined ? 0 : (known.get(id)?.seen ?? 0);
    const before = down;
    const answer = await request(place.url(), method, `/v1/sessions${path}`, more);
    const { status, body, text } = answer;
    const name = status === -1 ? "left" : status === -2 ? "unanswered" : status === 0 ? "broken" : status;
    count(`${what} ${name}`);
    answered++;
    if (status === -1) return answer;
    if (status === 0) await up;
    const platform = down !== before || down % 2 === 1;
    if (!ALLOWED[what]?.includes(status)) {
      const code = (body as { code?: string } | null)?.code ?? "no problem document";
      count(`${what} ${status} ${code}`);
      const lost = (early || faults.length > 0) && status === 503 && code === "ERR_PLATFORM";
      const forgotten = place.history !== undefined && status === 404 && id !== undefined;
      if (stop && status === 503 && code !== "EBADF") breach(`${what}, as the place stopped: ${text}`);
      if (!lost && !forgotten && !(platform && (status === 0 || status >= 500)))
        breach(`${what} ${id ?? ""} was answered ${status}: ${text.slice(0, 300)}`);
    }
    if (status < 300 && isInfo(body)) note(body, since);
    return answer;
  };

  /** Those of this race. */
  const everySession = async (): Promise<SessionInfo[]> => {
    const found: SessionInfo[] = [];
    for (let before = ""; ; ) {
      const { status, body, text } = await request(place.url(), "GET", `/v1/sessions?limit=200${before}`);
      if (status !== 200) {
        breach(`the list was answered ${status} ${text.slice(0, 300)}`);
        return found;
      }
      const { sessions, next } = body as { sessions: SessionInfo[]; next: string | null };
      found.push(...sessions.filter(({ id }) => !earlier.has(id)));
      if (next === null) return found;
      before = `&before=${next}`;
    }
  };

  for (const { id } of await everySession()) earlier.add(id);

  // ---- What a client does ----

  const client = async (number: number): Promise<void> => {
    const chance = chanceOf(seed * 1_000 + number);
    const draw = (most: number): number => Math.floor(chance() * most);
    const one = <T>(of: readonly T[]): T | undefined => of[draw(of.length)];
    const hot = (): Known | undefined => {
      const all = [...known.values()].slice(-6);
      return chance() < 0.9 ? one(all) : one([...known.values()]);
    };
    const spec = () => ({ handler: "racer", address: peer.address, params: ++token });

    const follow = async (session: Known): Promise<void> => {
      const most = 1 + draw(8);
      const { status, text, complete } = await ask(
        "follow",
        "GET",
        `/${session.id}/events`,
        // It leaves after some events, or some turns: what it follows need not end.
        { onText: (text) => eventsIn(text).length < most, leave: "in the answer", turns: draw(400) },
        session.id,
      );
      if (status === 200 || status === -1) session.follows.push(eventsIn(text));
      if (status === 200 && complete && !OVER.has(eventsIn(text).at(-1)?.type ?? ""))
        breach(`what was followed of ${session.id} ended before the session: ${text}`);
    };

    const actions: Record<string, () => Promise<unknown>> = {
      start: async () => {
        const { status, body } = await ask("start", "POST", "", { json: { ...spec(), background: true } });
        if (status === 201 && isInfo(body)) learn(body.id);
      },
      run: () => ask("run", "POST", "", { json: { ...spec(), deadline: 1 + draw(200) } }),
      leaveStart: () =>
        ask("start", "POST", "", {
          json: { ...spec(), background: true, deadline: 60_000 },
          leave: one(["in the body", "at once", "at the head"] as const),
          turns: draw(40),
        }),
      leaveRun: () =>
        ask("run", "POST", "", {
          json: { ...spec(), deadline: 1 + draw(300) },
          leave: one(["in the body", "at once"] as const),
          turns: draw(60),
        }),
      list: async () => {
        const state = one(["", "?state=running", "?state=cut", "?limit=5"] as const);
        const before = new Map([...known].map(([id, { seen }]) => [id, seen]));
        const { status, body } = await ask("list", "GET", state ?? "");
        if (status !== 200) return;
        for (const info of (body as { sessions: SessionInfo[] }).sessions)
          if (!earlier.has(info.id)) note(info, before.get(info.id) ?? 0);
      },
      get: async () => {
        const session = hot();
        if (session) await ask("get", "GET", `/${session.id}`, {}, session.id);
      },
      send: async () => {
        const session = hot();
        if (session === undefined) return;
        session.sends.tried++;
        const leave = chance() < 0.2 ? one(["in the body", "at once"] as const) : undefined;
        const { status } = await ask(
          "send",
          "POST",
          `/${session.id}/data`,
          {
            bytes: "x".repeat(1 + draw(chance() < 0.1 ? 1_000_000 : 2_000)),
            leave,
            turns: draw(20),
            patience: PATIENT,
          },
          session.id,
        );
        if (status === 200) session.sends.ok++;
      },
      halfClose: async () => {
        const session = hot();
        if (session === undefined) return;
        const { status } = await ask(
          "halfClose",
          "POST",
          `/${session.id}/half-close`,
          { patience: PATIENT },
          session.id,
        );
        if (status === 200) session.halfClosed++;
      },
      end: async () => {
        const session = hot();
        if (session === undefined) return;
        const leave = chance() < 0.2 ? ("at once" as const) : undefined;
        const { status, body } = await ask(
          "end",
          "DELETE",
          `/${session.id}`,
          { leave, turns: draw(20) },
          session.id,
        );
        if (status === 200 && isInfo(body) && !OVER.has(body.state))
          breach(`${session.id} was ended and is ${body.state}`);
      },
      follow: async () => {
        const session = hot();
        if (session) await follow(session);
      },
      head: async () => {
        const session = hot();
        if (session) await ask("head", "HEAD", `/${session.id}/events`, {}, session.id);
      },
      inbound: async () => {
        const socket = await place.dial().catch(() => null);
        if (socket === null) return;
        socket.on("error", () => {});
        count("inbound");
        for (let lines = draw(4); lines > 0; lines--) {
          socket.write(chance() < 0.2 ? "half a line" : "a line\n");
          for (let turns = draw(5); turns > 0; turns--) await turn();
        }
        const how = draw(4);
        if (how === 0) socket.resetAndDestroy();
        else if (how === 1) socket.destroy();
        else if (how === 2) socket.end(chance() < 0.5 ? "throw\n" : "return\n");
        else socket.end();
        if (how < 2) return;
        socket.resume();
        if (!socket.closed) await new Promise<void>((resolve) => socket.once("close", () => resolve()));
      },
      fault: async () => {
        const what = one(faults);
        const session = hot();
        if (what === undefined || session === undefined) return;
        count(`fault ${what}`);
        await place.faults[what]?.(session.id).catch(() => {});
      },
    };
    const names = [
      ...["start", "start", "run", "leaveStart", "leaveRun", "list", "get", "get", "send", "send", "send"],
      ...["halfClose", "halfClose", "end", "end", "follow", "follow", "head", "inbound", "fault"],
    ];
    for (let step = 0; step < steps; step++) await actions[one(names) as string]?.();
  };

  if (early) await place.early?.(true);
  const running = Promise.all(Array.from({ length: clients }, (_, number) => client(number)));
  let over = false;
  void running.then(() => {
    over = true;
  });
  const killing = (async () => {
    const chance = chanceOf(seed + 7);
    if (stop) {
      while (answered < (clients * steps) / 2 && !over) await turn();
      down++;
      await place[Symbol.asyncDispose]();
    }
    for (let i = 0; i < kills; i++) {
      const due = answered + 1 + Math.floor((chance() * 2 * clients * steps) / (kills + 1) / 2);
      while (answered < due && !over) await turn();
      if (over) return;
      const back = Promise.withResolvers<void>();
      up = back.promise;
      down++;
      await place.kill?.();
      if (early) await place.early?.(true);
      down++;
      back.resolve();
      count("kill");
    }
  })();
  await Promise.all([running, killing]);
  if (early) await place.early?.(false);

  // ---- What is left ----

  peer.hear();
  /** Waits until something is gone, which `gone` then says by `null`. */
  const until = async (what: string, gone: () => Promise<string | null> | string | null): Promise<void> => {
    const due = performance.now() + PATIENCE;
    for (let left = await gone(); left !== null; left = await gone()) {
      if (performance.now() > due) return breach(`${what}: ${left}`);
      await turn();
    }
  };
  const letGo = (): Promise<void> =>
    until("the peer's connections stay open", () => {
      const { open } = peer;
      return open.length === 0
        ? null
        : open.map(({ token, plan, ended }) => `${token} ${plan} ${ended}`).join(", ");
    });
  if (stop) {
    await letGo();
    peer.close();
    return { counts, breaches, sessions: known.size, connections: peer.connections.length };
  }

  /** Nobody is served any more, of those who have left. */
  const served = (followers: boolean): Promise<void> =>
    until("those who left are served still", async () => {
      const work = await place.work();
      return work.inbound === 0 && (!followers || work.followers === 0) ? null : JSON.stringify(work);
    });
  // Some of what they watched still runs.
  await served(place.hearsOfLeaving);

  // Those whose client left before it knew their ids are in the list.
  const endBy = performance.now() + PATIENCE;
  for (;;) {
    const live = (await everySession()).filter(({ state }) => !OVER.has(state));
    if (live.length === 0) break;
    await Promise.all(live.map(({ id }) => ask("end", "DELETE", `/${id}`, {}, id)));
    if (performance.now() > endBy) {
      breach(`these do not end: ${JSON.stringify(live)}`);
      break;
    }
  }

  // What is too much is forgotten, by list and object alike.
  if (place.history !== undefined) {
    await until("too many are kept", async () => {
      await place.faults.ringRegistry?.("");
      const { length } = await everySession();
      return length <= (place.history as number) ? null : `${length}`;
    });
  }
  // An object that was lost before the registry knew it tells it by its alarm.
  const alarmed = new Set((await everySession()).map(({ id }) => id));
  for (const id of (await place.records?.()) ?? [])
    if (!alarmed.has(id) && !earlier.has(id)) await place.faults.ring?.(id);
  const listed = new Map((await everySession()).map((info) => [info.id, info]));
  for (const id of known.keys()) {
    if (listed.has(id)) continue;
    const { status } = await request(place.url(), "GET", `/v1/sessions/${id}`);
    if (place.history === undefined || status !== 404)
      breach(`${id} is in no list, and asking for it gives ${status}`);
  }
  const tokens = new Map<number, string>(); // of sessions that said theirs

  for (const [id, info] of listed) {
    note(info, 2);
    const session = learn(id);
    const answer = await ask("get", "GET", `/${id}`, {}, id);
    if (answer.status === 200 && JSON.stringify(answer.body) !== JSON.stringify(info))
      breach(`the list has ${JSON.stringify(info)}, the session is ${answer.text}`);
    const { text } = await ask("follow", "GET", `/${id}/events`, {}, id);
    const events = eventsIn(text);
    const said = `${id} ${info.state}: ${events.map((event) => `${event.id} ${event.type}`).join(", ")}`;
    if (events.some((event, index) => event.id !== index + 1)) breach(`events are missing or twice: ${said}`);
    const types = events.map(({ type }) => type);
    if (types[0] !== "connecting") breach(`the first event: ${said}`);
    if (types.at(-1) !== info.state) breach(`the last event is not the record's state: ${said}`);
    if (types.filter((type) => OVER.has(type)).length !== 1) breach(`ended more than once: ${said}`);
    for (const type of ["open", "halfClosed"])
      if (types.filter((other) => other === type).length > 1) breach(`${type} more than once: ${said}`);
    const sends = types.filter((type) => type === "sent").length;
    if (sends < session.sends.ok || sends > session.sends.tried)
      breach(`${session.sends.ok} sends were answered with 200, ${session.sends.tried} were tried: ${said}`);
    if (session.halfClosed > 0 && !types.includes("halfClosed")) breach(`a half-close was not kept: ${said}`);
    let line = 0;
    for (const event of events) {
      if (event.type !== "handler") continue;
      const detail = event.detail as { token?: number; line?: number };
      if (detail.token !== undefined) tokens.set(detail.token, id);
      if (detail.line !== undefined && detail.line !== ++line) breach(`the handler's events: ${said}`);
    }
    for (const followed of session.follows) {
      const same = followed.every((event) => JSON.stringify(event) === JSON.stringify(events[event.id - 1]));
      if (!same || followed.some((event, index) => event.id !== index + 1))
        breach(`a follower saw ${JSON.stringify(followed)} of ${said}`);
    }
    if (info.state === "ended" && info.direction === "outbound" && info.result !== line)
      breach(`the result ${info.result}: ${said}`);
  }

  const seenTokens = new Set<number>();
  for (const one of peer.connections) {
    if (one.token === null) continue;
    if (seenTokens.has(one.token)) breach(`the session with token ${one.token} was dialled twice`);
    seenTokens.add(one.token);
    const id = tokens.get(one.token);
    if (id === undefined) {
      if (place.history === undefined)
        breach(`a connection said the token ${one.token}, and no session has it`);
      continue;
    }
    const info = listed.get(id) as SessionInfo;
    if (info.state !== "ended") continue;
    if (info.bytesRead > one.sent) breach(`${id} read ${info.bytesRead} bytes of ${one.sent}`);
    if (one.ended && !one.failed && info.bytesWritten !== one.received)
      breach(`${id} says that it wrote ${info.bytesWritten} bytes, and its peer has ${one.received}`);
  }

  // Connections, rows, alarms and references.

  await served(!early && !faults.includes("lose")); // what followed an object that was lost is gone without a word
  await letGo();
  await until("the registry believes that these run", async () => {
    const ids = (await place.believed?.()) ?? [];
    return ids.length === 0 ? null : ids.join(", ");
  });
  for (const id of place.kept === undefined ? [] : listed.keys()) {
    await place.faults.ring?.(id); // as the alarm does that is still to come, or is late
    const { records, told, alarm } = (await place.kept?.(id)) ?? {};
    if (records !== 1 || told !== 1 || alarm !== null)
      breach(`what is kept of ${id}: ${JSON.stringify({ records, told, alarm })}`);
  }
  const records = new Set(await place.records?.());
  if (place.records !== undefined) {
    for (const id of records)
      if (!listed.has(id) && !earlier.has(id)) breach(`a record is kept of ${id}, which is in no list`);
  }
  for (const id of [...listed.keys()].slice(-20)) {
    await place.evict?.(id).catch((error) => {
      if (!/not currently running/.test(String(error))) breach(`${id} cannot be evicted: ${error}`);
    });
    await ask("get", "GET", `/${id}`, {}, id);
  }
  for (const complaint of place.complaints ?? []) breach(complaint);
  peer.close();
  return { counts, breaches, sessions: listed.size, connections: peer.connections.length };
};

/** Sessions whose process is killed, and of which nobody asks: gives how many the registry believes to run when it cannot hear of their end but by their alarms. */
export const unasked = async (place: Place, count: number): Promise<number> => {
  const peer = await Peer.listen(0);
  for (let i = 1; i <= count; i++) {
    const json = { handler: "racer", address: peer.address, params: -i, background: true };
    await request(place.url(), "POST", "/v1/sessions", { json });
  }
  await place.kill?.();
  const due = performance.now() + UNASKED;
  let believed = await place.believed?.();
  while (believed !== undefined && believed.length > 0 && performance.now() < due) {
    await new Promise((resolve) => setTimeout(resolve, 250));
    believed = await place.believed?.();
  }
  peer.close();
  return believed?.length ?? 0;
};
