/** `socklet/testing`: handlers in memory, where a test takes a millisecond and needs no port. */

export { MemoryStorage } from "../storage.ts";
export { type Clock, VirtualClock } from "./clock.ts";
export type { DatagramFaults, LinkFaults } from "./faults/datagrams.ts";
export type { DirectionFaults, StreamFaults } from "./faults/streams.ts";
export { FaultsMixIn, faultyHandler, withFaults } from "./faults/with-faults.ts";
export { checkFraming, type FramingOptions, type FramingReport } from "./framing/check.ts";
export { FramingError, type FramingFailure, type FramingFault } from "./framing/failure.ts";
export type { FramingMessage } from "./framing/messages.ts";
export {
  MemoryDatagramServer,
  MemoryDatagramSocket,
  MemoryNetwork,
  MemoryServer,
  type MemoryServerOptions,
  ThreadingMemoryDatagramServer,
  ThreadingMemoryServer,
} from "./memory.ts";
export { type MemoryOptions, memoryPair } from "./memory-streams.ts";
export { checkPool, PoolCheckError, type PoolCheckOptions, type PoolReport } from "./pool/check.ts";
export { MemoryConnector, type MemoryPoolOptions, type MemoryTarget, memoryPool } from "./pool/memory.ts";
export { Conversation, type ConversationOptions, conversation, type Given } from "./script/conversation.ts";
export { ScriptError } from "./script/error.ts";
export { type RunScriptOptions, runScript, type ScriptResult } from "./script/in-memory.ts";
export type { ScriptOptions, Seen } from "./script/run.ts";
export { type ScriptHandlerClass, scriptDatagramHandler, scriptHandler } from "./script/server.ts";
export type { DatagramPeer } from "./script/wire.ts";
export { difference } from "./text.ts";
export {
  assertTranscript,
  type CompareOptions,
  compareTranscripts,
  type Normalise,
  TranscriptError,
} from "./transcript/compare.ts";
export {
  formatTranscript,
  parseTranscript,
  type Side,
  type Transcript,
  type TranscriptEnd,
  type TranscriptEvent,
} from "./transcript/form.ts";
export {
  type DatagramRecording,
  type RecordHandlerOptions,
  recordDatagrams,
  recordHandler,
  recordingProxy,
} from "./transcript/handlers.ts";
export {
  type MatcherOptions,
  type TranscriptFiles,
  type TranscriptMatchers,
  transcriptMatchers,
} from "./transcript/matchers.ts";
export { type Recording, type RecordOptions, record } from "./transcript/record.ts";
export { type ReplayOptions, replay } from "./transcript/replay.ts";
