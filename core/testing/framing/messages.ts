/** The conversation of a framing check, message by message. */

import type { Data } from "../../bytes/data.ts";
import { checkOptions, optionNamesOf } from "../../options.ts";
import { quote } from "../text.ts";

/** One message of a conversation: what the peer sends, and what the handler answers. */
export interface FramingMessage {
  /** What the peer sends; absent if the handler speaks first. */
  readonly send?: Data;
  /**
   * What the handler answers; by default, what it answers when nothing is cut. Set it for a handler that reads on
   * while the platform works for it (a digest, a file): the check cannot see when such a handler has answered.
   */
  readonly expect?: Data;
}

const MESSAGE_NAMES = optionNamesOf<FramingMessage>()({ send: true, expect: true });

/** The conversation, or an error message. */
export const listOf = (given: readonly (Data | FramingMessage)[]): readonly (Data | FramingMessage)[] => {
  if (Array.isArray(given)) return given;
  throw new TypeError(
    `a conversation is a list of what the peer says, or a script; not ${typeof given === "string" ? `${quote(given, 40)}, which would be [${quote(given, 40)}]` : String(given)}`,
  );
};

/** `message` as an object, or an error message. */
export const asMessage = (message: Data | FramingMessage): FramingMessage => {
  if (typeof message === "string" || message instanceof Uint8Array) return { send: message };
  if (typeof message === "object" && message !== null) {
    checkOptions("a message", message, MESSAGE_NAMES);
    return message;
  }
  throw new TypeError(
    `a conversation is a list of what the peer says, each bytes, text or { send, expect }; not ${typeof message}`,
  );
};
