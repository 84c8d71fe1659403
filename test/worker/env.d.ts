declare namespace Cloudflare {
  interface Env {
    readonly SELF: Fetcher;
    readonly BOARD: DurableObjectNamespace<import("./main.ts").BoardObject>;
    readonly DOOR: DurableObjectNamespace<import("./main.ts").DoorObject>;
  }
  interface GlobalProps {
    mainModule: typeof import("./main.ts");
  }
}
