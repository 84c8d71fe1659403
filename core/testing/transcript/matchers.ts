/** Matchers for `expect` of Vitest and Jest, which compare a transcript with one in a file. */

import { checkOptions, optionNamesOf } from "../../options.ts";
import { type CompareOptions, compareTranscripts } from "./compare.ts";
import { formatTranscript, parseTranscript, type Transcript } from "./form.ts";

/** How the matchers access files: `node:fs/promises` fits. */
export interface TranscriptFiles {
  /** The text at `path`; rejects with the code `ENOENT` if there is none. */
  readFile(path: string | URL, encoding: "utf8"): Promise<string>;
  /** Writes `text` to `path`, replacing what was there. */
  writeFile(path: string | URL, text: string): Promise<unknown>;
}

/**
 * The matchers' types, for the test framework's declarations: in Vitest 5
 *
 *     declare module "vitest" {
 *       interface Matchers<R extends void | Promise<void>, T> extends TranscriptMatchers {}
 *     }
 *
 * and in Vitest 4 `interface Matchers<T = any> extends TranscriptMatchers {}`.
 */
export interface TranscriptMatchers {
  /** The transcript is the same conversation as in this file, or in that transcript. Await it. */
  toMatchTranscript(expected: string | URL | Transcript, options?: CompareOptions): Promise<void>;
}

/** The result of a matcher. */
interface MatcherResult {
  readonly pass: boolean;
  message(): string;
  readonly expected?: unknown;
  readonly actual?: unknown;
}

/** Options of the matchers. */
export interface MatcherOptions {
  /** Writes what differs or is missing, instead of failing. Default false. */
  readonly update?: boolean;
}

const MATCHER_NAMES = optionNamesOf<MatcherOptions>()({ update: "boolean" });

/**
 * Matchers for `expect.extend` of Vitest and Jest. With `update`, what differs or is missing is written instead of failing.
 *
 *     import * as files from "node:fs/promises";
 *     expect.extend(transcriptMatchers(files, { update: process.env.UPDATE === "1" }));
 *
 *     await expect(recording.transcript).toMatchTranscript(new URL("recordings/ping.jsonl", import.meta.url));
 */
export const transcriptMatchers = (files: TranscriptFiles, options: MatcherOptions = {}) => {
  checkOptions("transcriptMatchers()", options, MATCHER_NAMES);
  const { update = false } = options;
  return {
    async toMatchTranscript(
      received: Transcript,
      expected: string | URL | Transcript,
      options: CompareOptions = {},
    ): Promise<MatcherResult> {
      const file = typeof expected === "string" || expected instanceof URL ? expected : null;
      let wanted: Transcript;
      try {
        wanted =
          file === null ? (expected as Transcript) : parseTranscript(await files.readFile(file, "utf8"));
      } catch (error) {
        const missing = (error as { code?: unknown }).code === "ENOENT";
        if (file === null || (!update && !missing)) throw error;
        if (!update) {
          return {
            pass: false,
            message: () =>
              `there is no transcript at ${file}; write it by transcriptMatchers(files, { update: true })`,
          };
        }
        await files.writeFile(file, formatTranscript(received));
        return { pass: true, message: () => `${file} was written` };
      }
      const differs = compareTranscripts(received, wanted, options);
      if (differs !== null && update && file !== null) {
        await files.writeFile(file, formatTranscript(received));
        return { pass: true, message: () => `${file} was written` };
      }
      return {
        pass: differs === null,
        message: () =>
          differs?.message ??
          `the conversation is the one of ${file ?? "the other transcript"}, and should not be`,
        ...(differs !== null && { expected: differs.expected, actual: differs.actual }),
      };
    },
  };
};
