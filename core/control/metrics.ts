/**
 * Counts the events of servers, in Prometheus' text format (version 0.0.4). A label is a listener's name, a word of ours or a
 * code of ours, never text that a peer chooses, so that no peer can make the number of series grow. docs/decisions/metrics.md says why
 * this uses no library.
 */

import { peek } from "../describe.ts";
import { SocketError } from "../errors.ts";
import type { PoolInfo } from "../handlers/client.ts";
import type { OnEvent, SockletEvent } from "../handlers/events.ts";
import type { ListenerInfo } from "./plane.ts";

/** The content type of the text. */
export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

type Labels = Readonly<Record<string, string>>;

/** One metric, as it is shown. */
export interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "summary";
  /** `suffix` is what a summary adds to the name. */
  readonly samples: readonly {
    readonly labels?: Labels;
    readonly value: number;
    readonly suffix?: "sum" | "count";
  }[];
}

const escaped = (text: string): string =>
  text.replace(/[\\"\n]/g, (one) => (one === "\n" ? "\\n" : `\\${one}`));

const labelled = (labels: Labels): string => {
  const text = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return text.length === 0 ? "" : `{${text.join(",")}}`;
};

const headed = (name: string, help: string, type: string, lines: readonly string[]): string =>
  lines.length === 0 ? "" : `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("\n")}\n`;

/** A number for each set of labels. */
class Counter {
  readonly #name: string;
  readonly #help: string;
  readonly #values = new Map<string, number>();

  constructor(name: string, help: string) {
    this.#name = name;
    this.#help = help;
  }

  add(labels: Labels): void {
    const key = labelled(labels);
    this.#values.set(key, (this.#values.get(key) ?? 0) + 1);
  }

  text(): string {
    const lines = [...this.#values].map(([labels, value]) => `${this.#name}${labels} ${value}`);
    return headed(this.#name, this.#help, "counter", lines);
  }
}

/** A histogram: for each listener, how many values are at most each bound. */
class Histogram {
  readonly #name: string;
  readonly #help: string;
  readonly #bounds: readonly number[];
  readonly #of = new Map<string, { readonly counts: number[]; sum: number }>(); // by listener

  constructor(name: string, help: string, bounds: readonly number[]) {
    this.#name = name;
    this.#help = help;
    this.#bounds = bounds;
  }

  add(listener: string, value: number): void {
    let of = this.#of.get(listener);
    if (of === undefined) {
      of = { counts: new Array<number>(this.#bounds.length + 1).fill(0), sum: 0 };
      this.#of.set(listener, of);
    }
    let at = 0;
    while (at < this.#bounds.length && value > (this.#bounds[at] as number)) at++;
    of.counts[at] = (of.counts[at] as number) + 1;
    of.sum += value;
  }

  text(): string {
    const lines = [...this.#of].flatMap(([listener, { counts, sum }]) => {
      let below = 0;
      const buckets = counts.map((count, at) => {
        below += count;
        const le = at < this.#bounds.length ? String(this.#bounds[at]) : "+Inf";
        return `${this.#name}_bucket${labelled({ listener, le })} ${below}`;
      });
      const of = labelled({ listener });
      return [...buckets, `${this.#name}_sum${of} ${sum}`, `${this.#name}_count${of} ${below}`];
    });
    return headed(this.#name, this.#help, "histogram", lines);
  }
}

const TIMES = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600]; // seconds: a reply, a conversation, a chat
const HANDSHAKE_TIMES = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10]; // seconds
const SIZES = [64, 1024, 16_384, 262_144, 4_194_304, 67_108_864, 1_073_741_824]; // bytes

/** A code of ours, or else `"error"`: other text of an error is never a label. */
export const codeOf = (error: unknown): string => {
  const code = peek(error, "code");
  return SocketError.isCode(code) ? code : "error";
};

/** Why the requests of one server ended. Pass it all events of the server, in order. */
export class Endings {
  readonly #why = new Map<number, string>(); // by the number of a request that has not ended yet

  /** For the event `end`, the reason: `"ok"`, the limit that ended the request, a code, or `"error"`. For other events, `null`. */
  take(event: SockletEvent): string | null {
    const why = this.#why;
    if (event.type === "timeout") why.set(event.id, event.limit);
    else if (event.type === "error" && event.id !== undefined) {
      if (!why.has(event.id)) why.set(event.id, codeOf(event.error));
    } else if (event.type === "end") {
      const reason = event.failed ? (why.get(event.id) ?? "error") : "ok";
      why.delete(event.id);
      return reason;
    }
    return null;
  }
}

/** Counts the events of an app's servers. */
export class Metrics {
  readonly #begun = new Counter(
    "socklet_requests_total",
    "Connections and datagrams that a handler began to serve.",
  );
  readonly #refused = new Counter("socklet_refused_total", "Those turned away before a handler, by reason.");
  readonly #checks = new Counter(
    "socklet_proxy_checks_total",
    "Health checks of proxies, which no handler saw.",
  );
  readonly #ended = new Counter(
    "socklet_ended_total",
    "Requests that are over: ok, or the code or limit that ended them.",
  );
  readonly #durations = new Histogram("socklet_duration_seconds", "How long requests took.", TIMES);
  readonly #received = new Histogram("socklet_received_bytes", "Bytes that requests received.", SIZES);
  readonly #sent = new Histogram("socklet_sent_bytes", "Bytes that requests sent.", SIZES);
  readonly #handshakes = new Counter(
    "socklet_handshakes_total",
    "TLS handshakes: ok, or the code of what failed.",
  );
  readonly #handshakeTimes = new Histogram(
    "socklet_handshake_seconds",
    "How long TLS handshakes took.",
    HANDSHAKE_TIMES,
  );
  readonly #dropped = new Counter(
    "socklet_datagrams_dropped_total",
    "Datagrams that were dropped, by reason: mostly replies that were not sent.",
  );
  readonly #lost = new Counter("socklet_children_lost_total", "Children that ended and were not to.");

  /** Counts the events of one listener's server. Pass it to the server as `onEvent`. */
  listener(listener: string): OnEvent {
    const endings = new Endings();
    return (event: SockletEvent): void => {
      const ending = endings.take(event);
      switch (event.type) {
        case "begin":
          this.#begun.add({ listener });
          break;
        case "refused":
          this.#refused.add({ listener, reason: event.reason });
          break;
        case "checked":
          this.#checks.add({ listener });
          break;
        case "end":
          this.#ended.add({ listener, reason: ending as string });
          this.#durations.add(listener, event.duration / 1000);
          this.#received.add(listener, event.bytesRead);
          this.#sent.add(listener, event.bytesWritten);
          break;
        case "handshake":
          this.#handshakes.add({ listener, result: event.error === null ? "ok" : codeOf(event.error) });
          this.#handshakeTimes.add(listener, event.duration / 1000);
          break;
        case "dropped":
          this.#dropped.add({ listener, reason: event.reason });
          break;
        case "lost":
          this.#lost.add({ listener });
      }
    };
  }

  /** All metrics as text, with the current `info()` of the listeners, and `more`. */
  text(listeners: readonly ListenerInfo[], more: readonly Family[] = []): string {
    const counted = [
      ...[this.#begun, this.#refused, this.#checks, this.#ended, this.#durations, this.#received, this.#sent],
      ...[this.#handshakes, this.#handshakeTimes, this.#dropped, this.#lost],
    ];
    return counted.map((one) => one.text()).join("") + familiesText([...gauges(listeners), ...more]);
  }
}

/** Metrics as text. A metric without samples is left out. */
export const familiesText = (families: readonly Family[]): string =>
  families
    .map(({ name, help, type, samples }) => {
      const lines = samples.map(
        ({ labels = {}, value, suffix }) =>
          `${suffix === undefined ? name : `${name}_${suffix}`}${labelled(labels)} ${value}`,
      );
      return headed(name, help, type, lines);
    })
    .join("");

/** The number of running sessions. */
export const dialledSessions = (value: number): Family => ({
  name: "socklet_dialled_sessions",
  help: "Sessions that run and were opened from this side.",
  type: "gauge",
  samples: [{ value }],
});

/** The metrics of pools, from their `info()`. */
export const poolFamilies = (pools: readonly PoolInfo[]): Family[] => {
  const family = (
    name: string,
    type: Family["type"],
    help: string,
    label: string,
    values: (info: PoolInfo) => Readonly<Record<string, number>>,
  ): Family => ({
    name: `socklet_pool_${name}`,
    help,
    type,
    samples: pools.flatMap((info) =>
      Object.entries(values(info)).map(([value, count]) => ({
        labels: { pool: info.name, ...(value !== "" && { [label]: value }) },
        value: count,
      })),
    ),
  });
  return [
    family("connections", "gauge", "Connections of pools, by state.", "state", (info) => {
      const { connections, idle, leased, opening } = info;
      return { idle, leased, busy: connections - idle - leased, opening };
    }),
    family("connections_limit", "gauge", "Connections that a pool may have.", "", ({ max }) => ({ "": max })),
    family("running_calls", "gauge", "Calls that have begun.", "", ({ running }) => ({ "": running })),
    family("waiting_calls", "gauge", "Calls and leases that wait for a connection.", "", ({ waiting }) => ({
      "": waiting,
    })),
    family("calls_total", "counter", "Calls that are over, by what became of them.", "result", (info) => {
      const { answered, lost, abandoned } = info;
      return { answered, lost, abandoned };
    }),
    family(
      "dials_total",
      "counter",
      "Connections that were dialled, by what became of it.",
      "result",
      (info) => {
        const { opened, failed } = info;
        return { opened, failed };
      },
    ),
  ];
};

/** The metrics of listeners, from their `info()`. Two with the same name are added up. */
const gauges = (listeners: readonly ListenerInfo[]): Family[] => {
  const gauge = (name: string, help: string, value: (info: ListenerInfo) => number): Family => {
    const sums = new Map<string, number>();
    for (const info of listeners) sums.set(info.name, (sums.get(info.name) ?? 0) + value(info));
    const samples = [...sums].map(([listener, value]) => ({ labels: { listener }, value }));
    return { name, help, type: "gauge", samples };
  };
  const forking = listeners.filter(({ children }) => children !== null);
  const states = ["idle", "busy", "starting"] as const;
  return [
    gauge("socklet_active_requests", "Requests whose handler runs now.", ({ running }) => running),
    gauge("socklet_waiting_requests", "Requests that wait for their turn.", ({ waiting }) => waiting),
    {
      name: "socklet_children",
      help: "Children of forking listeners, by state.",
      type: "gauge",
      samples: forking.flatMap(({ name: listener, children }) =>
        states.map((state) => ({ labels: { listener, state }, value: children?.[state] ?? 0 })),
      ),
    },
  ];
};
