/** The Worker that `wrangler.toml` deploys: the example app. The platform asks for these exports. */

import { app } from "../examples/app.ts";
import { workerFor } from "./worker.ts";

const worker = workerFor(app);

export class SockletSession extends worker.Session {}
export class SockletRegistry extends worker.Registry {}
export { SockletStorage } from "./storage.ts";

export default worker;
