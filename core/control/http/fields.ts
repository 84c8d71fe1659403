/** What the bodies and queries of the control routes may contain. Each wrong field is named in the answer, with status 422. */

import { fromBase64 } from "../../base64.ts";
import { encoder } from "../../bytes/data.ts";
import type { Json } from "../../describe.ts";
import { SECURE_TRANSPORTS, type SecureTransport } from "../../sockets/tls/tls.ts";
import { BOUNDS, isSessionId, SESSION_STATES, type SessionSpec, type SessionState } from "../plane.ts";
import { type FieldError, HttpError } from "./problem.ts";

/** One field: its value, or `undefined` if what was given is not `right`. */
interface Field<T> {
  /** What would be right: `must be true or false`. */
  readonly right: string;
  readonly read: (given: unknown) => T | undefined;
}

type Fields = Readonly<Record<string, Field<unknown>>>;

/** The values of an object's fields. Each may be missing. */
type Values<F extends Fields> = { readonly [Name in keyof F]?: F[Name] extends Field<infer T> ? T : never };

/** A rule about all fields together; checked only if each of them is right. */
interface Rule<F extends Fields> {
  readonly right: string;
  readonly holds: (values: Values<F>) => boolean;
}

const MAX_ERRORS = 10; // of one answer
const MAX_NAME = 100; // characters of a field's name that an answer repeats

const fieldsError = (errors: readonly FieldError[]): HttpError => {
  const detail = errors.map(({ field, message }) => `${field} ${message}`).join("; ");
  return new HttpError(422, "EINVAL", detail, { errors });
};

/** The answer to a request in which one field is wrong. */
export const fieldError = (field: string, message: string): HttpError =>
  fieldsError([{ field: field.slice(0, MAX_NAME), message }]);

/** The values of an object with these fields and no others. `where` it is in the request: `pieces[0]`. Throws an `HttpError` that names each wrong field. */
export const read = <const F extends Fields>(
  given: unknown,
  fields: F,
  rules: readonly Rule<F>[] = [],
  where = "body",
): Values<F> => {
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw fieldError(where, "must be a JSON object");
  }
  const path = where === "body" ? "" : `${where}.`;
  const values: Record<string, unknown> = {};
  const errors: FieldError[] = [];
  for (const [field, { right, read }] of Object.entries(fields)) {
    const value = Object.hasOwn(given, field) ? (given as Record<string, unknown>)[field] : undefined;
    if (value === undefined) continue;
    values[field] = read(value);
    if (values[field] === undefined) errors.push({ field: path + field, message: right });
  }
  const known = Object.keys(fields);
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    const message = `is not known here; the fields are ${known.join(", ")}`;
    errors.push({ field: (path + name).slice(0, MAX_NAME), message });
  }
  if (errors.length === 0) {
    for (const { right, holds } of rules) {
      if (!holds(values as Values<F>)) errors.push({ field: where, message: right });
    }
  }
  if (errors.length > 0) throw fieldsError(errors.slice(0, MAX_ERRORS));
  return values as Values<F>;
};

/** A field whose value is used unchanged if `is` accepts it. */
export const field = <T>(right: string, is: (given: unknown) => boolean): Field<T> => ({
  right,
  read: (given) => (is(given) ? (given as T) : undefined),
});

export const text = (longest: number): Field<string> =>
  field(
    `must be a string of 1 to ${longest} characters`,
    (given) => typeof given === "string" && given.length >= 1 && given.length <= longest,
  );

export const milliseconds = (most: number): Field<number> =>
  field(
    `must be a whole number of milliseconds, 1 to ${most}`,
    (given) => Number.isInteger(given) && (given as number) >= 1 && (given as number) <= most,
  );

const oneOf = <T extends string>(choices: readonly T[]): Field<T> =>
  field(`must be one of ${choices.join(", ")}`, (given) => choices.includes(given as T));

/** `true` or `false` in a query. */
export const flag: Field<boolean> = {
  right: "must be true or false",
  read: (given) => ({ true: true, false: false })[given as string],
};

/** A number in a query. */
export const count = (least: number, most: number): Field<number> => ({
  right: `must be a whole number, ${least} to ${most}`,
  read: (given) => {
    const value = /^\d{1,16}$/.test(given as string) ? Number(given) : -1;
    return value >= least && value <= most ? value : undefined;
  },
});

const MAX_DEPTH = 32; // of params: the code that walks them is recursive

const depthOf = (value: unknown, depth = 0): number =>
  typeof value === "object" && value !== null && depth <= MAX_DEPTH
    ? Math.max(depth, ...Object.values(value).map((item) => depthOf(item, depth + 1)))
    : depth;

const SPEC_FIELDS = {
  dial: text(100),
  handler: text(100),
  address: text(512),
  params: field<Json>(`must be JSON of at most ${MAX_DEPTH} levels`, (given) => depthOf(given) <= MAX_DEPTH),
  deadline: milliseconds(BOUNDS.maxDeadline),
  connectTimeout: milliseconds(BOUNDS.maxConnectTimeout),
  secureTransport: oneOf<SecureTransport>(SECURE_TRANSPORTS),
  background: field<boolean>("must be true or false", (given) => typeof given === "boolean"),
} satisfies Record<keyof SessionSpec | "background", Field<unknown>>;

/** The body of a request that starts a session. */
export const readSpec = (given: unknown): { spec: SessionSpec; background: boolean } => {
  const { background = false, ...spec } = read(given, SPEC_FIELDS, [
    {
      right: 'must have either "dial", or both "handler" and "address"',
      holds: ({ dial, handler, address }) =>
        dial === undefined
          ? handler !== undefined && address !== undefined
          : (handler ?? address) === undefined,
    },
    {
      right: `must have a deadline of at most ${BOUNDS.maxRunDeadline} where the answer waits for the end; start longer sessions with "background": true`,
      holds: ({ background, deadline = 0 }) => background === true || deadline <= BOUNDS.maxRunDeadline,
    },
  ]);
  return { spec: spec as SessionSpec, background };
};

const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/; // RFC 4648 section 4

const isText = (given: unknown): given is string => typeof given === "string";

const DATA_FIELDS = {
  text: field<string>("must be a string", isText),
  base64: field<string>("must be base64, padded", (given) => isText(given) && BASE64.test(given)),
};

/** The bytes in the JSON body of a request that sends some, or in what is at `where` in it. */
export const readData = (given: unknown, where?: string): Uint8Array => {
  const rule: Rule<typeof DATA_FIELDS> = {
    right: 'must have either "text" or "base64"',
    holds: ({ text, base64 }) => (text === undefined) !== (base64 === undefined),
  };
  const { text, base64 = "" } = read(given, DATA_FIELDS, [rule], where);
  if (text !== undefined) return encoder.encode(text);
  return fromBase64(base64);
};

const LIST_FIELDS = {
  state: oneOf<SessionState>(SESSION_STATES),
  handler: text(100),
  limit: count(1, BOUNDS.maxPageSize),
  before: field<string>("must be the `next` of the page before", (given) => isSessionId(given as string)),
};

/** The query of a request for a page of sessions. */
export const readList = (query: object): Values<typeof LIST_FIELDS> => read(query, LIST_FIELDS);

const EVENTS_FIELDS = { after: count(0, Number.MAX_SAFE_INTEGER) };

/** The id after which a request wants events, from its query or its header. */
export const readAfter = (query: object): number | undefined => read(query, EVENTS_FIELDS).after;
