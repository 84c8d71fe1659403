import "vitest";

declare module "vitest" {
  export interface ProvidedContext {
    /** Of the conformance handler in Node. */
    conformancePort: number;
  }
}
