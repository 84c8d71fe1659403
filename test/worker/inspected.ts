/** The Worker of the inspector's tests: one that has the page, and keeps what passes while somebody looks. */

import { env } from "cloudflare:workers";
import { defineApp } from "socklet";
import { lasting, recording, workerFor } from "socklet/worker";
import { inspector } from "../../core/inspector/index.ts";
import { type InspectedAddresses, inspectedApp } from "../conformance/inspected-app.ts";

const app = defineApp(inspectedApp(env as InspectedAddresses));
const worker = workerFor(app, { inspector, recording, lasting });

export class SockletSession extends worker.Session {}
export class SockletRegistry extends worker.Registry {}
export { SockletStorage } from "socklet/worker";

export default worker;
