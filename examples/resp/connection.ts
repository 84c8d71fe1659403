/** What a client says of itself, and asks about its connection: `HELLO`, `AUTH`, `CLIENT`. */

import { latin1 } from "./bytes.ts";
import { type Client, type Command, container, integerIn, shown, VERSION } from "./command.ts";
import type { ReplyWriter } from "./reply.ts";

export const CONNECTION = { group: "connection", flags: ["noscript", "loading", "stale", "fast"] } as const;

/** No spaces and no control characters, because lists of clients show a name between spaces. */
const isName = (text: string): boolean => /^[!-~]*$/.test(text);

/** Returns false, after replying why, if that is not a valid name. */
const setName = (name: string, client: Client): boolean => {
  if (!isName(name)) {
    client.out.error("ERR Client names cannot contain spaces, newlines or special characters.");
    return false;
  }
  client.name = name;
  return true;
};

/** There is one user, `default`, and every password is right, as in a Redis without a password. */
const logIn = (user: string, { out }: Client): boolean => {
  if (user === "default") return true;
  out.error("WRONGPASS invalid username-password pair or user is disabled.");
  return false;
};

/** Does what the options of `HELLO` say. Returns false, after replying why, if it cannot. */
const take = (options: readonly Uint8Array[], client: Client): boolean => {
  for (let i = 0; i < options.length; i++) {
    const left = options.length - 1 - i;
    const option = latin1(options[i]).toUpperCase();
    if (option === "AUTH" && left >= 2) {
      if (!logIn(latin1(options[i + 1]), client)) return false;
      i += 2;
    } else if (option === "SETNAME" && left >= 1) {
      if (!setName(latin1(options[i + 1]), client)) return false;
      i += 1;
    } else {
      client.out.error(`ERR Syntax error in HELLO option '${shown(latin1(options[i]))}'`);
      return false;
    }
  }
  return true;
};

const pair = (key: string, value: string | number, out: ReplyWriter): void => {
  out.bulk(key);
  if (typeof value === "string") out.bulk(value);
  else out.integer(value);
};

/** `HELLO [version [AUTH user password] [SETNAME name]]`: both ends agree on a protocol, and say who they are. */
const hello = ([version, ...options]: readonly Uint8Array[], client: Client): void => {
  const { out } = client;
  const protocol = version === undefined ? BigInt(out.protocol) : integerIn(version);
  if (protocol === null) out.error("ERR Protocol version is not an integer or out of range");
  else if (protocol !== 2n && protocol !== 3n) out.error("NOPROTO unsupported protocol version");
  else if (take(options, client)) {
    out.protocol = protocol === 3n ? 3 : 2; // the reply already uses it
    out.map(7);
    pair("server", "socklet", out);
    pair("version", VERSION, out);
    pair("proto", out.protocol, out);
    pair("id", client.id, out);
    pair("mode", "standalone", out);
    pair("role", "master", out);
    out.bulk("modules");
    out.array(0);
  }
};

const LIBRARY = { "LIB-NAME": "name", "LIB-VER": "version" } as const;
const isLibrary = (name: string): name is keyof typeof LIBRARY => Object.hasOwn(LIBRARY, name);

export const CLIENT: Command = container(
  "CLIENT",
  { ...CONNECTION, summary: "Tell or ask about connections" },
  {
    GETNAME: {
      arity: 2,
      summary: "Return the name of the current connection",
      run: (_, { name, out }) => (name === "" ? out.null() : out.bulk(name)),
    },
    ID: {
      arity: 2,
      summary: "Return the ID of the current connection",
      run: (_, { id, out }) => out.integer(id),
    },
    INFO: {
      arity: 2,
      summary: "Return information about the current connection",
      run: (_, { id, name, library, out }) =>
        out.verbatim(
          `id=${id} name=${name} db=0 resp=${out.protocol} lib-name=${library.name} lib-ver=${library.version}\n`,
        ),
    },
    // Clients send this at once, often together with HELLO, and some before it.
    SETINFO: {
      arity: 4,
      summary: "Set the name (LIB-NAME) or the version (LIB-VER) of the client's library",
      run([attribute, value], { library, out }) {
        const which = latin1(attribute).toUpperCase();
        const text = latin1(value);
        if (!isLibrary(which)) {
          out.error(`ERR Unrecognized option '${shown(latin1(attribute))}'`);
        } else if (!isName(text)) {
          out.error(`ERR ${shown(latin1(attribute))} cannot contain spaces, newlines or special characters.`);
        } else {
          library[LIBRARY[which]] = text;
          out.simple("OK");
        }
      },
    },
    SETNAME: {
      arity: 3,
      summary: "Assign a name to the current connection",
      run([name], client) {
        if (setName(latin1(name), client)) client.out.simple("OK");
      },
    },
  },
);

export const HELLO: Command = { ...CONNECTION, arity: -1, summary: "Agree on RESP2 or RESP3", run: hello };

export const AUTH: Command = {
  ...CONNECTION,
  arity: -2,
  summary: "Log in; there is one user, default, without a password",
  run(args, client) {
    if (args.length > 2) client.out.error("ERR syntax error");
    else if (args.length === 1) client.out.error(NO_PASSWORD);
    else if (logIn(latin1(args[0]), client)) client.out.simple("OK");
  },
};

const NO_PASSWORD =
  "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";

export const RESET: Command = {
  ...CONNECTION,
  arity: 1,
  summary: "Make the connection as it was when it began",
  run(_, client) {
    client.out.protocol = 2;
    client.name = "";
    client.out.simple("RESET");
  },
};
