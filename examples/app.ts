/** All the examples as one app: `npm start` serves it in Node, `npm run dev` in workerd. */

import { type BlobStorage, decodeResp, decodeSmtp, defineApp, type PoolClient } from "socklet";
import { Chat } from "./chat.ts";
import { DnsDatagram, DnsStream } from "./dns.ts";
import { Echo, EchoDatagram } from "./echo.ts";
import { FingerClient, FingerServer } from "./finger.ts";
import { IrcClient } from "./irc.ts";
import { MailRequestHandler } from "./mail.ts";
import { MqttSubscriber } from "./mqtt.ts";
import { Redis, type Reply, type Word } from "./redis.ts";
import { RedisStreamReader, RedisSubscriber } from "./redis-follow.ts";
import { KeyStore, RespClient, RespServer } from "./resp.ts";
import { Greeting, GreetingClient, Transcript, TranscriptClient } from "./tutorial.ts";

/** The context of the handlers. Each handler declares, in its own file, what it needs of it. */
interface Context {
  readonly storage: BlobStorage;
  readonly keys: KeyStore;
  readonly members: Set<Chat>;
  readonly redis: PoolClient<readonly Word[], Reply>;
}

export const app = defineApp<Context>({
  handlers: {
    echo: Echo,
    echoDatagram: EchoDatagram,
    greeting: Greeting,
    greetingClient: GreetingClient,
    transcript: Transcript,
    transcriptClient: TranscriptClient,
    mail: MailRequestHandler,
    resp: RespServer,
    respClient: RespClient,
    dns: DnsStream,
    dnsDatagram: DnsDatagram,
    finger: FingerServer,
    fingerClient: FingerClient,
    chat: Chat,
    redis: Redis,
    redisStream: RedisStreamReader,
    redisSubscriber: RedisSubscriber,
    mqtt: MqttSubscriber,
    irc: IrcClient,
  },
  listen: [
    { handler: "echo", address: "tcp://127.0.0.1:7007", try: "echo hello | nc -N {host} {port}" },
    {
      handler: "echoDatagram",
      address: "udp://127.0.0.1:7007",
      try: "echo hello | nc -u -w 1 {host} {port}",
    },
    { handler: "greeting", address: "tcp://127.0.0.1:7084", try: "nc {host} {port}" },
    {
      handler: "transcript",
      address: "tcp://127.0.0.1:7082",
      serve: "serial", // as in the tutorial: while it serves one client, the next one waits
      try: "echo Hello! | nc -N {host} {port}",
    },
    {
      handler: "mail",
      address: "tcp://127.0.0.1:7025",
      decode: decodeSmtp,
      try: "swaks --server {host}:{port} --to you@example.com",
    },
    {
      handler: "resp",
      address: "tcp://127.0.0.1:6380",
      decode: decodeResp,
      try: "redis-cli -h {host} -p {port} ping",
    },
    {
      handler: "dns",
      address: "tcp://127.0.0.1:7053",
      try: "dig @{host} -p {port} +tcp www.example.test +short",
    },
    {
      handler: "dnsDatagram",
      address: "udp://127.0.0.1:7053",
      try: "dig @{host} -p {port} www.example.test +short",
    },
    { handler: "finger", address: "tcp://127.0.0.1:7079", try: "echo alice | nc {host} {port}" },
    {
      handler: "chat",
      address: "tcp://127.0.0.1:7010",
      try: "(echo alice; echo hello) | nc -N {host} {port}",
    },
  ],
  dial: {
    redis: { handler: "respClient", address: "tcp://127.0.0.1:6380", decode: decodeResp },
    finger: { handler: "fingerClient", address: "tcp://127.0.0.1:7079" },
    greeting: { handler: "greetingClient", address: "tcp://127.0.0.1:7084" },
    transcript: { handler: "transcriptClient", address: "tcp://127.0.0.1:7082" },
    // These last, and need a server of yours: redis-server, mosquitto, ngircd.
    redisStream: { handler: "redisStream", address: "tcp://127.0.0.1:6379", keep: {} },
    redisSubscriber: { handler: "redisSubscriber", address: "tcp://127.0.0.1:6379", keep: {} },
    mqtt: { handler: "mqtt", address: "tcp://127.0.0.1:1883", keep: {} },
    irc: { handler: "irc", address: "tcp://127.0.0.1:6667", keep: {} },
  },
  pools: { redis: { handler: "redis", address: "tcp://127.0.0.1:6380", max: 4, pipeline: 16 } },
  context: ({ storage, pool }) => ({
    storage,
    keys: new KeyStore(),
    members: new Set(),
    redis: pool("redis", Redis),
  }),
});
