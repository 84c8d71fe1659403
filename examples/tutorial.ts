/**
 * The two servers of a well-known tutorial on Python's `socket` and `SocketServer`, and their clients.
 *
 * Where the tutorial prints, a handler here calls `this.emit()`, and whoever runs it decides where that goes. A server
 * and its client are both handlers: one runs on an accepted connection, the other on a dialled one, and neither can tell.
 */

import { BaseRequestHandler, formatAddress, StreamRequestHandler } from "socklet";

const THANKS = "Thank you for connecting";

/** Thanks whoever connects, through the socket, `request`. */
export class Greeting extends BaseRequestHandler {
  override async handle(): Promise<void> {
    this.emit(`Got connection from ${formatAddress(this.clientAddress)}`);
    await this.request.sendall(THANKS);
  }
}

/** The same through the file `wfile`: the text leaves when the handler is done. */
export class StreamGreeting extends StreamRequestHandler {
  override handle(): void {
    this.emit(`Got connection from ${formatAddress(this.clientAddress)}`);
    this.wfile.write(THANKS);
  }
}

/** Returns what the server says until it ends the connection. */
export class GreetingClient extends StreamRequestHandler {
  override async handle(): Promise<string> {
    this.rfile.maxRead = 65_536; // bytes: a greeting is a line or two
    return new TextDecoder().decode((await this.rfile.read()) ?? undefined);
  }
}

/** Sends back what it receives, and reports it. */
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

/** One exchange of a `TranscriptClient`: how many bytes `send` sent, and what came back. */
export interface Exchange {
  readonly sent: number;
  readonly received: string;
}

/** Sends each of its `params`, one after the other, and returns what came back. */
export class TranscriptClient extends StreamRequestHandler {
  override async handle(): Promise<Exchange[]> {
    const messages = this.params ?? ["Hello!", "I like Tuesdays!"];
    if (!Array.isArray(messages) || !messages.every((message) => typeof message === "string")) {
      throw new TypeError('params must be an array of texts to say: ["Hello!", "I like Tuesdays!"]');
    }
    const exchanges: Exchange[] = [];
    for (const message of messages) {
      const sent = await this.request.send(message);
      // Exactly as many bytes as were sent, and not one recv(): a stream keeps no message borders.
      exchanges.push({ sent, received: new TextDecoder().decode(await this.rfile.readexactly(sent)) });
    }
    return exchanges;
  }
}
