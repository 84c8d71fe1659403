// Bare workerd. WORK chooses: echo-default | echo-byob | echo-pipe | resp-each | resp-gathered | download-default |
// download-byob | download-kept | download-atleast. A download is ordered by a line on a connection, and its sum is the reply.
import { connect } from "cloudflare:sockets";
import { RespSession } from "./resp.ts";
import { parseOrder } from "./source.ts";

const store = new Map();
const encoder = new TextEncoder();
const LARGE = 64 * 1024; // bytes of a buffer that is read into again and again
const LARGER = 256 * 1024; // above it a download gains nothing more
const LARGEST = 1024 * 1024;

/** Pieces as the default reader gives them: 4 KiB at most. */
async function eachPiece(readable, take) {
  const reader = readable.getReader();
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read())
    await take(value);
}

/** Pieces by a reader that brings its own buffer, one for all reads. `least`: as many bytes at a time, but for the end. */
async function eachFilled(readable, size, least, take) {
  const reader = readable.getReader({ mode: "byob" });
  let buffer = new ArrayBuffer(size);
  for (;;) {
    const view = new Uint8Array(buffer);
    const { value, done } = await (least > 1 ? reader.readAtLeast(least, view) : reader.read(view));
    if (value !== undefined && value.length > 0) await take(value);
    if (done) return;
    buffer = value.buffer;
  }
}

function lineReader() {
  const decoder = new TextDecoder("latin1");
  let pending = "";
  return (bytes, take) => {
    const text = pending + decoder.decode(bytes);
    let from = 0;
    for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", from)) {
      take(text.slice(from, text.charCodeAt(end - 1) === 13 ? end - 1 : end));
      from = end + 1;
    }
    pending = text.slice(from);
  };
}

const downloads = {
  "download-default": (readable, check) => eachPiece(readable, (piece) => check.take(piece)),
  "download-byob": (readable, check) => eachFilled(readable, LARGER, 1, (piece) => check.take(piece)),
  "download-kept": (readable, check) =>
    eachFilled(readable, LARGEST, 1, (piece) => check.take(piece.slice())),
  "download-atleast": (readable, check) =>
    eachFilled(readable, LARGEST, LARGEST, (piece) => check.take(piece)),
};

const works = {
  async "echo-default"({ readable, writable }) {
    const writer = writable.getWriter();
    await eachPiece(readable, (piece) => writer.write(piece));
    await writer.close();
  },

  async "echo-byob"({ readable, writable }) {
    const writer = writable.getWriter();
    await eachFilled(readable, LARGE, 1, (piece) => writer.write(piece));
    await writer.close();
  },

  "echo-pipe": ({ readable, writable }) => readable.pipeTo(writable),

  /** The obvious way: the default reader, and a write for each reply. */
  async "resp-each"({ readable, writable }) {
    const writer = writable.getWriter();
    const session = new RespSession(store);
    const split = lineReader();
    await eachPiece(readable, async (piece) => {
      const replies = [];
      split(piece, (line) => {
        const reply = session.take(line);
        if (reply !== undefined) replies.push(reply);
      });
      for (const reply of replies) await writer.write(encoder.encode(reply));
    });
    await writer.close();
  },

  /** By hand: a reader with its own buffer, and one write for all replies to a piece. */
  async "resp-gathered"({ readable, writable }) {
    const writer = writable.getWriter();
    const session = new RespSession(store);
    const split = lineReader();
    await eachFilled(readable, 4096, 1, async (piece) => {
      let replies = "";
      split(piece, (line) => {
        const reply = session.take(line);
        if (reply !== undefined) replies += reply;
      });
      if (replies !== "") await writer.write(encoder.encode(replies));
    });
    await writer.close();
  },
};

async function download(socket, from) {
  const reader = socket.readable.getReader();
  const { address, check } = parseOrder(new TextDecoder().decode((await reader.read()).value));
  const source = connect(address);
  await from(source.readable, check);
  await source.close();
  const writer = socket.writable.getWriter();
  await writer.write(encoder.encode(`${check}\n`));
  await writer.close();
}

export default {
  async connect(socket, { WORK }) {
    socket.closed.catch(() => {}); // rejects also after a clean exchange
    await (WORK in downloads ? download(socket, downloads[WORK]) : works[WORK](socket));
  },
};
