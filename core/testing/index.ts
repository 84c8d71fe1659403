/** `socklet/testing`: handlers in memory, where a test takes a millisecond and needs no port. */

export { MemoryStorage } from "../storage.ts";
export {
  MemoryDatagramServer,
  MemoryDatagramSocket,
  MemoryNetwork,
  type MemoryOptions,
  MemoryServer,
  type MemoryServerOptions,
  memoryPair,
  ThreadingMemoryDatagramServer,
  ThreadingMemoryServer,
} from "./memory.ts";
