"""From what a sandbox reports to a SandboxResult: how the program ended, and at which limit.

The report comes from the sandbox's own first process, which is trusted, but parts of it repeat what the program said,
which is not: each is checked, and none is more than words.
"""

from __future__ import annotations

import errno
import math
import os
import signal
from collections.abc import Mapping
from typing import Any, Final

from toolpost.sandbox.backend import Job
from toolpost.sandbox.collect import clean
from toolpost.sandbox.conversation import Conversation
from toolpost.sandbox.link import not_run
from toolpost.sandbox.outcome import Enforced, LimitHit, Output, SandboxResult, SandboxUsage
from toolpost.sandbox.profile import Control, SandboxLimits

_SAID: Final = {
    errno.ENOSPC: "disk_bytes",
    errno.EFBIG: "file_bytes",
    errno.EMFILE: "open_files",
    errno.EAGAIN: "processes",
}
"""At which limit a program may say that it failed; it is believed where nothing else says more."""
_SHELL_SIGNAL: Final = 128
"""A shell's exit code for a command that a signal ended is this and the signal's number."""


def result_of(
    talk: Conversation, job: Job, *, backend: str, called: float, warm: bool, enforced: Mapping[Control, Enforced]
) -> SandboxResult:
    """The result of a conversation that has ended. Raises SandboxError where the sandbox was lost."""
    report = talk.report
    if report is None and talk.stopped is None:
        raise talk.lost_error()
    common: dict[str, Any] = {"backend": backend, "warm": warm, "enforced": enforced}
    outputs = [_output(bytes(kept), total, job.limits) for kept, total in zip(talk.kept, talk.totals, strict=True)]
    common |= {"stdout": outputs[0], "stderr": outputs[1]}
    wall_s = talk.ended - talk.began
    if report is None:
        gone: tuple[str, ...] = (
            ("everything: the sandbox did not report in time and was killed",) if job.collect and talk.told else ()
        )
        usage = SandboxUsage(wall_s=wall_s, output_bytes=sum(talk.totals), network=talk.traffic)
        return SandboxResult(left_behind=gone, usage=usage, **common, **_stopped(talk, job, wall_s))
    if "refused" in report:
        raise not_run(str(report["refused"])[:1000], session="kept")
    facts = _Facts(report)
    usage = facts.usage(called, talk, wall_s)
    artifacts, left = facts.artifacts(talk.artifacts, job.limits)
    common |= {"artifacts": artifacts, "left_behind": left, "usage": usage, "value": facts.value}
    if report.get("spent") == "cpu_s":
        hit = LimitHit(name="cpu_s", allowed=job.limits.cpu_s, after_s=0.0)
        return SandboxResult(status="limit", limit=hit, **common)
    if talk.stopped == "output_bytes" or (talk.stopped is not None and report.get("stopped") is not None):
        return SandboxResult(**common, **_stopped(talk, job, wall_s))
    return SandboxResult(**common, **facts.end(job, usage.wall_s))


def _output(kept: bytes, total: int, limits: SandboxLimits) -> Output:
    half = limits.preview_bytes // 2
    if len(kept) <= limits.preview_bytes:
        return Output(head=kept, total=total, whole=kept)
    return Output(head=kept[: limits.preview_bytes - half], tail=kept[-half:] if half else b"", total=total, whole=kept)


def _stopped(talk: Conversation, job: Job, after_s: float) -> dict[str, Any]:
    if talk.stopped == "cancelled" or talk.stopped is None:
        return {"status": "cancelled"}
    hit = LimitHit(name=talk.stopped, allowed=getattr(job.limits, talk.stopped), after_s=after_s)
    return {"status": "limit", "limit": hit}


class _Facts:
    """A report, each part of which is checked as it is read."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._report = report
        value = report.get("value")
        self.value = value if isinstance(value, str) else None
        used = report.get("used")
        self._used: list[Any] = used if isinstance(used, list) and len(used) == 3 else [None, 0, 0]

    def _number(self, name: str) -> float:
        value = self._report.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
            return value
        return 0

    def usage(self, called: float, talk: Conversation, wall_s: float) -> SandboxUsage:
        """What the program used."""
        # When it began is the program's own word, and good for nothing but start_s: what it took is not for it to say.
        began, given, ended = self._number("began") or talk.began, self._number("given"), self._number("ended")
        if called <= given <= ended <= talk.ended:
            wall_s = ended - given
        else:  # its clock is another, as that of gVisor's kernel
            began = talk.began
        denied = self._report.get("denied")
        peak = self._used[0]
        return SandboxUsage(
            wall_s=wall_s,
            cpu_s=self._number("cpu_s"),
            peak_memory_bytes=peak if isinstance(peak, int) else None,
            processes=int(self._number("processes")),
            output_bytes=sum(talk.totals),
            disk_bytes=int(self._number("disk")),
            denied_syscalls=dict(denied) if isinstance(denied, dict) else None,
            start_s=max(0.0, began - called),
            network=talk.traffic,
        )

    def artifacts(self, data: bytes, limits: SandboxLimits) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """Files by name, and what was left behind. What exceeds the limits or has no clean name is dropped."""
        out: dict[str, bytes] = {}
        left = [str(one)[:700] for one in self._report.get("left") or ()][:200]
        at = 0
        for name, size in self._report.get("artifacts") or ():
            piece = data[at : at + size]
            at += size
            if clean(name) and len(piece) == size and len(out) < limits.artifacts and at <= limits.artifact_bytes:
                out[name] = piece
        return out, tuple(left)

    def end(self, job: Job, after_s: float) -> dict[str, Any]:
        """How a program ended that nobody had told to."""
        status = int(self._number("status"))
        code = os.waitstatus_to_exitcode(status)
        name = self._limit(job, code)
        if name is not None:
            hit = LimitHit(name=name, allowed=getattr(job.limits, name), after_s=after_s)
            return {"status": "limit", "limit": hit, "exit_code": code if code >= 0 else None, "signal": _signal(code)}
        if code < 0:
            return {"status": "signal", "signal": _signal(code)}
        return {"status": "exit" if code else "ok", "exit_code": code}

    def _limit(self, job: Job, code: int) -> str | None:
        """The limit that ended the program, where one did."""
        if code == 0:
            return None
        by = -code if code < 0 else code - _SHELL_SIGNAL if job.argv is not None and code > _SHELL_SIGNAL else 0
        if self._report.get("stopped") == "memory" or (by == signal.SIGKILL and self._used[1]):
            return "memory_bytes"
        if by == signal.SIGXCPU or (by == signal.SIGKILL and self._number("cpu_s") >= job.limits.cpu_s):
            return "cpu_s"
        if by == signal.SIGXFSZ:
            return "file_bytes"
        full = self._report.get("full")
        if full in ("disk_bytes", "inodes"):
            return str(full)
        said = _SAID.get(int(self._number("failed")))
        if said == "processes" or (code > 0 and self._used[2]):
            # Without a control group nobody else can tell.
            return "processes" if self._used[2] or "used" not in self._report else None
        return said


def _signal(code: int) -> str | None:
    if code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"SIG{-code}"
