/**
 * Finger (RFC 1288): the client sends a line that names a user, or an empty line for all users. The answer is text, up
 * to the end of the connection.
 */

import { StreamRequestHandler } from "socklet";

const USERS: ReadonlyMap<string, { readonly name: string; readonly plan: string }> = new Map([
  ["alice", { name: "Alice Liddell", plan: "Six impossible things before breakfast." }],
  ["bob", { name: "Bob the Builder", plan: "Can we fix it?" }],
]);

const MAX_QUERY = 512; // bytes of a query line: RFC 1288 sets none, and a user's name is far shorter
const MAX_ANSWER = 1024 * 1024; // bytes that the client reads: a plan is a page, and a hostile server may send for ever

/** Tells who is here. Queries for another host (`user@host`) are refused, as RFC 1288, 3.2.1, allows. */
export class FingerServer extends StreamRequestHandler {
  override readonly timeout = 30_000; // ms: a query is one short line, and clients send it at once

  override async handle(): Promise<void> {
    this.rfile.maxLine = MAX_QUERY;
    const query = await this.rfile.line();
    if (query === null) return; // connected and asked nothing
    const user = query.replace(/^\/W(?= |$)/i, "").trim(); // "/W" asks for details, of which there are none
    this.wfile.write(answer(user));
  }
}

const answer = (user: string): string => {
  if (user.includes("@")) return "Finger forwarding service denied\r\n";
  if (user === "") return [...USERS].map(([login, { name }]) => `${login.padEnd(12)}${name}\r\n`).join("");
  const found = USERS.get(user);
  if (found === undefined) return `${printable(user)}: no such user\r\n`;
  return `Login: ${user}\r\nName: ${found.name}\r\nPlan:\r\n${found.plan}\r\n`;
};

/** Asks for the user that `params` names, or for all users, and returns the answer. */
export class FingerClient extends StreamRequestHandler {
  override async handle(): Promise<string> {
    const { params } = this;
    const user = Array.isArray(params) && params.length < 2 ? (params[0] ?? "") : (params ?? ""); // a word of `dial`
    if (typeof user !== "string" || /[\r\n]/.test(user)) {
      throw new TypeError(
        'params must be a user\'s name on one line ("alice" or ["alice"]), or absent to ask for all',
      );
    }
    this.wfile.write(`${user}\r\n`);
    this.rfile.maxRead = MAX_ANSWER;
    return printable(new TextDecoder().decode((await this.rfile.read()) ?? undefined));
  }
}

/** Removes control characters, which could take over the reader's terminal (RFC 1288, 3.3). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const printable = (text: string): string => text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/g, "");
