/** What a Worker and the object of a pool say to each other. */

import type { PoolInfo } from "../../core/handlers/client.ts";
import type { Parcel } from "../../core/pool/values.ts";

/** Which of a pool's objects is meant. It is told with each call. */
export interface Part {
  /** The pool's name in the app. */
  readonly pool: string;
  /** The object's number, from 0. */
  readonly part: number;
}

/** How a call ended: its reply, or its error, packed. An error that the platform carried would lose its class. */
export interface Outcome {
  readonly failed: boolean;
  readonly parcel: Parcel;
}

/**
 * A place in the line of an object whose connections are all in use. It is given up when nobody has its stub any more; a
 * call under way keeps that.
 */
export interface TurnCalls extends Disposable {
  /** Resolves with `null` when the call may begin, or with the error that it got instead. */
  come(): Promise<Outcome | null>;
  /** Begins the call. */
  begin(call: Parcel, repeatable: boolean): Promise<Outcome>;
  /** Gives up the place, and the call if it has begun. */
  leave(): Promise<void>;
}

/** A lease. It is given back when nobody has its stub any more: at the latest when its holder's request is over. */
export interface LeaseCalls extends Disposable {
  call(call: Parcel): Promise<Outcome>;
  release(): Promise<void>;
}

/** The calls of a pool's object. */
export interface PoolCalls {
  /** Makes a call. If too many are under way, gives a place in the line, and nothing has begun. */
  call(part: Part, call: Parcel, repeatable: boolean): Promise<Outcome | TurnCalls>;
  /** A place in the line in any case: of a call that its caller may give up. */
  turn(part: Part): Promise<Outcome | TurnCalls>;
  lease(part: Part): Promise<Outcome | LeaseCalls>;
  info(part: Part): Promise<PoolInfo>;
}

const MAX_CONNECTIONS = 6; // of one object: the platform leaves a seventh hanging (Workers, Limits, "Simultaneous outgoing connections")

/** How many objects a pool of so many connections has. */
export const partsOf = (max: number): number => Math.ceil(max / MAX_CONNECTIONS);

/** How many of `whole` things one of `parts` objects has, which share them as evenly as can be. */
export const shareOf = (whole: number, parts: number, part: number): number =>
  Math.floor(whole / parts) + (part < whole % parts ? 1 : 0);
