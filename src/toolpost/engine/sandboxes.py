"""The sandboxes that the settings ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from toolpost.engine.settings import ExecutorConfig
from toolpost.runners.sandboxes import Sandboxes
from toolpost.sandbox.outcome import BackendReport
from toolpost.sandbox.profile import MB, Sandbox, SandboxLimits

WALL_S: Final = 60.0
"""How long a program may take where timeout sets no limit."""
PREVIEW_BYTES: Final = 16 << 10
"""How much of each output a model is shown: some four thousand tokens."""


def sandboxes_of(config: ExecutorConfig | None = None) -> Sandboxes:
    """Sandboxes by sandbox_root, sandbox_backend, timeout and the other settings of sandboxes; close them when done.

    config None asks the settings file and the environment. Nothing is started before it is needed.
    """
    settings = ExecutorConfig.load() if config is None else config
    limits = SandboxLimits(
        wall_s=settings.timeout if settings.timeout is not None else WALL_S,
        cpu_s=settings.sandbox_cpu_seconds,
        memory_bytes=settings.sandbox_memory_mb * MB,
        preview_bytes=PREVIEW_BYTES,
        disk_bytes=min(SandboxLimits().disk_bytes, settings.sandbox_memory_mb * MB),
    )
    profile = Sandbox(limits=limits, packages=settings.sandbox_packages)
    return Sandboxes(profile, root=settings.sandbox_root, backend=settings.sandbox_backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """One back end as it is here. lacks: what is required and missing, with why and the way out, control by control.

    lacks_all: whether that is all that is required. held: by what each control is held; best_effort names those of
    them that a program could outrun. missing: what is not held, required or not.
    """

    backend: str
    lacks: Mapping[str, tuple[str, str]]
    lacks_all: bool
    held: Mapping[str, str]
    best_effort: tuple[str, ...]
    missing: Mapping[str, tuple[str, str]]


def examined(config: ExecutorConfig) -> list[Examined]:
    """What each back end that the settings allow can hold to here, the one that would be taken first before others."""
    sandboxes = sandboxes_of(config)
    return [_examined(report, sandboxes.profile) for report in sandboxes.report()]


def _examined(report: BackendReport, profile: Sandbox) -> Examined:
    lacks = report.lacks(profile.require)
    return Examined(
        backend=report.backend,
        lacks={str(control): (one.why, one.way_out) for control, one in lacks.items()},
        lacks_all=lacks.keys() == profile.require,
        held={str(control): one.by for control, one in report.enforced.items()},
        best_effort=tuple(str(control) for control, one in report.enforced.items() if not one.hard),
        missing={str(control): (one.why, one.way_out) for control, one in report.missing.items()},
    )
