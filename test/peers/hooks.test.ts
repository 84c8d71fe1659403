/**
 * The hooks of a server, in CPython's order: one program of Python's `socketserver` and ours trace what is called,
 * for the same client, each kind of server, and each outcome of a request.
 *
 * What differs by design, and is left out of the comparison: CPython also calls `service_actions` twice a second
 * when nothing comes; and one hook that differs is tested by itself (`verify_request` that throws ends CPython's
 * server: ours tells it by `handleError`).
 *
 * CPython's threading server continues in its own thread while the request's thread runs, in no order. So what each of
 * the two called is compared by itself there.
 *
 * A forking server of CPython's calls the hooks of the request in the child, and in the parent closes its own copy of
 * the connection. Ours has the handler in the child, and all hooks in the parent (docs/servers.md): what is compared
 * is what the server that accepts called, what the request's hooks were, and what ran in another process.
 */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Address, formatAddress, type SockletEvent } from "socklet";
import { afterAll, expect, test } from "vitest";
import { handlerFrom } from "../../emulator/servers/forking/channel/handler-source.ts";
import {
  ForkingMixIn,
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixDatagramServer,
  ForkingUnixStreamServer,
} from "../../emulator/servers/forking/servers.ts";
import { TCPServer, ThreadingTCPServer } from "../../emulator/servers/tcp.ts";
import { ThreadingUDPServer, UDPServer } from "../../emulator/servers/udp.ts";
import {
  ThreadingUnixDatagramServer,
  ThreadingUnixStreamServer,
  UnixDatagramServer,
  UnixStreamServer,
} from "../../emulator/servers/unix.ts";
import { OUTCOMES, type Outcome, tracedHere } from "./hooks-handler.ts";
import { describeWith, python } from "./program.ts";

const folder = mkdtempSync(join(tmpdir(), "socklet-hooks-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The calls, in order, and what the client read (`null`: nothing came back, as expected). */
interface Traced {
  readonly trace: readonly string[];
  /** In children. */
  readonly child: readonly string[];
  readonly read: string | null;
}

/** What CPython's server does, and the client that both are driven by. */
const PROGRAM = `
import json, os, socket, socketserver as ss, sys, threading

role, kind, *rest = sys.argv[1:]
datagrams = kind.endswith("UDPServer") or kind.endswith("DatagramServer")
unix = "Unix" in kind
outcomes = ["served", "refused", "setup", "handle", "finish"]

def client(address, outcome, own):
    s = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    s.settimeout(120)
    if unix and datagrams: s.bind(own)
    s.connect(address)
    try: s.sendall(b"hello\\n")
    except BrokenPipeError: pass # a server of CPython's that refuses may have closed by now; ours lingers
    if datagrams: read = s.recv(100) if outcome in ("served", "handle") else None
    else:
        read = b""
        try:
            while piece := s.recv(100): read += piece
        except ConnectionResetError: pass # so does a Unix connection that is closed unread
    if datagrams and read is None:
        # The request is over when the server's trace says so; a client that has gone would be another outcome.
        keep.append(s)
    else: s.close()
    return None if read is None else read.decode()

keep = []
if role == "client":
    folder, *addresses = rest
    read = []
    for outcome, address in zip(outcomes, addresses):
        if not unix:
            host, port = address.rsplit(":", 1)
            address = (host, int(port))
        read.append(client(address, outcome, os.path.join(folder, "client-" + outcome)))
    print(json.dumps(read), flush=True)
    sys.stdin.read()
    sys.exit()

classes = {kind: getattr(ss, kind, None)}
if kind.startswith("ForkingUnix") and classes[kind] is None: # Python 3.12 has them
    classes[kind] = type(kind, (ss.ForkingMixIn, getattr(ss, kind[len("Forking"):])), {})

class Trace:
    """What was called, in which process: children of a forking server write to the same file."""
    def __init__(self, path): self.file = open(path, "ab", buffering=0)
    def append(self, hook): self.file.write(f"{os.getpid()} {hook}\\n".encode())

def run(outcome, folder):
    path = os.path.join(folder, "trace-" + outcome)
    trace = Trace(path)
    took = [False]
    closed = threading.Event()
    def fault(name):
        if outcome == name: raise ValueError(name)
    class Server(classes[kind]):
        def server_bind(self): trace.append("serverBind"); super().server_bind()
        def server_activate(self): trace.append("serverActivate"); super().server_activate()
        def get_request(self): trace.append("getRequest"); took[0] = True; return super().get_request()
        def verify_request(self, *a): trace.append("verifyRequest"); return outcome != "refused"
        def process_request(self, *a): trace.append("processRequest"); super().process_request(*a)
        def finish_request(self, *a): trace.append("finishRequest"); super().finish_request(*a)
        def handle_error(self, *a): trace.append("handleError: " + str(sys.exc_info()[1]))
        def shutdown_request(self, r): trace.append("shutdownRequest"); super().shutdown_request(r)
        def close_request(self, r): trace.append("closeRequest"); super().close_request(r); closed.set()
        def handle_timeout(self): trace.append("handleTimeout")
        def server_close(self): trace.append("serverClose"); super().server_close()
        def service_actions(self):
            if took[0]: trace.append("serviceActions")
            took[0] = False
    class Handler(ss.DatagramRequestHandler if datagrams else ss.StreamRequestHandler):
        def setup(self): trace.append("setup"); super().setup(); fault("setup")
        def handle(self): trace.append("handle"); self.wfile.write(b"handled"); fault("handle")
        def finish(self): trace.append("finish"); fault("finish"); super().finish()
    with Server(os.path.join(folder, "python-" + outcome) if unix else ("127.0.0.1", 0), Handler) as server:
        read = None
        # A forked request ends in its child: its hooks have been called when the child is gone, which server_close waits for.
        if outcome == "timeout":
            server.timeout = 0.01
            server.handle_request()
        else:
            serving = threading.Thread(target=lambda: server.serve_forever(0.01))
            serving.start()
            read = client(server.server_address, outcome, os.path.join(folder, "python-client-" + outcome))
            closed.wait()
            server.shutdown()
            serving.join()
    called = [line.split(" ", 1) for line in open(path).read().splitlines()]
    own = str(os.getpid())
    return {"trace": [hook for pid, hook in called if pid == own], "child": [hook for pid, hook in called if pid != own], "read": read}

print(json.dumps({outcome: run(outcome, *rest) for outcome in [*outcomes, "timeout"]}))
`;

// biome-ignore lint/suspicious/noExplicitAny: servers of streams and of datagrams
type AnyServer = TCPServer<any, any>;
// biome-ignore lint/suspicious/noExplicitAny: as above
type AnyServerClass = new (address: any, handler: any, options?: object) => AnyServer;

/** Our server of that class, which traces its hooks. */
const traced = (
  Server: AnyServerClass,
  outcome: Outcome,
  path: string | null,
): {
  readonly server: AnyServer;
  readonly trace: string[];
  readonly child: string[];
  readonly over: Promise<unknown>;
} => {
  const trace: string[] = [];
  const closed = Promise.withResolvers<void>();
  const served = Promise.withResolvers<void>();
  class Traced extends Server {
    override serverBind() {
      trace.push("serverBind");
      return super.serverBind();
    }
    override serverActivate() {
      trace.push("serverActivate");
      return super.serverActivate();
    }
    override getRequest() {
      trace.push("getRequest");
      return super.getRequest();
    }
    override verifyRequest() {
      trace.push("verifyRequest");
      return outcome !== "refused";
    }
    override processRequest(request: unknown, address: Address | null) {
      trace.push("processRequest");
      return super.processRequest(request, address);
    }
    override finishRequest(request: unknown, address: Address | null) {
      trace.push("finishRequest");
      return super.finishRequest(request, address);
    }
    override handleError(_request: unknown, _address: Address | null, error: unknown) {
      trace.push(`handleError: ${(error as Error).message}`);
    }
    override shutdownRequest(request: unknown) {
      trace.push("shutdownRequest");
      return super.shutdownRequest(request);
    }
    override closeRequest(request: unknown) {
      trace.push("closeRequest");
      closed.resolve();
      return super.closeRequest(request);
    }
    override serviceActions() {
      trace.push("serviceActions");
      served.resolve();
    }
    override handleTimeout() {
      trace.push("handleTimeout");
    }
    override serverClose() {
      trace.push("serverClose");
      return super.serverClose();
    }
  }
  const datagrams = Server === UDPServer || Server.prototype instanceof UDPServer;
  const child: string[] = [];
  const onEvent = (event: SockletEvent): void => {
    if (event.type !== "handler") return;
    const { pid, hook } = event.detail as { readonly pid: number; readonly hook: string };
    child.push(pid === process.pid ? "not in a child" : hook);
  };
  const forking = Server.prototype instanceof ForkingMixIn;
  const module = new URL("./hooks-handler.ts", import.meta.url);
  const handler = forking
    ? handlerFrom(module, datagrams ? "TracedDatagrams" : "TracedStreams")
    : tracedHere(datagrams, outcome, trace);
  const options = { timeout: 10, ...(forking && { context: { outcome }, onEvent }) };
  const server = new Traced(path === null ? "127.0.0.1:0" : { path }, handler, options);
  return { server, trace, child, over: Promise.all([closed.promise, served.promise]) };
};

const kinds: Readonly<Record<string, AnyServerClass>> = {
  TCPServer,
  ThreadingTCPServer,
  UDPServer,
  ThreadingUDPServer,
  UnixStreamServer,
  ThreadingUnixStreamServer,
  UnixDatagramServer,
  ThreadingUnixDatagramServer,
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixStreamServer,
  ForkingUnixDatagramServer,
};

const ACCEPTING = new Set([
  "serverBind",
  "serverActivate",
  "getRequest",
  "verifyRequest",
  "processRequest",
  "serviceActions",
  "handleTimeout",
  "serverClose",
]);

const OF_HANDLER = new Set(["setup", "handle", "finish"]);

/** A threading server's trace: what the one that accepts called, and what the request's own thread did. */
const byThread = (trace: readonly string[]): readonly (readonly string[])[] => [
  trace.filter((hook) => ACCEPTING.has(hook)),
  trace.filter((hook) => !ACCEPTING.has(hook)),
];

describeWith(["python3"], "hooks as CPython calls them", () => {
  for (const [kind, Server] of Object.entries(kinds)) {
    test(kind, async () => {
      const own = join(folder, kind);
      mkdirSync(own);
      const theirs: Record<Outcome, Traced> = JSON.parse(await python(PROGRAM, ["server", kind, own]));

      const unix = kind.includes("Unix");
      const ours = OUTCOMES.map((outcome) => traced(Server, outcome, unix ? join(own, outcome) : null));
      const addresses: string[] = [];
      const serving: Promise<void>[] = [];
      await Promise.all(ours.map(({ server }) => server.listen()));
      for (const { server } of ours.slice(0, -1)) {
        const address = server.serverAddress as Address;
        addresses.push(address.family === "unix" ? address.path : formatAddress(address));
        serving.push(server.serveForever());
      }
      const asking = python(PROGRAM, ["client", kind, own, ...addresses]);
      await Promise.all(ours.slice(0, -1).map(({ over }) => over));
      const read: (string | null)[] = JSON.parse(await asking);
      await ours.at(-1)?.server.handleRequest();
      for (const { server } of ours) {
        await server.shutdown();
        await server.serverClose();
      }
      await Promise.all(serving);

      const threading = kind.startsWith("Threading");
      for (const [index, outcome] of OUTCOMES.entries()) {
        const { trace } = theirs[outcome];
        const here = ours[index]?.trace ?? [];
        expect({ outcome, read: read[index] ?? null }).toEqual({ outcome, read: theirs[outcome].read });
        if (kind.startsWith("Forking")) {
          const own = ours[index]?.child ?? [];
          const { child } = theirs[outcome];
          const inParent = outcome === "refused" ? trace : child; // CPython forks when it has verified
          expect({ outcome, accepts: byThread(here)[0] }).toEqual({ outcome, accepts: byThread(trace)[0] });
          expect({ outcome, request: byThread(here)[1] }).toEqual({
            outcome,
            request: inParent.filter((hook) => !ACCEPTING.has(hook) && !OF_HANDLER.has(hook)),
          });
          expect({ outcome, handler: own }).toEqual({
            outcome,
            handler: child.filter((hook) => OF_HANDLER.has(hook)),
          });
        } else if (threading)
          expect({ outcome, trace: byThread(here) }).toEqual({ outcome, trace: byThread(trace) });
        else expect({ outcome, trace: here }).toEqual({ outcome, trace });
      }
    });
  }
});
