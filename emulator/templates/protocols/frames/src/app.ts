import { defineApp } from "socklet";
import { Frames } from "./frames.ts";

/** What is served: each entry of `listen` is an address, and the handler of its connections. */
export const app = defineApp({
  handlers: { frames: Frames },
  listen: [
    {
      handler: "frames",
      address: "tcp://127.0.0.1:7007",
      try: "printf '\\0\\0\\0\\5olleh' | nc -N {host} {port} | tail -c 5",
    },
  ],
});
