/** Where the files of a test run share the packages that one of them packs: `packOnce()` of test/emulator/packed.ts. */

import { temporaryFolder } from "./peers/children.ts";

/** The variable that names the folder. */
export const PACKED = "SOCKLET_TEST_PACKED";

/** Makes the folder, until this process ends; all processes that it starts from here on know it. */
export const sharePacked = (): void => {
  process.env[PACKED] ??= temporaryFolder("packed").path;
};
