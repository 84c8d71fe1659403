/**
 * The events of servers on `node:diagnostics_channel`: an event of type `begin` on the channel `socklet:begin`, and so
 * on, as given to `onEvent`. For observing a whole process without access to its servers.
 */

import type { Channel } from "node:diagnostics_channel";
import type { SockletEvent } from "../../core/handlers/events.ts";
import { channel } from "../builtin.ts";

const channels: Record<string, Channel> = {};

const channelOf = (type: SockletEvent["type"]): Channel => {
  channels[type] ??= channel(`socklet:${type}`);
  return channels[type];
};

/** Whether there are subscribers to events of this type: half a nanosecond if there are none. */
export const subscribed = (type: SockletEvent["type"]): boolean => channelOf(type).hasSubscribers;

/** Publishes it to the subscribers. If one of them throws, Node reports that as an uncaught error; it is not thrown here. */
export const publish = (event: SockletEvent): void => {
  const to = channelOf(event.type);
  if (to.hasSubscribers) to.publish(event);
};
