"""Run: one program with the turns it holds, tried again where its sandbox could not be started."""

from __future__ import annotations

import select
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from toolpost.calls.errors import CallCancelledError, OverloadedError, SandboxError, ToolTimeoutError
from toolpost.sandbox.backend import Backend, Cancel, Job
from toolpost.sandbox.outcome import SandboxResult
from toolpost.sandbox.sessions import Kept
from toolpost.sandbox.turns import Turns

if TYPE_CHECKING:
    from toolpost.runners.sandboxes import Sandboxes

TRIES: Final = 3
"""How often a sandbox is started before its call fails. Only what cannot have run is tried again."""
PAUSE_S: Final = 0.05
"""Before the second try; twice as long before the third."""


class Run:
    """One program with what it holds: a turn, a way to cancel it. Calling it gives all of that back."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        job: Job,
        kept: Kept | None,
        cancel: Cancel,
        taken: Sequence[Turns],
        until: float | None,
    ) -> None:
        self._sandboxes, self._job, self._kept, self.cancel = sandboxes, job, kept, cancel
        self._until = until
        self._taken = list(taken)

    def __call__(self) -> SandboxResult:
        sandboxes, kept = self._sandboxes, self._kept
        try:
            result = self._tried()
        except BaseException as raised:
            if kept is not None and not isinstance(raised, (CallCancelledError, OverloadedError, ToolTimeoutError)):
                sandboxes._sessions.close(kept, "its sandbox was lost")
            raise
        else:
            return result if kept is None else kept.ran(result)
        finally:
            self.forget()

    def forget(self) -> None:
        """Give back what it holds."""
        sandboxes = self._sandboxes
        with sandboxes._lock:
            sandboxes._running.discard(self.cancel)
        self.cancel.close()
        if self._kept is not None:
            sandboxes._sessions.used(self._kept)
        give_back(self._taken)
        self._taken = []
        if self._kept is not None:
            sandboxes._sessions.freed()

    def _tried(self) -> SandboxResult:
        """One program, tried again where it cannot have run. In a session nothing is, whose files may be gone."""
        sandboxes, job, kept = self._sandboxes, self._job, self._kept
        for attempt in range(1, TRIES + 1):
            try:
                backend = sandboxes._ready()
                if kept is not None:
                    job = replace(job, session=_sandbox_of(kept, backend))
                result = backend.run(self._in_time(job))
            except SandboxError as error:
                if error.outcome != "not_run" or "missing" in error.details:
                    raise
                if kept is not None and not kept.begun and kept.made is not None:
                    sandboxes._end_session(kept.made)
                    kept.made = None
                if attempt == TRIES or (kept is not None and kept.begun) or _pause(job, PAUSE_S * attempt):
                    raise _not_started(error, attempt) from error
            else:
                if kept is not None:
                    kept.begun = True
                if result.status == "cancelled":
                    raise CallCancelledError("the program was cancelled and killed")
                return result
        raise AssertionError("unreachable")

    def _in_time(self, job: Job) -> Job:
        """The job with no more time than is left: starting a back end takes some. Raises ToolTimeoutError."""
        left_s = self._sandboxes._left_s(self._until)
        if left_s is None:
            return job
        if left_s <= 0:
            error = ToolTimeoutError("no time was left when the sandbox could be started, so the program was not run")
            error.outcome = "not_run"
            raise error
        return replace(job, limits=job.limits.tightened(wall_s=left_s))


def _sandbox_of(kept: Kept, backend: Backend) -> str:
    if kept.made is None:
        kept.made = backend.open_session()
    return kept.made


def _pause(job: Job, seconds: float) -> bool:
    """Wait before another try; whether the job was cancelled meanwhile."""
    if job.cancel is None:
        return False
    poll = select.poll()
    poll.register(job.cancel, select.POLLIN)
    return bool(poll.poll(seconds * 1000.0))


def _not_started(last: SandboxError, attempts: int) -> SandboxError:
    tries = "once" if attempts == 1 else f"{attempts} times"
    error = SandboxError(
        f"the sandbox could not be started, which was tried {tries}: {last.message}",
        details={**last.details, "attempts": attempts},
    )
    error.outcome, error.retryable = "not_run", True
    return error


def give_back(taken: Sequence[Turns]) -> None:
    for turn in reversed(taken):
        turn.give_back()
