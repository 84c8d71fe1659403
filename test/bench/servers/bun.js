// The peer in Bun: bun.js echo | resp | udp. All replies to a chunk are one write.
import { RespSession } from "./resp.ts";

const store = new Map();
const announce = (port) => console.log(JSON.stringify({ port, pid: process.pid }));
process.on("SIGTERM", () => process.exit(0));

/** Bun's write() gives how much was taken, and tells by `drain` when there is room for the rest. */
function send(socket, data) {
  if (socket.data.waiting.length === 0) {
    const bytes = typeof data === "string" ? Buffer.from(data, "latin1") : data;
    const taken = socket.write(bytes);
    if (taken < bytes.length) socket.data.waiting.push(Buffer.from(bytes.subarray(Math.max(taken, 0))));
  } else {
    socket.data.waiting.push(Buffer.from(data));
  }
}

function drain(socket) {
  const { waiting } = socket.data;
  while (waiting.length > 0) {
    const taken = Math.max(socket.write(waiting[0]), 0);
    if (taken < waiting[0].length) {
      waiting[0] = waiting[0].subarray(taken);
      return;
    }
    waiting.shift();
  }
}

function respond(socket, bytes) {
  const { session } = socket.data;
  const text = socket.data.pending + bytes.latin1Slice();
  let replies = "";
  let from = 0;
  for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", from)) {
    const reply = session.take(text.slice(from, text.charCodeAt(end - 1) === 13 ? end - 1 : end));
    from = end + 1;
    if (reply !== undefined) replies += reply;
  }
  socket.data.pending = text.slice(from);
  if (replies !== "") send(socket, replies);
}

const work = process.argv[2];
if (work === "udp") {
  const socket = await Bun.udpSocket({
    hostname: "127.0.0.1",
    socket: { data: (socket, bytes, port, address) => void socket.send(bytes, port, address) },
  });
  announce(socket.port);
} else {
  const server = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        socket.data = { waiting: [], pending: "", session: new RespSession(store) };
        socket.setNoDelay(true);
      },
      data: { echo: send, resp: respond }[work],
      drain,
      error: (socket) => socket.end(),
    },
  });
  announce(server.port);
}
