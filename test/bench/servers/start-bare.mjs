// From nothing to listening, on bare Node. Plain JavaScript, as the built package is: no types are stripped.
import { createServer } from "node:net";

const server = createServer((socket) => {
  socket.on("data", (bytes) => socket.write(bytes));
});
server.listen(0, "127.0.0.1", () => {
  console.log(
    JSON.stringify({ port: server.address().port, pid: process.pid, cpuUs: total(process.cpuUsage()) }),
  );
});

function total({ user, system }) {
  return user + system;
}
