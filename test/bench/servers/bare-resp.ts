// RESP on bare node:net, written the obvious way: keep what is not a whole line yet, and write each reply as it comes.
import { type AddressInfo, createServer } from "node:net";
import { announce } from "./announce.ts";
import { RespSession } from "./resp.ts";

const store = new Map<string, string>();
const server = createServer({ noDelay: true }, (socket) => {
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
  socket.on("error", () => socket.destroy());
});
server.listen(0, "127.0.0.1", () => announce((server.address() as AddressInfo).port));
