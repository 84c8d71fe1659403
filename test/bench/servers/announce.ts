/**
 * What each server program of the bench does once it listens: say where, and as which process, in one line of JSON,
 * and make sure that it ends: on SIGTERM, and when the runner that started it is gone (its IPC channel closes even on
 * SIGKILL; a peer that has no such channel is ended by the runner alone).
 */
export function announce(port: number): void {
  process.once("SIGTERM", () => process.exit(0));
  if (process.channel) process.once("disconnect", () => process.exit(0));
  console.log(JSON.stringify({ port, pid: process.pid }));
}
