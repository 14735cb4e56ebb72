"""The contract of back ends: what runs one job in a sandbox of its own."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from toolpost.sandbox.outcome import BackendReport, SandboxResult, SandboxTraffic
from toolpost.sandbox.profile import Sandbox, SandboxLimits

OnOutput = Callable[[Literal["stdout", "stderr"], bytes], None]
"""Told of each piece of output as it comes, in the thread that runs the job. It must not raise."""


class Cancel:
    """Tells a job, from any thread, that nobody wants it any more. Close it when the job has ended."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._lock = threading.Lock()
        self.cancelled = False

    def fileno(self) -> int:
        """Readable once cancelled: for poll and select."""
        return self._read

    def cancel(self) -> None:
        """Cancel; a second time does nothing."""
        with self._lock:
            if self.cancelled:
                return
            self.cancelled = True
            if self._write >= 0:
                os.write(self._write, b"c")

    def close(self) -> None:
        """Give the descriptors back."""
        with self._lock:
            for descriptor in (self._read, self._write):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self._read = self._write = -1


class Passage(Protocol):
    """One program's way through the proxy."""

    def close(self) -> SandboxTraffic:
        """End all its connections; what went through. A second time does nothing more."""
        ...


class Gateway(Protocol):
    """The allow-list proxy of a profile's network. It is outside of all sandboxes, and safe from any thread."""

    def open(self, listener: int) -> Passage:
        """Answer what connects to this listening socket, a descriptor that is the gateway's from now on.

        Raises SandboxError where there is no proxy to be had.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One program to run: argv, or the code of a Python program; exactly one of them.

    files are put into the work folder first, by relative path. env comes on top of the profile's. limits are the
    profile's, or tighter. collect says whether files of the work folder are taken out as artifacts. session, where it
    is given, names the kept sandbox that it runs in. gateway is there where the profile allows hosts: it is handed the
    socket that listens at PROXY_PORT of the sandbox's own loopback, and closed when the program has ended.
    """

    argv: tuple[str, ...] | None = None
    code: str | None = None
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    limits: SandboxLimits
    collect: bool = True
    session: str | None = None
    on_output: OnOutput | None = None
    cancel: Cancel | None = None
    gateway: Gateway | None = None


class Backend(Protocol):
    """Runs jobs of one profile. All methods may be called from any thread, and run from many at once.

    run blocks until the program and all it started are gone and its folder with them. It returns how the program ended,
    whatever that was, and raises SandboxError only where the sandbox could not be made or was lost: error.outcome is
    "not_run" when not one instruction of the program can have run, so that another attempt is safe, else "unknown".
    """

    name: str

    def report(self) -> BackendReport:
        """What it can hold to here. It leaves nothing behind and needs no start."""
        ...

    def start(self) -> None:
        """Get ready: warm interpreters, and clean up what workers that were killed left. Raises SandboxError."""
        ...

    def run(self, job: Job) -> SandboxResult: ...

    def open_session(self) -> str:
        """Keep a sandbox between jobs; returns its name for Job.session. Raises SandboxError."""
        ...

    def close_session(self, session: str) -> None:
        """End it, with its files. A name that is not known is ignored."""
        ...

    def close(self) -> None:
        """End everything that runs, and leave nothing behind."""
        ...


BackendFactory = Callable[[Sandbox, Path, int], Backend]
"""Makes a back end from a profile, a folder for its run-time files (SANDBOX_ROOT), and how many warm interpreters are
held ready (0: none). It starts nothing. Plugins of the group toolpost.sandboxes are such factories."""
