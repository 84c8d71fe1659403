/** The script of the inspector's page, made of its sources: `core/inspector/script.ts` is what this gives. */

import { join } from "node:path";
import { rolldown } from "rolldown";

const root = join(import.meta.dirname, "../..");

/** The module that exports the script as a text. */
export const inspectorScript = async (): Promise<string> => {
  const bundle = await rolldown({
    cwd: root,
    input: "core/inspector/client/main.ts",
    platform: "browser",
    transform: { target: "es2022" },
  });
  const { output } = await bundle.generate({ format: "esm", minify: true });
  await bundle.close();
  const { code } = output[0];
  const comment = "/** The script of the page: made of `client/` by `npm run docs`, and not to be edited. */";
  return `${comment}\nexport const script = ${JSON.stringify(code.trim())};\n`;
};
