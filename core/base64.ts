/** Base64 (RFC 4648 section 4), both ways. */

export const toBase64 = (bytes: Uint8Array): string => {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 8192)); // in pieces: arguments are limited
  }
  return btoa(binary);
};

/** Throws as `atob` where `text` is not base64. */
export const fromBase64 = (text: string): Uint8Array =>
  Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
