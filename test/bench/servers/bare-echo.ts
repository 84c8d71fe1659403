// The limit to come near: an echo on bare node:net, as the Node documentation would write it.
import { type AddressInfo, createServer } from "node:net";
import { announce } from "./announce.ts";

const server = createServer({ noDelay: true }, (socket) => {
  socket.on("data", (bytes) => socket.write(bytes));
  socket.on("error", () => socket.destroy());
});
server.listen(0, "127.0.0.1", () => announce((server.address() as AddressInfo).port));
