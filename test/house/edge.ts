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

Whatever breaks a rule fails with an error that names the rule, its page and its date, and is reported as an \`edge\` event. The error's code
is the one that a Worker's handler would get.

Servers on your own machine have private addresses. To dial them anyway, exempt that rule:
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

\`socklet doctor app.ts\` lists, without serving the app, the rules that its listeners, \`dial\`, \`pools\` and \`allow\`, and its \`wrangler.toml\`, would break.

## The rules

| rule | on the edge | here, with \`edge\` | local workerd does it, too | |
|---|---|---|---|---|
${Object.entries(EDGE_RULES).map(row).join("\n")}

*documented*: the page says so, as of that date. *seen*: it was measured in workerd, or others have reported it.

A request, for these rules, is one connection or datagram of a listener, or one session. A pool's connections belong to no request.
Limits apply to each request: nothing is counted across requests.

**Six connections.** Since April 2026 the limits page counts those that wait for the headers of a response, and names \`connect()\` among what
counts. A TCP socket has no headers, and [the page of TCP sockets](https://developers.cloudflare.com/workers/runtime-apis/tcp-sockets/) says
that each open one counts. Here each counts from its dial until it is over.

**15 minutes.** Socklet's sessions have an alarm every 20 seconds. In tests that kept their object for longer, but no page promises it. An app
that works with its connections cut at 15 minutes does not depend on that. Lasting sessions (\`keep\`) are dialled again.
`;
