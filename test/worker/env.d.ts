declare namespace Cloudflare {
  interface Env {
    readonly SELF: Fetcher;
    readonly CHAT: DurableObjectNamespace<import("./main.ts").ChatObject>;
    readonly BOARD: DurableObjectNamespace<import("./main.ts").BoardObject>;
    readonly SOCKLET_SESSIONS: DurableObjectNamespace<import("./sessions-main.ts").SockletSession>;
    readonly SOCKLET_REGISTRY: DurableObjectNamespace<import("./sessions-main.ts").SockletRegistry>;
    readonly SMALL_SESSIONS: DurableObjectNamespace<import("./sessions-main.ts").SmallSession>;
    readonly SMALL_REGISTRY: DurableObjectNamespace<import("./sessions-main.ts").SmallRegistry>;
    readonly EVENTS: AnalyticsEngineDataset;
    readonly STORAGE: DurableObjectNamespace<import("./main.ts").SockletStorage>;
    readonly DOOR: DurableObjectNamespace<import("./main.ts").DoorObject>;
  }
  interface GlobalProps {
    mainModule: typeof import("./main.ts");
  }
}

/** What workerd has for tests, with the flag `unsafe_module`. */
declare module "workerd:unsafe" {
  const unsafe: {
    /** Evicts the object of `stub`. It waits until the object has no open connection, and rejects after 30 s (workerd 2026-11-17). */
    evict(stub: DurableObjectStub<undefined>): Promise<void>;
  };
  export default unsafe;
}
