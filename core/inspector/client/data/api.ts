/** The page's requests to the control routes. */

/** A response that is not a success. */
export class Refusal extends Error {
  readonly status: number;

  constructor(status: number, detail: string) {
    super(detail);
    this.status = status;
  }
}

const KEY = "socklet-token";

/** Takes the token out of the URL's fragment and keeps it for this tab. */
export const takeToken = (): void => {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname + location.search);
};

export const setToken = (token: string): void => sessionStorage.setItem(KEY, token);
export const hasToken = (): boolean => sessionStorage.getItem(KEY) !== null;

/** Called when the server refuses the token. */
export const whenRefused = { call: (): void => {} };

const send = async (
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<Response> => {
  const raw = body instanceof Uint8Array;
  const response = await fetch(`v1${path}`, {
    method,
    headers: {
      authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}`,
      ...(body !== undefined && { "content-type": raw ? "application/octet-stream" : "application/json" }),
    },
    ...(body !== undefined && { body: raw ? (body as BodyInit) : JSON.stringify(body) }),
    ...(signal && { signal }),
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
  });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) whenRefused.call();
  throw new Refusal(response.status, String(problem.detail ?? `HTTP status ${response.status}`));
};

/** Makes a request and gives the JSON of its response. */
// biome-ignore lint/suspicious/noExplicitAny: each caller says what it asked for
export const ask = async <T = any>(
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<T> => (await send(method, path, body, signal)).json();

/** Yields server-sent events as they come; ends with the stream, or when `signal` aborts. */
export async function* follow<T>(path: string, signal: AbortSignal): AsyncGenerator<T, void, undefined> {
  const response = await send("GET", path, undefined, signal);
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop() as string;
      for (const block of blocks) {
        const data = /(?:^|\n)data: ([^\n]*)/.exec(block)?.[1];
        if (data !== undefined) yield JSON.parse(data) as T;
      }
    }
  } finally {
    void reader.cancel().catch(() => {});
  }
}

/**
 * `task`, run once at a time, so that an answer cannot overtake a newer one: calls during a run cause one more run after
 * it, with the last call's arguments. The promise is that of all of them, and rejects if the last run does.
 */
export const oneAtATime = <Args extends unknown[]>(
  task: (...args: Args) => Promise<void>,
): ((...args: Args) => Promise<void>) => {
  let next: Args | null = null;
  let running: Promise<void> | null = null;
  const run = async (): Promise<void> => {
    try {
      while (next !== null) {
        const args: Args = next;
        next = null;
        await task(...args).catch((error) => {
          if (next === null) throw error;
        });
      }
    } finally {
      running = null;
    }
  };
  return (...args) => {
    next = args;
    running ??= run();
    return running;
  };
};
