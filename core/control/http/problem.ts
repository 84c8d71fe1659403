/** Errors over HTTP: one shape (RFC 9457), and the one table that maps codes to statuses. */

import { isA, printableJson } from "../../describe.ts";
import { SocketError, type SocketErrorCode } from "../../errors.ts";

/** The title of each status; together they identify the kind of a problem. */
const TITLES = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  409: "Conflict",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  422: "Unprocessable Content",
  429: "Too Many Requests",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
} as const;

export type ProblemStatus = keyof typeof TITLES;

/** The status for each code that a plane may throw. All others are 500: a plane has no reason to throw them. */
const STATUS: Partial<Record<SocketErrorCode, ProblemStatus>> = {
  // The request is wrong.
  EINVAL: 422,
  ERR_INVALID_ADDRESS: 422,
  ERR_REFUSED: 403,
  ENOENT: 404,
  EMSGSIZE: 413,
  ERR_UNSUPPORTED: 501,
  // The request came at the wrong moment.
  ENOTCONN: 409,
  EPIPE: 409,
  EBUSY: 409,
  ECANCELED: 409,
  ECONNRESET: 409,
  ECONNABORTED: 409,
  ERR_HANDED_OVER: 409,
  ERR_LIMIT: 429,
  // The session's peer does not read: for too long, or while too much output waits.
  ETIMEDOUT: 409,
  ENOBUFS: 429,
  // This side cannot do it now: the process is ending or has no descriptor left, is not configured, or its platform failed.
  EBADF: 503,
  EMFILE: 503,
  ERR_APP: 503,
  ERR_PLATFORM: 503,
};

/** One field of a request that is wrong. */
export interface FieldError {
  /** `deadline`, `params.0`; `body` for the whole. */
  readonly field: string;
  /** What would be right. */
  readonly message: string;
}

/** The body of every answer that is an error: problem details (RFC 9457), `application/problem+json`. */
export interface Problem {
  /** `urn:socklet:problem:not-found`: one for each status. */
  readonly type: string;
  readonly title: string;
  readonly status: number;
  /** What is wrong here, and what would be right. */
  readonly detail: string;
  /** More specific than the status, and the same code as in an exception. */
  readonly code: SocketErrorCode;
  /** The `X-Request-Id` of the answer. */
  readonly requestId: string;
  /** Each field that is wrong, with status 422. */
  readonly errors?: readonly FieldError[];
}

/** An answer that is an error, thrown by a route. */
export class HttpError extends SocketError {
  readonly status: ProblemStatus;
  readonly headers: Readonly<Record<string, string>>;
  readonly errors: readonly FieldError[] | undefined;

  constructor(
    status: ProblemStatus,
    code: SocketErrorCode,
    message: string,
    more: {
      readonly headers?: Readonly<Record<string, string>>;
      readonly errors?: readonly FieldError[];
    } = {},
  ) {
    super(code, message);
    this.status = status;
    this.headers = more.headers ?? {};
    this.errors = more.errors;
  }
}

/** The answer for what a route threw. Anything but a `SocketError` is an internal fault, whose message is not shown. */
export const problemResponse = (thrown: unknown, requestId: string): Response => {
  const known = isA(thrown, SocketError) ? thrown : undefined;
  const given = isA(thrown, HttpError) ? thrown : undefined;
  const status = given?.status ?? (known && STATUS[known.code]) ?? 500;
  const title = TITLES[status];
  const again: Record<string, string> = known?.code === "ERR_PLATFORM" ? { "retry-after": "1" } : {};
  const body: Problem = {
    type: `urn:socklet:problem:${title.toLowerCase().replaceAll(" ", "-")}`,
    title,
    status,
    detail:
      known?.message.replace(`${known.code}: `, "") ??
      "an internal error; find it in the log by the request id",
    code: known?.code ?? "ERR_INTERNAL",
    requestId,
    ...(given?.errors && { errors: given.errors }),
  };
  return new Response(printableJson(JSON.stringify(body)), {
    status,
    headers: {
      ...again,
      ...given?.headers,
      "content-type": "application/problem+json",
      "cache-control": "no-store",
      "x-request-id": requestId,
    },
  });
};
