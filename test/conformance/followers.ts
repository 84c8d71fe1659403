/** How many follow the log of a session, in this process or isolate. */

import { EventLog } from "../../core/control/event-log.ts";

let following = 0;

const { follow } = EventLog.prototype;
EventLog.prototype.follow = async function* (this: EventLog<{ readonly id: number }>, ...from) {
  following++;
  try {
    yield* follow.apply(this, from);
  } finally {
    following--;
  }
};

/** Those that have begun and have not ended. */
export const followers = (): number => following;
