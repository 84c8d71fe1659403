/** The conversation that a framing check is given, message by message. */

import type { Data } from "../../bytes/data.ts";
import { checkOptions, optionNamesOf } from "../../options.ts";
import { quote } from "../text.ts";

/** One message of a conversation: what the peer says, and what the handler answers. */
export interface FramingMessage {
  /** What the peer says; absent where the handler speaks first. */
  readonly send?: Data;
  /**
   * What the handler answers; by default, what it answers when nothing is cut. Give it for a handler that reads on
   * while the platform works for it (a digest, a file): nobody can see when that one has answered.
   */
  readonly expect?: Data;
}

const MESSAGE_NAMES = optionNamesOf<FramingMessage>()({ send: true, expect: true });

/** The conversation, or what is wrong with it. */
export const listOf = (given: readonly (Data | FramingMessage)[]): readonly (Data | FramingMessage)[] => {
  if (Array.isArray(given)) return given;
  throw new TypeError(
    `a conversation is a list of what the peer says, or a script; not ${typeof given === "string" ? `${quote(given, 40)}, which would be [${quote(given, 40)}]` : String(given)}`,
  );
};

/** `message` as an object, or what is wrong with it. */
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
