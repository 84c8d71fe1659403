/** A Worker of unmodified TCP clients from npm: `/<name>?port=…&patience=…` asks a server of this machine through one of them. */

import postgres from "postgres";
import { createRedis } from "redis-on-workers";
import { LogLevel, WorkerMailer } from "worker-mailer";

const hostname = "127.0.0.1";

/** What each client asks for; it waits `patience` ms if it has a setting for that. */
const clients: Readonly<Record<string, (port: number, patience: number) => Promise<unknown>>> = {
  async "redis-on-workers"(port) {
    const redis = createRedis({ hostname, port });
    try {
      return [await redis.send("GET", "greeting"), await redis.send("LRANGE", "list", 0, -1)];
    } finally {
      await redis.close();
    }
  },

  async postgres(port, patience) {
    const sql = postgres({
      host: hostname,
      port,
      user: "me",
      database: "me",
      ssl: false,
      fetch_types: false, // else it asks more than it is asked
      max: 1,
      connect_timeout: patience / 1000,
    });
    try {
      return await sql`select ${42}::int as n, 'pi' as name`;
    } finally {
      await sql.end({ timeout: 0 });
    }
  },

  async "worker-mailer"(port, patience) {
    await WorkerMailer.send(
      {
        host: hostname,
        port,
        startTls: false,
        credentials: { username: "me", password: "secret" },
        authType: "plain",
        logLevel: LogLevel.NONE,
        socketTimeoutMs: patience,
      },
      { from: "me@example.com", to: "you@example.com", subject: "hi", text: "hi" },
    );
    return "sent";
  },
};

let unhandled: string[] = []; // since the last answer

addEventListener("unhandledrejection", (event) => {
  unhandled.push(String(event.reason));
  event.preventDefault(); // else it is printed
});

export default {
  async fetch(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    const client = clients[pathname.slice(1)];
    const outcome =
      client &&
      (await client(Number(searchParams.get("port")), Number(searchParams.get("patience"))).then(
        (answer) => ({ answer }),
        (error: unknown) => ({ error: String(error) }),
      ));
    const those = unhandled;
    unhandled = [];
    return Response.json({ ...outcome, unhandled: those });
  },
} satisfies ExportedHandler;
