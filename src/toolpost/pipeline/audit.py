"""audit: who asked for what, written before anything else happens; how it ended, written by an observer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import AuditUnavailableError, EngineError
from toolpost.calls.secret_names import marked_in
from toolpost.pipeline.answers import answered
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.security.pins import face_digest
from toolpost.stores import Answer, AuditHead, Pending
from toolpost.telemetry.audit_rows import Face

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

PATIENCE_S = 10.0
"""How long a call without a deadline waits for its start to be written, where it must be."""


def audit(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Write the start of each call. Where audit is required nothing else happens before that is in the store.

    Not in the chain while audit is off. How calls end is told by AuditLog.observe, which settle tells.
    """
    log = services.audit
    if log is None:
        return next
    clock, begin = services.clock, log.begin
    face = Face(tool.name, tool.version, face_digest(tool), marked_in(tool.parameters))

    def handler(inv: Invocation) -> Awaitable[Any]:
        answer = begin(face, inv.id, inv.caller, inv.task_id, inv.arguments)
        if inv.explain is not None:
            inv.note("audit", "written" if log.required else "noted", values=log.values)
        return waited(answer, inv) if isinstance(answer, Pending) else next(inv)

    async def waited(answer: Answer[AuditHead], inv: Invocation) -> Any:
        try:
            await answered(answer, inv, clock, PATIENCE_S)
        except EngineError as error:
            raise AuditUnavailableError(
                f"calls must be audited, and the audit log cannot be written: {error.message}"
            ) from error
        return await next(inv)

    return handler
