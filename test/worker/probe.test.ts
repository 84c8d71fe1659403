import { connect } from "cloudflare:sockets";
import { inject, test } from "vitest";
const port = inject("tlsPort");
for (const mode of ["on", "starttls"] as const) for (const half of [true, false])
test(`reset ${mode} ${half}`, async () => {
  const s = connect({ hostname: "localhost", port }, { secureTransport: mode, allowHalfOpen: half });
  await s.opened;
  const log: string[] = [];
  s.closed.then(() => log.push("old closed ok"), (e) => log.push("old closed rejects " + e));
  let t = s;
  if (mode === "starttls") { t = s.startTls(); await t.opened; 
  t.closed.then(() => log.push("closed ok"), (e) => log.push("closed rejects " + e)); }
  const w = t.writable.getWriter();
  w.closed.then(() => log.push("w ok"), (e) => log.push("w rejects " + e));
  const r = t.readable.getReader({ mode: "byob" });
  r.closed.then(() => log.push("r ok"), (e) => log.push("r rejects " + e));
  await w.write(new TextEncoder().encode("RAWRESET\n"));
  try { const { value, done } = await r.read(new Uint8Array(100)); log.push("read " + done + " " + new TextDecoder().decode(value)); 
        } catch (e) { log.push("read rejects " + e); }
  try { await w.write(new Uint8Array(10)); log.push("write ok"); await w.write(new Uint8Array(10)); log.push("write2 ok");} catch (e) { log.push("write rejects " + e); }
  try { await w.close(); log.push("wclose ok"); } catch (e) { log.push("wclose rejects " + e); }
  console.log(JSON.stringify(log, null, 1));
});
