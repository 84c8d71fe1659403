#!/usr/bin/env node

// `npm create socklet`: it is `socklet init`, of the version that this package depends on.

import { createRequire } from "node:module";

const manifest = createRequire(import.meta.url).resolve("socklet/package.json");
const { bin } = createRequire(import.meta.url)(manifest);
process.argv.splice(2, 0, "init");
await import(new URL(bin.socklet, `file://${manifest}`).href);
