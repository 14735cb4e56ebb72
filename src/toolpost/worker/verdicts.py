"""Verdicts: what is to become of an accepted call, before its body runs and after it ended. Pure functions."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from toolpost.calls.errors import CallCancelledError, OutcomeUnknownError, ToolExecutionError, ToolTimeoutError
from toolpost.calls.result import ToolResult, failed_result
from toolpost.stores import Finish, TaskState, Work
from toolpost.worker.reports import state_of

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
"""How long a failure that passes waits to be tried again: twice as long each time."""
IN_PROGRESS_S = (0.2, 5.0)
"""How soon a call whose key another holds is looked at again, at least and at most."""
LONGEST_RETRY_S = 86_400.0


class Verdict(NamedTuple):
    """state: a terminal one, or waiting, or queued (given back, which is no attempt), due in due_in_s.

    refusal: the error of a call that the pipeline never had, and has not told of.
    """

    state: TaskState
    result: ToolResult
    due_in_s: float = 0.0
    refusal: ToolExecutionError | None = None


def overdue(work: Work) -> bool:
    """Whether a call is to end without being run: cancelled, or too late."""
    return work.cancel or (work.task.deadline_in_s is not None and work.task.deadline_in_s <= 0)


def beforehand(work: Work, tool: str, *, repeatable: bool) -> Verdict | None:
    """Why a call is not run at all; None where it is.

    repeatable: whether a body that may have run already may run again.
    """
    task = work.task
    if work.lost > 0 and not repeatable:
        lost = _unknown(tool)
        return Verdict("failed", _as_rejected(failed_result(task.task_id, tool, lost), rejected=False), refusal=lost)
    untouched = work.attempt <= 1  # what was given back is no attempt
    if work.cancel:
        cancelled = CallCancelledError("the call was cancelled before it ran", tool=tool)
        cancelled.outcome = "not_run" if untouched else "unknown"
        return Verdict("cancelled", failed_result(task.task_id, tool, cancelled), refusal=cancelled)
    if task.deadline_in_s is not None and task.deadline_in_s <= 0:
        late = ToolTimeoutError("the call's deadline passed while it waited in the queue, so it was not run", tool=tool)
        late.outcome = "not_run" if untouched else "unknown"
        result = _as_rejected(failed_result(task.task_id, tool, late), rejected=untouched)
        return Verdict("rejected" if untouched else "failed", result, refusal=late)
    return None


def afterwards(work: Work, result: ToolResult, *, repeatable: bool, jitter: float) -> Verdict:
    """What becomes of a call whose body ended so. jitter is a number from 0 to 1."""
    failure = result.failure
    if result.success or failure is None:
        return Verdict(state_of(result), result)
    if failure.code == "in_progress":  # another call with the key runs: this one is answered by it, later
        least, most = IN_PROGRESS_S
        due_in_s = max(least, min(most, failure.retry_after_s or 1.0))
        return Verdict("queued", result, due_in_s)
    if failure.code == "outcome_unknown" and work.lost > 0:
        unknown_now = replace(failure, outcome="unknown", rejected=False)
        metadata = {**result.metadata, "outcome": "unknown"}
        return Verdict("failed", replace(result, failure=unknown_now, metadata=metadata))
    safe = failure.outcome == "not_run" or repeatable
    if failure.retryable and safe and failure.code != "cancelled" and work.attempt < work.task.max_attempts:
        return Verdict("waiting", result, pause_s(work.attempt, failure.retry_after_s, jitter))
    return Verdict(state_of(result), result)


def put_off(task_id: str, verdict: Verdict) -> Finish:
    """The finish of an attempt after which a call goes on later; under no fence yet."""
    failure = verdict.result.failure
    return Finish(
        task_id=task_id,
        fence=0,
        state=verdict.state,
        due_in_s=verdict.due_in_s,
        error_code=None if failure is None else failure.code,
        error=(verdict.result.error or "")[:2000],
        outcome="error" if failure is None else failure.outcome,
        elapsed_ms=verdict.result.execution_time_ms,
    )


def pause_s(attempt: int, retry_after_s: float | None, jitter: float) -> float:
    """How long after an attempt (1 for the first) the next one is due; the other side's wish is the least."""
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(30, attempt - 1))
    wait_s *= 0.5 + 0.5 * jitter
    return min(LONGEST_RETRY_S, max(wait_s, retry_after_s or 0.0))


def _unknown(tool: str) -> OutcomeUnknownError:
    """What is said of a call whose holder vanished, and which is not safe to run again."""
    error = OutcomeUnknownError(
        "the process that ran this call was lost, nobody knows how far it came, and the tool does not say that it may "
        "run again; check what it did, and make it again under a new id if need be. Calls of tools with read_only or "
        "idempotent hints, and calls with an idempotency key, go on by themselves",
        tool=tool,
    )
    error.outcome = "unknown"
    return error


def _as_rejected(result: ToolResult, *, rejected: bool) -> ToolResult:
    assert result.failure is not None
    return replace(result, failure=replace(result.failure, rejected=rejected))


__all__ = ["Verdict", "afterwards", "beforehand", "overdue", "pause_s", "put_off"]
