/**
 * The file of a server on a path. It remains when its server is gone, so a path that exists is examined: a file without a
 * listener is removed, and any other file makes `bind()` reject with `EADDRINUSE`. A file is removed with its server, unless
 * something else has been put there meanwhile. (CPython does neither: its file remains, and the next server fails.)
 */

import type { BigIntStats } from "node:fs";
import net from "node:net";
import type { MaybePromise } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import { checkPathAccess, type PathAccess } from "../../core/net/access.ts";
import { formatAddress } from "../../core/net/address.ts";
import { checkPathOptions, type PathOptions } from "../../core/options.ts";
import { fs } from "../builtin.ts";
import { checkedPath } from "../kernel/descriptors/sockaddr.ts";

export const isAbstract = (path: string): boolean => path.startsWith("\0");

/** The file of one server on a path: it is bound, given its permissions, and removed with the server. */
export class SocketFile {
  readonly path: string;
  readonly #permissions: Permissions;
  #made: Identity | null = null;

  /** Throws as the constructor of a server on a path. */
  constructor(path: string, options: PathOptions & PathAccess = {}) {
    checkedPath(path);
    checkPathAccess(options);
    this.path = path;
    this.#permissions = permissionsOf(options, path);
  }

  /** Binds the path, if nobody else has it, and returns the file its owner and its mode. */
  async bind(bind: () => MaybePromise<void>): Promise<void> {
    await bindPath(this.path, bind);
    this.own();
    permit(this.path, this.#permissions);
  }

  /** The file at the path is this server's: `remove()` removes it, unless another was put there meanwhile. */
  own(): this {
    this.#made = identityOf(this.path);
    return this;
  }

  /** Another process has the file from now on. */
  disown(): void {
    this.#made = null;
  }

  /** Removes the file, if it is still the one that was made. */
  remove(): void {
    const now = this.#made === null ? null : identityOf(this.path);
    if (now !== null && this.#made !== null && same(now, this.#made)) fs.unlinkSync(this.path);
    this.#made = null;
  }

  /**
   * Calls `close`, which closes a listener of Node's, and removes the file. It stays where `stays` is set, or where
   * another was put there meanwhile. Without koffi Node removes whatever is at the path (libuv, uv__pipe_close): what is
   * to stay is kept under a second name, and is back some microseconds later.
   */
  closeWith(close: () => void, stays = false): void {
    const made = this.#made;
    const now = made === null ? null : identityOf(this.path);
    const keep = now !== null && made !== null && (stays || !same(now, made));
    const kept = `${this.path}.${process.pid}~`;
    const linkedTo = keep && linked(this.path, kept);
    close();
    if (linkedTo) {
      linked(kept, this.path); // not by rename(2), which would replace a file made there in this moment
      fs.unlinkSync(kept);
    }
    if (keep) this.#made = null;
    else this.remove();
  }
}

type Identity = Pick<BigIntStats, "dev" | "ino" | "birthtimeNs" | "isSocket">;

/** The file at a path now; `null` if there is none, or it is an abstract name. */
const identityOf = (path: string): Identity | null =>
  isAbstract(path) ? null : (fs.lstatSync(path, { bigint: true, throwIfNoEntry: false }) ?? null);

// An inode's number is used again when its file is gone; together with the time of birth it identifies one file.
const same = (one: Identity, other: Identity): boolean =>
  one.dev === other.dev && one.ino === other.ino && one.birthtimeNs === other.birthtimeNs;

/** The owner and the mode for the file of a server on a path; `null`: unchanged. */
interface Permissions {
  readonly mode: number | null;
  readonly uid: number | null;
  readonly gid: number | null;
}

/** Throws `TypeError` and `RangeError`. */
const permissionsOf = (options: PathOptions, path: string): Permissions => {
  const { mode, owner, group } = checkPathOptions(options);
  if (isAbstract(path) && (mode ?? owner ?? group) !== undefined) {
    throw new TypeError("mode, owner and group are for a file, and an abstract name has none");
  }
  return {
    mode: mode ?? null,
    uid: idOf("owner", owner, "/etc/passwd", "a user"),
    gid: idOf("group", group, "/etc/group", "a group"),
  };
};

/** The number of a user or a group. Throws `TypeError` if there is none with this name. */
const idOf = (
  option: string,
  who: number | string | undefined,
  file: string,
  kind: string,
): number | null => {
  if (typeof who !== "string") return who ?? null;
  let lines: string[] = [];
  try {
    lines = fs.readFileSync(file, "utf8").split("\n");
  } catch {
    // no such file: no names are known
  }
  for (const line of lines) {
    const [name, , id] = line.split(":"); // passwd(5), group(5)
    if (name === who && /^\d+$/.test(id ?? "")) return Number(id);
  }
  throw new TypeError(`${option} is "${who}", which is not a name in ${file}: give the number of ${kind}`);
};

/** Gives the file of a path its owner and its mode. Throws `EPERM` if the process may not do that. */
const permit = (path: string, { mode, uid, gid }: Permissions): void => {
  const said = formatAddress({ scheme: "unix", path });
  try {
    if (uid !== null || gid !== null) fs.lchownSync(path, uid ?? -1, gid ?? -1);
    if (mode !== null) fs.chmodSync(path, mode);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EPERM") throw cause;
    const wanted = [...(uid === null ? [] : [`user ${uid}`]), ...(gid === null ? [] : [`group ${gid}`])];
    const why = `this process (user ${process.geteuid?.()}) may not give the file to ${wanted.join(" and ")}`;
    const remedy = "changing the owner needs CAP_CHOWN; changing the group needs that, or membership in it";
    throw new SocketError("EPERM", `${said}: ${why}: ${remedy}`, { address: said, cause });
  }
};

/** Makes a second name for a file. False if that fails: the file is gone, or is a folder, or the name is taken. */
const linked = (path: string, name: string): boolean => {
  try {
    fs.linkSync(path, name);
    return true;
  } catch {
    return false;
  }
};

/** Binds a path, if nothing listens there. A file that a dead server left behind is removed first. */
const bindPath = async (path: string, bind: () => MaybePromise<void>): Promise<void> => {
  try {
    await bind();
  } catch (error) {
    const { code, cause } = error as SocketError;
    const said = formatAddress({ scheme: "unix", path });
    if (code !== "EADDRINUSE") throw error;
    const why = await occupied(path);
    if (why !== null)
      throw new SocketError("EADDRINUSE", `${said} is in use: ${why}`, { address: said, cause });
    await bind();
  }
};

/** Why a path cannot be bound; `null` if it can be now, because the file of a dead server was removed. */
const occupied = async (path: string): Promise<string | null> => {
  if (isAbstract(path)) return `${listenerAt(path)} listens there; end it, or choose another name`;
  const file = identityOf(path);
  if (file === null) return null;
  if (!file.isSocket()) return "there is a file that is no socket; choose another path";
  // Also for datagrams: the kernel looks for a listener before it checks that it is of the same kind.
  const said = await new Promise<string>((resolve) => {
    const probe = net.connect(path, () => resolve("connected"));
    probe.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    probe.once("connect", () => probe.destroy());
  });
  if (said === "ENOENT") return null;
  if (said === "EACCES" || said === "EPERM") {
    return "there is a socket that this process may not connect to, so that it cannot tell whether somebody listens";
  }
  if (said !== "ECONNREFUSED") return `${listenerAt(path)} listens there; end it, or choose another path`;
  const now = identityOf(path);
  if (now !== null && same(now, file)) fs.unlinkSync(path);
  return null;
};

/** The process that listens at a path, if known: by proc(5), among the processes that this one may examine. */
const listenerAt = (path: string): string => {
  try {
    const shown = isAbstract(path) ? `@${path.slice(1)}` : path;
    // Num RefCount Protocol Flags Type St Inode Path
    const lines = fs.readFileSync("/proc/net/unix", "latin1").split("\n");
    const bytes = Buffer.from(shown).toString("latin1");
    const inodes = lines.flatMap((line) => (line.endsWith(` ${bytes}`) ? (line.split(/ +/)[6] ?? []) : []));
    const held = new Set(inodes.map((inode) => `socket:[${inode}]`));
    for (const pid of fs.readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name))) {
      const folder = `/proc/${pid}/fd`;
      let fds: string[] = [];
      try {
        fds = fs.readdirSync(folder);
      } catch {
        continue; // another user's, or ended
      }
      const has = fds.some((fd) => {
        try {
          return held.has(fs.readlinkSync(`${folder}/${fd}`));
        } catch {
          return false;
        }
      });
      if (has) return `process ${pid} (${fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim()})`;
    }
  } catch {
    // No proc(5) here.
  }
  return "another program";
};
