/** Reports what is wrong with an app: as `ERR_APP`, with the entry in question. */

import { SocketError } from "../errors.ts";
import { checkOptions, type OptionNames } from "../options.ts";

export const wrong = (message: string, cause?: unknown): SocketError =>
  new SocketError("ERR_APP", message, { cause });

/** The result of `read`. An error that it throws is rethrown as `ERR_APP`, and names `where`. */
export const soundly = <T>(where: string, read: () => T): T => {
  try {
    return read();
  } catch (error) {
    throw wrong(`${where}: ${(error as Error).message}`, error);
  }
};

/** `checkOptions` for the parts of an app. Throws `ERR_APP`. */
export const checkNames = (taker: string, given: unknown, names: OptionNames): void => {
  try {
    checkOptions(taker, given, names);
  } catch (error) {
    throw wrong((error as Error).message, error);
  }
};
