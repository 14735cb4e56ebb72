"""What the shared suite of hostile programs calls its engine: our back end, by the words of that suite."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolpost.calls.errors import SandboxError
from toolpost.sandbox.backend import Job
from toolpost.sandbox.native import NativeBackend
from toolpost.sandbox.outcome import SandboxResult
from toolpost.sandbox.profile import MB, Sandbox, SandboxLimits

ARTS = object()
"""Given as artifacts, says that they are wanted."""
PROFILE = Sandbox(
    limits=SandboxLimits(
        wall_s=60.0,
        memory_bytes=256 * MB,
        cpus=2.0,
        disk_bytes=64 * MB,
        inodes=3200,
        file_bytes=32 * MB,
        output_bytes=4 * MB,
        artifact_bytes=16 * MB,
    )
)
_LIMITS = {"wall_s": "timeout", "cpu_s": "timeout", "output_bytes": "output_limit", "memory_bytes": "oom"}


class Result(dict[str, Any]):
    """How a program ended, by name."""


class Spawner:
    """Runs the suite's programs: cold, or, where they ask for it, in an interpreter that is held ready."""

    def __init__(self, **_: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="shared-suite-")
        self._started: dict[bool, NativeBackend] = {}
        self.facts = {str(control): held.by for control, held in self._backend(False).report().enforced.items()}

    def _backend(self, warm: bool) -> NativeBackend:
        """Started at its first use: the suite takes what runs at its beginning for the host's own."""
        if warm not in self._started:
            self._started[warm] = NativeBackend(PROFILE, Path(self._folder.name, str(warm)), 2 if warm else 0)
            self._started[warm].start()
        return self._started[warm]

    def run(
        self,
        argv: list[str] | None = None,
        code: str | None = None,
        stdin: bytes = b"",
        wall: float = 5.0,
        artifacts: object = None,
        warm: bool = False,
        cpu: float = 2.0,
    ) -> Result:
        job = Job(
            argv=None if argv is None else tuple(argv),
            code=code,
            stdin=stdin,
            collect=artifacts is ARTS,
            limits=replace(PROFILE.limits, wall_s=wall, cpus=cpu),
        )
        try:
            return told(self._backend(warm).run(job))
        except SandboxError as error:
            return Result(status="sandbox_error", error=str(error), stdout=b"", stderr=b"", artifacts={})

    def close(self) -> None:
        for backend in self._started.values():
            backend.close()
        self._folder.cleanup()


def told(result: SandboxResult) -> Result:
    """A result in the words of the suite."""
    status: str = result.status
    if result.limit is not None:
        itself = "signal" if result.signal else "exit"
        status = _LIMITS.get(result.limit.name, itself)
    return Result(
        status="killed" if status == "cancelled" else status,
        exit=result.exit_code,
        stdout=result.stdout.whole,
        stderr=result.stderr.whole,
        artifacts=dict(result.artifacts),
        peak=result.usage.peak_memory_bytes,
        forged=result.value is not None and "forged" in result.value,
    )
