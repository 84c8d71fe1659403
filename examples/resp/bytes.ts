/** Bytes as text with one character for each byte, and back. Names of keys and commands are any bytes. */

const encoder = new TextEncoder();
const decoder = new TextDecoder("latin1");
const SHORT = 32; // bytes up to which fromCharCode is faster

/** Any bytes as text, with one character for each byte. Different bytes give different text. */
export const latin1 = (bytes: Uint8Array): string =>
  bytes.length <= SHORT ? Reflect.apply(String.fromCharCode, null, bytes) : decoder.decode(bytes);

/** The bytes of such text. */
export const fromLatin1 = (text: string): Uint8Array => {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
};

/** The first byte of other text, in UTF-8, as such a character. */
export const firstByte = (text: string): string => latin1(encoder.encode(text.slice(0, 2)).subarray(0, 1));
