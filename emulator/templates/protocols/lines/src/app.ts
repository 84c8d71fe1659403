import { defineApp } from "socklet";
import { Lines } from "./lines.ts";

/** What is served: each entry of `listen` is an address, and the handler of its connections. */
export const app = defineApp({
  handlers: { lines: Lines },
  listen: [{ handler: "lines", address: "tcp://127.0.0.1:7007", try: "echo hello | nc -N {host} {port}" }],
});
