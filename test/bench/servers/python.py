"""The peers in Python, each as its own documentation would write it.

    python.py socketserver|asyncio|uvloop echo|resp|udp

`socketserver` is a thread a connection (UDP: one thread, the faster of its two), `asyncio` the streams API, and `uvloop`
a Protocol on its loop, which is the fastest that Python has.
"""

import asyncio
import json
import os
import signal
import socket
import socketserver
import sys

BACKLOG = 511  # as Node's: the default of socketserver (5) loses connections when many come at once
store = {}


def announce(port):
    print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)


class RespSession:
    """Lines in, replies out: the subset of RESP that resp.ts speaks."""

    def __init__(self):
        self.missing, self.length, self.words = 0, -1, []

    def take(self, line):
        if self.missing == 0:
            if line[:1] != b"*":
                return self.run(line.split(b" ")) if line else None
            self.missing, self.words = int(line[1:]), []
            return None
        if self.length == -1:
            if line[:1] != b"$":
                raise ValueError("expected '$'")
            self.length = int(line[1:])
            return None
        if len(line) != self.length:
            raise ValueError("invalid bulk length")
        self.length = -1
        self.words.append(line)
        self.missing -= 1
        return self.run(self.words) if self.missing == 0 else None

    def run(self, words):
        name = words[0].upper()
        if name == b"PING":
            return b"+PONG\r\n" if len(words) == 1 else bulk(words[1])
        if name == b"SET" and len(words) >= 3:
            store[words[1]] = words[2]
            return b"+OK\r\n"
        if name == b"GET" and len(words) >= 2:
            return bulk(store.get(words[1]))
        return b"-ERR unknown command or wrong number of arguments\r\n"


def bulk(text):
    return b"$-1\r\n" if text is None else b"$%d\r\n%s\r\n" % (len(text), text)


# ---- socketserver ----


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Resp(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        session = RespSession()
        for line in self.rfile:
            reply = session.take(line.rstrip(b"\r\n"))
            if reply is not None:
                self.wfile.write(reply)


class EchoDatagram(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(data, self.client_address)


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = BACKLOG
    daemon_threads = True


def run_socketserver(work):
    if work == "udp":
        server = socketserver.UDPServer(("127.0.0.1", 0), EchoDatagram)
    else:
        server = Server(("127.0.0.1", 0), {"echo": Echo, "resp": Resp}[work])
    announce(server.server_address[1])
    server.serve_forever()


# ---- asyncio ----


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def resp(reader, writer):
    session = RespSession()
    while line := await reader.readline():
        reply = session.take(line.rstrip(b"\r\n"))
        if reply is not None:
            writer.write(reply)
            await writer.drain()
    writer.close()


class DatagramProtocol(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class RespProtocol(EchoProtocol):
    """All replies to a chunk are one write."""

    def __init__(self):
        self.session, self.pending = RespSession(), b""

    def data_received(self, data):
        *lines, self.pending = (self.pending + data).split(b"\r\n")
        replies = [reply for line in lines if (reply := self.session.take(line)) is not None]
        if replies:
            self.transport.write(b"".join(replies))


async def run_asyncio(kind, work):
    loop = asyncio.get_running_loop()
    if work == "udp":
        transport, _ = await loop.create_datagram_endpoint(DatagramProtocol, local_addr=("127.0.0.1", 0))
        announce(transport.get_extra_info("sockname")[1])
        await asyncio.Event().wait()
    if kind == "uvloop":
        protocol = {"echo": EchoProtocol, "resp": RespProtocol}[work]
        server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=BACKLOG)
    else:
        server = await asyncio.start_server({"echo": echo, "resp": resp}[work], "127.0.0.1", 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


kind, work = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if kind == "socketserver":
    run_socketserver(work)
elif kind == "uvloop":
    import uvloop

    uvloop.install()  # uvloop.run came with 0.18
    asyncio.run(run_asyncio(kind, work))
else:
    asyncio.run(run_asyncio(kind, work))
