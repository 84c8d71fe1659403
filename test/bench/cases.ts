/** A server program: a file of `servers/` and its arguments. */
export type Program = readonly [file: string, ...args: string[]];

/** Our own `load.c` (echo and bulk, every byte checked), or redis-benchmark. */
export type Load =
  | {
      readonly tool: "load";
      readonly mode: "echo" | "bulk";
      readonly connections: number;
      readonly size: number;
    }
  | {
      readonly tool: "redis-benchmark";
      readonly test: "ping_mbulk";
      readonly connections: number;
      readonly pipeline: number;
    };

export interface BenchCase {
  readonly name: string;
  /** What one unit of work is: rates are in it per second, CPU in microseconds for one. */
  readonly unit: "message" | "MiB" | "command";
  readonly baseline: Program;
  readonly subject: Program;
  readonly load: Load;
}

const echo = { unit: "message", baseline: ["bare-echo.ts"], subject: ["socklet-echo.ts"] } as const;
const bulk = { ...echo, unit: "MiB" } as const;

/** To add a case, add an object. `npm run bench` runs them in this order, each about 15 seconds long. */
export const cases: readonly BenchCase[] = [
  { ...echo, name: "echo-64B-50", load: { tool: "load", mode: "echo", connections: 50, size: 64 } },
  { ...echo, name: "echo-64B-500", load: { tool: "load", mode: "echo", connections: 500, size: 64 } },
  { ...bulk, name: "bulk-64KiB-1", load: { tool: "load", mode: "bulk", connections: 1, size: 65_536 } },
  { ...bulk, name: "bulk-64KiB-8", load: { tool: "load", mode: "bulk", connections: 8, size: 65_536 } },
  ...["await", "lines", "try"].flatMap((loop) =>
    [1, 16, 64].map(
      (pipeline): BenchCase => ({
        name: `resp-${loop}-P${pipeline}`,
        unit: "command",
        baseline: ["bare-resp.ts"],
        subject: ["socklet-resp.ts", loop],
        load: { tool: "redis-benchmark", test: "ping_mbulk", connections: 50, pipeline },
      }),
    ),
  ),
];
