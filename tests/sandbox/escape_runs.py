"""Runs of the escape suite, each in a process of its own; they begin together and are waited for one by one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import miss
from tests.sandbox.ordinary import CHECKOUT
from toolpost.sandbox.native import NativeBackend
from toolpost.sandbox.profile import Sandbox

AT_ONCE = 3
LONGEST_S = 170
ORDINARY_USER = 64123
INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
PACKAGES = sysconfig.get_path("purelib")
"""What the engine needs of other packages: the interpreter alone has none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to run: a module with its arguments, by which user, from which sources (None: this checkout's), and
    whether on a host that masks its /proc."""

    arguments: tuple[str, ...]
    module: str = "tests.sandbox.escapes"
    ordinary: bool = False
    masked: bool = False
    sources: Path | None = None

    def result(self) -> dict[str, Any]:
        """Run it; what it told."""
        sources = str(self.sources or CHECKOUT / "src")
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{sources}:{CHECKOUT}:{PACKAGES}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [INTERPRETER, "-m", self.module, *self.arguments]
        if self.ordinary:
            command = [
                INTERPRETER,
                "-m",
                "tests.sandbox.ordinary",
                *["--masked"] * self.masked,
                str(ORDINARY_USER),
                *command,
            ]
        done = subprocess.run(
            command, env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST_S, check=False
        )
        assert done.stdout, f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.decode()[-3000:]}"
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told


class Runs:
    """All runs of a module of tests, by name."""

    def __init__(self, runs: dict[str, Run]) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._told: dict[str, Future[dict[str, Any]]] = {
            name: self._pool.submit(run.result) for name, run in runs.items()
        }

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._told[name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def needs_native(config: pytest.Config) -> None:
    """Leave the test where the native back end cannot hold what profiles require."""
    with tempfile.TemporaryDirectory() as folder:
        lacks = NativeBackend(Sandbox(), Path(folder), 0).report().lacks(Sandbox().require)
    if lacks:
        control, missing = next(iter(lacks.items()))
        miss("user_namespaces", f"{control}: {missing.why}; {missing.way_out}", config)


def sources_without_filter(folder: Path) -> Path:
    """A copy of the sources in which no system call is refused."""
    shutil.copytree(CHECKOUT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "toolpost/sandbox/seccomp.py", "a") as file:
        file.write("\n\ndef load(program: bytes, *, notify: bool) -> int | None:\n    return None\n")
    return folder
