/** Metrics of this process, by the names that Prometheus' client libraries use. */

import type { monitorEventLoopDelay } from "node:perf_hooks";
import type { Family } from "../../../core/control/metrics.ts";
import { lazy } from "../../builtin.ts";

const RESOLUTION = 20; // ms between two readings of the clock: 50 a second, from the first request for metrics on
const STARTED = Date.now() / 1000 - process.uptime();

let delays: ReturnType<typeof monitorEventLoopDelay> | undefined;

/** The metrics of the process. The event loop is observed from the first call on, so that it costs nothing before. */
export const processMetrics = (): Family[] => {
  if (delays === undefined) {
    delays = lazy.perfHooks.monitorEventLoopDelay({ resolution: RESOLUTION });
    delays.enable();
  }
  const { user, system } = process.cpuUsage();
  const seconds = (ns: number): number => (Number.isNaN(ns) ? 0 : Math.max(ns / 1e9 - RESOLUTION / 1000, 0));
  const watched = delays;
  const quantiles = [0.5, 0.99, 1].map((quantile) => ({
    labels: { quantile: String(quantile) },
    value: seconds(watched.count === 0 ? Number.NaN : watched.percentile(quantile * 100)),
  }));
  return [
    {
      name: "socklet_event_loop_delay_seconds",
      help: "How late the event loop was, since metrics were first asked for.",
      type: "summary",
      samples: [
        ...quantiles,
        { suffix: "sum", value: seconds(watched.mean) * watched.count },
        { suffix: "count", value: watched.count },
      ],
    },
    {
      name: "process_cpu_seconds_total",
      help: "CPU time that the process took.",
      type: "counter",
      samples: [{ value: (user + system) / 1e6 }],
    },
    {
      name: "process_resident_memory_bytes",
      help: "Memory that the process has.",
      type: "gauge",
      samples: [{ value: process.memoryUsage.rss() }],
    },
    {
      name: "process_start_time_seconds",
      help: "When the process started, since 1970.",
      type: "gauge",
      samples: [{ value: STARTED }],
    },
  ];
};
