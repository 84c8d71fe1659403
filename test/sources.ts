/** What `socklet` means to the tests: the sources as they are, in place of dist/. In Node by the same export condition as `npm start`, in workerd by name. */

import { fileURLToPath } from "node:url";

const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export const sources = {
  alias: [
    { find: /^socklet$/, replacement: file("../core/index.ts") },
    { find: /^socklet\/testing$/, replacement: file("../core/testing/index.ts") },
    { find: /^socklet\/control$/, replacement: file("../core/control/index.ts") },
    { find: /^socklet\/emulator$/, replacement: file("../emulator/index.ts") },
    { find: /^socklet\/inspector$/, replacement: file("../core/inspector/index.ts") },
    { find: /^socklet\/otel$/, replacement: file("../emulator/otel/index.ts") },
    { find: /^socklet\/worker$/, replacement: file("../worker/index.ts") },
  ],
};
