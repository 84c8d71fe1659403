import { workerFor } from "socklet/worker";
import { app } from "./app.ts";

const worker = workerFor(app, {
  onEvent: (event) => {
    if (event.type === "error") console.error(event.server, event.error);
  },
});

/** Each session is an object of this class. */
export class SockletSession extends worker.Session {}
/** One object knows all sessions. */
export class SockletRegistry extends worker.Registry {}

export default worker;
