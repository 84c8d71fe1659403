/** The conformance body inside workerd, where both ends are workerd's sockets. */

import { env } from "cloudflare:workers";
import { streamSocket } from "socklet/worker";
import { streamConformance } from "../conformance/stream.ts";

const options = { closeTimeout: 300 };

streamConformance({
  name: "workerd, service binding",
  dial: () => streamSocket(env.SELF.connect("conformance:1", { allowHalfOpen: true }), options),
});

streamConformance({
  name: "workerd, Durable Object",
  dial: () =>
    streamSocket(env.DOOR.getByName("door").connect("conformance:1", { allowHalfOpen: true }), options),
});
