/** `socklet dev`: serves an app, and at each save takes its new handlers for new connections. */

import { relative } from "node:path";
import { describe as thrownAs } from "../../core/describe.ts";
import { wholeMs } from "../../core/options.ts";
import type { App } from "../../core/serve/app.ts";
import type { AppServer, Replaced } from "../app/serve.ts";
import { dirname, fs, join } from "../builtin.ts";
import { describe, say, showPlace } from "./output.ts";
import { type ServeFlags, serve } from "./serve.ts";
import { devTokens } from "./tokens.ts";
import { Versions } from "./versions.ts";

/** The tokens of a project that is deployed, too; else the server makes one for itself. */
const tokensOf = (path: string): string | undefined => {
  const folders = [process.cwd(), dirname(path)];
  const project = folders.find((one) =>
    ["wrangler.toml", "wrangler.json", "wrangler.jsonc"].some((name) => fs.existsSync(join(one, name))),
  );
  if (process.env.SOCKLET_TOKENS?.trim() || project === undefined) return undefined;
  const { tokens, path: said, isNew } = devTokens(project);
  if (isNew) say(`${said} is new, with a token for the control routes`);
  return tokens ?? undefined;
};

/** What a save did to the listeners, in words. */
const words = ({ opened, closed, reopened }: Replaced): string =>
  [
    ...opened.map((url) => `; ${url} is opened`),
    ...closed.map((url) => `; ${url} accepts no more`),
    ...reopened.map((url) => `; ${url} is opened again, with its new options`),
  ].join("");

const showError = (error: unknown, then: string): void => {
  say(`${describe(error)}; ${then}`);
  showPlace(thrownAs(error).stack === undefined ? error : ((error as { cause?: unknown }).cause ?? error));
};

export const dev = async (path: string, given: ServeFlags): Promise<void> => {
  const flags: ServeFlags = { ...given, log: given.log ?? "pretty" }; // also where an editor shows it
  const versions = new Versions(path);
  const first = async (signal: AbortSignal): Promise<App> => {
    for (;;) {
      try {
        return await versions.load();
      } catch (error) {
        showError(error, "waiting for a save that mends it");
        await versions.changed(signal);
      }
    }
  };
  const follow = async (server: AppServer, signal: AbortSignal): Promise<void> => {
    let good = versions.number;
    for (;;) {
      const changed = await versions.changed(signal);
      const began = performance.now();
      const { number } = versions;
      const what = changed.map((file) => relative(process.cwd(), file)).join(", ");
      const taken = async (): Promise<void> => {
        const app = await versions.load();
        if (number !== versions.number || signal.aborted) return; // a later one is there already
        const replaced = await server.replace(app);
        good = number;
        say(`version ${number}: ${what} (${wholeMs(performance.now() - began)})${words(replaced)}`);
      };
      // Not awaited: a version whose top level waits for ever would keep the next one from being seen.
      void taken().catch((error) => {
        if (!signal.aborted) showError(error, `version ${good} serves on`);
      });
    }
  };
  await serve(path, flags, {
    tokens: flags.control ? tokensOf(path) : undefined,
    load: first,
    served: (server, signal) => {
      follow(server, signal).catch((error) => {
        versions.close();
        if (!signal.aborted) say(`saves are not followed any more: ${describe(error)}`);
      });
    },
  });
  versions.close();
};
