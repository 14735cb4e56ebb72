"""Several processes on one socket: started, watched, started again when one dies, stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import ToolExecutionError
from toolpost.transports.serve_notices import notify, reloading
from toolpost.transports.serve_process import handling
from toolpost.transports.serve_reload import changes, check

if TYPE_CHECKING:
    from toolpost.engine.settings import ExecutorConfig

logger = logging.getLogger("toolpost.serve")

STEADY_S = 10.0
"""A process that answered for so long is not the reason why it died; it is started again without delay."""

FIRST_WAIT_S, MOST_WAIT_S = 0.2, 30.0
MOST_FAILURES = 5
"""How often in a row processes may die before they answer until the supervisor gives up."""

LINGER_S = 10.0
"""How much longer than their calls processes may take to end before they are killed."""

LENGTH = struct.Struct(">I")


def packed(value: Any) -> bytes:
    """A message to a process: its length, and the pickle."""
    body = pickle.dumps(value)
    return LENGTH.pack(len(body)) + body


class Supervisor:
    """Runs serve_workers processes of one gateway. Made and used in an event loop of the main thread.

    Each inherits the socket, is told the settings over a pipe, and ends when that pipe does, so that none outlives
    this one. told is called with "ready" once all answer, with "stopping" and with "stopped".
    """

    def __init__(
        self,
        config: ExecutorConfig,
        beginning: dict[str, Any],
        one: socket.socket,
        *,
        out: int,
        read: Callable[[], ExecutorConfig],
        told: Callable[[str], None],
    ) -> None:
        """beginning: what each process is told first, beside the settings and the descriptors."""
        self.config = config
        self._beginning, self._socket, self._out = beginning, one, out
        self._read, self._told = read, told
        self._ending = asyncio.Event()
        self._signals = 0
        self._failures = 0
        self._code = 0
        self._reading: asyncio.Task[None] | None = None
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._answering: set[int] = set()

    async def run(self) -> int:
        """Run until told to stop; the exit code: 1 where processes could not be kept running."""
        wanted: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._signal(signal.SIGTERM),
            signal.SIGINT: lambda: self._signal(signal.SIGINT),
            signal.SIGHUP: self._hung_up,
        }
        with handling(asyncio.get_running_loop(), wanted):
            await self._run()
        self._told("stopped")
        return self._code

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for index in range(self.config.serve_workers):
                group.create_task(self._keep(index))
            await self._ending.wait()
            self._told("stopping")
            self._socket.close()  # else connections would be taken by nobody and wait
            self._send_all(signal.SIGTERM)
            group.create_task(self._kill_late())

    # -- one process --------------------------------------------------------------------------------------------------

    async def _keep(self, index: int) -> None:
        """Have one process run until the end."""
        wait_s = 0.0
        while not self._ending.is_set():
            began = SYSTEM_CLOCK.monotonic()
            process = await self._start(index)
            code = await process.wait()
            answered = index in self._answering
            self._answering.discard(index)
            del self._processes[index]
            if self._ending.is_set():
                return
            self._failures = 0 if answered else self._failures + 1
            if self._failures >= MOST_FAILURES:
                logger.error("processes die before they answer (%s); the gateway ends", _how(code))
                self._code = 1
                self._ending.set()
                return
            steady = answered and SYSTEM_CLOCK.monotonic() - began >= STEADY_S
            wait_s = 0.0 if steady else min(max(wait_s * 2, FIRST_WAIT_S), MOST_WAIT_S)
            logger.error("process %d (%d) ended by %s; it is started again", index + 1, process.pid, _how(code))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._ending.wait()

    async def _start(self, index: int) -> asyncio.subprocess.Process:
        ours, theirs = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "toolpost.transports.serve_worker",
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(self._socket.fileno(), self._out, theirs),
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        finally:
            os.close(theirs)
        self._processes[index] = process
        descriptors = {"socket": self._socket.fileno(), "out": self._out, "told": theirs}
        self._tell(process, self._beginning | descriptors | {"config": self.config})
        asyncio.get_running_loop().add_reader(ours, self._heard, index, ours)
        if self._ending.is_set():  # it began while the others were being stopped
            process.send_signal(signal.SIGTERM)
        return process

    def _heard(self, index: int, pipe: int) -> None:
        """A process says that it answers, by a byte; or it has ended."""
        loop = asyncio.get_running_loop()
        if os.read(pipe, 1):
            self._answering.add(index)
            process = self._processes.get(index)
            logger.info("process %d (%d) answers", index + 1, process.pid if process is not None else 0)
            if len(self._answering) == self.config.serve_workers:
                self._failures = 0
                self._told("ready")
        loop.remove_reader(pipe)
        os.close(pipe)

    def _tell(self, process: asyncio.subprocess.Process, value: Any) -> None:
        if process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(packed(value))

    # -- all of them --------------------------------------------------------------------------------------------------

    def _signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            logger.info("%s: no more is taken; what runs has %g s", number.name, self.config.drain_timeout)
            self._ending.set()
        else:
            logger.warning("%s again: ends at once", number.name)
            self._code = 128 + number
            self._send_all(signal.SIGTERM)

    def _send_all(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _kill_late(self) -> None:
        """Kill what has not ended in time."""
        deadline = SYSTEM_CLOCK.monotonic() + self.config.drain_timeout + LINGER_S
        while self._processes:
            if SYSTEM_CLOCK.monotonic() > deadline:
                logger.error("%d processes have not ended in time and are killed", len(self._processes))
                self._send_all(signal.SIGKILL)
                return
            await asyncio.sleep(0.05)

    def _hung_up(self) -> None:
        notify(reloading())
        self._reading = asyncio.create_task(self._read_anew())

    async def _read_anew(self) -> None:
        try:
            wanted = await asyncio.to_thread(self._read)
            found = changes(self.config, wanted)
            await asyncio.to_thread(check, self.config, wanted, found)
            self.config.take(wanted, found.live)
            for process in self._processes.values():
                self._tell(process, self.config)
            logger.info("%s", found)
        except ToolExecutionError as exc:
            logger.error("settings stay as they were: %s", exc.message)
        finally:
            notify("READY=1")


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


__all__ = ["Supervisor", "packed"]
