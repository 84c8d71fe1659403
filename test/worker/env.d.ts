declare namespace Cloudflare {
  interface Env {
    readonly SELF: Fetcher;
    readonly CHAT: DurableObjectNamespace<import("./main.ts").ChatObject>;
    readonly BOARD: DurableObjectNamespace<import("./main.ts").BoardObject>;
    readonly SOCKLET_SESSIONS: DurableObjectNamespace<import("./sessions-main.ts").SockletSession>;
    readonly SOCKLET_REGISTRY: DurableObjectNamespace<import("./sessions-main.ts").SockletRegistry>;
    readonly SMALL_SESSIONS: DurableObjectNamespace<import("./sessions-main.ts").SmallSession>;
    readonly SMALL_REGISTRY: DurableObjectNamespace<import("./sessions-main.ts").SmallRegistry>;
    readonly STORAGE: DurableObjectNamespace<import("./main.ts").SockletStorage>;
    readonly DOOR: DurableObjectNamespace<import("./main.ts").DoorObject>;
  }
  interface GlobalProps {
    mainModule: typeof import("./main.ts");
  }
}
