/**
 * What can be said of any value: as text, as an error, as JSON, and as it may be printed.
 *
 * A handler throws, returns and emits what it likes, and such a value can be hostile or unlucky: a getter that throws, a
 * revoked proxy, a cycle, 100 MB. Whatever the library says of a value that it did not make, it says by these functions,
 * for a second error while the first is being told would end a server. Only `toJson` and `jsonOf` throw, whose callers
 * want the value whole or not at all. What the others give is bounded, and shares no memory with what they were given.
 */

import { toBase64 } from "./base64.ts";

/** What JSON can say. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

const TEXT = 8 * 1024; // characters of a text, a message or a stack
const NAME = 256; // characters of an error's name or code
const COUNTED = 256 * 1024; // bytes of JSON up to which the size of what is too large is counted
const DEEPEST = 500; // levels of JSON: what reads it again goes by recursion, too
const MAX_BITS = 2 ** 20; // of a bigint that is printed: the time that takes grows faster than its length
const UNREADABLE = "[unreadable]";

// ---- One property, one question ----

/** The property `key` of any value; `undefined` if it has none, or if reading it throws. */
export const peek = (value: unknown, key: PropertyKey): unknown => {
  try {
    return (value as Record<PropertyKey, unknown> | null | undefined)?.[key];
  } catch {
    return undefined;
  }
};

/** `value instanceof Class`; false if that throws, as for a revoked proxy. */
export const isA = <T>(value: unknown, Class: abstract new (...args: never[]) => T): value is T => {
  try {
    return value instanceof Class;
  } catch {
    return false;
  }
};

// ---- As text ----

/** At most `most` characters of `text`, in memory of their own: a slice would keep all that it was cut from. */
const cut = (text: string, most: number): string => {
  const part = JSON.parse(JSON.stringify(text.slice(0, most))) as string;
  return text.length <= most ? part : `${part}… (${text.length} characters)`;
};

const isHuge = (value: bigint): boolean => BigInt.asIntN(MAX_BITS, value) !== value;

const digits = (value: bigint): string => (isHuge(value) ? "[a bigint too large to print]" : String(value));

/** What `String(value)` gives, or if that fails or says nothing, its JSON. At most `most` characters. */
export const textOf = (value: unknown, most = TEXT): string => {
  if (typeof value === "string") return cut(value, most);
  if (typeof value === "bigint") return cut(digits(value), most);
  if (typeof value === "function") return `[function ${cut(nameOf(value) ?? "", NAME)}]`;
  if (typeof value !== "object" || value === null) return cut(String(value), most);
  try {
    // Not of a list, which is joined, however long it is.
    const text = Array.isArray(value) || ArrayBuffer.isView(value) ? "[object" : String(value);
    if (!text.startsWith("[object")) return cut(text, most);
  } catch {}
  const json = plain(value, most);
  return typeof json === "string" ? json : cut(JSON.stringify(json), most);
};

const nameOf = (value: unknown): string | undefined => {
  const name = peek(value, "name");
  return typeof name === "string" && name !== "" ? name : undefined;
};

// ---- As an error ----

/** What can be said of a value that was thrown. */
interface Description {
  /** An error's `name`; `""` if it is not an error. */
  readonly name: string;
  /** An error's message; else the value as text. */
  readonly message: string;
  readonly code: string | undefined;
  readonly stack: string | undefined;
  /** Where it is the error of a socket. */
  readonly address: string | undefined;
}

const textAt = (value: unknown, key: string, most: number): string | undefined => {
  const text = peek(value, key);
  return typeof text === "string" ? cut(text, most) : undefined;
};

/** What can be said of what was thrown, each text at most `most` characters long. */
export const describe = (thrown: unknown, most = TEXT): Description => {
  if (!isA(thrown, Error)) {
    const message = textOf(thrown, most);
    return { name: "", message, code: undefined, stack: undefined, address: undefined };
  }
  const message = peek(thrown, "message");
  return {
    name: cut(nameOf(thrown) ?? "Error", NAME),
    message: message === undefined ? UNREADABLE : textOf(message, most),
    code: textAt(thrown, "code", NAME),
    stack: textAt(thrown, "stack", most),
    address: textAt(thrown, "address", most),
  };
};

/** What was thrown, as one text: `${thrown}`, which cannot fail. */
export const errorText = (thrown: unknown, most = TEXT): string => {
  const { name, message } = describe(thrown, most);
  return name === "" ? message : message === "" ? name : `${name}: ${message}`;
};

// ---- As JSON ----

/** A value as JSON, or why it is none. */
interface Walk {
  /** Whether a part that cannot be read is thrown; else it becomes a text that says so. */
  readonly strict: boolean;
  /** Bytes at which it gives up. */
  readonly most: number;
  /** Bytes so far, at least: a character counts as one. */
  size: number;
  readonly above: Set<object>;
}

/** Thrown by a walk that gives up. */
class TooLarge extends Error {}

const count = (to: Walk, bytes: number): void => {
  to.size += bytes;
  if (to.size > to.most) throw new TooLarge();
};

/** A text, which is counted. */
const counted = (text: string, to: Walk): string => {
  count(to, text.length + 2);
  return text;
};

/** The bytes that `value` is; `null` if it is something else. */
const bytesIn = (value: unknown): Uint8Array | null => {
  if (isA(value, ArrayBuffer)) return new Uint8Array(value);
  if (isA(value, DataView)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return isA(value, Uint8Array) ? value : null;
};

/** The items of a collection that is no array; `null` if `value` is none. Gives up as soon as they alone are too many. */
const itemsIn = (value: object, to: Walk): readonly unknown[] | null => {
  if (!isA(value, Set) && !isA(value, Map) && !ArrayBuffer.isView(value)) return null;
  const { size } = to;
  const items: unknown[] = [];
  for (const item of value as Set<unknown>) {
    items.push(item);
    count(to, 1);
  }
  to.size = size; // each is counted when it is walked
  return items;
};

/** `value` as plain data; `undefined` if JSON has no form for it. */
const walk = (value: unknown, key: string, to: Walk): Json | undefined => {
  let given = value;
  let bytes = bytesIn(value);
  if (bytes === null && ["bigint", "object", "function"].includes(typeof value) && value !== null) {
    const { toJSON } = value as { toJSON?: unknown };
    if (typeof toJSON === "function") {
      given = toJSON.call(value, key);
      bytes = bytesIn(given);
    } else if (isA(value, Number)) given = Number(value);
    else if (isA(value, String)) given = String(value);
    else if (isA(value, Boolean)) given = value.valueOf();
  }
  switch (typeof given) {
    case "string":
      return counted(given, to);
    case "number":
      count(to, 1);
      return Number.isFinite(given) ? given : null;
    case "boolean":
      count(to, 4);
      return given;
    case "bigint": {
      if (to.strict && isHuge(given)) count(to, to.most + 1); // it gives up, where there is a limit
      return counted(to.strict ? given.toString() : digits(given), to);
    }
    case "object":
      break;
    default:
      return undefined;
  }
  if (given === null) {
    count(to, 4);
    return null;
  }
  if (bytes !== null) {
    count(to, Math.ceil(bytes.length / 3) * 4 + 13);
    return { base64: toBase64(bytes) };
  }
  if (isA(given, Promise)) {
    if (to.strict) throw new TypeError("a promise has no form in JSON; await it");
    return counted("[promise]", to);
  }
  if (to.above.has(given) || to.above.size >= DEEPEST) {
    const cycle = to.above.has(given);
    if (!to.strict) return counted(cycle ? "[cycle]" : "[too deep]", to);
    if (cycle) throw new TypeError("a value that contains itself has no form in JSON");
    throw new RangeError(`the value is nested deeper than ${DEEPEST} levels`);
  }
  to.above.add(given);
  const all = parts(given, to);
  to.above.delete(given);
  return all;
};

/** The items of a collection, or the properties of an object. */
const parts = (whole: object, to: Walk): Json => {
  const given = itemsIn(whole, to) ?? whole;
  const part = (key: string): Json | undefined => {
    if (to.strict) return walk((given as Record<string, unknown>)[key], key, to);
    const { size } = to.above;
    try {
      return walk((given as Record<string, unknown>)[key], key, to);
    } catch (error) {
      if (error instanceof TooLarge) throw error;
      for (const above of [...to.above].slice(size)) to.above.delete(above);
      return counted(UNREADABLE, to);
    }
  };
  count(to, 2);
  if (Array.isArray(given)) {
    const items: Json[] = [];
    for (let i = 0; i < given.length; i++) {
      const item = part(String(i));
      count(to, item === undefined ? 5 : 1);
      items.push(item ?? null);
    }
    return items;
  }
  const keys = Object.keys(given);
  const properties: [string, Json][] = [];
  if (isA(given, Error)) {
    // Its own words cannot be enumerated.
    const { name, message } = describe(given);
    count(to, name.length + message.length + 20);
    properties.push(["name", name], ["message", message]);
  }
  for (const key of keys) {
    const value = part(key);
    if (value === undefined) continue;
    count(to, key.length + 4);
    properties.push([key, value]);
  }
  return Object.fromEntries(properties);
};

const encoder = new TextEncoder();

/** How many bytes `text` has as UTF-8. */
export const sizeOf = (text: string): number => encoder.encode(text).length;

/** `value` as plain data with its size as JSON; no data where that is over `limit` bytes, and then its size is at least this. */
const bounded = (value: unknown, limit: number, strict: boolean): { json?: Json; size: number } => {
  const to: Walk = { strict, most: Math.max(limit, COUNTED), size: 0, above: new Set() };
  let json: Json;
  try {
    json = walk(value, "", to) ?? null;
  } catch (error) {
    if (error instanceof TooLarge) return { size: to.size };
    if (strict) throw error;
    return { json: UNREADABLE, size: UNREADABLE.length + 2 };
  }
  if (to.size > limit) return { size: to.size };
  const text = JSON.stringify(json);
  const size = sizeOf(text);
  return size > limit ? { size } : { json: JSON.parse(text), size }; // whose texts are slices of nothing larger
};

/**
 * `value` as plain data, as `toJson` has it, whatever it is: a part that cannot be read becomes `"[unreadable]"`, one
 * that contains itself `"[cycle]"`. What is over `limit` bytes of JSON becomes `{ "omitted": <its size, at least> }`.
 */
export const plain = (value: unknown, limit: number): Json => {
  const { json, size } = bounded(value, limit, false);
  return json === undefined ? { omitted: size } : json;
};

/** `value` as plain data and its size as JSON; no data if it is over `limit` bytes. Throws as `toJson`. */
export const jsonOf = (value: unknown, limit: number): { json?: Json; size: number } =>
  bounded(value, limit, true);

/**
 * `value` as JSON text. Bytes become `{ "base64": "…" }` (RFC 4648), a `bigint` its decimal digits as a string, a `Set`, a
 * `Map` or an array of numbers the list that `Array.from` makes of it, an error its name, its message and its own
 * properties, and what JSON has no form for (a function, a symbol, `undefined` alone) `null`. Throws `TypeError` for a
 * cycle and for a promise, `RangeError` for more than 500 levels, and what reading the value throws.
 */
export const toJson = (value: unknown, indent?: number): string => {
  const to: Walk = { strict: true, most: Number.POSITIVE_INFINITY, size: 0, above: new Set() };
  return JSON.stringify(walk(value, "", to) ?? null, null, indent);
};

// ---- As it may be printed ----

// Characters that are none to look at: controls (also C1, which terminals obey), marks that turn the direction of what
// follows, line separators, halves of a character, private and unassigned ones.
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]/gu;
const NAMED: Readonly<Record<string, string>> = { "\r": "\\r", "\n": "\\n", "\t": "\\t" };

const hex = (code: number, width: number): string => code.toString(16).padStart(width, "0");

const escaped = (char: string): string => {
  const code = char.codePointAt(0) as number;
  return NAMED[char] ?? (code < 0x100 ? `\\x${hex(code, 2)}` : `\\u{${hex(code, 4)}}`);
};

/**
 * `text` as it may be printed: what a terminal would obey, and what cannot be seen, is written as `\n`, `\x1b` or
 * `\u{202e}`; so are lone surrogates. Whatever may come from a peer is printed by this, or by `printableJson`. With
 * `lines` a newline stays.
 */
export const printable = (text: string, lines = false): string =>
  text.replace(UNPRINTABLE, (char) => (lines && char === "\n" ? char : escaped(char)));

/** `json` as it may be printed: the same value, in which each character that `printable` would escape is a `\uNNNN`. */
export const printableJson = (json: string): string =>
  json.replace(UNPRINTABLE, (char) =>
    char === "\n" // of the indentation: within a text it is escaped
      ? char
      : Array.from({ length: char.length }, (_, i) => `\\u${hex(char.charCodeAt(i), 4)}`).join(""),
  );

/** `text` in quotes, as it may be printed: as an error's message quotes what it was given. */
export const quoted = (text: unknown): string => printableJson(JSON.stringify(plain(text, TEXT)));
