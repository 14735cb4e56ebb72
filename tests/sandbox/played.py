"""A back end whose part is played: no program runs, so that starts can fail, and programs last, as a test wants it."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from pathlib import Path

from toolpost.calls.errors import SandboxError
from toolpost.sandbox.backend import Job
from toolpost.sandbox.outcome import BackendReport, Enforced, Missing, Output, SandboxResult
from toolpost.sandbox.profile import Control, Sandbox


def not_run(message: str = "no memory for it") -> SandboxError:
    """What a back end raises when the program cannot have run."""
    error = SandboxError(message)
    error.outcome = "not_run"
    return error


class Played:
    """Stands for a back end, and for its factory. programs says how each job ends; the default says "ran"."""

    def __init__(
        self,
        programs: Callable[[Job], SandboxResult] | None = None,
        *,
        name: str = "played",
        missing: dict[Control, Missing] | None = None,
    ) -> None:
        self.name = name
        self._programs = programs or (lambda job: ended("ran"))
        self._missing = missing or {}
        self.lock = threading.Lock()
        self.jobs: list[Job] = []
        self.now = self.most = self.starts = self.closes = self.sessions = 0
        self.open_sessions: list[str] = []
        self.threads: set[int] = set()

    def __call__(self, profile: Sandbox, root: Path, warm: int) -> Played:
        self.made_with = (profile, root, warm)
        return self

    def report(self) -> BackendReport:
        held = {control: Enforced("play") for control in Control if control not in self._missing}
        return BackendReport(backend=self.name, enforced=held, missing=self._missing)

    def start(self) -> None:
        self.starts += 1

    def run(self, job: Job) -> SandboxResult:
        with self.lock:
            self.jobs.append(job)
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add(threading.get_ident())
        try:
            return self._programs(job)
        finally:
            with self.lock:
                self.now -= 1

    def open_session(self) -> str:
        self.sessions += 1
        self.open_sessions.append(f"s{self.sessions}")
        return self.open_sessions[-1]

    def close_session(self, session: str) -> None:
        if session in self.open_sessions:
            self.open_sessions.remove(session)

    def close(self) -> None:
        self.closes += 1


def ended(said: str = "", **more: object) -> SandboxResult:
    """The result of a program that said something."""
    data = said.encode()
    out = Output(head=data, total=len(data), whole=data)
    return SandboxResult(**{"status": "ok", "exit_code": 0, "stdout": out, **more})  # type: ignore[arg-type]


def until_cancelled(job: Job) -> SandboxResult:
    """A program without an end."""
    assert job.cancel is not None
    select.select([job.cancel], [], [])
    return ended(status="cancelled", exit_code=None)


class Gate:
    """Programs that end when the test says so."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, job: Job) -> SandboxResult:
        self.arrived.release()
        assert self.go.wait(20)
        return ended("ran")
