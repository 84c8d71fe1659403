"""CPython's socket module, told what to call: one call a line, as JSON; one answer a line.

A line is [name, call, arguments]. What a call gives keeps its shape: bytes are {"bytes": latin-1 text}, an address
is {"at": [host, port]} or {"path": path}, an error {"error": its name}. `new` ends all sockets so far.
"""

import errno
import json
import os
import select
import socket
import sys

FAMILIES = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6, "udp": socket.AF_INET, "udp6": socket.AF_INET6}
sockets = {}
files = {}


def told(error):
    """An error as ours names it."""
    if isinstance(error, socket.gaierror):
        return "ERR_NAME"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "ETIMEDOUT"
    if isinstance(error, OSError) and error.errno is not None:
        return {"EAGAIN": "EWOULDBLOCK", "ENOTSUP": "EOPNOTSUPP"}.get(name := errno.errorcode[error.errno], name)
    return {"OverflowError": "RangeError", "ValueError": "RangeError"}.get(
        type(error).__name__, type(error).__name__
    )


def shown(value):
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, tuple) and isinstance(value[0], str):
        return {"at": value[:2]}
    if isinstance(value, str):
        return {"path": value} if value else None
    return value


def address(given):
    """`@name` is where that socket is bound; what begins with `/` a path; else host and port."""
    if given.startswith("@"):
        return sockets[given[1:]].getsockname()
    if given.startswith("/"):
        return given
    if given.startswith("\0"):
        return given
    host, port = given.rsplit(":", 1)
    return host.strip("[]"), int(port)


def data(given):
    return bytes(given) if isinstance(given, int) else given.encode("latin-1")


def seconds(timeout):
    return None if timeout is None else timeout / 1000


def new_socket(kind):
    if kind in ("unix", "unixgram"):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "unix" else socket.SOCK_DGRAM)
    return socket.socket(FAMILIES[kind], socket.SOCK_STREAM if kind[0] == "t" else socket.SOCK_DGRAM)


def call(name, what, args):
    if what == "new":
        for one in [*files.values(), *sockets.values()]:
            try:
                one.close()
            except OSError:
                pass
        files.clear()
        sockets.clear()
        return None
    if what == "socket":
        sockets[name] = new_socket(args[0])
        return None
    if what == "touch":
        return open(args[0], "x").close()
    if what == "select":
        lists = [[sockets[one] for one in names] for names in args[:3]]
        names = {one: name for name, one in sockets.items()}
        return [[names[one] for one in ready] for ready in select.select(*lists, seconds(args[3]))]
    if what == "poll":
        watched = select.poll()
        watched.register(sockets[name], args[0])
        return [bits for _, bits in watched.poll(args[1])]
    own = sockets[name]
    if what == "accept":
        sockets[args[0]], peer = own.accept()
        sockets[args[0]].settimeout(None)
        return shown(peer)
    if what in ("bind", "connect"):
        return getattr(own, what)(address(args[0]))
    if what == "connect_ex":
        number = own.connect_ex(address(args[0]))
        return {"error": told(OSError(number, ""))} if number else 0
    if what == "sendto":
        return own.sendto(data(args[0]), *args[1:-1], address(args[-1]))
    if what in ("send", "sendall"):
        return getattr(own, what)(data(args[0]), *args[1:])
    if what == "recvfrom":
        received, sender = own.recvfrom(*args)
        return [shown(received), shown(sender)]
    if what == "recv_into":
        buffer = bytearray(args[0])
        got = own.recv_into(buffer, 0, *args[1:])
        return [got, shown(bytes(buffer[:got]))]
    if what == "gettimeout":
        timeout = own.gettimeout()
        return None if timeout is None else timeout * 1000
    if what == "settimeout":
        return own.settimeout(seconds(args[0]))
    if what == "setsockopt":
        return own.setsockopt(args[0], args[1], args[2] if isinstance(args[2], int) else data(args[2]))
    if what == "fileno":
        return own.fileno() >= 0
    if what == "makefile":
        files[name] = own.makefile(args[0], newline=args[1], encoding="utf-8")
        return None
    if what == "reset":
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return own.close()
    if what.startswith("file."):
        value = getattr(files[name], what[5:])(*args)
        return {"text": value} if isinstance(value, str) else value
    return shown(getattr(own, what)(*args))


for line in sys.stdin:
    try:
        answer = call(*json.loads(line))
    except Exception as error:  # what it is, is the answer
        answer = {"error": told(error)}
    print(json.dumps(answer), flush=True)
