"""One program of a sandbox, from the fork to its end and that of all it started: how process 1 deals with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from toolpost.sandbox import frames, kernel, program, seccomp
from toolpost.sandbox.memory import more_memory_than

SAMPLE: Final[dict[str, Any]] = {
    "argv": None,
    "code": 7,
    "env": {"PATH": "/usr/bin:/bin", "HOME": "/box"},
    "files": [],
    "begun": 0.25,
    "rlimits": {},
    "cpu_s": 0.25,
    "keep": False,
}
"""A job as it may come, for what is gone through before one is there."""
_WATCH_S = 0.05
_KILL_S = 2.0
_NOBODY = (1 << 31) - 1
"""A number that no process has."""


class Run:
    """One program, from the fork to its end and that of all it started."""

    def __init__(self, config: dict[str, Any], score: int | None) -> None:
        self.says = program.Says()
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        self.engine_ends = [pipes[0][1], pipes[1][0], pipes[2][0]]
        jobs, self._jobs = os.pipe()
        told, tell = os.pipe()
        if score is not None:
            os.pwrite(score, b"1000", 0)
        self.pid = os.fork()
        if self.pid == 0:
            _become_program(config, theirs, jobs, tell, self.says)
        if score is not None:
            os.pwrite(score, b"0", 0)
        for fd in (*theirs, jobs, tell):
            os.close(fd)
        said = os.read(told, 1024).decode()
        os.close(told)
        if not said.startswith("ok "):
            raise OSError(said or "the program's process ended before it was confined")
        self.denied = self._listener(int(said[3:]))
        self._counts: dict[str, int] = {}
        self._status: int | None = None
        self._cpu_s = 0.0
        self._ended = 0

    def _listener(self, fd: int) -> seccomp.Denied | None:
        if fd < 0:
            return None
        pidfd = kernel.pidfd_open(self.pid)
        try:
            return seccomp.Denied(kernel.syscall("pidfd_getfd", pidfd, fd, 0))
        finally:
            os.close(pidfd)

    def way_in(self) -> int:
        """A descriptor by which the engine can tell the parked process itself what to run, which saves a step."""
        return os.dup(self._jobs)

    def begun(self, when: float) -> None:
        """The engine has let it run."""
        self._began = when
        os.close(self._jobs)
        self._jobs = -1

    def begin(self, job: dict[str, Any], code: bytes) -> None:
        """Let it run."""
        self._began = time.monotonic()
        frames.write(self._jobs, frames.packed(job, code))
        os.close(self._jobs)
        self._jobs = -1

    def wait(
        self,
        told: Callable[[], object],
        channel: int,
        woken: int,
        watched: int | None,
    ) -> str | None:
        """Until the program has ended; or "engine" where it was told to stop, "memory" where it took too much."""
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        poll.register(woken, select.POLLIN)
        if self.denied is not None:
            poll.register(self.denied.fileno(), select.POLLIN)
        while not self._reap():
            for fd, event in poll.poll(_WATCH_S * 1000 if watched else None):
                if fd == channel:
                    told()
                    return "engine"
                if fd == woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(woken, 4096)
                elif event & select.POLLIN and self.denied is not None:
                    self._count()
                else:
                    poll.unregister(fd)
            if watched and more_memory_than(watched):
                return "memory"
        return None

    def _count(self) -> None:
        assert self.denied is not None
        name = self.denied.answer()
        if name and (name in self._counts or len(self._counts) < 1000):
            self._counts[name] = self._counts.get(name, 0) + 1

    def _reap(self) -> bool:
        """Take in who has ended; whether the program has."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    break
                self._ended += 1
                self._cpu_s += used.ru_utime + used.ru_stime
                if pid == self.pid:
                    self._status = status
        return self._status is not None

    def rehearse(self, channel: int, woken: int) -> None:
        """Go through wait and end as they will be gone through, at nobody's cost."""
        poll = select.poll()
        for fd in (channel, woken, *(() if self.denied is None else (self.denied.fileno(),))):
            poll.register(fd, select.POLLIN)
        poll.poll(0)
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        read, write = os.pipe()
        frames.write(write, frames.packed(SAMPLE, b"print()"))
        os.close(read)
        os.close(write)
        self._reap()
        with contextlib.suppress(ProcessLookupError):
            os.kill(_NOBODY, 0)
        began, failed, no_exec, value = self.says.get()
        _ = {"status": self._status, "began": began, "failed": failed, "no_exec": no_exec, "value": value}

    def kill(self) -> None:
        """End every other process of the sandbox, and see them gone."""
        until = time.monotonic() + _KILL_S
        while time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            try:
                pid, status, used = os.wait4(-1, 0)
            except ChildProcessError:
                return
            self._ended += 1
            self._cpu_s += used.ru_utime + used.ru_stime
            if pid == self.pid:
                self._status = status
        os._exit(1)  # the kernel ends all the rest with process 1

    def drop(self) -> None:
        """End it before it has begun."""
        self.kill()
        if self._jobs >= 0:
            os.close(self._jobs)

    def end(self) -> dict[str, Any]:
        """What there is to report, once all processes are gone."""
        self.kill()
        ended = time.monotonic()
        counts = None
        if self.denied is not None:
            counts = self._counts
        began, failed, no_exec, value = self.says.get()
        return {
            "status": self._status,
            "cpu_s": self._cpu_s,
            "processes": self._ended,
            "given": self._began,
            "began": began if self._began <= began <= ended else None,
            "ended": ended,
            "failed": failed,
            "no_exec": no_exec,
            "value": value,
            "denied": counts,
        }

    def close(self) -> None:
        """Let go of what was held for it. Not before the report is out: nobody need wait for this."""
        if self.denied is not None:
            self.denied.close()
        self.says.close()


def _become_program(config: dict[str, Any], stdio: list[int], jobs: int, ready: int, says: program.Says) -> NoReturn:
    try:
        for fd, end in enumerate(stdio):
            os.dup2(end, fd)
        kernel.close_all_but([0, 1, 2, jobs, ready])
        program.main(config, jobs, ready, says)
    finally:
        os._exit(1)
