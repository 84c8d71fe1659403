/** docs/edge.md: the rules of Cloudflare's edge, of the table in core/net/edge.ts. */

import { EDGE_RULES } from "../../core/net/edge.ts";

const row = ([name, { says, page, date, known, here, workerd }]: [
  string,
  (typeof EDGE_RULES)[keyof typeof EDGE_RULES],
]): string =>
  `| \`${name}\` | ${says} | ${here} | ${workerd ? "yes" : "no"} | [${known}](${page}), ${date} |`;

export const edgePage = (): string => `# As the edge would

Cloudflare's edge refuses what your machine allows, and often without saying why. Hold the app to its rules while you write it:

\`\`\`sh
npx socklet dev app.ts --edge
\`\`\`

\`\`\`text
socklet: mail  tcp://mail.example:25: on Cloudflare's edge connections to port 25 are prohibited; submit mail on port 465 or 587 (rule port-25, documented: https://developers.cloudflare.com/workers/runtime-apis/tcp-sockets/, 2026-06)
\`\`\`

What meets a rule fails with an error that names it, with its page and date, and is told as the event \`edge\`. The code of the error is
the one that a Worker's handler gets.

Servers on your own machine have private addresses. To dial them all the same, except that rule:
\`socklet dev app.ts --edge-except private-address\`.

In a test, or in your own program:

<!-- before: import { defineApp, streamHandler } from "socklet"; const app = defineApp({ handlers: { a: streamHandler(async () => {}) }, listen: [{ handler: "a", address: "tcp://127.0.0.1:0" }] }); -->
\`\`\`ts
import { serveApp } from "socklet/emulator";

const server = await serveApp(app, {
  edge: { except: ["private-address"] },
  onEvent: (event) => {
    if (event.type === "edge") console.log(event.rule, event.message);
  },
});
await server.close();
\`\`\`

\`socklet doctor app.ts\` says without serving which rules the app's listeners, \`dial\`, \`pools\` and \`allow\`, and its \`wrangler.toml\`, would meet.

## The rules

| rule | on the edge | here, with \`edge\` | local workerd does it, too | |
|---|---|---|---|---|
${Object.entries(EDGE_RULES).map(row).join("\n")}

*documented*: the page says so, as of that date. *seen*: it was measured in workerd, or others told of it.

What they count as a request is one connection or datagram of a listener, or one session. A pool's connections belong to no request.
Times and numbers are of one request: nothing is counted across requests.

**Six connections.** Since April 2026 the limits page counts those that wait for the headers of a response, and names \`connect()\` among what
counts. A TCP socket has no headers, and [the page of TCP sockets](https://developers.cloudflare.com/workers/runtime-apis/tcp-sockets/) says
that each open one counts. Here each counts from its dial until it is over.

**15 minutes.** Socklet's sessions have an alarm every 20 seconds, which keeps their object longer as far as was seen; no page promises it. An
app that passes with its connections cut at 15 minutes does not depend on that. Sessions that last (\`keep\`) are dialled again.
`;
