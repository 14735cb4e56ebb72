"""A sandbox's own loopback, and the socket on it that is answered outside, by the allow-list proxy.

The socket is made in here and handed to the engine: who holds it answers from wherever he is, so that no path, no port
of the host and no process of the sandbox lie between a program and the proxy.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from typing import Final

from toolpost.sandbox.template import write

WAITING: Final = 128
"""Connections that may wait for the proxy."""
_BUFFER: Final = 1 << 18
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


def up() -> None:
    """Bring it up in this network namespace, whose privileges the caller must have. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
    for name in ("tcp_rmem", "tcp_wmem"):
        # What lies in sockets is memory that not every control group counts: less of it for each.
        with contextlib.suppress(OSError):
            write(f"/proc/sys/net/ipv4/{name}", f"4096 65536 {_BUFFER}")


def listen(port: int) -> socket.socket:
    """The socket that programs take for the proxy. No other can take its place as long as it is open."""
    way = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        way.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # to listen anew beside connections that linger
        way.bind(("127.0.0.1", port))
        way.listen(WAITING)
    except OSError:
        way.close()
        raise
    return way


def listen_anew(way: socket.socket) -> None:
    """Get ready for the next program: the proxy may have shut the socket, and who still waits there is gone."""
    way.listen(WAITING)
    way.setblocking(False)  # which whoever had it may have changed
    with contextlib.suppress(BlockingIOError):
        while True:
            with contextlib.suppress(ConnectionError):
                way.accept()[0].close()
