"""Rounds: what an MCP client is asked before a call can go on (forms, approvals, grants), and what it answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls.call import Caller, new_id
from toolpost.calls.errors import ConfigurationError, PermissionDeniedError, UnauthorizedError
from toolpost.calls.questions import Question, is_answer
from toolpost.calls.result import Failure
from toolpost.security.approvals import decider
from toolpost.transports.mcp_client import Client
from toolpost.transports.mcp_results import Answer

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from toolpost.engine.executor import ToolExecutor

ASKS: Final = frozenset({"input_required", "approval_required", "authorization_required"})
"""Codes of failures that a client may be able to mend by answering."""
APPROVAL: Final = "toolpost-approval"
GRANT: Final = "toolpost-authorization"
CODE: Final = "toolpost-code"
"""The keys of our own questions, beside those of bodies: may it run, the page of a provider, the code at its end."""
OWN: Final = frozenset({APPROVAL, GRANT, CODE})
MOST_ROUNDS: Final = 16


@dataclass(slots=True)
class Round:
    """What is known before one try of a call: answers of bodies' questions, and our own questions that are open."""

    answers: dict[str, Any] = field(default_factory=dict)
    approval_id: str | None = None
    flow_id: str | None = None
    own: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, state: str | None, responses: Mapping[str, Any] | None) -> Round:
        """The round that a request begins: state is what we sealed the last time, responses is what came in answer."""
        kept = orjson.loads(state) if state else {}
        found = cls(
            answers=dict(kept.get("answers", {})), approval_id=kept.get("approval_id"), flow_id=kept.get("flow_id")
        )
        found.take(responses or {})
        return found

    def take(self, answers: Mapping[str, Any]) -> None:
        """Take answers in: those of our own questions apart."""
        for key, answer in answers.items():
            (self.own if key in OWN else self.answers)[key] = answer

    def state(self) -> str:
        """What is to be sealed and come back with the answers."""
        kept: dict[str, Any] = {"answers": self.answers}
        if self.approval_id is not None:
            kept["approval_id"] = self.approval_id
        if self.flow_id is not None:
            kept["flow_id"] = self.flow_id
        return orjson.dumps(kept).decode()


class Rounds:
    """Turns failures into questions, and answers to our own questions into decisions."""

    def __init__(self, executor: ToolExecutor, base_url: str) -> None:
        self._executor, self._base_url = executor, base_url.rstrip("/")

    async def questions(self, failure: Failure, client: Client, round: Round) -> dict[str, Question]:
        """What a client must be asked for the call to go on; empty where asking it would not help."""
        details = failure.details
        if failure.code == "input_required":
            return {key: Question.from_dict(one) for key, one in details.get("questions", {}).items()}
        if failure.code == "approval_required" and (approval_id := details.get("approval_id")):
            question = await self._approval(approval_id, failure, client, round)
            return {} if question is None else {APPROVAL: question}
        if failure.code == "authorization_required" and (url := details.get("authorization_url")):
            return _grant(failure.message, url, details.get("flow_id"), client, round)
        return {}

    async def decided(self, round: Round, caller: Caller) -> str | None:
        """Act on the answer to an approval that this caller may decide; why the call is not to be tried, if it is not.

        Raises ToolExecutionError where the decision is refused.
        """
        answer = round.own.pop(APPROVAL, None)
        approval_id, round.approval_id = round.approval_id, None
        refusal = await self._granted(round, caller)
        if refusal is not None:
            return refusal
        if approval_id is None or not isinstance(answer, Mapping):
            return None
        operations = self._executor.approvals
        if answer.get("action") == "cancel":
            return "the approval was put off; make the same call again to ask anew"
        agreed = answer.get("action") == "accept" and (answer.get("content") or {}).get("approve") is True
        try:
            if agreed:
                await asyncio.to_thread(operations.approve, approval_id, by=caller)
            else:
                await asyncio.to_thread(operations.deny, approval_id, by=caller, reason="declined by the caller")
        except ConfigurationError:
            return None  # somebody else has decided meanwhile: the call itself is told how
        return None

    async def _granted(self, round: Round, caller: Caller) -> str | None:
        """Complete the flow whose page showed a code to this caller; why the call is not to be tried, if it is not."""
        opened, told = round.own.pop(GRANT, None), round.own.pop(CODE, None)
        flow_id, round.flow_id = round.flow_id, None
        for answer in (opened, told):
            if isinstance(answer, Mapping) and answer.get("action") in ("decline", "cancel"):
                return "access was not granted"
        code = (told.get("content") or {}).get("code") if isinstance(told, Mapping) else None
        if flow_id is None or caller.user_id is None or not isinstance(code, str) or not code.strip():
            return None
        from toolpost.security.oauth_parked import ParkedAnswers

        parked = ParkedAnswers(self._executor.authorizations)
        who: Any = {"user_id": caller.user_id, "tenant": caller.tenant, "session_id": caller.session_id}
        try:
            await parked.confirm(flow_id, code, **who)
        except UnauthorizedError as error:
            return error.message
        return None

    async def _approval(self, approval_id: str, failure: Failure, client: Client, round: Round) -> Question | None:
        """A form for whoever may decide about their own call; for all others the page where others do, if there is one.

        Over stdio nobody knows how the gateway is reached, unless public_url says so.
        """
        record = await asyncio.to_thread(self._executor.approvals.show, approval_id)
        if record is not None and _may_decide(record, client.caller):
            round.approval_id = approval_id
            why = f" ({record.reason})" if record.reason else ""
            return Question.form(
                f"Approve this call of {record.tool}{why}? {orjson.dumps(dict(record.arguments)).decode():.500}",
                {
                    "properties": {"approve": {"type": "boolean", "title": "Approve", "default": False}},
                    "required": ["approve"],
                },
            )
        base_url = self._base_url or client.base_url
        if not base_url:
            return None
        return Question.link(failure.message, f"{base_url}/v1/approvals/{approval_id}", id=approval_id)


def _grant(message: str, url: str, flow_id: str | None, client: Client, round: Round) -> dict[str, Question]:
    """The page where access is granted, and the code that ours shows at its end to whoever was there.

    The page knows nobody: the code is what tells that its visitor and this caller are the same.
    """
    asked = {GRANT: Question.link(message, url, id=flow_id or new_id())}
    code = Question.form(
        "The code that the page shows at its end; leave it empty if it shows none",
        {"properties": {"code": {"type": "string", "title": "Code", "maxLength": 32}}},
    )
    if flow_id is not None and client.lacks(code) is None:
        round.flow_id = flow_id
        asked[CODE] = code
    return asked


def _may_decide(record: Any, caller: Caller) -> bool:
    try:
        decider(record, caller, approve=True)
    except (PermissionDeniedError, ConfigurationError):
        return False
    return True


def for_client(
    questions: Mapping[str, Question], client: Client, round: Round
) -> tuple[dict[str, Question], dict[str, Any]]:
    """The questions that the client can be asked, and the capabilities that it lacks for the rest.

    Optional ones that it cannot be asked are answered with None.
    """
    asked: dict[str, Question] = {}
    lacking: dict[str, Any] = {}
    for key, question in questions.items():
        missing = client.lacks(question)
        if missing is None:
            asked[key] = question
        elif question.optional:
            round.answers[key] = None
        else:
            lacking.update(missing)
    return asked, lacking


def input_required(questions: Mapping[str, Question], round: Round) -> Answer:
    """The result that asks, and is answered by the same call with the answers (MCP 2026-07-28, multi-round-trip)."""
    return {
        "resultType": "input_required",
        "inputRequests": {key: {"method": one.method, "params": dict(one.params)} for key, one in questions.items()},
        "requestState": round.state(),
    }


class SessionAsker:
    """Asks the client of a session while its call runs."""

    def __init__(self, ctx: ServerRequestContext[Any, Any], client: Client) -> None:
        self._ctx, self._client = ctx, client

    @property
    def can_ask(self) -> bool:
        """Whether there is a way to the client at all."""
        return self._ctx.session.can_send_request

    async def ask(self, questions: Mapping[str, Question]) -> Mapping[str, Any]:
        """The answers that could be had: not to what the client cannot be asked, or answers with an error."""
        answers: dict[str, Any] = {}
        for key, question in questions.items():
            if self._client.lacks(question) is None:
                answer = await self._asked(question)
                if answer is not None and is_answer(question, answer):
                    answers[key] = answer
            elif question.optional:
                answers[key] = None
        return answers

    async def _asked(self, question: Question) -> Any:
        import mcp_types as types
        from mcp.shared.exceptions import MCPError
        from mcp.shared.message import ServerMessageMetadata

        kinds: dict[str, tuple[Any, Any]] = {
            "elicitation/create": (types.ElicitRequest, types.ElicitResult),
            "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
            "roots/list": (types.ListRootsRequest, types.ListRootsResult),
        }
        request_type, result_type = kinds[question.method]
        request = request_type.model_validate({"method": question.method, "params": dict(question.params)})
        related = ServerMessageMetadata(related_request_id=self._ctx.request_id)
        try:
            answer = await self._ctx.session.send_request(request, result_type, metadata=related)
        except MCPError:
            return None
        told: dict[str, Any] = answer.model_dump(by_alias=True, mode="json", exclude_none=True)
        return told


__all__ = [
    "APPROVAL",
    "ASKS",
    "CODE",
    "GRANT",
    "MOST_ROUNDS",
    "OWN",
    "Round",
    "Rounds",
    "SessionAsker",
    "for_client",
    "input_required",
]
