/** Echo (RFC 862): what comes in goes back, over TCP and over UDP. */

import { BaseRequestHandler, type Datagram } from "socklet";

/** Echoes a stream. It reads only as fast as its peer takes the echo, so the memory stays small. */
export class Echo extends BaseRequestHandler {
  override async handle(): Promise<void> {
    const { request } = this;
    for (let bytes = await request.recv(); bytes !== null; bytes = await request.recv()) {
      await request.sendall(bytes);
    }
  }
}

/** Echoes a datagram, even an empty one. */
export class EchoDatagram extends BaseRequestHandler<Datagram> {
  override handle(): void {
    this.request.reply(this.request.data);
  }
}
