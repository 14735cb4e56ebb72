"""approve: calls that a person must approve first wait for nobody: they are told what to do, and run once granted."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls.approval import Approval
from toolpost.calls.call import Caller
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    ApprovalDeniedError,
    ApprovalRequiredError,
    CallInProgressError,
    ConfigurationError,
    InputValidationError,
    OutputValidationError,
    Rejected,
)
from toolpost.calls.policies import Unset, given
from toolpost.pipeline.answers import answered
from toolpost.pipeline.canonical import canonical, digest_of
from toolpost.pipeline.encode import to_json
from toolpost.pipeline.flights import left_s
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.keys import key_maker
from toolpost.pipeline.services import Services
from toolpost.security.approval_records import OVER, ApprovalRecord
from toolpost.security.approvals import Approvals, Had
from toolpost.security.conditions import compiled
from toolpost.security.pins import face_digest
from toolpost.security.shown import shown
from toolpost.stores import Answer

if TYPE_CHECKING:
    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")

NOT_NEEDED: Final = "nobody need be asked"
REPLAY_ONLY: Final = "an earlier call with the key ran by a grant"
"""What approve writes to Invocation.cleared beside the record of a grant."""

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
"""How often a call that waits for the decision looks for it."""

BY_DEFAULT: Final = Approval(reason="the tool says of itself that it is destructive")


def approve(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Let a call pass that nobody need approve, or for which there is a grant; spend takes the grant further in.

    A call whose idempotency key ran by a grant passes as well, to be answered by once: spend lets it run nothing.
    """
    approvals = services.approvals
    policy = approval_of(tool, approvals)
    if policy is None:
        return next
    if approvals is None:
        raise ConfigurationError(f"{tool.name}: a person must approve its calls, but there is nowhere to ask")
    questions = Questions(tool, policy, approvals)
    idempotency = given(tool.policies.over(services.defaults).idempotency)
    key_of = None if idempotency is None else key_maker(tool, idempotency)
    clock = services.clock

    def handler(inv: Invocation) -> Awaitable[Any]:
        why = questions.why(inv)
        if why is None:
            inv.cleared = NOT_NEEDED
            inv.note("approve", NOT_NEEDED)
            return next(inv)
        return asked(inv, why)

    async def asked(inv: Invocation, why: str) -> Any:
        had = having(inv, services)
        arguments, subject = questions.about(inv)
        record = await approvals.find(subject, had)
        if record is None or (standing := record.standing(clock.now())) != "approved":
            key = None if key_of is None else key_of(inv)
            if key is not None and await approvals.is_spent(spent_key(key, arguments, inv.caller), had):
                inv.cleared = REPLAY_ONLY
                inv.note("approve", REPLAY_ONLY)
                return await next(inv)
            if record is None or standing in OVER:
                draft = questions.draft(inv, why, arguments)
                record = await approvals.ask(draft, subject, policy.max_pending, had)
            if policy.wait_s and record.state == "pending":
                inv.note("approve", "waits for the decision", approval_id=record.id)
                record = await decided(record, inv, had)
        standing = record.standing(clock.now())
        inv.note("approve", standing, approval_id=record.id, why=why)
        if standing != "approved":
            raise refusal(record, standing)
        inv.cleared = record
        return await next(inv)

    async def decided(record: ApprovalRecord, inv: Invocation, had: Had) -> ApprovalRecord:
        """The record once it is decided, or as it stands when the call is to wait no longer."""
        left = left_s(inv, clock.stopwatch())
        until = clock.stopwatch() + (policy.wait_s if left is None else min(policy.wait_s, left * 0.9))
        pause_s = FIRST_PAUSE_S
        while record.standing(clock.now()) == "pending" and (room_s := until - clock.stopwatch()) > 0:
            if inv.blocking:
                clock.pause(min(pause_s, room_s))
            else:
                await clock.sleep(min(pause_s, room_s))
            pause_s = min(LONGEST_PAUSE_S, pause_s * 1.5)
            record = await approvals.find(record.subject, had) or record
        return record

    return handler


def having(inv: Invocation, services: Services) -> Had:
    """How a call comes by the answers of the store."""

    def had(answer: Answer[Any]) -> Awaitable[Any]:
        return answered(answer, inv, services.clock)

    return had


def approval_of(tool: ToolDefinition, approvals: Approvals | None) -> Approval | None:
    """The policy of a tool: its own, or the executor's for tools that say they are destructive and nothing of it."""
    own = tool.policies.approval
    if isinstance(own, Unset) and tool.hints.destructive and approvals is not None and approvals.ask_for_destructive:
        return BY_DEFAULT
    return given(own)


def spent_key(key: str, arguments_digest: str, caller: Caller) -> str:
    """What is remembered of a call that ran by a grant: its idempotency key, for these arguments of this caller."""
    return digest_of(key, arguments_digest, caller.tenant, caller.user_id)[:40]


def refusal(record: ApprovalRecord, standing: str) -> Rejected:
    """What a call is told whose approval stands so."""
    details: dict[str, Any] = {"approval_id": record.id, "reason": record.reason, "expires_at": record.expires_at}
    if standing == "denied":
        said = f": {record.decision_reason}" if record.decision_reason else ", and gave no reason"
        return ApprovalDeniedError(
            f"a person denied this call{said}; do not make it again",
            details={**details, "decision_reason": record.decision_reason},
        )
    if standing == "edited":
        edited = dict(record.edited_arguments or {})
        said = f" ({record.decision_reason})" if record.decision_reason else ""
        return ApprovalDeniedError(
            f"a person approved this call with other arguments only{said}: call the tool with "
            f"{orjson.dumps(edited).decode()}",
            details={**details, "approval_id": record.edited_id, "arguments": edited},
        )
    if standing == "reserved":
        return CallInProgressError("the same call runs now, by the one approval that it has", retry_after_s=1.0)
    why = f" ({record.reason})" if record.reason else ""
    return ApprovalRequiredError(
        f"a person must approve this call first{why}; make the same call again once approval {record.id} is given",
        approval_id=record.id,
        details=details,
    )


class Questions:
    """Whether the calls of one tool are asked about, and what the question is."""

    def __init__(self, tool: ToolDefinition, policy: Approval, approvals: Approvals) -> None:
        self.tool, self.policy, self.approvals = tool, policy, approvals
        known = tool.parameters.get("properties", {})
        for name in policy.where or ():
            if name not in known and tool.parameters.get("additionalProperties", True) is False:
                there = ", ".join(known) or "none"
                raise ConfigurationError(
                    f"{tool.name}: Approval.where names {name!r}, which is no parameter; there are {there}"
                )
        condition = policy.condition()
        self._fits = None if condition is None else compiled(condition)
        self._words = "; ".join(
            f"{name}: {orjson.dumps(schema, option=orjson.OPT_SORT_KEYS).decode()}"
            for name, schema in (policy.where or {}).items()
        )
        self._named = tuple(policy.where or ())
        self._known, self._open = known.keys(), tool.parameters.get("additionalProperties", True) is not False
        self._always = policy.when is None and policy.where is None
        self._defaults = {
            name: part["default"] for name, part in known.items() if isinstance(part, dict) and "default" in part
        }
        self.definition = digest_of(tool.body_digest, face_digest(tool))  # a face has the policy in it

    def why(self, inv: Invocation) -> str | None:
        """Why a person is to be asked; None when they are not. A condition that breaks has them asked."""
        policy = self.policy
        if self._always:
            return policy.reason
        try:
            if policy.when is not None:
                verdict = policy.when(inv.caller, inv.kwargs)
                if hasattr(verdict, "__await__"):
                    getattr(verdict, "close", lambda: None)()
                    raise TypeError("when gave something to await")
                if verdict:
                    return verdict if isinstance(verdict, str) else policy.reason
            if self._fits is not None and self._is_met(inv):
                return "; ".join(part for part in (policy.reason, self._words) if part)
        except Exception as error:
            logger.exception("whether a person must approve could not be told: %s", self.tool.name)
            said = f"whether a person must approve it could not be told ({type(error).__name__})"
            return "; ".join(part for part in (policy.reason, said) if part)
        return None

    def _is_met(self, inv: Invocation) -> bool:
        """Whether where holds for the arguments as they came or as the body gets them.

        One alone may lack what the other has: a model's aliases, fields that its dump leaves out. Raises where neither
        can be told from the names that the schema has.
        """
        assert self._fits is not None
        if not inv.arguments.keys() <= self._known and not self._open:
            raise LookupError("an argument came by another name than the schema's")
        for those in (inv.kwargs, inv.arguments):
            named = {name: those[name] for name in self._named if name in those}
            if self._fits({**self._defaults, **to_json(named)}):
                return True
        return False

    def about(self, inv: Invocation) -> tuple[str, str]:
        """The digest of the arguments, and that of all that a grant is bound to."""
        try:
            arguments = digest_of(canonical(inv.kwargs))
        except ValueError:  # a value whose class says nothing of what is equal: what it was made of does
            try:
                arguments = digest_of("as they came", canonical(inv.arguments))
            except ValueError as error:
                raise InputValidationError(
                    f"Parameter validation failed: no person can be asked to approve a call with such arguments: "
                    f"{error}"
                ) from None
        arguments = self.approvals.sealed(arguments)
        caller = inv.caller
        session = caller.session_id if self.policy.per == "session" else None
        who = (caller.tenant, caller.user_id, session)
        return arguments, digest_of(self.tool.name, self.tool.version, self.definition, arguments, *who)

    def draft(self, inv: Invocation, why: str, arguments_digest: str) -> ApprovalRecord:
        """The question about a call."""
        tool, policy, caller = self.tool, self.policy, inv.caller
        arguments, unfit = self._as_json(inv.arguments, inv.kwargs)
        told = shown(arguments, tool.parameters, self.approvals.redactor)
        hints = {name: getattr(tool.hints, name) for name in ("title", "read_only", "destructive", "idempotent")}
        return ApprovalRecord(
            id="",
            tool=tool.name,
            version=tool.version,
            definition=self.definition,
            arguments_digest=arguments_digest,
            tenant=caller.tenant,
            user_id=caller.user_id,
            session_id=caller.session_id,
            task_id=inv.task_id,
            call_id=inv.id,
            reason=why,
            description=tool.description[:2000],
            hints={name: value for name, value in hints.items() if value is not None},
            arguments=told.arguments,
            hidden=told.hidden,
            cut=(*told.cut, *unfit),
            odd=told.odd,
            approvers=policy.approvers,
            self_approval=policy.self_approval,
            per=policy.per,
            expires_s=policy.expires_s,
        )

    def _as_json(self, arguments: dict[str, Any], kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The arguments as a person sees them, with defaults filled in; they make the same call when sent again.

        And places of those that have no JSON form, and so are not there.
        """
        try:
            filled: dict[str, Any] = to_json(kwargs)
            if canonical(self.tool.check.convert(dict(filled))) == canonical(kwargs):
                return filled, []
        except Exception:
            filled = {}
        told, unfit = {}, []
        for name, value in arguments.items():
            try:
                told[name] = to_json(value)
            except OutputValidationError:
                told[name] = f"[{type(value).__name__}]"
                unfit.append(f"/{name}")
        return told, unfit


__all__ = ["NOT_NEEDED", "REPLAY_ONLY", "Questions", "approval_of", "approve", "having", "refusal", "spent_key"]
