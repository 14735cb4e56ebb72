"""SandboxResult: how a program in a sandbox ended, what it said, what it used, and what held it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toolpost.sandbox.profile import Control

Status = Literal["ok", "exit", "signal", "limit", "cancelled"]
"""ok: it exited with 0. exit: with another code. signal: by a signal of its own making. limit: it was ended at a limit.
cancelled: it was ended because nobody wanted it any more."""


@dataclass(frozen=True, slots=True)
class Enforced:
    """By what a control is held, as "cgroup v1 memory.limit_in_bytes". hard is False where it is best effort."""

    by: str
    hard: bool = True


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a control cannot be held here, and what would bring it."""

    why: str
    way_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReport:
    """What one back end can hold to on this machine, for doctor and for refusals."""

    backend: str
    enforced: Mapping[Control, Enforced] = field(default_factory=dict)
    missing: Mapping[Control, Missing] = field(default_factory=dict)

    def lacks(self, required: frozenset[Control]) -> dict[Control, Missing]:
        """Which of the required controls are missing, or only best effort."""
        out: dict[Control, Missing] = {}
        for control in sorted(required):
            held = self.enforced.get(control)
            if held is not None and held.hard:
                continue
            out[control] = self.missing.get(control) or Missing(
                f"{held.by} is best effort" if held else f"{self.backend} cannot hold it", "require it no longer"
            )
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitHit:
    """The limit at which a program was ended. name is a field of SandboxLimits; allowed is in that field's unit."""

    name: str
    allowed: float
    after_s: float

    def __str__(self) -> str:
        return f"killed: {_amount(self.name, self.allowed)} after {self.after_s:.1f} s"


_OF = {
    "wall_s": "of time",
    "cpu_s": "of processor time",
    "memory_bytes": "of memory",
    "disk_bytes": "of disk",
    "file_bytes": "in one file",
    "output_bytes": "of output",
    "processes": "processes",
    "inodes": "files",
    "open_files": "open files",
}


def _amount(name: str, allowed: float) -> str:
    words = _OF.get(name, name)
    if name.endswith("_s"):
        return f"{allowed:g} s {words}"
    if not name.endswith("_bytes"):
        return f"{allowed:g} {words}"
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if allowed >= size:
            return f"{allowed / size:.4g} {unit} {words}"
    return f"{allowed:g} bytes {words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One of a program's two outputs. total counts all bytes that it wrote; head and tail are what is shown of them.

    whole is all that was kept (up to output_bytes); it is what an artifact holds.
    """

    head: bytes = b""
    tail: bytes = b""
    total: int = 0
    whole: bytes = field(default=b"", repr=False)

    @property
    def omitted(self) -> int:
        """Bytes between head and tail."""
        return self.total - len(self.head) - len(self.tail)

    @property
    def text(self) -> str:
        """What is shown, as text: bytes that are no UTF-8 are replaced, and a cut is said."""
        if not self.omitted:
            return (self.head + self.tail).decode("utf-8", "replace")
        return (
            self.head.decode("utf-8", "replace")
            + f"\n... {self.omitted} bytes left out ...\n"
            + self.tail.decode("utf-8", "replace")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxTraffic:
    """What went through the proxy of a program's network, and what did not.

    allowed and denied count, by "host:port", requests and tunnels; what was no request, or came after a hundred hosts,
    is under "other". sent_bytes and received_bytes are of the program, heads of requests and answers not counted.
    """

    allowed: Mapping[str, int] = field(default_factory=dict)
    denied: Mapping[str, int] = field(default_factory=dict)
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxUsage:
    """What a program used. peak_memory_bytes is None where only a cgroup could tell and there is none.

    cpu_s is of all its processes. denied_syscalls counts, by name, calls that the filter refused; None where the kernel
    cannot tell. start_s is from the call to the program's first instruction. network is None where it had none.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int | None = None
    processes: int = 0
    output_bytes: int = 0
    disk_bytes: int = 0
    denied_syscalls: Mapping[str, int] | None = None
    start_s: float = 0.0
    network: SandboxTraffic | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxResult:
    """How a program ended. exit_code is None when it was ended from outside; signal is a name as "SIGSEGV".

    value is the repr of the last expression of a Python program that is one, else None. artifacts holds files of the
    work folder by relative path; left_behind says which were not taken, and why. enforced says by what each control was
    held during this call, and backend by whom; warm, that the interpreter had been started before.
    """

    status: Status
    exit_code: int | None = None
    signal: str | None = None
    limit: LimitHit | None = None
    stdout: Output = field(default_factory=Output)
    stderr: Output = field(default_factory=Output)
    value: str | None = None
    artifacts: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    left_behind: tuple[str, ...] = ()
    usage: SandboxUsage = field(default_factory=SandboxUsage)
    enforced: Mapping[Control, Enforced] = field(default_factory=dict, repr=False)
    backend: str = ""
    warm: bool = False
