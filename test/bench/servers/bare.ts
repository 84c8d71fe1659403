/**
 * What there is to reach: each work on bare Node, as one writes it who knows Node well.
 *
 *     bare.ts echo | tls-echo | download | upload | resp-each | resp-gathered | lines | udp
 */
import { createSocket } from "node:dgram";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { certificate } from "../certificate.ts";
import { announce } from "./announce.ts";
import { RespSession } from "./resp.ts";
import { pieces, SourceCheck } from "./source.ts";

const store = new Map<string, string>();

const streams: Readonly<Record<string, (socket: Socket) => void>> = {
  /** As the Node documentation would write it. */
  echo(socket) {
    socket.on("data", (bytes) => socket.write(bytes));
  },

  /** Sends until the client has ended, and waits where a write says so. */
  download(socket) {
    const all = pieces(64 * 1024);
    let [next, wanted] = [0, true];
    const send = (): void => {
      while (wanted && socket.write(all[next++ % all.length]!));
    };
    socket.on("drain", send).on("end", () => {
      wanted = false;
      socket.end();
    });
    socket.resume();
    send();
  },

  /** Takes all, and says how much it was. */
  upload(socket) {
    const check = new SourceCheck(false);
    socket.on("data", (bytes) => check.take(bytes)).on("end", () => socket.end(`${check}\n`));
  },

  /** The obvious way: keep what is not a whole line yet, and write each reply as it comes. */
  "resp-each"(socket) {
    const session = new RespSession(store);
    let pending = "";
    socket.setEncoding("latin1");
    socket.on("data", (chunk: string) => {
      const text = pending + chunk;
      let from = 0;
      for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", from)) {
        const reply = session.take(text.slice(from, text[end - 1] === "\r" ? end - 1 : end));
        from = end + 1;
        if (reply !== undefined) socket.write(reply);
      }
      pending = text.slice(from);
    });
  },

  /** The best by hand: all replies to a chunk are one write. */
  "resp-gathered"(socket) {
    const session = new RespSession(store);
    let pending = "";
    socket.setEncoding("latin1");
    socket.on("data", (chunk: string) => {
      const text = pending === "" ? chunk : pending + chunk;
      let replies = "";
      let from = 0;
      for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", from)) {
        const reply = session.take(text.slice(from, text.charCodeAt(end - 1) === 13 ? end - 1 : end));
        from = end + 1;
        if (reply !== undefined) replies += reply;
      }
      pending = from === text.length ? "" : text.slice(from);
      if (replies !== "") socket.write(replies, "latin1");
    });
  },

  /** To each line its length. The pieces of a long line are joined once, and searched once. */
  lines(socket) {
    let pieces: string[] = [];
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => {
      let replies = "";
      let from = 0;
      for (let end = chunk.indexOf("\n"); end !== -1; end = chunk.indexOf("\n", from)) {
        let line = chunk.slice(from, end);
        if (pieces.length > 0) {
          pieces.push(line);
          line = pieces.join("");
          pieces = [];
        }
        from = end + 1;
        replies += `${line.length}\n`;
      }
      if (from < chunk.length) pieces.push(chunk.slice(from));
      if (replies !== "") socket.write(replies, "latin1");
    });
  },
};

const work = process.argv[2] ?? "";
if (work === "udp") {
  const socket = createSocket({
    type: "udp4",
    lookup: (host, _options, found) => found(null, host, 4), // an address needs no name server
  });
  socket.on("message", (bytes, { port, address }) => socket.send(bytes, port, address));
  socket.bind(0, "127.0.0.1", () => announce(socket.address().port));
} else {
  const serve = streams[work === "tls-echo" ? "echo" : work];
  if (!serve) throw new Error(`usage: bare.ts ${[...Object.keys(streams), "tls-echo", "udp"].join(" | ")}`);
  const took = (socket: Socket): void => {
    socket.on("error", () => socket.destroy());
    serve(socket);
  };
  const server =
    work === "tls-echo"
      ? createTlsServer({ ...certificate(), noDelay: true }, took)
      : createServer({ noDelay: true, allowHalfOpen: /load$/.test(work) }, took);
  server.listen(0, "127.0.0.1", () => announce((server.address() as AddressInfo).port));
}
