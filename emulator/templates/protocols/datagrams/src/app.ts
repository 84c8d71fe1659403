import { defineApp } from "socklet";
import { Datagrams } from "./datagrams.ts";

/** What is served: each entry of `listen` is an address, and the handler of what comes there. */
export const app = defineApp({
  handlers: { datagrams: Datagrams },
  listen: [
    { handler: "datagrams", address: "udp://127.0.0.1:7007", try: "echo hello | nc -u -w 1 {host} {port}" },
  ],
});
