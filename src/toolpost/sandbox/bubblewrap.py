"""The back end of bubblewrap: bwrap makes the namespaces and the root, and our own warden runs programs inside.

For hosts that let bwrap make namespaces and no other program, as an AppArmor profile does. Everything but the making is
as in the native one: filter, Landlock, control groups, limits, artifacts, sessions, warm interpreters.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from toolpost.calls.errors import SandboxError
from toolpost.sandbox.link import not_run
from toolpost.sandbox.native import NativeBackend
from toolpost.sandbox.outcome import BackendReport, Missing
from toolpost.sandbox.profile import Control, Sandbox

OLDEST: Final = (0, 5, 0)
"""The first that sets permissions of what it makes (--perms and --chmod)."""
_WAY_OUT: Final = "install bubblewrap 0.5 or later (Debian, Fedora and others: the package bubblewrap)"


class BubblewrapBackend(NativeBackend):
    """Runs jobs in sandboxes that bwrap makes, as root or as an ordinary user."""

    name = "bubblewrap"
    launcher = "bubblewrap_launcher"

    def __init__(self, profile: Sandbox, root: Path, warm: int, *, program: str = "bwrap") -> None:
        super().__init__(profile, root, warm)
        self._program = program

    def report(self) -> BackendReport:
        try:
            self._found()
        except SandboxError as error:
            missing = dict.fromkeys(Control, Missing(error.message, _WAY_OUT))
            return BackendReport(backend=self.name, missing=missing)
        return super().report()

    def _config(self) -> dict[str, Any]:
        path, version = self._found()
        return super()._config() | {"bwrap": path, "made_by": f"bubblewrap {version}"}

    def _found(self) -> tuple[str, str]:
        """bwrap's path and version. Raises SandboxError."""
        path = shutil.which(self._program)
        if path is None:
            raise not_run(f"bubblewrap is not installed: there is no {self._program} on the PATH; {_WAY_OUT}")
        try:
            done = subprocess.run([path, "--version"], capture_output=True, timeout=10, check=True, env={})
            version = done.stdout.decode().split()[-1]
            numbers = tuple(int(one) for one in version.split("."))
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            raise not_run(f"{path} does not tell its version: {error}") from error
        if numbers < OLDEST:
            raise not_run(f"{path} is bubblewrap {version}, which is too old; {_WAY_OUT}")
        return path, version
