/**
 * The two servers of a well-known tutorial on Python's `socket` and `SocketServer`, and their clients.
 *
 * The tutorial prints; a handler here tells what it sees with `this.emit()`, and whoever runs it decides
 * where that goes. A server and its client are both handlers: one runs on a connection that was accepted, the other
 * on one that was dialled, and neither can tell.
 */

import { BaseRequestHandler, formatAddress, StreamRequestHandler } from "socklet";

const THANKS = "Thank you for connecting";

/** Thanks whoever connects, by the socket itself: `request`. */
export class Greeting extends BaseRequestHandler {
  override async handle(): Promise<void> {
    this.emit(`Got connection from ${formatAddress(this.clientAddress)}`);
    await this.request.sendall(THANKS);
  }
}

/** The same by the connection's file, `wfile`: what is written leaves when the handler is done. */
export class StreamGreeting extends StreamRequestHandler {
  override handle(): void {
    this.emit(`Got connection from ${formatAddress(this.clientAddress)}`);
    this.wfile.write(THANKS);
  }
}

/** Gives what the server says until it ends the connection. */
export class GreetingClient extends StreamRequestHandler {
  override async handle(): Promise<string> {
    this.rfile.maxRead = 65_536; // bytes: a greeting is a line or two
    return new TextDecoder().decode((await this.rfile.read()) ?? undefined);
  }
}

/** Sends back what it receives, and tells it. */
export class Transcript extends BaseRequestHandler {
  override async handle(): Promise<void> {
    const decoder = new TextDecoder(); // one for the connection: a piece may end in the middle of a character
    this.emit("Got new connection!");
    for (let msg = await this.request.recv(1024); msg !== null; msg = await this.request.recv(1024)) {
      this.emit(`Received: ${decoder.decode(msg, { stream: true })}`);
      await this.request.send(msg);
    }
    this.emit("Done with connection");
  }
}

/** One message of a `TranscriptClient`: how many bytes `send` sent, and what came back. */
export interface Exchange {
  readonly sent: number;
  readonly received: string;
}

/** Says each of its `params`, one after the other, and gives what came back. */
export class TranscriptClient extends StreamRequestHandler {
  override async handle(): Promise<Exchange[]> {
    const messages = this.params ?? ["Hello!", "I like Tuesdays!"];
    if (!Array.isArray(messages) || !messages.every((message) => typeof message === "string")) {
      throw new TypeError('params must be an array of texts to say: ["Hello!", "I like Tuesdays!"]');
    }
    const exchanges: Exchange[] = [];
    for (const message of messages) {
      const sent = await this.request.send(message);
      // As many bytes as were sent, and not one recv(): a stream keeps no borders between messages.
      exchanges.push({ sent, received: new TextDecoder().decode(await this.rfile.readexactly(sent)) });
    }
    return exchanges;
  }
}
