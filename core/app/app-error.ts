/** How what is wrong with an app is told: as `ERR_APP`, with the entry that it is about. */

import { SocketError } from "../errors.ts";
import { checkOptions, type OptionNames } from "../options.ts";

export const wrong = (message: string, cause?: unknown): SocketError =>
  new SocketError("ERR_APP", message, { cause });

/** What `read` gives; what it throws is said of `where`, as `ERR_APP`. */
export const soundly = <T>(where: string, read: () => T): T => {
  try {
    return read();
  } catch (error) {
    throw wrong(`${where}: ${(error as Error).message}`, error);
  }
};

/** `checkOptions` of what an app is made of. Throws `ERR_APP`. */
export const checkNames = (taker: string, given: unknown, names: OptionNames): void => {
  try {
    checkOptions(taker, given, names);
  } catch (error) {
    throw wrong((error as Error).message, error);
  }
};
