"""The allow-list proxy of sandboxes: in the engine's process, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import socket
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from toolpost.calls.errors import SandboxError
from toolpost.calls.redaction import Redactor
from toolpost.runners.resources import _Server
from toolpost.runners.sandbox_allowed import Allowed, Tally
from toolpost.sandbox.outcome import SandboxTraffic
from toolpost.sandbox.profile import SandboxNetwork
from toolpost.security.egress import EgressGuard, Reach
from toolpost.security.secrets import SecretProvider, Secrets

if TYPE_CHECKING:
    import httpx

    from toolpost.runners.sandbox_exchange import Forget, Reveal, Way

logger = logging.getLogger("toolpost.egress")

MOST_CONNECTIONS: Final = 64
"""Of one sandbox at a time. One more is told so, and closed."""
TOGETHER: Final = 4
"""All sandboxes have this part of the descriptors that the engine may open for connections, which take two each."""
CLOSE_S: Final = 5.0
HEAD_BYTES: Final = 65_536
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Too many connections\r\nContent-Length: 0\r\nConnection: close\r\nRetry-After: 1\r\n\r\n"
)

_HELD: Final[set[object]] = set()


class _Places:
    """Counts the connections of all sandboxes: a descriptor that they have is one that the engine has not."""

    def __init__(self) -> None:
        self.empty()

    def empty(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0

    def take(self) -> bool:
        """Take one; whether there was any."""
        most = _most_together()
        with self._lock:
            if self._taken >= most:
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        with self._lock:
            self._taken -= 1


def _most_together() -> int:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(1, soft // TOGETHER)


_places: Final = _Places()


class SandboxProxy:
    """Answers the programs of sandboxes that may reach what network allows and reach admits. A Gateway.

    reveal gives the values of references in network.headers, at each request that needs them; forget has those asked
    for anew that a host refused. Its thread starts with the first program. A forked child starts without one. Close it
    when done. Raises ConfigurationError for entries that are no hosts.
    """

    def __init__(self, network: SandboxNetwork, reach: Reach, reveal: Reveal, forget: Forget) -> None:
        self.network = network
        self._allowed = Allowed(network)
        self._reach, self._reveal, self._forget = reach, reveal, forget
        self._empty()
        _proxies.add(self)

    @classmethod
    def alone(
        cls, network: SandboxNetwork, guard: EgressGuard | None, providers: Mapping[str, SecretProvider] | None
    ) -> SandboxProxy:
        """One without an executor: where guard is None, public hosts at the ports that network names."""
        named = {int(port) for _, colon, port in (entry.partition(":") for entry in network.allow) if colon}
        egress = guard or EgressGuard(ports=tuple(sorted({80, 443} | named)))
        secrets = Secrets(Redactor(), providers=providers)
        return cls(network, egress.reach(), secrets.values, secrets.forget)

    def _empty(self) -> None:
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._way: Way | None = None
        self._closed = False

    def start(self) -> None:
        """Load what it needs and begin its thread now, rather than with the first program."""
        with self._lock:
            self._running()

    def open(self, listener: int) -> Passing:
        """Answer what connects to this listening socket, whose descriptor is the proxy's from now on."""
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, listener)
            try:
                with self._lock:
                    server, way = self._running()
                    sock = socket.socket(fileno=listener)
                    undo.pop_all()
                    undo.callback(sock.close)
                    if sock.family != socket.AF_INET or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        raise OSError("it is no listening socket of TCP")
                    sock.setblocking(False)
                    passing = Passing(server.loop, way, sock)
                    undo.pop_all()
                    return passing
            except OSError as error:
                failed = SandboxError(f"the sandbox handed over what the proxy cannot answer: {error}")
                failed.outcome = "not_run"
                raise failed from error
            except RuntimeError as error:  # the system has no thread left
                failed = SandboxError(f"the sandbox's proxy cannot be started ({error}); try again later")
                failed.outcome, failed.retryable = "not_run", True
                raise failed from error

    def _running(self) -> tuple[_Server, Way]:
        """The thread, and what its connections share. Begun anew where it has died."""
        if self._closed:
            raise RuntimeError("it is closed")
        if self._server is None or self._way is None or not self._server.is_alive():
            from toolpost.runners.sandbox_exchange import Way
            from toolpost.security.egress_transport import guarded_transport

            server = _Server()
            server.name = "toolpost-sandbox-proxy"
            server.start()
            # Each request has a place by then. A pool of fewer would let two programs keep all others waiting.
            transport = guarded_transport(self._reach, most=None)
            asyncio.run_coroutine_threadsafe(_held(transport), server.loop)
            self._server = server
            self._way = Way(self._allowed, self._reach, transport, self._reveal, self._forget, {})
            weakref.finalize(self, server.stop).atexit = False
        return self._server, self._way

    def close(self) -> None:
        """End all connections, and the thread."""
        with self._lock:
            self._closed = True
            server, self._server, self._way = self._server, None, None
        if server is not None:
            server.stop()
            server.join(CLOSE_S)


async def _held(transport: httpx.AsyncBaseTransport) -> None:
    """Keep what goes out until the thread ends, which cancels all tasks."""
    task = asyncio.current_task()
    _HELD.add(task)  # a loop by itself refers to no task that waits for what nobody else refers to
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await transport.aclose()
        _HELD.discard(task)


class Passing:
    """One program's way through the proxy: its listening socket, its connections, and what they were counted for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, way: Way, sock: socket.socket) -> None:
        self._loop, self._way, self._sock = loop, way, sock
        self._tally = Tally()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._ended = False
        accepting = self._accept()
        try:
            asyncio.run_coroutine_threadsafe(accepting, loop)
        except RuntimeError:
            accepting.close()
            sock.close()
            raise

    async def _accept(self) -> None:
        """Until it is cancelled, at the latest with its loop: nothing may connect that nobody answers."""
        self._accepting = asyncio.current_task()
        try:
            async with await asyncio.start_server(self._serve, sock=self._sock, limit=HEAD_BYTES):
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    if not self._ended:  # the thread ends under a program, which is to be told so, and not to wait
                        self._sock.shutdown(socket.SHUT_RDWR)
        finally:
            self._sock.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from toolpost.runners.sandbox_exchange import Exchange

        if self._ended:  # it came in the moment in which the program ended
            writer.transport.abort()
            return
        if len(self._tasks) >= MOST_CONNECTIONS or not _places.take():
            writer.write(_TOO_MANY)
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await Exchange(self._way, self._tally, reader, writer).run()
        except asyncio.CancelledError:
            writer.transport.abort()  # and go no further: the server would log it
        finally:
            self._tasks.discard(task)
            _places.give_back()

    def close(self) -> SandboxTraffic:
        """End all connections; what went through."""
        if not self._ended:
            self._ended = True
            ending = self._end()
            try:
                asyncio.run_coroutine_threadsafe(ending, self._loop).result(CLOSE_S)
            except (TimeoutError, concurrent.futures.CancelledError):
                logger.warning("the connections of a sandbox could not be ended in time")
            except RuntimeError:  # the loop is closed, and all that ran in it has ended
                ending.close()
        return self._tally.traffic()

    async def _end(self) -> None:
        tasks = [*self._tasks, *([self._accepting] if self._accepting is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S / 2)


_proxies: weakref.WeakSet[SandboxProxy] = weakref.WeakSet()


def _empty_all() -> None:
    _places.empty()
    for proxy in list(_proxies):
        proxy._empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_all)
