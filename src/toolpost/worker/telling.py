"""What is told of the end of an accepted call before its row says so: the report that a callback carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolpost.stores import Work
from toolpost.worker.keeping import caller_of, object_in, tool_of
from toolpost.worker.reports import CallReport, KeptArtifact
from toolpost.worker.verdicts import Verdict

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor


def report_of_end(
    work: Work, verdict: Verdict, artifacts: tuple[KeptArtifact, ...], executor: ToolExecutor
) -> CallReport:
    """The report of a call that ends so, now; it says what the row will say, but for the clock that it goes by."""
    task, now = work.task, executor.clock.now()
    took_s = verdict.result.execution_time_ms / 1000.0
    arguments = task.extra.get("shown")
    if arguments is None:
        tool = tool_of(executor, task.tool, task.version)
        arguments = executor.admission.shown(tool, object_in(task.arguments))
    return CallReport(
        call_id=task.task_id,
        tool=task.tool,
        state=verdict.state,
        caller=caller_of(task),
        version=task.extra.get("version", task.version),
        accepted=True,
        arguments=arguments,
        result=verdict.result,
        artifacts=artifacts,
        created_at=now - work.age_s - took_s,
        started_at=now - took_s,
        finished_at=now,
        attempt=work.attempt,
        max_attempts=task.max_attempts,
        priority=task.priority,
        idempotency_key=task.idempotency_key,
        trace=task.trace,
        callback=task.reply_to,
        format=task.extra.get("format"),
        provider_id=task.extra.get("provider_id"),
    )


__all__ = ["report_of_end"]
