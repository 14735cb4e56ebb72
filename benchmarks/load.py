"""A bounded load generator for HTTP: one thread, many kept connections, requests of fixed bytes, by epoll.

It measures from the moment a request was due (open loop) or sent (closed loop) to the last byte of its answer. It never
sleeps: having to wake it would cost a server up to a fifth of its time, and the slower server more than the quick one.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle


@dataclass(slots=True)
class Loaded:
    """What one run saw: seconds it took, latencies in seconds, answers by status; lost are requests without one."""

    elapsed_s: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    without_retry_after: int = 0

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return sum(self.statuses.values()) / self.elapsed_s

    def quantile(self, q: float) -> float:
        """The latency in seconds that a share q of the answers did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    since: float = 0.0
    busy: bool = False


def request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """The bytes of one request over a kept connection."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1:80", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def closed(port: int, requests: list[bytes], *, connections: int, seconds: float) -> Loaded:
    """Load of callers that each wait for their answer before they ask again, for so many seconds."""
    return _Run(port, requests, connections).go(seconds, None)


def paced(port: int, requests: list[bytes], *, connections: int, seconds: float, per_s: float) -> Loaded:
    """Load that comes at a steady rate whatever the server does; one that finds no free connection waits its turn."""
    return _Run(port, requests, connections).go(seconds, per_s)


class _Run:
    def __init__(self, port: int, requests: list[bytes], connections: int) -> None:
        self._port = port
        self._next: Callable[[], bytes] = cycle(requests).__next__
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self._found = Loaded()
        for _ in range(connections):
            self._connect()

    def _connect(self) -> None:
        sock = socket.create_connection(("127.0.0.1", self._port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        connection = self._open[sock.fileno()] = _Connection(sock)
        self._poll.register(sock.fileno(), select.EPOLLIN)
        self._free.append(connection)

    def go(self, seconds: float, per_s: float | None) -> Loaded:
        began = now = time.perf_counter()
        due, end, last = began, began + seconds, began + seconds + 30.0
        waiting = 0
        while now < end or any(one.busy for one in self._open.values()):
            if now > last:
                break
            if now < end:
                if per_s is None:
                    while self._free:
                        self._send(self._free.pop(), now)
                else:
                    while due <= now:
                        waiting += 1
                        due += 1.0 / per_s
                    while waiting and self._free:
                        waiting -= 1
                        self._send(self._free.pop(), due - (waiting + 1) / per_s)
            for fd, _ in self._poll.poll(0):
                self._receive(self._open[fd])
            now = time.perf_counter()
        self._found.elapsed_s = now - began
        self._found.lost += sum(one.busy for one in self._open.values())
        for one in self._open.values():
            one.sock.close()
        self._poll.close()
        return self._found

    def _send(self, one: _Connection, since: float) -> None:
        one.since, one.busy = since, True
        one.sock.send(self._next())  # a request is far smaller than the socket's buffer

    def _receive(self, one: _Connection) -> None:
        try:
            data = one.sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._lose(one)
            return
        one.buffer += data
        head = one.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        headers = bytes(one.buffer[:head]).lower()
        if len(one.buffer) < head + 4 + _length(headers, one.buffer, head + 4):
            return
        status = int(headers[9:12])
        if status in (429, 503) and b"\r\nretry-after:" not in headers:
            self._found.without_retry_after += 1
        self._found.statuses[status] += 1
        self._found.latencies.append(time.perf_counter() - one.since)
        one.buffer.clear()
        one.busy = False
        if b"\r\nconnection: close" in headers:
            self._lose(one)
        else:
            self._free.append(one)

    def _lose(self, one: _Connection) -> None:
        """A closed connection: its request is lost if it waited for an answer; another one takes its place."""
        self._found.lost += one.busy
        self._poll.unregister(one.sock.fileno())
        del self._open[one.sock.fileno()]
        one.sock.close()
        if one in self._free:
            self._free.remove(one)
        with contextlib.suppress(OSError):
            self._connect()


def _length(headers: bytes, buffer: bytearray, start: int) -> int:
    """Bytes of the body: as Content-Length says, or of a chunked one to its end (more than there is where it lacks)."""
    at = headers.find(b"\r\ncontent-length:")
    if at >= 0:
        return int(headers[at + 17 : headers.find(b"\r\n", at + 17) if b"\r\n" in headers[at + 17 :] else None])
    end = buffer.find(b"0\r\n\r\n", start)
    return end + 5 - start if end >= 0 else len(buffer) + 1


def rounds(names: list[str], count: int, shuffle: Callable[[list[str]], None]) -> Iterator[str]:
    """Each name count times, in an order of its own each time."""
    for _ in range(count):
        order = list(names)
        shuffle(order)
        yield from order
