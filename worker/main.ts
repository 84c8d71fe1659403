/** The Worker that `wrangler.toml` deploys: the example app. The platform asks for a default export. */

import { app } from "../examples/app.ts";
import { workerFor } from "./worker.ts";

export { SockletStorage } from "./storage.ts";

export default workerFor(app);
