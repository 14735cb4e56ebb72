"""ApprovalOperations: what people do about calls that wait for them: look, approve, approve with a change, deny."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from toolpost.calls.approval import Approval
from toolpost.calls.call import Caller, ToolCall, create_tool_call
from toolpost.calls.clock import Clock
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError, PermissionDeniedError, ToolNotFoundError
from toolpost.engine.registry import ToolRegistry
from toolpost.pipeline.approve import Questions, approval_of
from toolpost.pipeline.invocation import Invocation
from toolpost.security.approval_records import ApprovalRecord
from toolpost.security.approvals import Approvals
from toolpost.stores import Answer, Pending

T = TypeVar("T")
Listed = list[ApprovalRecord]

PATIENCE_S = 10.0
"""How long a person waits for the store."""

STATES = ("pending", "approved", "denied", "edited", "reserved", "consumed", "expired", "lost")


class ApprovalOperations:
    """The approvals in an executor's records. Every method blocks, for ten seconds a step at most, and raises
    StoreUnavailableError when the store gives no answer."""

    def __init__(self, approvals: Approvals, registry: ToolRegistry, clock: Clock) -> None:
        self._approvals, self._registry, self._clock = approvals, registry, clock

    def list(self, state: str | None = "pending", *, tenant: str | None = None, limit: int = 100) -> Listed:
        """Records that stand so, oldest question first; all that are kept where state is None."""
        if state is not None and state not in STATES:
            raise ConfigurationError(f"an approval is {', '.join(STATES)}, not {state!r:.40}")
        return self._driven(self._approvals.listed(state, tenant, limit, self._had))

    def show(self, approval_id: str) -> ApprovalRecord | None:
        """The record of an id; None where there is none."""
        return self._driven(self._approvals.shown(approval_id, self._had))

    def approve(
        self,
        approval_id: str,
        *,
        by: Caller | str,
        reason: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> ApprovalRecord:
        """Let the call be made, once; the record of the grant. by is a Caller, or the name of an operator.

        With arguments the grant is for the call with these instead, and has a record of its own; they are checked as
        those of a call are. Raises ConfigurationError for what waits for no decision or a tool that has changed since,
        PermissionDeniedError when by may not decide, InputValidationError for arguments that do not fit.
        """
        record = self.show(approval_id)
        tool = None if record is None else self._tool_of(record)
        if record is None or arguments is None:
            return self._driven(self._approvals.decide(approval_id, by, self._had, approve=True, reason=reason))
        if tool is None:
            raise ConfigurationError(
                f"{record.tool} is not loaded here, so that edited arguments cannot be checked; load the tool, as with "
                f"--tools"
            )
        draft, subject = self._edited(tool, record, dict(arguments))
        return self._driven(
            self._approvals.decide(
                approval_id,
                by,
                self._had,
                approve=True,
                reason=reason,
                edited=draft,
                edited_subject=subject,
            )
        )

    def deny(self, approval_id: str, *, by: Caller | str, reason: str) -> ApprovalRecord:
        """Refuse the call; reason is what the model is told. Raises as approve does."""
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigurationError("a denial needs a reason: it is what the model is told")
        return self._driven(self._approvals.decide(approval_id, by, self._had, approve=False, reason=reason))

    def _tool_of(self, record: ApprovalRecord) -> ToolDefinition | None:
        """The tool of a record, if it is loaded. Raises ConfigurationError for one that has changed since."""
        try:
            tool = self._registry.get_tool(record.tool, record.version)
        except ToolNotFoundError:
            return None
        policy = approval_of(tool, self._approvals)
        if policy is None or self._questions(tool, policy).definition != record.definition:
            raise ConfigurationError(
                f"{record.tool} has changed since this was asked, so an answer would be void; a call made now asks anew"
            )
        return tool

    def _edited(
        self, tool: ToolDefinition, record: ApprovalRecord, arguments: dict[str, Any]
    ) -> tuple[ApprovalRecord, str]:
        """The draft of the record for other arguments, and the digest of what its grant is bound to."""
        policy = approval_of(tool, self._approvals)
        assert policy is not None
        questions = self._questions(tool, policy)
        if record.whole and questions.about(_as_called(tool, record, dict(record.arguments)))[1] != record.subject:
            raise ConfigurationError(
                "a grant made here would not be found: whoever asked has another secret_key, or sees the call in "
                "another way; have both use the same settings and code"
            )
        inv = _as_called(tool, record, arguments)
        digest, subject = questions.about(inv)
        if subject == record.subject:
            raise ConfigurationError("these are the arguments of the call; leave them out to approve it as it is")
        draft = questions.draft(inv, record.reason, digest)
        if not draft.whole:
            raise ConfigurationError(
                f"what stands at {', '.join((*draft.hidden, *draft.cut))} is not kept, so that the model could not be "
                f"told of it; deny the call, and say in the reason what to change"
            )
        return draft, subject

    def _questions(self, tool: ToolDefinition, policy: Approval) -> Questions:
        return Questions(tool, policy, self._approvals)

    async def _had(self, answer: Answer[T]) -> T:
        return answer.wait(self._clock, PATIENCE_S) if isinstance(answer, Pending) else answer

    def _driven(self, work: Coroutine[Any, Any, T]) -> T:
        """The value of a coroutine that never suspends, as every answer is waited for in this thread."""
        try:
            work.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        work.close()
        raise AssertionError("an approval was to be awaited")


def _as_called(tool: ToolDefinition, record: ApprovalRecord, arguments: dict[str, Any]) -> Invocation:
    """The invocation of a record's call with these arguments. Raises InputValidationError where they do not fit."""
    inv = Invocation.of(arguments)
    inv.caller = Caller(user_id=record.user_id, tenant=record.tenant, session_id=record.session_id)
    inv.task_id, inv.id = record.task_id, record.call_id
    try:
        inv.kwargs = tool.check.convert(arguments)
    except Exception as raised:
        inv.kwargs = tool.check.mend(arguments, raised)
    return inv


async def approved_call(
    approvals: Approvals, approval_id: str, caller: Caller | None, fields: Mapping[str, Any]
) -> ToolCall:
    """The call of an approval, with the arguments that were approved.

    Raises ConfigurationError where there is none, or its arguments are not kept in full; PermissionDeniedError for
    another caller than the one it was asked for.
    """

    async def had(answer: Answer[T]) -> T:
        return await answer if isinstance(answer, Pending) else answer

    record = await approvals.shown(approval_id, had)
    if record is not None and record.edited_id is not None:
        record = await approvals.shown(record.edited_id, had)
    if record is None:
        raise ConfigurationError(f"there is no approval {approval_id!r:.80}")
    if not record.whole:
        kept = ", ".join((*record.hidden, *record.cut))
        raise ConfigurationError(
            f"approval {record.id} does not hold its arguments in full ({kept} is hidden or cut): make the call itself"
        )
    caller = caller or Caller(user_id=record.user_id, tenant=record.tenant, session_id=record.session_id)
    session = record.session_id if record.per == "session" else caller.session_id
    if (caller.user_id, caller.tenant, caller.session_id) != (record.user_id, record.tenant, session):
        raise PermissionDeniedError(f"approval {record.id} was asked for another caller", tool=record.tool)
    return create_tool_call(
        record.tool,
        dict(record.arguments),
        version=record.version,
        user_id=caller.user_id,
        tenant=caller.tenant,
        session_id=caller.session_id,
        scopes=caller.scopes,
        roles=caller.roles,
        **{"task_id": record.task_id, **fields},
    )


__all__ = ["STATES", "ApprovalOperations", "approved_call"]
