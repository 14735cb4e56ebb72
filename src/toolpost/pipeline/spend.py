"""spend: a grant is taken just before the body it was given for, and given back when the body did not run."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ApprovalRequiredError, EngineError, InputRequiredError, ToolExecutionError
from toolpost.calls.policies import given
from toolpost.pipeline.answers import ASIDE_S, answered
from toolpost.pipeline.approve import NOT_NEEDED, REPLAY_ONLY, Questions, approval_of, having, refusal, spent_key
from toolpost.pipeline.flights import left_s
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.security.approval_records import OVER, ApprovalRecord
from toolpost.stores import Answer

if TYPE_CHECKING:
    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")

NO_DEADLINE_S: Final = 3600.0
GRACE_S: Final = 60.0
"""How long after a call's deadline its process may say what became of it, before it counts as lost."""
ATTEMPTS: Final = 10


def spend(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Whatever asks for the body of a tool with Approval, a repeat and a cache that renews itself too, needs a grant.

    The grant is reserved before the body and used up once it has run, or may have: a process that dies between the two
    has used it.
    """
    approvals = services.approvals
    policy = approval_of(tool, approvals)
    if policy is None or approvals is None:
        return next
    questions, clock = Questions(tool, policy, approvals), services.clock
    idempotency = given(tool.policies.over(services.defaults).idempotency)
    keys_last_s = 0.0 if idempotency is None else idempotency.ttl_s + GRACE_S

    def handler(inv: Invocation) -> Awaitable[Any]:
        if inv.cleared is NOT_NEEDED or (inv.cleared is None and questions.why(inv) is None):
            return next(inv)
        return granted(inv)

    async def granted(inv: Invocation) -> Any:
        record = await taken(inv)
        if inv.effect_key is not None:
            key = spent_key(inv.effect_key, record.arguments_digest, inv.caller)
            try:
                await approvals.spend_key(key, record, keys_last_s, having(inv, services))
            except BaseException as raised:
                await given_back(record, inv, raised)
                raise
        try:
            value = await next(inv)
        except BaseException as raised:
            if inv.ran and not isinstance(raised, InputRequiredError):
                await used(record, inv, raised)
            else:
                await given_back(record, inv, raised)
            raise
        await used(record, inv, None)
        return value

    async def used(record: ApprovalRecord, inv: Invocation, raised: BaseException | None) -> None:
        inv.note("spend", "used", approval_id=record.id)
        await tell(record, inv, None, raised)

    async def given_back(record: ApprovalRecord, inv: Invocation, raised: BaseException) -> None:
        inv.note("spend", "given back", approval_id=record.id)
        why = raised.code if isinstance(raised, ToolExecutionError) else type(raised).__name__
        await tell(record, inv, why, raised)

    async def tell(record: ApprovalRecord, inv: Invocation, not_run: str | None, raised: BaseException | None) -> None:
        """Say what became of the grant. A call that was cancelled waits for nothing; the store does it all the same."""
        try:
            answer: Answer[int] = approvals.ended(record, record.subject, not_run)
            if raised is None or isinstance(raised, Exception):
                await answered(answer, inv, clock, ASIDE_S)
        except EngineError as error:
            logger.warning("what became of approval %s could not be kept: it counts as used (%s)", record.id, error)

    async def taken(inv: Invocation) -> ApprovalRecord:
        """The grant, reserved for this call. Raises what the call is told where there is none."""
        had = having(inv, services)
        record = inv.cleared
        if record is None:  # a run that no call stands behind: what was kept would be renewed
            raise ApprovalRequiredError("a person must approve each run of this tool, and no call asked for this one")
        if record is REPLAY_ONLY:
            why = questions.why(inv) or policy.reason
            arguments, subject = questions.about(inv)
            record = await approvals.ask(questions.draft(inv, why, arguments), subject, policy.max_pending, had)
        left = left_s(inv, clock.stopwatch())
        lease_s = (NO_DEADLINE_S if left is None else left) + GRACE_S
        for _ in range(ATTEMPTS):
            mine = await approvals.reserve(record, record.subject, inv.id, lease_s, had)
            if mine is not None:
                inv.note("spend", "reserved", approval_id=mine.id)
                return mine
            found = await approvals.find(record.subject, had)
            if found is None or (standing := found.standing(clock.now())) in OVER:
                why = questions.why(inv) or policy.reason
                draft = questions.draft(inv, why, record.arguments_digest)
                found = await approvals.ask(draft, record.subject, policy.max_pending, had)
                standing = found.standing(clock.now())
            if standing != "approved":
                raise refusal(found, standing)
            record = found
        raise EngineError("the approval of this call changes too often to be used; try again")

    return handler


__all__ = ["spend"]
