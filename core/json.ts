/** What a handler returns, as JSON: a session's result, what `socklet dial` prints. */

/**
 * `value` as JSON text. Bytes become `{ "base64": "…" }` (RFC 4648), a `bigint` its decimal digits as a string,
 * and what JSON has no form for (a function, a symbol, `undefined` alone) `null`. Throws `TypeError` for a cycle.
 */
export const toJson = (value: unknown, indent?: number): string =>
  JSON.stringify(
    value,
    // A Buffer turns itself into an object before a replacer sees it: so the holder is asked.
    function (this: Record<string, unknown>, key: string, given: unknown) {
      const own = this[key];
      if (own instanceof Uint8Array) return { base64: base64(own) };
      return typeof given === "bigint" ? given.toString() : given;
    },
    indent,
  ) ?? "null";

const base64 = (bytes: Uint8Array): string => {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 8192)); // in pieces: arguments are limited
  }
  return btoa(binary);
};
