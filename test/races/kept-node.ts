/** What `socklet serve` serves in the tests of lasting sessions. */

import { keptApp } from "../conformance/kept-app.ts";

export const app = keptApp(JSON.parse(process.env.KEPT_PORTS ?? "{}"));
