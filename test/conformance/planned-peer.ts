/** A conversation that a test inside workerd plans, and a server in Node then holds with whoever dials. */

/** Text is latin1: a character is a byte. */
export interface PlannedPeer {
  /** What the client says, as the source of a pattern (`null`: nothing), and what it is answered. */
  readonly turns: readonly { readonly expect: string | null; readonly reply: string }[];
  /** Before which bytes of all replies together they are cut; each piece leaves when the client has read the one before. */
  readonly cuts?: readonly number[];
  /** How many bytes of the replies are sent; all, where absent. */
  readonly sent?: number;
  /** What follows then. Default: the client is waited for, and nothing said. */
  readonly ending?: "end" | "reset" | "silence";
}

/** What came of each connection: `null`, or what the script found wrong. */
export type PlannedOutcomes = readonly (string | null)[];
