/**
 * Values that cross between a Worker and a pool's Durable Object, as bytes. The platform's own clone reports no size until
 * it fails, turns a function into a stub, and loses an error's class; and only bytes can be streamed.
 *
 * A value is a letter followed by its content. Sizes and counts are written seven bits to a byte, lowest first.
 */

import { joinBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";

/** The most bytes of a call or a reply: what one message of the platform's RPC carries (Workers, "RPC", Limits). */
const MAX_VALUE = 32 * 1024 * 1024;

const DEEPEST = 500; // levels of nesting: reading is recursive, too
const CAUSES = 8; // causes of an error that are followed

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true, fatal: false });

/** The typed arrays, by the letter that stands for each. Their numbers keep the machine's byte order, which is the same on the whole platform. */
const VIEWS = {
  b: Uint8Array,
  c: Uint8ClampedArray,
  d: Int8Array,
  e: Uint16Array,
  f: Int16Array,
  g: Uint32Array,
  h: Int32Array,
  i: Float32Array,
  j: Float64Array,
  k: BigUint64Array,
  l: BigInt64Array,
} as const;
type View = InstanceType<(typeof VIEWS)[keyof typeof VIEWS]>;
const LETTERS = new Map<unknown, string>(Object.entries(VIEWS).map(([letter, Class]) => [Class, letter]));

const ERRORS: Readonly<Record<string, ErrorConstructor>> = {
  Error,
  EvalError,
  RangeError,
  ReferenceError,
  SyntaxError,
  TypeError,
  URIError,
};

/** How an error message names a value: `a Date`, `a function`. */
const kindOf = (value: unknown): string =>
  typeof value !== "object" || value === null
    ? `a ${typeof value}`
    : `of the class ${Object.getPrototypeOf(value)?.constructor?.name ?? "?"}`;

class Packer {
  #bytes = new Uint8Array(256);
  #size = 0;
  readonly #what: string;
  readonly #path: (string | number)[] = [];

  constructor(what: string) {
    this.#what = what;
  }

  get bytes(): Uint8Array {
    return this.#bytes.slice(0, this.#size); // an exact copy: a view would send its whole buffer
  }

  #room(more: number): void {
    const size = this.#size + more;
    if (size > MAX_VALUE) {
      const mib = MAX_VALUE / 2 ** 20;
      const message = `${this.#what} is larger than ${mib} MiB, which is the most that crosses between a Worker and a pool's object; ask for less at a time`;
      throw new SocketError("ERR_LIMIT", message);
    }
    if (size <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.min(Math.max(size, this.#bytes.length * 2), MAX_VALUE));
    larger.set(this.#bytes.subarray(0, this.#size));
    this.#bytes = larger;
  }

  #letter(letter: string): void {
    this.#room(1);
    this.#bytes[this.#size++] = letter.charCodeAt(0);
  }

  #count(count: number): void {
    this.#room(8);
    let left = count;
    for (; left > 127; left = Math.floor(left / 128)) this.#bytes[this.#size++] = (left % 128) | 128;
    this.#bytes[this.#size++] = left;
  }

  #raw(bytes: Uint8Array): void {
    this.#count(bytes.length);
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#size);
    this.#size += bytes.length;
  }

  #text(text: string): void {
    if (text.isWellFormed()) {
      this.#letter("s");
      this.#raw(encoder.encode(text));
      return;
    }
    this.#letter("u"); // a lone surrogate, which UTF-8 cannot express
    this.#raw(new Uint8Array(Uint16Array.from(text, (_, i) => text.charCodeAt(i)).buffer));
  }

  #number(value: number): void {
    if (Number.isInteger(value) && !Object.is(value, -0) && Math.abs(value) <= 2 ** 48) {
      this.#letter(value < 0 ? "m" : "n");
      this.#count(Math.abs(value));
      return;
    }
    this.#letter("x");
    this.#room(8);
    new DataView(this.#bytes.buffer).setFloat64(this.#size, value);
    this.#size += 8;
  }

  #at(step: string | number, value: unknown): void {
    this.#path.push(step);
    if (this.#path.length > DEEPEST) throw this.#refused("nested too deeply, or in a circle");
    this.value(value);
    this.#path.pop();
  }

  #refused(why: string): SocketError {
    const path = this.#path
      .slice(0, 8)
      .map((step) => (typeof step === "number" ? `[${step}]` : `.${step}`))
      .join("");
    const message = `${this.#what}${path} is ${why}; what crosses between a Worker and a pool's object is text, numbers, bytes, lists, plain objects, maps, sets, dates and errors`;
    return new SocketError("ERR_UNSUPPORTED", message);
  }

  value(value: unknown): void {
    if (value === undefined) this.#letter("_");
    else if (value === null) this.#letter("0");
    else if (typeof value === "boolean") this.#letter(value ? "t" : "F");
    else if (typeof value === "string") this.#text(value);
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "object") this.#object(value);
    else if (typeof value === "bigint") {
      this.#letter("I");
      this.#text(value.toString(16));
    } else throw this.#refused(kindOf(value));
  }

  #object(value: object): void {
    if (ArrayBuffer.isView(value)) this.#view(value as View);
    else if (Array.isArray(value)) {
      this.#letter("A");
      this.#count(value.length);
      for (let i = 0; i < value.length; i++) this.#at(i, value[i]);
    } else if (value instanceof Map) {
      this.#letter("M");
      this.#count(value.size);
      for (const [key, one] of value) {
        this.#at("key", key);
        this.#at(typeof key === "string" ? key : "value", one);
      }
    } else if (value instanceof Set) {
      this.#letter("S");
      this.#count(value.size);
      for (const one of value) this.#at("member", one);
    } else if (value instanceof Date) {
      this.#letter("D");
      this.#number(value.getTime());
    } else if (value instanceof ArrayBuffer) {
      this.#letter("B");
      this.#raw(new Uint8Array(value));
    } else if (value instanceof Error) this.#error(value);
    else if (isPlain(value)) this.#entries("O", Object.entries(value));
    else throw this.#refused(kindOf(value));
  }

  #view(value: View): void {
    // A subclass, such as Node's Buffer, is sent as its base class.
    const found = Object.entries(VIEWS).find(([, Class]) => value instanceof Class);
    const letter = LETTERS.get(value.constructor) ?? found?.[0];
    if (letter === undefined) throw this.#refused(kindOf(value));
    this.#letter(letter);
    this.#raw(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  }

  #entries(letter: string, entries: readonly (readonly [string, unknown])[]): void {
    this.#letter(letter);
    this.#count(entries.length);
    for (const [key, one] of entries) {
      this.#text(key);
      this.#at(key, one);
    }
  }

  /** An error's message, and those of its own properties that can cross. */
  #error(error: Error): void {
    this.#letter("E");
    const { name, message, cause } = error;
    this.#text(String(name));
    this.#text(String(message));
    this.#entries(
      "O",
      Object.entries(error).filter(([, own]) => crosses(own)),
    );
    const causes = this.#path.filter((step) => step === "cause").length;
    this.#at("cause", cause !== undefined && causes < CAUSES && crosses(cause) ? cause : undefined);
  }
}

const isPlain = (value: object): boolean => {
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null; // including one from another realm
};

const crosses = (value: unknown): boolean => {
  try {
    new Packer("").value(value);
    return true;
  } catch {
    return false;
  }
};

class Unpacker {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #letter(): string {
    return String.fromCharCode(this.#view.getUint8(this.#at++));
  }

  #count(): number {
    let count = 0;
    for (let unit = 1; ; unit *= 128) {
      const byte = this.#view.getUint8(this.#at++);
      count += (byte & 127) * unit;
      if (byte < 128) return count;
    }
  }

  #raw(): Uint8Array<ArrayBuffer> {
    const size = this.#count();
    if (size > this.#bytes.length - this.#at) throw new RangeError("it is cut short");
    this.#at += size;
    return this.#bytes.slice(this.#at - size, this.#at) as Uint8Array<ArrayBuffer>;
  }

  #text(): string {
    const [wide, bytes] = [this.#letter() === "u", this.#raw()];
    if (!wide) return decoder.decode(bytes);
    let text = "";
    for (const unit of new Uint16Array(bytes.buffer)) text += String.fromCharCode(unit);
    return text;
  }

  #times<T>(read: () => T): T[] {
    const count = this.#count();
    if (count > this.#bytes.length - this.#at) throw new RangeError("it is cut short"); // each element takes at least a byte
    return Array.from({ length: count }, read);
  }

  /** Reads one value. Throws `RangeError` if the bytes are cut short. */
  value(): unknown {
    const letter = this.#letter();
    switch (letter) {
      case "_":
        return undefined;
      case "0":
        return null;
      case "t":
        return true;
      case "F":
        return false;
      case "n":
        return this.#count();
      case "m":
        return -this.#count();
      case "x":
        this.#at += 8;
        return this.#view.getFloat64(this.#at - 8);
      case "I": {
        const digits = this.#text();
        return digits.startsWith("-") ? -BigInt(`0x${digits.slice(1)}`) : BigInt(`0x${digits}`);
      }
      case "s":
      case "u":
        this.#at--;
        return this.#text();
      case "A":
        return this.#times(() => this.value());
      case "M":
        return new Map(this.#times(() => [this.value(), this.value()] as const));
      case "S":
        return new Set(this.#times(() => this.value()));
      case "D":
        return new Date(this.value() as number);
      case "B":
        return this.#raw().buffer;
      case "E":
        return this.#error();
      case "O":
        return Object.fromEntries(this.#times(() => [this.#text(), this.value()] as const));
      default: {
        const Class = VIEWS[letter as keyof typeof VIEWS];
        if (Class === undefined) throw new RangeError(`no value begins with ${letter}`);
        const bytes = this.#raw();
        return Class === Uint8Array ? bytes : new Class(bytes.buffer);
      }
    }
  }

  #error(): Error {
    const [name, message] = [this.#text(), this.#text()];
    const own = this.value() as Record<string, unknown>;
    const cause = this.value();
    const options = cause === undefined ? undefined : { cause };
    let error: Error;
    if (SocketError.isCode(own.code) && "errno" in own) error = new SocketError(own.code, undefined, options);
    else if (name in ERRORS) error = new (ERRORS[name] as ErrorConstructor)(message, options);
    else if (DOMEXCEPTIONS.test(name)) return new DOMException(message, name);
    else error = new Error(message, options);
    const hidden = { configurable: true, writable: true, enumerable: false };
    Object.defineProperty(error, "message", { ...hidden, value: message });
    if (error.name !== name) Object.defineProperty(error, "name", { ...hidden, value: name });
    return Object.assign(error, own);
  }
}

const DOMEXCEPTIONS = /^(AbortError|TimeoutError|DataCloneError|OperationError)$/;

/**
 * `value` as bytes. Throws `ERR_LIMIT` above 32 MiB, and `ERR_UNSUPPORTED` for what is not data; both messages name
 * `what` it is, and the place in it.
 */
export const packed = (what: string, value: unknown): Uint8Array => {
  const packer = new Packer(what);
  packer.value(value);
  return packer.bytes;
};

/** The value that `packed()` packed. */
export const unpacked = (bytes: Uint8Array): unknown => new Unpacker(bytes).value();

// ---- The crossing ----

/** What crosses: bytes, or a stream of them if there are many. */
export type Parcel = Uint8Array | ReadableStream<Uint8Array>;

const LARGE = 1024 * 1024; // bytes from which a value is streamed: both sides, and the platform between them, hold a message whole
const PIECE = 256 * 1024; // bytes

/** Prepares bytes for the crossing. */
export const sent = (bytes: Uint8Array): Parcel => {
  if (bytes.length <= LARGE) return bytes;
  let at = 0;
  return new ReadableStream(
    {
      type: "bytes", // the only kind that the platform's RPC carries
      pull(controller: ReadableByteStreamController) {
        if (at < bytes.length) {
          controller.enqueue(bytes.slice(at, at + PIECE));
          at += PIECE;
          return;
        }
        controller.close();
        controller.byobRequest?.respond(0); // a reader with a buffer of its own waits for this
      },
    },
    { highWaterMark: 0 },
  );
};

/** The bytes that crossed. Rejects if the sender is lost halfway. */
export const received = async (parcel: Parcel): Promise<Uint8Array> => {
  if (parcel instanceof Uint8Array) return parcel;
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of parcel as unknown as AsyncIterable<Uint8Array>) {
    size += part.length;
    if (size > MAX_VALUE)
      throw new SocketError("ERR_LIMIT", "what was sent is larger than its sender may send");
    parts.push(part);
  }
  return joinBytes(parts, size);
};
