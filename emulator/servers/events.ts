/**
 * What servers tell, on `node:diagnostics_channel`: an event of type `begin` on the channel `socklet:begin`, and so
 * on, as it is given to `onEvent`. For those who watch a whole process and make none of its servers.
 */

import type { Channel } from "node:diagnostics_channel";
import type { SockletEvent } from "../../core/serve/events.ts";
import { channel } from "../builtin.ts";

const channels: Record<string, Channel> = {};

const channelOf = (type: SockletEvent["type"]): Channel => {
  channels[type] ??= channel(`socklet:${type}`);
  return channels[type];
};

/** Whether anybody subscribes to events of this type: half a nanosecond where nobody does. */
export const subscribed = (type: SockletEvent["type"]): boolean => channelOf(type).hasSubscribers;

/** Tells those who subscribe. What one of them throws Node reports as an uncaught error; it does not come here. */
export const publish = (event: SockletEvent): void => {
  const to = channelOf(event.type);
  if (to.hasSubscribers) to.publish(event);
};
