/** `socklet/testing`: handlers in memory, where a test takes a millisecond and needs no port. */

export { MemoryStorage } from "../storage.ts";
export { VirtualClock } from "./clock.ts";
export {
  type DatagramFaults,
  type DirectionFaults,
  FaultsMixIn,
  faultyHandler,
  type LinkFaults,
  type StreamFaults,
  withFaults,
} from "./faults.ts";
export {
  checkFraming,
  FramingError,
  type FramingFailure,
  type FramingFault,
  type FramingMessage,
  type FramingOptions,
  type FramingReport,
} from "./framing.ts";
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
export {
  type Clock,
  Conversation,
  type ConversationOptions,
  conversation,
  type DatagramPeer,
  type Given,
  type RunScriptOptions,
  realClock,
  runScript,
  ScriptError,
  type ScriptHandlerClass,
  type ScriptOptions,
  type ScriptResult,
  type Seen,
  scriptDatagramHandler,
  scriptHandler,
} from "./script.ts";
export { difference, hexdump } from "./text.ts";
export {
  assertTranscript,
  type CompareOptions,
  compareTranscripts,
  type DatagramRecording,
  formatTranscript,
  type Normalise,
  parseTranscript,
  type RecordHandlerOptions,
  type Recording,
  type RecordOptions,
  type ReplayOptions,
  record,
  recordDatagrams,
  recordHandler,
  recordingProxy,
  relayHandler,
  replay,
  type Side,
  type Transcript,
  type TranscriptEnd,
  TranscriptError,
  type TranscriptEvent,
  type TranscriptFiles,
  type TranscriptMatchers,
  transcriptMatchers,
} from "./transcript.ts";
