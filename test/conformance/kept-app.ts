/** The app of the tests of lasting sessions: it dials the servers that the test provides. */

import { type App, defineApp, streamHandler } from "socklet";
import { IrcClient } from "../../examples/irc.ts";
import { MqttSubscriber } from "../../examples/mqtt.ts";
import { RedisStreamReader, RedisSubscriber } from "../../examples/redis-follow.ts";

/** The ports of the servers, on 127.0.0.1; 1 if there is none. */
export interface KeptPorts {
  readonly redis?: number | undefined;
  readonly mqtt?: number | undefined;
  readonly irc?: number | undefined;
}

const keep = { redial: { retryDelay: 100, maxRetryDelay: 500, steady: 0 } };

export const keptApp = ({ redis = 1, mqtt = 1, irc = 1 }: KeptPorts): App =>
  defineApp({
    handlers: {
      none: streamHandler(() => {}),
      redisStream: RedisStreamReader,
      redisSubscriber: RedisSubscriber,
      mqtt: MqttSubscriber,
      irc: IrcClient,
    },
    listen: [{ handler: "none", address: "tcp://127.0.0.1:0" }],
    dial: {
      redisStream: { handler: "redisStream", address: `127.0.0.1:${redis}`, keep },
      redisSubscriber: { handler: "redisSubscriber", address: `127.0.0.1:${redis}`, keep },
      mqtt: { handler: "mqtt", address: `127.0.0.1:${mqtt}`, keep },
      irc: { handler: "irc", address: `127.0.0.1:${irc}`, keep },
    },
  }) as unknown as App;
