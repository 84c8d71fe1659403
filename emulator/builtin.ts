/**
 * Node's own modules, without what an `import` of them costs: only `node:net` is imported here as usual.
 *
 * An import reads all that a module exports, and much of that is made when it is read: of `node:http` all of undici
 * (46 ms), of `node:fs` and `node:util` streams, workers and parsers (2 ms each). And some are large themselves:
 * `node:tls` takes 15 ms, so that those which few servers use are loaded when they are. A bare listener of Node's is
 * up after 50 ms in all. (Measured on Node 24.)
 */

const load = process.getBuiltinModule;

// What Node has loaded before any program begins.
export const fs = load("node:fs");
export const { channel, tracingChannel } = load("node:diagnostics_channel");
export const { basename, dirname, join, relative, resolve, sep } = load("node:path");
export const { fileURLToPath, pathToFileURL } = load("node:url");
export const { getSystemErrorName, inspect } = load("node:util");
export const { once } = load("node:events");

/** What is loaded when it is first used. */
export const lazy = {
  get asyncHooks() {
    return load("node:async_hooks");
  },
  get perfHooks() {
    return load("node:perf_hooks");
  },
  get childProcess() {
    return load("node:child_process");
  },
  get crypto() {
    return load("node:crypto");
  },
  get dgram() {
    return load("node:dgram");
  },
  get dns() {
    return load("node:dns");
  },
  get http() {
    return load("node:http");
  },
  get module() {
    return load("node:module");
  },
  get os() {
    return load("node:os");
  },
  get tty() {
    return load("node:tty");
  },
  get tls() {
    return load("node:tls");
  },
  get v8() {
    return load("node:v8");
  },
  get zlib() {
    return load("node:zlib");
  },
};
