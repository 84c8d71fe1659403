/** Echo (RFC 862): what comes in goes back, over TCP and over UDP. */

import { BaseRequestHandler, type Datagram } from "socklet";

/** Echoes a stream. It reads no faster than its peer takes the echo, so neither side fills a memory. */
export class Echo extends BaseRequestHandler {
  override async handle(): Promise<void> {
    const { request } = this;
    for (let bytes = await request.recv(); bytes !== null; bytes = await request.recv()) {
      await request.sendall(bytes);
    }
  }
}

/** Echoes a datagram; an empty one, too. */
export class EchoDatagram extends BaseRequestHandler<Datagram> {
  override handle(): void {
    this.request.reply(this.request.data);
  }
}
