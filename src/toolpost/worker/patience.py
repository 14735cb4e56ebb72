"""Keeps what a body gave, however long the stores for it are away: no body runs again for that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from toolpost.calls.errors import StoreUnavailableError
from toolpost.calls.result import ToolResult
from toolpost.stores import Finish, Outgoing
from toolpost.worker.failpoints import fp
from toolpost.worker.keeping import finish_of, kept_artifacts
from toolpost.worker.reports import KeptArtifact
from toolpost.worker.verdicts import Verdict

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost.worker")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0


async def keep_files(result: ToolResult, executor: ToolExecutor) -> tuple[KeptArtifact, ...]:
    """Keep the files of a result in blobs; what they are."""
    if not result.artifacts:
        return ()
    fp("blob.before")
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            artifacts = await kept_artifacts(result, executor)
        except StoreUnavailableError as error:
            logger.warning("artifacts of call %s wait for their store: %s", result.call_id, error.message)
            await executor.clock.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        else:
            fp("blob.after")
            return artifacts


async def finish_patiently(
    task_id: str,
    verdict: Verdict,
    artifacts: tuple[KeptArtifact, ...],
    outbox: tuple[Outgoing, ...],
    executor: ToolExecutor,
) -> Finish:
    """The finish of a call that ends so; a large value is kept in blobs first."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await finish_of(
                verdict.result, task_id, executor, artifacts=artifacts, state=verdict.state, outbox=outbox
            )
        except StoreUnavailableError as error:
            logger.warning("the value of call %s waits for its store: %s", task_id, error.message)
            await executor.clock.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)


__all__ = ["finish_patiently", "keep_files"]
