/**
 * A handler's state as text: JSON, in which a value that JSON cannot express is an object with one key that begins with `$`.
 *
 *     bytes               { "$bytes": "<base64>" }
 *     Date                { "$date": <ms since the epoch, or null for an invalid one> }
 *     Map                 { "$map": [[key, value], …] }
 *     Set                 { "$set": [value, …] }
 *     bigint              { "$bigint": "<decimal>" }
 *     undefined, NaN, ±Infinity, -0   { "$value": "undefined" | "NaN" | "Infinity" | "-Infinity" | "-0" }
 *     an object whose first key begins with $   { "$object": { … } }
 *
 * What is decoded equals what was encoded, or encoding fails: an instance of a class would come back without its class.
 */

import { fromBase64, toBase64 } from "../../base64.ts";
import { sizeOf, textOf } from "../../describe.ts";
import { SocketError } from "../../errors.ts";

/** Bytes of a state as text: a row of a Durable Object holds 2 MB, and it is written with each save. */
export const MAX_STATE = 1024 * 1024;
const DEEPEST = 200; // levels: the reader is recursive

type Tagged = { readonly [tag: `$${string}`]: unknown };

const isPlain = (value: object): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null; // also one of another realm
};

const encode = (value: unknown, path: string, above: readonly object[]): unknown => {
  const wrong = (what: string): TypeError =>
    new TypeError(
      `save() takes JSON, bytes, dates, maps, sets and bigints; ${path === "" ? "this" : `.state${path}`} is ${what}`,
    );
  switch (typeof value) {
    case "string":
    case "boolean":
      return value;
    case "number":
      return Number.isFinite(value) && !Object.is(value, -0)
        ? value
        : { $value: Object.is(value, -0) ? "-0" : String(value) };
    case "bigint":
      return { $bigint: value.toString() };
    case "undefined":
      return { $value: "undefined" };
    case "object":
      break;
    default:
      throw wrong(`a ${typeof value}`);
  }
  if (value === null) return null;
  if (above.includes(value)) throw wrong("within itself");
  if (above.length >= DEEPEST) throw wrong(`deeper than ${DEEPEST} levels`);
  const below = [...above, value];
  if (value instanceof Uint8Array) return { $bytes: toBase64(value) };
  if (value instanceof Date) return { $date: Number.isNaN(value.getTime()) ? null : value.getTime() };
  if (Array.isArray(value)) return Array.from(value, (item, i) => encode(item, `${path}[${i}]`, below));
  if (value instanceof Map) {
    return {
      $map: Array.from(value, ([key, item], i) => [
        encode(key, `${path}<key ${i}>`, below),
        encode(item, `${path}<value ${i}>`, below),
      ]),
    };
  }
  if (value instanceof Set) {
    return { $set: Array.from(value, (item, i) => encode(item, `${path}<item ${i}>`, below)) };
  }
  if (!isPlain(value)) throw wrong(`a ${textOf(value.constructor?.name, 100)}, whose class would be lost`);
  const entries = Object.entries(value).map(([key, item]) => [key, encode(item, `${path}.${key}`, below)]);
  const object = Object.fromEntries(entries) as object;
  return Object.keys(object)[0]?.startsWith("$") ? { $object: object } : object;
};

const DECODERS: Readonly<Record<string, (given: never) => unknown>> = {
  $bytes: fromBase64,
  $date: (ms: number | null) => new Date(ms ?? Number.NaN),
  $map: (entries: [unknown, unknown][]) => new Map(entries.map(([key, item]) => [decode(key), decode(item)])),
  $set: (items: unknown[]) => new Set(items.map(decode)),
  $bigint: BigInt,
  $value: (text: string) => (text === "undefined" ? undefined : Number(text)),
  $object: (object: object) => properties(object),
};

const properties = (object: object): object =>
  Object.fromEntries(Object.entries(object).map(([key, item]) => [key, decode(item)]));

const decode = (value: unknown): unknown => {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(decode);
  const [tag = ""] = Object.keys(value);
  const decoder = tag.startsWith("$") ? DECODERS[tag] : undefined;
  return decoder === undefined ? properties(value) : decoder((value as Tagged)[tag as `$${string}`] as never);
};

/** `state` as text. Throws `TypeError` for a value that it cannot express, `ERR_LIMIT` if the text is over `MAX_STATE` bytes. */
export const encodeState = (state: unknown): string => {
  if (state === undefined) throw new TypeError("save() takes a state, and was given undefined");
  const text = JSON.stringify(encode(state, "", []));
  const size = sizeOf(text);
  if (size <= MAX_STATE) return text;
  throw new SocketError("ERR_LIMIT", `the state is ${size} bytes of JSON, over the limit of ${MAX_STATE}`);
};

/** What `encodeState` was given. */
export const decodeState = (text: string): unknown => decode(JSON.parse(text));
