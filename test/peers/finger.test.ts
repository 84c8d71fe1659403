import { TCPConnector } from "socklet/emulator";
import { expect, test } from "vitest";
import { FingerClient } from "../../examples/finger.ts";
import { describeWith, start } from "./program.ts";

// CPython sends back what it was asked, in Latin-1 with control characters.
const SERVER = `
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        print(self.rfile.readline(), flush=True)
        self.wfile.write(b"Login: x\\x1b[31m\\r\\nPlan:\\tnone\\r\\n" * 1000)
with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
`;

describeWith(["python3"], "FingerClient and CPython's socketserver", () => {
  test("asks, and reads to the end", async () => {
    await using program = start("python3", ["-c", SERVER]);
    const at = `127.0.0.1:${await program.line()}`;
    const answer = "Login: x[31m\r\nPlan:\tnone\r\n".repeat(1000);
    expect(await new TCPConnector(at, FingerClient).run({ params: "alice" })).toBe(answer);
    expect(await program.line()).toBe("b'alice\\r\\n'");
    expect(await new TCPConnector(at, FingerClient).run()).toBe(answer);
    expect(await program.line()).toBe("b'\\r\\n'");
  });
});
