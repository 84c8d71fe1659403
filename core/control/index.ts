/** `socklet/control`: the control routes, over a small interface that each platform implements. */

import { Hono } from "hono";
import type { EndpointInfo } from "../server.ts";

/** What the control routes show; a platform implements it. */
export interface ControlPlane {
  /** Counts of each listener. */
  listeners(): readonly EndpointInfo[];
}

/** An error as RFC 9457 says it. */
interface Problem {
  readonly title: string;
  readonly status: number;
  readonly detail: string;
}

const problem = ({ title, status, detail }: Problem): Response =>
  new Response(JSON.stringify({ type: "about:blank", title, status, detail }), {
    status,
    headers: { "content-type": "application/problem+json" },
  });

/**
 * The routes, as a Hono app of its own or to mount in another (`app.route("/", controlRoutes(plane))`):
 *
 * - `GET /v1/health`: `{ status: "ok", listeners, running }`, counts and nothing that tells of a peer.
 */
export const controlRoutes = (plane: ControlPlane): Hono =>
  new Hono()
    .get("/v1/health", (c) => {
      const listeners = plane.listeners();
      const running = listeners.reduce((sum, listener) => sum + listener.running, 0);
      return c.json({ status: "ok", listeners: listeners.length, running });
    })
    .notFound((c) =>
      problem({
        title: "Not Found",
        status: 404,
        detail: `there is no ${c.req.method} ${c.req.path}; see GET /v1/health`,
      }),
    );
