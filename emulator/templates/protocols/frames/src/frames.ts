import { StreamRequestHandler } from "socklet";

const HEAD = 4; // bytes: the size of what follows, most significant byte first
const MAX_SIZE = 1_048_576; // bytes: a peer must not choose how much memory it takes

/** Answers each frame, a size and that many bytes, with the same bytes in the opposite order. */
export class Frames extends StreamRequestHandler {
  override async handle(): Promise<void> {
    const { rfile, wfile } = this;
    while ((await rfile.peek(1)) !== null) {
      const head = await rfile.readexactly(HEAD);
      const size = new DataView(head.buffer, head.byteOffset).getUint32(0);
      if (size > MAX_SIZE) throw new RangeError(`a frame of ${size} bytes; at most ${MAX_SIZE} are taken`);
      const bytes = await rfile.readexactly(size);
      wfile.write(head);
      wfile.write(bytes.reverse());
    }
  }
}
