/** What a class of handlers for pools must have. Apart from the class itself, which an app without pools does not load. */

/**
 * Marks the classes that extend `ClientHandler`, also those of another copy of the package. It is a name and not a symbol, because a
 * bundler keeps a class with a computed name even where nobody uses it.
 */
const CLIENT = "socklet.client";

export const noWay = (name: string): TypeError =>
  new TypeError(`${name} answers no calls: give it send() and receive(), or call()`);

/** Throws `TypeError` if `Handler` is not a class that answers calls, or cannot do so `pipeline` at a time. */
export const checkClient = (Handler: unknown, pipeline: number): void => {
  if (typeof Handler !== "function" || !(CLIENT in Handler)) {
    throw new TypeError("a pool takes a class that extends ClientHandler");
  }
  const { send, receive, match, call } = Handler.prototype as Record<
    "send" | "receive" | "match" | "call",
    unknown
  >;
  const { name } = Handler;
  if (call !== undefined && (send !== undefined || receive !== undefined)) {
    throw new TypeError(`${name} has call() and send() or receive(); a class has one or the other`);
  }
  if (call === undefined && (send === undefined || receive === undefined)) {
    if (send === undefined && receive === undefined) throw noWay(name);
    throw new TypeError(`${name} has ${send ? "send() without receive()" : "receive() without send()"}`);
  }
  if (match !== undefined && call !== undefined) throw new TypeError(`${name} has call(), and so no match()`);
  if (call !== undefined && pipeline > 1) {
    throw new TypeError(
      `pipeline is ${pipeline}, and ${name} has call() alone, which is one call at a time; give it send() and receive()`,
    );
  }
};
