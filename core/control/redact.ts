/** Keeps secrets out of what is shown of a session and of servers. */

import type { Json } from "../describe.ts";

/** Replaces secrets in a text. */
export type Redactor = (text: string) => string;
export const asIs: Redactor = (text) => text;

const SHORTEST_SECRET = 4; // characters: shorter ones occur in too many innocent texts

/**
 * Replaces each of `secrets` with `[redacted]`, wherever it occurs in a text. In events and errors, every text
 * in the params counts as a secret (the watcher may not be the caller that started the session), and so does each of the deployment's;
 * in a result only the deployment's do, since a result is meant for the caller that passed the params.
 *
 * It cannot recognize a secret that was split, cut, encoded (base64, percent, another case) or hashed, one
 * of fewer than 4 characters, or one that is a number or a key of an object. A handler should not emit secrets.
 */
export const redactor = (secrets: readonly string[]): Redactor => {
  const quoted = (secret: string): string => JSON.stringify(secret).slice(1, -1); // as a handler prints its params
  const long = [...new Set(secrets.flatMap((secret) => [secret, quoted(secret)]))].filter(
    (secret) => secret.length >= SHORTEST_SECRET,
  );
  if (long.length === 0) return asIs;
  // The longest first: a secret that begins with another one would otherwise leave its rest readable.
  const parts = long
    .sort((a, b) => b.length - a.length)
    .map((secret) => secret.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
  const any = new RegExp(parts.join("|"), "g");
  return (text) => text.replace(any, "[redacted]");
};

/** Every text within `value`. */
export const stringsOf = (value: unknown): string[] => {
  if (typeof value === "string") return [value];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(stringsOf) : [];
};

/** `value` with every text in it redacted, the keys too. */
export const redacted = (value: Json, redact: Redactor): Json => {
  if (typeof value === "string") return redact(value);
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((item: Json) => redacted(item, redact));
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [redact(key), redacted(item, redact)]),
  );
};
