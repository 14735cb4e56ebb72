"""One process of a gateway: an executor, its service and a door, from its start to its drained end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from toolpost.calls.errors import ConfigurationError, ToolExecutionError
from toolpost.transports.serve_checks import listens_on
from toolpost.transports.serve_defaults import data_directory_of, is_used
from toolpost.transports.serve_log import AccessLog, App, open_access_log
from toolpost.transports.serve_notices import notify, reloading
from toolpost.transports.serve_proxies import behind_proxies
from toolpost.transports.serve_reload import Changes, changes, check
from toolpost.transports.serve_sockets import allow_many_connections

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor
    from toolpost.engine.settings import ExecutorConfig
    from toolpost.worker.service import Service

logger = logging.getLogger("toolpost.serve")

LINGER_S = 5.0
"""How much longer than calls their answers may take to be read when a gateway stops."""

ANSWER_S = 0.5
"""How long a door has to write the answers to what it was asked last."""

CLOSE_S = 2.0
"""How long an executor that is closed at once has to end what it started."""


class Server(Protocol):
    """What answers on a socket."""

    async def serve(self) -> None:
        """Answer until stop(), and then what was under way."""
        ...

    def stop(self) -> None:
        """Take no more connections, tell those that are there, end when all is answered."""
        ...

    def abort(self) -> None:
        """Wait for nothing."""
        ...


class Process:
    """Runs a service until it is told to stop: a first SIGTERM or SIGINT drains, a second ends at once, SIGHUP has the
    settings read anew. Made and used in an event loop of the main thread.

    read gives the settings as they are now, None where another process reads them. told is called with "ready",
    "stopping" and "stopped".
    """

    def __init__(
        self,
        executor: ToolExecutor,
        *,
        read: Callable[[], ExecutorConfig] | None = None,
        told: Callable[[str], None] = lambda state: None,
    ) -> None:
        self.executor = executor
        self._read, self._told = read, told
        self._ending = asyncio.Event()
        self._signals = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._log: AccessLog | None = None

    # -- what it does -------------------------------------------------------------------------------------------------

    async def answer(self, one: socket.socket, out: int, base_url: str) -> None:
        """Answer requests on a socket that listens. out is the descriptor of standard output, for the access log."""
        config = self.executor.config
        allow_many_connections()
        self._log = open_access_log(config.access_log, config.access_log_format, out)
        try:
            async with self._counting(), self._service() as service, _application(service, base_url) as app:
                app = behind_proxies(app, lambda: config.trusted_proxies)
                app = self._log.wrap(app) if self._log is not None else app
                server = server_of(config, app, one)
                spare_what_stays()
                serving = asyncio.create_task(server.serve())
                serving.add_done_callback(lambda task: self._ending.set())
                await self._until_told()
                service.draining = True  # before the connections are told, so that who asks is told, too
                server.stop()
                await service.drain()
                await serving
        finally:
            if self._log is not None:
                await asyncio.to_thread(self._log.close)

    async def work(self) -> None:
        """Run accepted calls, and answer nobody."""
        async with self._counting(), self._service() as service:
            await self._until_told()
            await service.drain()

    async def hand_to(self, door: Callable[[Service], Coroutine[Any, Any, None]]) -> None:
        """Have a door answer until it ends by itself, or the process is told to stop."""
        async with self._service() as service:
            serving = asyncio.create_task(door(service))
            serving.add_done_callback(lambda task: self._ending.set())
            await self._until_told()
            await service.drain()
            if not serving.done():
                await asyncio.wait({serving}, timeout=ANSWER_S)
                serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving

    def stop(self) -> None:
        """Have it drain and end, as a first signal does."""
        self._ending.set()

    @asynccontextmanager
    async def _counting(self) -> AsyncIterator[None]:
        """Add what is counted here to what the other processes of this gateway count."""
        from toolpost.telemetry.metric_files import counted_together

        config = self.executor.config
        if config.serve_workers == 1 and not is_used(config):
            yield  # nothing else counts for this gateway, which may have no folder of its own
            return
        with counted_together(data_directory_of(config) / "metrics", self.executor.figures):
            yield

    @asynccontextmanager
    async def _service(self) -> AsyncIterator[Service]:
        from toolpost.worker.service import Service

        with self._signalled():
            async with Service(self.executor) as service:
                yield service
            for task in self._tasks:
                task.cancel()
            self._told("stopped")

    async def _until_told(self) -> None:
        self._told("ready")
        await self._ending.wait()
        self._told("stopping")

    # -- signals ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _signalled(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        wanted: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._signal(signal.SIGTERM),
            signal.SIGINT: lambda: self._signal(signal.SIGINT),
            signal.SIGHUP: self._hung_up,
        }
        with handling(loop, wanted):
            yield

    def _signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals > 1:
            self._end_at_once(number)
        logger.info("%s: no more is taken; what runs has %g s", number.name, self.executor.config.drain_timeout)
        self._ending.set()

    def _end_at_once(self, number: signal.Signals) -> None:
        """End without waiting for calls; accepted ones are taken over when their lease ends."""
        logger.warning("%s again: ends at once", number.name)
        closing = threading.Thread(target=self.executor.close, daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        if self._log is not None:
            self._log.close()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(128 + number)

    # -- settings -----------------------------------------------------------------------------------------------------

    def _hung_up(self) -> None:
        if self._read is not None:
            notify(reloading())
            self._begin(self._read_anew(self._read))

    def take_over(self, wanted: ExecutorConfig) -> None:
        """Follow settings that another process read and checked."""
        try:
            found = changes(self.executor.config, wanted)
            self.executor.config.take(wanted, found.live)
        except ToolExecutionError as exc:
            logger.error("settings stay as they were: %s", exc.message)

    async def _read_anew(self, read: Callable[[], ExecutorConfig]) -> None:
        try:
            found = await asyncio.to_thread(self._checked, read)
            self.executor.config.take(*found[1])  # in the loop, as what follows a setting lives here
            logger.info("%s", found[0])
        except ToolExecutionError as exc:
            logger.error("settings stay as they were: %s", exc.message)
        finally:
            notify("READY=1")

    def _checked(self, read: Callable[[], ExecutorConfig]) -> tuple[Changes, tuple[ExecutorConfig, tuple[str, ...]]]:
        wanted = read()
        found = changes(self.executor.config, wanted)
        check(self.executor.config, wanted, found)
        return found, (wanted, found.live)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextmanager
def handling(loop: asyncio.AbstractEventLoop, wanted: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Have signals handled in the loop, but for those that a shell has its background jobs ignore."""
    handled = [n for n in wanted if n == signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, wanted[number])
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def server_of(config: ExecutorConfig, app: App, one: socket.socket) -> Server:
    """The server that the setting serve_server names. Raises ConfigurationError where it is not installed."""
    return server_class(config)(app, one, config.drain_timeout + LINGER_S)


def server_class(config: ExecutorConfig) -> Callable[[App, socket.socket, float], Server]:
    """What makes that server. Raises ConfigurationError where it, or what else a gateway needs, is not installed."""
    try:
        import httptools  # noqa: F401
        import starlette  # noqa: F401

        if config.serve_server == "granian":
            from toolpost.transports.serve_granian import GranianServer

            return GranianServer
        from toolpost.transports.serve_uvicorn import UvicornServer
    except ModuleNotFoundError as missing:
        extra = "granian,serve" if config.serve_server == "granian" else "serve"
        raise ConfigurationError(f"a gateway needs the package {missing.name}; install toolpost[{extra}]") from missing
    return UvicornServer


@asynccontextmanager
async def _application(service: Service, base_url: str) -> AsyncIterator[App]:
    """The gateway's application, for as long as it answers."""
    from toolpost.transports.http_app import build_app

    config = service.executor.config
    async with build_app(
        service, base_url=config.public_url or base_url, listens_on=listens_on(config)
    ).running() as app:
        yield app


def spare_what_stays() -> None:
    """Have the garbage collector pass over what was loaded: under load it would go through all of it again and again.

    Measured: 10 of 138 microseconds of a call, and pauses of tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run in an event loop: uvloop's where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(work)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)


__all__ = ["Process", "handling", "run", "server_class", "server_of", "spare_what_stays"]
