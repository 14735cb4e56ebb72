"""No sandbox at all: where programs that harm nothing must get what the suite says they look for."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from toolpost.sandbox.backend import Job
from toolpost.sandbox.outcome import BackendReport, Output, SandboxResult, SandboxUsage


class NoSandbox:
    """Runs each program as a child with everything that this process has."""

    name = "none"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="escapes-plain-")
        self._lock = threading.Lock()
        self._count = 0

    def report(self) -> BackendReport:
        return BackendReport(backend=self.name)

    def start(self) -> None:
        """There is nothing to get ready."""

    def run(self, job: Job) -> SandboxResult:
        with self._lock:
            self._count += 1
            work = Path(self._folder.name, str(self._count))
        work.mkdir()
        argv = job.argv or (sys.executable, "-c", job.code or "")
        began = time.monotonic()
        try:
            done = subprocess.run(
                argv,
                input=job.stdin,
                capture_output=True,
                timeout=job.limits.wall_s,
                cwd=work,
                close_fds=False,
                env=os.environ,
                start_new_session=True,
                check=False,
            )
            out, err, code = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired as expired:
            out, err, code = expired.stdout or b"", expired.stderr or b"", -9
        return SandboxResult(
            status="ok" if code == 0 else "exit",
            exit_code=code,
            stdout=Output(head=out, total=len(out), whole=out),
            stderr=Output(head=err, total=len(err), whole=err),
            usage=SandboxUsage(wall_s=time.monotonic() - began),
            backend=self.name,
        )

    def open_session(self) -> str:
        return "none"

    def close_session(self, session: str) -> None:
        """There are no sessions."""

    def close(self) -> None:
        self._folder.cleanup()
