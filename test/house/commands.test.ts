/** The page of the command line, held against what the commands print. */

import { expect, test } from "vitest";
import { commandsPage } from "./commands.ts";

test("docs/command-line.md is what the commands say (npm run docs writes it)", async () => {
  await expect(commandsPage()).toMatchFileSnapshot("../../docs/command-line.md");
});
