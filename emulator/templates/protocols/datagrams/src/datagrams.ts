import { DatagramRequestHandler } from "socklet";

/** Answers each datagram with the same text in capitals. */
export class Datagrams extends DatagramRequestHandler {
  override handle(): void {
    this.request.reply(new TextDecoder().decode(this.request.data).toUpperCase());
  }
}
