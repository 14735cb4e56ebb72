"""Case: one hostile program, how it may end, and what may not come out of it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolpost.sandbox.outcome import SandboxResult
from toolpost.sandbox.profile import MB, Control, Sandbox, SandboxLimits

OK = frozenset({"ok"})
FINISHED = frozenset({"ok", "exit"})
ENDED = frozenset({"exit", "signal", "limit"})
ANYHOW = OK | ENDED
STOPPED = frozenset({"limit"})

PRELUDE = (Path(__file__).parent / "prelude.py").read_text(encoding="utf-8")
"""What stands before every Python program."""

PROFILE = Sandbox(
    limits=SandboxLimits(
        wall_s=5.0,
        cpu_s=5.0,
        cpus=2.0,
        memory_bytes=192 * MB,
        processes=48,
        open_files=256,
        file_bytes=16 * MB,
        disk_bytes=48 * MB,
        inodes=2048,
        output_bytes=1 * MB,
        artifacts=40,
        artifact_bytes=8 * MB,
    )
)
"""The profile that every case runs in: small, so that a bomb needs little of the machine until it meets its limit."""

Check = Callable[[SandboxResult], str | None]
"""Looks at what came out; says what is wrong with it, or None."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A hostile program. It prints a line GOT:… when it has something that it must not have.

    ends: how it may end. control: run without a sandbox it must succeed, or the case proves nothing; only programs that
    harm nothing may say so. alone: it runs while no other case does. then: programs that run after it, each in a fresh
    sandbox, or all in one session where session is true; the last one is looked at like the first. beside: a program
    that runs in another sandbox at the same time. needs: controls without which the case has nothing to show.
    within_s: how long it may take at most, its own time limit included.
    """

    id: str
    title: str
    program: str
    language: Literal["python", "sh", "bash"] = "python"
    ends: frozenset[str] = OK
    limits: Mapping[str, float] = field(default_factory=dict)
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    then_files: Mapping[str, bytes] = field(default_factory=dict)
    control: bool = False
    alone: bool = False
    check: Check | None = None
    then: tuple[str, ...] = ()
    session: bool = False
    may_refuse: bool = False
    beside: str | None = None
    needs: frozenset[Control] = frozenset()
    machine: str | None = None
    within_s: float = 12.0

    @property
    def slow(self) -> bool:
        """Whether it waits for a limit, or uses much up."""
        return bool(self.limits) or self.alone or self.id.startswith("resources-")

    @property
    def here(self) -> bool:
        """Whether the case means anything on this kind of processor."""
        return self.machine in (None, platform.machine())


class Group(list[Case]):
    """The cases of one kind, in the order in which they were added."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def add(self, id: str, title: str, program: str, **more: Any) -> None:
        """One more; its id is prefixed with the group's name."""
        self.append(Case(id=f"{self.name}-{id}", title=title, program=program, **more))


def all_of(*checks: Check) -> Check:
    """The first complaint of several checks."""

    def check(result: SandboxResult) -> str | None:
        return next((said for one in checks if (said := one(result))), None)

    return check


def limit_is(*names: str) -> Check:
    """Where it ended at a limit, it is one of these."""

    def check(result: SandboxResult) -> str | None:
        if result.limit is not None and result.limit.name not in names:
            return f"ended at {result.limit.name}, not at {' or '.join(names)}"
        return None

    return check


def exit_is(code: int) -> Check:
    return lambda result: None if result.exit_code == code else f"exit code {result.exit_code}, not {code}"


def signal_is(*names: str) -> Check:
    return lambda result: None if result.signal in names else f"signal {result.signal}, not {' or '.join(names)}"


def said(text: bytes) -> Check:
    return lambda result: None if text in result.stdout.whole else f"did not say {text!r}: {result.stdout.head[:200]!r}"
