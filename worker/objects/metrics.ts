/// <reference types="@cloudflare/workers-types" />
/**
 * The metrics of a Worker. The counts of its isolates cannot be added up, so the metrics come from what its objects know,
 * and the events of its servers go to Workers Analytics Engine. A Worker includes the code of either only on request.
 */

import {
  codeOf,
  dialledSessions,
  Endings,
  type Family,
  familiesText,
  poolFamilies,
} from "../../core/control/metrics.ts";
import { isOver, SESSION_STATES, type SessionState } from "../../core/control/plane.ts";
import type { PoolInfo } from "../../core/handlers/client.ts";
import type { OnEvent, SockletEvent } from "../../core/handlers/events.ts";
import { again, missingBindings, registryOf, type SockletBindings, type StateCount } from "./bindings.ts";

/** The code of `GET /v1/metrics` in a Worker, which `metrics` is: `workerFor(app, { metrics })`. */
export interface WorkerMetrics {
  /** In Prometheus' text format: the metrics of the registry, if the Worker's bindings have one, and of the pools. Rejects with `ERR_PLATFORM` if the registry does not answer. */
  text(env: SockletBindings, pools: readonly PoolInfo[]): Promise<string>;
}

/** The number of running sessions, and of finished ones in each final state. */
const sessionFamilies = (counts: readonly StateCount[]): Family[] => {
  const sum = (states: readonly SessionState[]): number =>
    counts.reduce((all, { state, count }) => (states.includes(state) ? all + count : all), 0);
  const kept: Family = {
    name: "socklet_kept_sessions",
    help: "Sessions that are over and whose record is kept, by state.",
    type: "gauge",
    samples: SESSION_STATES.filter(isOver).map((state) => ({ labels: { state }, value: sum([state]) })),
  };
  return [dialledSessions(sum(SESSION_STATES.filter((state) => !isOver(state)))), kept];
};

/** The code of `GET /v1/metrics`, which a Worker includes only on request: `workerFor(app, { metrics })`. */
export const metrics: WorkerMetrics = {
  async text(env, pools) {
    const counts =
      missingBindings(env).length > 0
        ? null
        : await again(() => registryOf(env).counts(), "the registry of sessions");
    return familiesText([...(counts === null ? [] : sessionFamilies(counts)), ...poolFamilies(pools)]);
  },
};

/** A dataset of Workers Analytics Engine: what a binding of `analytics_engine_datasets` is. */
export interface AnalyticsDataset {
  writeDataPoint(point: { indexes?: string[]; blobs?: string[]; doubles?: number[] }): void;
}

/** What is written for an event; `null`: nothing. `ending`: why the request ended. */
const pointOf = (
  event: SockletEvent,
  ending: string | null,
): [reason: string, ...doubles: number[]] | null => {
  switch (event.type) {
    case "end":
      return [ending ?? "", event.duration, event.bytesRead, event.bytesWritten];
    case "refused":
    case "dropped":
    case "connectionEnded":
      return [event.reason];
    case "dialFailed":
      return [codeOf(event.error)];
    case "error":
      return event.id === undefined ? [codeOf(event.error)] : null; // the error of a request is reported at its end
    default:
      return null;
  }
};

const LONGEST_INDEX = 96; // bytes of an index (Cloudflare's "Limits" of Analytics Engine)

/**
 * Writes the events of servers and pools as data points of Workers Analytics Engine. Pass it as `onEvent` to `workerFor()`, `WorkerServer` or
 * `poolsFor()`.
 *
 *     workerFor(app, { onEvent: analyticsEvents(env.EVENTS) });
 *
 * A point is written at the end of a request (`end`), and for a refused request (`refused`), a datagram that was not sent
 * (`dropped`), a pool's connection (`dialFailed`, `connectionEnded`), and an error outside of requests (`error`): `index1` is the
 * name of the server, `blob1` the event's type, `blob2` the reason (`ok`, a limit, a code), `double1` the duration in ms, `double2` and `double3` the
 * bytes received and sent. Nothing in it is chosen by a peer. The platform takes 250 points per invocation.
 */
export const analyticsEvents = (dataset: AnalyticsDataset): OnEvent => {
  if (typeof (dataset as Partial<AnalyticsDataset> | undefined)?.writeDataPoint !== "function") {
    throw new TypeError(
      "analyticsEvents() takes a dataset of Workers Analytics Engine: bind one by [[analytics_engine_datasets]] in wrangler.toml",
    );
  }
  const endings = new Map<string, Endings>(); // by server: the numbers of requests are each server's own
  return (event) => {
    const { server, type } = event;
    let ends = endings.get(server);
    if (ends === undefined) {
      ends = new Endings();
      endings.set(server, ends);
    }
    const point = pointOf(event, ends.take(event));
    if (point === null) return;
    const [reason, ...doubles] = point;
    dataset.writeDataPoint({ indexes: [indexOf(server)], blobs: [type, reason], doubles });
  };
};

/** A name as an index: cut between characters if it is too long. */
const indexOf = (name: string): string => {
  const { read } = new TextEncoder().encodeInto(name, new Uint8Array(LONGEST_INDEX));
  return name.slice(0, read);
};
