/**
 * `socklet/otel`: what servers and connectors do, as spans and metrics of OpenTelemetry. It takes the package
 * `@opentelemetry/api`, and listens on the tracing channels of the emulator: nothing is traced until it is asked to.
 *
 * There is no accepted convention for connections yet. The names are those of its proposal (open-telemetry/semantic-conventions#454:
 * `connect`, `connection`), with the attributes that are stable today.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import {
  type Channel,
  channel,
  type TracingChannel,
  type TracingChannelSubscribers,
  tracingChannel,
} from "node:diagnostics_channel";
import {
  type Attributes,
  type Context,
  context,
  type MeterProvider,
  metrics,
  type Span,
  SpanKind,
  SpanStatusCode,
  type TracerProvider,
  trace,
} from "@opentelemetry/api";
import { describe } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import type { SockletEvent } from "../../core/handlers/events.ts";
import { type Address, parseAddress } from "../../core/net/address.ts";
import { checkOptions, optionNamesOf } from "../../core/options.ts";
import type { TlsInfo } from "../../core/sockets/tls/tls.ts";
import type { TracedConnect, TracedHandshake, TracedRequest } from "../kernel/tracing.ts";

/** Where telemetry goes. */
export interface TelemetryOptions {
  /** Default: the one that is registered with OpenTelemetry's API. */
  readonly tracerProvider?: TracerProvider;
  /** Default: the one that is registered with OpenTelemetry's API. */
  readonly meterProvider?: MeterProvider;
}

const TELEMETRY_NAMES = optionNamesOf<TelemetryOptions>("telemetry")({
  tracerProvider: true,
  meterProvider: true,
});

const SCOPE = "socklet";
const SECONDS = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600]; // as those of GET /v1/metrics

/** OpenTelemetry's context, where a tracing channel enters a store. */
class ActiveContext extends AsyncLocalStorage<Context> {
  override run<Result>(entered: Context, work: (...args: never[]) => Result, ...args: never[]): Result {
    return context.with(entered, work as never, undefined, ...args) as Result;
  }
}

/** A class of errors: a code, or the name of the error's class. */
const errorType = (error: unknown): string => {
  const { code, name } = describe(error);
  return SocketError.isCode(code) ? code : name || "_OTHER";
};

/** `network.peer.address`, `server.port` and so on. */
const addressAs = (prefix: string, address: Address | null): Attributes => {
  if (address === null) return {};
  if (address.family === "unix") return { [`${prefix}.address`]: address.path };
  return { [`${prefix}.address`]: address.hostname, [`${prefix}.port`]: address.port };
};

const typeOf = (address: Address | null): Attributes =>
  address === null || address.family === "unix" ? {} : { "network.type": address.family.toLowerCase() };

const tlsAttributes = (tls: TlsInfo | null | undefined): Attributes => {
  if (tls == null) return {};
  const { version, cipher, alpn } = tls;
  return {
    "tls.protocol.name": "tls",
    ...(version != null && { "tls.protocol.version": version.replace(/^TLSv/, "") }),
    ...(cipher != null && { "tls.cipher": cipher }),
    ...(alpn != null && { "tls.next_protocol": alpn }),
  };
};

/** What is known of a request when it begins: of its span, and of its metrics, in which no peer has a say. */
const attributesOf = ({ request, address, server, role, local }: TracedRequest) => {
  const stream = "getpeername" in request ? request : null;
  const own = stream?.getsockname() ?? local;
  const transport = own?.family === "unix" ? "unix" : stream === null ? "udp" : "tcp";
  const peer = "getpeername" in request ? request.getpeername() : request.address;
  const shared: Attributes = { "network.transport": transport, "socklet.server": server };
  const listens = role === "server" ? addressAs("server", local) : {};
  const { "server.port": port } = listens;
  return {
    metric: { ...shared, "socklet.role": role, ...(port !== undefined && { "server.port": port }) },
    span: {
      ...shared,
      ...addressAs("network.peer", peer),
      ...addressAs("network.local", own ?? null),
      ...typeOf(peer),
      ...(role === "server" ? { ...listens, ...addressAs("client", address) } : addressAs("server", address)),
      ...tlsAttributes(stream?.tls),
    },
  };
};

/** What of an operation is told at its end. */
interface Begun {
  readonly span: Span;
  readonly began: number;
  readonly metric: Attributes;
}

/** Follows the operations of one channel: `begin` opens a span for each, which is active in all that the operation does, and `end` closes it. */
const follow = <Traced extends { readonly error?: unknown }>(
  traced: TracingChannel<object, Traced>,
  begin: (operation: Traced) => Begun,
  end: (operation: Traced, begun: Begun, seconds: number, failure: Attributes) => void,
): (() => void) => {
  const going = new WeakMap<Traced, Begun>();
  const store = new ActiveContext();
  const enter = (operation: Traced): Context => {
    const begun = begin(operation);
    going.set(operation, begun);
    return trace.setSpan(context.active(), begun.span);
  };
  const subscribers: Partial<TracingChannelSubscribers<Traced>> = {
    asyncEnd(operation) {
      const begun = going.get(operation);
      if (begun === undefined) return; // it began before somebody listened
      going.delete(operation);
      const { span, began } = begun;
      const failed = "error" in operation;
      const failure: Attributes = failed ? { "error.type": errorType(operation.error) } : {};
      if (failed) {
        const { message } = describe(operation.error);
        span.setAttributes(failure).setStatus({ code: SpanStatusCode.ERROR, message });
        span.recordException(describe(operation.error) as Error);
      }
      end(operation, begun, (performance.now() - began) / 1000, failure);
      span.end();
    },
  };
  (traced.start as Channel).bindStore(store, enter as (message: unknown) => Context);
  traced.subscribe(subscribers as TracingChannelSubscribers<Traced>);
  return () => {
    (traced.start as Channel).unbindStore(store);
    traced.unsubscribe(subscribers as TracingChannelSubscribers<Traced>);
  };
};

/**
 * From now on, all servers and connectors of this process are told to OpenTelemetry. Gives what ends that.
 *
 *     import { startTelemetry } from "socklet/otel";
 *     const stop = startTelemetry();
 *
 * | span | kind | of |
 * |---|---|---|
 * | `connection` | SERVER, CLIENT | a handler's work on a connection that was accepted, dialled |
 * | `datagram` | SERVER | a handler's work on a datagram |
 * | `connect` | INTERNAL | a dialling, with its TLS |
 * | `TLS handshake` | INTERNAL | a handshake of either side |
 *
 * The span of a handler is active in it: `trace.getActiveSpan()?.setAttribute("user.id", id)` adds to it, and spans that it begins
 * are its children. Throws `TypeError` for an option that is none.
 */
export const startTelemetry = (options: TelemetryOptions = {}): (() => void) => {
  checkOptions("startTelemetry()", options, TELEMETRY_NAMES);
  const tracer = (options.tracerProvider ?? trace).getTracer(SCOPE);
  const meter = (options.meterProvider ?? metrics).getMeter(SCOPE);
  const seconds = (name: string, description: string) =>
    meter.createHistogram(name, {
      unit: "s",
      description,
      advice: { explicitBucketBoundaries: SECONDS },
    });
  const durations = seconds(
    "network.connection.duration",
    "How long connections, or datagrams, were worked on.",
  );
  const connects = seconds("network.connect.duration", "How long it took to open a connection.");
  const handshakes = seconds("tls.handshake.duration", "How long TLS handshakes took.");
  const active = meter.createUpDownCounter("network.connection.count", {
    unit: "{connection}",
    description: "Connections and datagrams that a handler works on.",
  });
  const bytes = meter.createCounter("network.connection.io", {
    unit: "By",
    description: "Bytes that connections and datagrams carried.",
  });
  const refusals = meter.createCounter("network.connection.refused", {
    unit: "{connection}",
    description: "Connections and datagrams that no handler saw.",
  });
  const stops = [
    follow<TracedRequest>(
      tracingChannel("socklet.request"),
      (operation) => {
        const { role, request } = operation;
        const { metric, span: attributes } = attributesOf(operation);
        active.add(1, metric);
        const accepted = role === "server";
        const kind = accepted ? SpanKind.SERVER : SpanKind.CLIENT;
        // What a server accepts is not part of what once opened the server.
        const how = { kind, attributes, root: accepted };
        const span = tracer.startSpan("getpeername" in request ? "connection" : "datagram", how);
        return { span, began: performance.now(), metric };
      },
      ({ request }, { span, metric }, took, failure) => {
        active.add(-1, metric);
        durations.record(took, { ...metric, ...failure });
        const { bytesRead = 0, bytesWritten = 0 } = request as { bytesRead?: number; bytesWritten?: number };
        bytes.add(bytesRead, { ...metric, "network.io.direction": "receive" });
        bytes.add(bytesWritten, { ...metric, "network.io.direction": "transmit" });
        span.setAttributes({ "socklet.received": bytesRead, "socklet.sent": bytesWritten });
        if ("tls" in request) span.setAttributes(tlsAttributes(request.tls)); // also of a STARTTLS meanwhile
      },
    ),
    follow<TracedConnect>(
      tracingChannel("socklet.connect"),
      ({ address }) => {
        const endpoint = parseAddress(address);
        const attributes =
          endpoint.scheme === "unix"
            ? { "server.address": endpoint.path, "network.transport": "unix" }
            : {
                "server.address": endpoint.hostname,
                "server.port": endpoint.port,
                "network.transport": "tcp",
              };
        const span = tracer.startSpan("connect", { kind: SpanKind.INTERNAL, attributes });
        return { span, began: performance.now(), metric: attributes };
      },
      ({ result }, { span, metric }, took, failure) => {
        if (result !== undefined) {
          const { remoteAddress, localAddress } = result;
          span.setAttributes({
            ...addressAs("network.peer", remoteAddress),
            ...addressAs("network.local", localAddress),
            ...typeOf(remoteAddress),
          });
        }
        connects.record(took, { ...metric, ...failure });
      },
    ),
    follow<TracedHandshake>(
      tracingChannel("socklet.handshake"),
      ({ role, address }) => {
        const metric = { "socklet.role": role };
        const attributes = { ...metric, ...addressAs("network.peer", address), ...typeOf(address) };
        const how = { kind: SpanKind.INTERNAL, attributes, root: role === "server" && !inHandler() };
        return { span: tracer.startSpan("TLS handshake", how), began: performance.now(), metric };
      },
      ({ result }, { span, metric }, took, failure) => {
        const { "tls.protocol.version": version, ...rest } = tlsAttributes(result);
        const named = version === undefined ? {} : { "tls.protocol.version": version };
        span.setAttributes({ ...named, ...rest });
        handshakes.record(took, { ...metric, ...named, ...failure });
      },
    ),
  ];
  const refused = (event: unknown): void => {
    const { server, reason } = event as Extract<SockletEvent, { readonly type: "refused" }>;
    refusals.add(1, { "socklet.server": server, "socklet.reason": reason });
  };
  const ofRefusals = channel("socklet:refused");
  ofRefusals.subscribe(refused);
  return () => {
    ofRefusals.unsubscribe(refused);
    for (const stop of stops) stop();
  };
};

/** Whether a handler's span is active: a handshake that it asked for (STARTTLS) is part of it. */
const inHandler = (): boolean => trace.getActiveSpan() !== undefined;
