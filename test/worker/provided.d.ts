import "vitest";

declare module "vitest" {
  export interface ProvidedContext {
    /** Of the conformance handler in Node. */
    conformancePort: number;
    /** The port of the conformance handler in Node, behind TLS from the first byte; 0 if there is no openssl. */
    tlsPort: number;
    /** Of an echo server in Node. */
    echoPort: number;
    /** Where nobody listens: it is reserved. */
    nobodysPort: number;
    /** Of a scripted Redis in Node. */
    scriptPort: number;
    /** The ports of each stream example in Node, plain, and with TLS from the first byte; 0 if there is no openssl. */
    examplePorts: Readonly<Record<string, { readonly plain: number; readonly tls: number }>>;
    /** Of a server of DNS over HTTPS in Node, without its path: `/dns-query`, and others that fail. */
    dohOrigin: string;
    /** Of npm `dns2` in Node, as a server of the same, at `/dns-query`. */
    dns2Origin: string;
  }
}
