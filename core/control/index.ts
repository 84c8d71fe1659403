/** `socklet/control`: the control routes, their client, and the interface that a platform implements behind them. */

export type { Json } from "../describe.ts";
export { type Scope, TokenList } from "./http/auth.ts";
// Their client
export {
  type CallOptions,
  type ControlClient,
  type ControlClientOptions,
  controlClient,
  type EndOptions,
  type FollowOptions,
  type ReplayRequest,
} from "./http/client.ts";
export { openApi } from "./http/openapi.ts";
export type { FieldError, Problem } from "./http/problem.ts";
export { recordingRoutes } from "./http/recording-routes.ts";
// The routes
export { type AddRoute, type ControlSetup, controlRoutes, type RouteContext } from "./http/routes.ts";
export { ListenerLog } from "./listeners.ts";
// The interface behind them
export {
  type AttemptInfo,
  type ControlPlane,
  type DecodedPart,
  type EntryInfo,
  type ErrorInfo,
  type FaultInfo,
  type FaultPlane,
  type FlowInfo,
  type FoundBytes,
  type Health,
  isOver,
  type KeptInfo,
  type ListenerEvent,
  type ListenerInfo,
  listenerInfo,
  type RecordedPart,
  type RecordingChange,
  type RecordingInfo,
  type RecordingLimits,
  type RecordingPlane,
  type Replayed,
  type ReplaySpec,
  type SessionEvent,
  type SessionEventBody,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
  type SessionSpec,
  type SessionState,
  type SessionTarget,
} from "./plane.ts";
export { type OpenConnection, type RecordedPlane, Recorder } from "./recording/recorder.ts";
export type { SessionChange, SessionStore } from "./sessions/commits.ts";
export {
  type ArchivedSession,
  LocalPlane,
  type LocalPlaneOptions,
  type SessionArchive,
} from "./sessions/local.ts";
export type { SessionHooks, SessionRecord } from "./sessions/session.ts";
