/**
 * The served end of every scenario, as one handler: its first line names the scenario, and what is said aside
 * goes over connections of its own, so that one port is all a place needs.
 */

import { BaseRequestHandler, type StreamSocket } from "socklet";
import { toJson } from "../../core/describe.ts";
import { type Aside, streamScenarios } from "./stream-scenarios.ts";

/** Holds messages until the other end reads them. */
export interface Board {
  put(key: string, value: string): Promise<void>;
  take(key: string): Promise<string>;
}

/** A board in this process. */
export class LocalBoard implements Board {
  readonly #notes = new Map<string, PromiseWithResolvers<string>>();

  #note(key: string): PromiseWithResolvers<string> {
    const note = this.#notes.get(key) ?? Promise.withResolvers<string>();
    this.#notes.set(key, note);
    return note;
  }

  async put(key: string, value: string): Promise<void> {
    this.#note(key).resolve(value);
  }

  take(key: string): Promise<string> {
    return this.#note(key).promise;
  }
}

const aside = (board: Board, id: string): Aside => ({
  say: (what) => board.put(`${id}/${encodeURIComponent(what)}`, "said"),
  heard: async (what) => void (await board.take(`${id}/${encodeURIComponent(what)}`)),
});

/** The outcome of an end: its result, or what it threw. */
export const sawAt = async (end: () => Promise<unknown>): Promise<unknown> => {
  try {
    return (await end()) ?? null;
  } catch (error) {
    return { threw: String(error) };
  }
};

/** `served ID N` or `peer ID N` (which end this is to be), `put KEY VALUE` or `take KEY`, then what that asks. */
export class Conformance extends BaseRequestHandler<StreamSocket, Board> {
  override async handle(): Promise<void> {
    const line = (await this.request.rfile.line()) ?? "";
    const [verb = "", key = "", value = ""] = line.split(" ");
    if (verb === "put") await this.context.put(key, decodeURIComponent(value));
    else if (verb === "take") await this.request.sendall(await this.context.take(key));
    else if (verb === "served" || verb === "peer") await this.#run(verb, key, Number(value));
  }

  async #run(end: "served" | "peer", id: string, index: number): Promise<void> {
    const scenario = streamScenarios[index];
    const value = await sawAt(async () => scenario?.[end](this.request, aside(this.context, id)));
    if (end === "peer") await this.request.close();
    await this.context.put(`${id}/outcome`, toJson({ value }));
  }
}

/** The board of the other end, reached by connections of their own. */
export const remoteBoard = (dial: () => Promise<StreamSocket>): Board => ({
  async put(key, value) {
    const socket = await dial();
    await socket.sendall(`put ${key} ${encodeURIComponent(value)}\n`);
    await socket.rfile.read(); // its end says that it is there
    await socket.close();
  },
  async take(key) {
    const socket = await dial();
    socket.settimeout(120_000);
    await socket.sendall(`take ${key}\n`);
    const value = await socket.rfile.read();
    await socket.close();
    return new TextDecoder().decode(value ?? new Uint8Array(0));
  },
});

export const asideOf = aside;
