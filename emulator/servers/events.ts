/**
 * The events of servers on `node:diagnostics_channel`: an event of type `begin` on the channel `socklet:begin`, and so
 * on, as it is given to `onEvent`. For whoever watches a whole process without making its servers.
 */

import type { Channel } from "node:diagnostics_channel";
import type { SockletEvent } from "../../core/serve/events.ts";
import { channel } from "../builtin.ts";

const channels: Record<string, Channel> = {};

const channelOf = (type: SockletEvent["type"]): Channel => {
  channels[type] ??= channel(`socklet:${type}`);
  return channels[type];
};

/** Whether anybody subscribes to events of this type: half a nanosecond if nobody does. */
export const subscribed = (type: SockletEvent["type"]): boolean => channelOf(type).hasSubscribers;

/** Publishes it to the subscribers. If one of them throws, Node reports that as an uncaught error; it is not thrown here. */
export const publish = (event: SockletEvent): void => {
  const to = channelOf(event.type);
  if (to.hasSubscribers) to.publish(event);
};
