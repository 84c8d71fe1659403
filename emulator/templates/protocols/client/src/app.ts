import { defineApp } from "socklet";
import { Whois } from "./whois.ts";

/** What may be dialled: each entry of `dial` is a server, and the handler that talks to it. */
export const app = defineApp({
  handlers: { whois: Whois },
  dial: { iana: { handler: "whois", address: "tcp://whois.iana.org:43" } },
});
