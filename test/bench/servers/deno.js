// The peer in Deno: deno.js echo | resp | udp. All replies to a chunk are one write.
import { RespSession } from "./resp.ts";

const store = new Map();
const announce = (port) => console.log(JSON.stringify({ port, pid: Deno.pid }));
Deno.addSignalListener("SIGTERM", () => Deno.exit(0));

async function writeAll(connection, bytes) {
  for (let at = 0; at < bytes.length; ) at += await connection.write(bytes.subarray(at));
}

async function echo(connection) {
  const buffer = new Uint8Array(65_536);
  for (let size = await connection.read(buffer); size !== null; size = await connection.read(buffer)) {
    await writeAll(connection, buffer.subarray(0, size));
  }
}

async function respond(connection) {
  const session = new RespSession(store);
  const buffer = new Uint8Array(65_536);
  const decoder = new TextDecoder("latin1");
  const encoder = new TextEncoder();
  let pending = "";
  for (let size = await connection.read(buffer); size !== null; size = await connection.read(buffer)) {
    const text = pending + decoder.decode(buffer.subarray(0, size));
    let replies = "";
    let from = 0;
    for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", from)) {
      const reply = session.take(text.slice(from, text.charCodeAt(end - 1) === 13 ? end - 1 : end));
      from = end + 1;
      if (reply !== undefined) replies += reply;
    }
    pending = text.slice(from);
    if (replies !== "") await writeAll(connection, encoder.encode(replies));
  }
}

const work = Deno.args[0];
if (work === "udp") {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  announce(socket.addr.port);
  for await (const [bytes, address] of socket) await socket.send(bytes, address);
} else {
  const serve = { echo, resp: respond }[work];
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  announce(listener.addr.port);
  for await (const connection of listener) {
    connection.setNoDelay(true);
    serve(connection)
      .catch(() => {})
      .finally(() => {
        try {
          connection.close();
        } catch {} // it is closed already
      });
  }
}
