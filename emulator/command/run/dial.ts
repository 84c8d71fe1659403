/** `socklet dial`: runs one handler on one connection, and prints what it returns. */

import { deadline } from "../../../core/bytes/alarm.ts";
import { isA } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import { parseAddress } from "../../../core/net/address.ts";
import { AppPools } from "../../../core/pool/app-pools.ts";
import type { SecureTransport } from "../../../core/sockets/tls/tls.ts";
import { PooledConnector, TCPConnector } from "../../sockets/dialling/connector.ts";
import { checkFolder, FileStorage } from "../../storage.ts";
import { paramsOf } from "../terminal/arguments.ts";
import { asked, describe, logger, printJson } from "../terminal/output.ts";
import { ABORT_GRACE, onStop } from "../terminal/signals.ts";
import { loadHandler } from "../user-code/modules.ts";
import { onUncaught } from "../user-code/uncaught.ts";
import { orIdle } from "../user-code/waiting.ts";

interface DialFlags {
  app?: string;
  params?: string;
  secureTransport?: SecureTransport;
  connectTimeout: number;
  data: string;
  verbose?: boolean;
}

export const dial = async (
  address: string,
  named: string,
  words: string[],
  flags: DialFlags,
): Promise<void> => {
  asked(address, () => parseAddress(address));
  asked("--data", () => checkFolder("--data", flags.data));
  const params = paramsOf(words, flags.params);
  onUncaught(undefined, () => process.exit(1));
  const { handler, app } = await loadHandler(named, flags.app);
  const pools = app && new AppPools(app, PooledConnector);
  try {
    const storage = new FileStorage(flags.data);
    const context =
      app &&
      pools &&
      (await app.context({ name: "node", bindings: process.env, storage, pool: pools.client }));
    const { connectTimeout, secureTransport } = flags;
    const onEvent = logger(flags.verbose ?? false);
    pools?.open({ context, onEvent });
    const connector = asked(
      address,
      () => new TCPConnector(address, handler, { context, connectTimeout, secureTransport, onEvent }),
    );
    const stop = new AbortController();
    const interrupted = new Promise<never>((_, reject) => {
      onStop({
        stop: (signal) => {
          const reason = new SocketError("ECANCELED", `interrupted by ${signal}`);
          stop.abort(reason);
          deadline(ABORT_GRACE, () => reject(reason)); // if the handler does not notice the abort
        },
      });
    });
    try {
      const result = await orIdle(
        Promise.race([connector.run({ params, signal: stop.signal }), interrupted]),
        () => new SocketError("ERR_HANDLER", "its handle() waits for something that can no longer happen"),
      );
      await printJson(result, 2);
    } catch (error) {
      const failed: unknown = stop.signal.aborted ? stop.signal.reason : error;
      const late = isA(failed, SocketError) && failed.code === "ETIMEDOUT" && failed.address !== undefined;
      const said =
        describe(failed) + (late ? "; check the address, or give it longer with --connect-timeout" : "");
      throw new Error(said.includes(address) ? said : `${named} at ${address}: ${said}`, { cause: failed });
    }
  } finally {
    await pools?.[Symbol.asyncDispose]();
  }
};
