"""Sandboxes for the tests of the tools that run programs: the best that this machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolpost import Sandbox, SandboxError, Sandboxes, SandboxLimits


def real(root: Path, profile: Sandbox | None = None, **more: Any) -> Sandboxes:
    """Real ones. A machine that has none skips the test, except where all must run."""
    made = Sandboxes(profile or Sandbox(limits=SandboxLimits(wall_s=20.0)), root=root, **more)
    try:
        made.start()
    except SandboxError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(error.message)
    return made


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandboxes]:
    with real(tmp_path_factory.mktemp("boxes")) as made:
        yield made
