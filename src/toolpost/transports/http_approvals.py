"""Approvals over HTTP: which calls wait for a person, and what those who may decide say about them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response

from toolpost.calls.call import Caller, new_id
from toolpost.calls.errors import (
    ConfigurationError,
    InputValidationError,
    NotFoundError,
    PermissionDeniedError,
    UnauthorizedError,
)
from toolpost.engine.approvals import STATES
from toolpost.security.approvals import decider
from toolpost.security.unseen import visible_in
from toolpost.transports.http_bodies import read_json, until_gone
from toolpost.transports.http_calling import answer_of
from toolpost.transports.http_lookups import query_of, whole_number
from toolpost.transports.http_problems import Answer, HttpRefusal, problem_list
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import an_object, answer, body_of, in_path, in_query, problems, ref
from toolpost.worker.calls import OPERATE

if TYPE_CHECKING:
    from starlette.requests import Request

    from toolpost.security.approval_records import ApprovalRecord

MOST: Final = 2000
"""Of those that stand in one way, so many, the oldest questions, are looked through."""
MAX_PAGE: Final = 500
_CURSOR: Final = re.compile("^[0-9]{1,12}(\\.[0-9]{1,9})?~[0-9a-f-]{1,80}$")
_SAID: Final = re.compile("[^\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]")
"""A reason has something that is no white space, in the sense of str.strip()."""
MAX_REASON: Final = 2000
"""Most characters of a reason: people and models read it."""


async def list_approvals(request: Request, door: Door, caller: Caller) -> Response:
    """Those that the caller may see, oldest question first."""
    query = query_of(request, ("state", "limit", "after"))
    state = query.get("state", "pending")
    if state not in (*STATES, "all"):
        raise HttpRefusal(400, "invalid_query", f"state must be {', '.join(STATES)} or all, got {state!r:.40}")
    limit, after = whole_number(query, "limit", 1, MAX_PAGE, 100), _cursor(query.get("after"))
    tenant = None if caller.tenant is None and OPERATE in caller.scopes else caller.tenant or ""
    found = await asyncio.to_thread(
        door.executor.approvals.list, None if state == "all" else state, tenant=tenant, limit=MOST
    )
    there = [one for one in found if may_see(one, caller) and (one.asked_at, one.id) > after]
    now = door.executor.clock.now()
    last = there[limit - 1] if len(there) > limit else None
    return json_answer(
        {
            "approvals": [approval_json(one, caller, now) for one in there[:limit]],
            "next": None if last is None else f"{last.asked_at!r}~{last.id}",
        }
    )


async def show_approval(request: Request, door: Door, caller: Caller) -> Response:
    """One, with its history."""
    record = await _found(request, door, caller)
    return json_answer(approval_json(record, caller, door.executor.clock.now()))


async def approve(request: Request, door: Door, caller: Caller) -> Response:
    """Let the call be made, once; with arguments, let another be made in its place."""
    body = await read_members(request, {"reason": str, "arguments": dict}, MAX_REASON)
    operations = door.executor.approvals
    return await _decided(
        request,
        door,
        caller,
        lambda its_id: operations.approve(
            its_id, by=caller, reason=body.get("reason"), arguments=body.get("arguments")
        ),
    )


async def deny(request: Request, door: Door, caller: Caller) -> Response:
    """Refuse the call; the reason is what the model is told."""
    reason = (await read_members(request, {"reason": str}, MAX_REASON)).get("reason")
    if reason is None or not _SAID.search(reason):
        raise HttpRefusal.at("/reason", "a denial needs a reason: it is what the model is told")
    operations = door.executor.approvals
    return await _decided(request, door, caller, lambda its_id: operations.deny(its_id, by=caller, reason=reason))


async def run(request: Request, door: Door, caller: Caller) -> Response | Answer:
    """Make the approved call, by the caller that it was asked for; it runs once."""
    await read_members(request, {}, 0)
    record = await _found(request, door, caller)
    if record.edited_id is not None:
        made = await asyncio.to_thread(door.executor.approvals.show, record.edited_id)
        record = made if made is not None else record
    standing = record.standing(door.executor.clock.now())
    if standing != "approved":
        raise conflict(f"approval {record.id} is {standing}; only one that is approved can be run", state=standing)
    whose = caller if caller.user_id is not None or OPERATE not in caller.scopes else None
    try:
        call = await door.executor.approved_call(record.id, caller=whose, call_id=new_id())
    except ConfigurationError as error:
        raise conflict(error.message) from None
    return answer_of(door, await until_gone(door.service.calls.run(call), request.receive))


def may_see(record: ApprovalRecord, caller: Caller) -> bool:
    """Whether a caller sees a question: who asked, whoever may decide, and operators; each of its tenant."""
    if OPERATE in caller.scopes and caller.tenant in (None, record.tenant):
        return True
    if (caller.tenant or None) != (record.tenant or None) or not caller.user_id:
        return False
    return caller.user_id == record.user_id or may_decide(record, caller)


def may_decide(record: ApprovalRecord, caller: Caller) -> bool:
    """Whether this caller may approve it, by the very rule that decisions are checked with."""
    try:
        decider(record, caller, approve=True)
    except (ConfigurationError, PermissionDeniedError):
        return False
    return True


def approval_json(record: ApprovalRecord, caller: Caller, now: float) -> dict[str, Any]:
    """A record as JSON: without what only the engine needs, with texts that hide nothing from whoever reads them."""
    told = record.to_dict(now)
    for name in ("subject", "lease_until", "expires_s"):
        del told[name]
    told["decidable"] = told["state"] == "pending" and may_decide(record, caller)
    return visible_in(told)  # type: ignore[no-any-return]


def conflict(detail: str, **more: Any) -> HttpRefusal:
    """The refusal of what cannot be done as things stand."""
    return HttpRefusal(409, "conflict", detail, more=more)


async def _found(request: Request, door: Door, caller: Caller) -> ApprovalRecord:
    its_id = request.path_params["approval_id"]
    record = await asyncio.to_thread(door.executor.approvals.show, its_id)
    if record is None or not may_see(record, caller):
        raise NotFoundError(f"there is no approval {its_id!r:.80}")
    return record


async def _decided(request: Request, door: Door, caller: Caller, decide: Callable[[str], ApprovalRecord]) -> Response:
    record = await _found(request, door, caller)
    if not caller.user_id:
        raise UnauthorizedError(
            "an approval is decided by a person who is known: come with a key or token that names one, or decide on "
            "the command line with toolpost approvals"
        )
    now = door.executor.clock.now()
    standing = record.standing(now)
    if standing != "pending":
        raise conflict(f"approval {record.id} is {standing}; only one that is pending can be decided", state=standing)
    try:
        decided = await asyncio.to_thread(decide, record.id)
    except InputValidationError as error:
        places = problem_list(error.errors(), "/arguments")
        raise HttpRefusal(400, error.code, error.message, errors=places) from None
    except ConfigurationError as error:
        raise conflict(
            error.message, **{name: error.details[name] for name in _TOLD if name in error.details}
        ) from None
    return json_answer(approval_json(decided, caller, now))


_TOLD: Final = ("state", "approval_id")


async def read_members(request: Request, members: Mapping[str, type], most: int) -> dict[str, Any]:
    """A body of these members, of these types, none of them needed; texts have at most so many characters."""
    raw = await request.body()
    body = read_json(raw) if raw else {}
    if not isinstance(body, dict):
        raise HttpRefusal.at("", "the body must be an object")
    known = ", ".join(members) or "none"
    for name, value in body.items():
        kind = members.get(name)
        if kind is None:
            raise HttpRefusal.at(f"/{name[:60]}", f"there is no member {name[:60]!r}; there are: {known}")
        if not isinstance(value, kind):
            raise HttpRefusal.at(f"/{name}", f"{name} must be {_KINDS[kind]}")
        if isinstance(value, str) and not 0 < len(value) <= most:
            raise HttpRefusal.at(f"/{name}", f"{name} must have 1 to {most} characters")
    return body


_KINDS: Final[dict[type, str]] = {str: "a string", dict: "an object", list: "an array"}


def _cursor(given: str | None) -> tuple[float, str]:
    if given is None:
        return -1.0, ""
    if not _CURSOR.fullmatch(given):
        raise HttpRefusal(400, "invalid_query", f"after must be what an earlier page gave, got {given!r:.80}")
    at, _, its_id = given.partition("~")
    return float(at), its_id


def json_answer(body: Any, status: int = 200) -> Response:
    """JSON that is this caller's alone."""
    return Response(orjson.dumps(body), status, media_type="application/json", headers={"cache-control": "no-store"})


_ID: Final = in_path("approval_id", "The id of an approval, as in the problem approval_required.", minLength=1)
_ONE: Final = answer("The approval as it stands.", ref("Approval"))
_TAGS: Final = ["approvals"]

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/approvals",
        handler=list_approvals,
        about={
            "operationId": "listApprovals",
            "summary": "List approvals",
            "description": "Those that the caller asked for or may decide about; operators see all of their tenant.",
            "tags": _TAGS,
            "parameters": [
                in_query(
                    "state",
                    "Those that stand so.",
                    {"type": "string", "enum": [*STATES, "all"], "default": "pending"},
                ),
                in_query("limit", "Most of a page.", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}),
                in_query(
                    "after", "Where the page before ended: its next.", {"type": "string", "pattern": _CURSOR.pattern}
                ),
            ],
            "responses": {
                "200": answer(
                    "A page, oldest question first.",
                    an_object(
                        {
                            "approvals": {"type": "array", "items": ref("Approval")},
                            "next": {"type": ["string", "null"]},
                        },
                        "approvals",
                        "next",
                    ),
                ),
                **problems(400),
            },
        },
    ),
    Route(
        method="GET",
        path="/v1/approvals/{approval_id}",
        handler=show_approval,
        about={
            "operationId": "showApproval",
            "summary": "Show an approval",
            "tags": _TAGS,
            "parameters": [_ID],
            "responses": {"200": _ONE, **problems(404)},
        },
    ),
    Route(
        method="POST",
        path="/v1/approvals/{approval_id}/approve",
        handler=approve,
        about={
            "operationId": "approveCall",
            "summary": "Approve a call",
            "description": "The call may be made once. With arguments, another one may be made in its place, and the "
            "answer is the approval of that one.",
            "tags": _TAGS,
            "parameters": [_ID],
            "requestBody": body_of(
                an_object(
                    {
                        "reason": {"type": "string", "minLength": 1, "maxLength": MAX_REASON},
                        "arguments": {"type": "object", "description": "What the call is to be made with instead."},
                    }
                ),
                {"reason": "checked with the customer"},
                required=False,
            ),
            "responses": {"200": _ONE, **problems(400, 403, 404, 409)},
        },
    ),
    Route(
        method="POST",
        path="/v1/approvals/{approval_id}/deny",
        handler=deny,
        about={
            "operationId": "denyCall",
            "summary": "Deny a call",
            "tags": _TAGS,
            "parameters": [_ID],
            "requestBody": body_of(
                an_object(
                    {"reason": {"type": "string", "minLength": 1, "maxLength": MAX_REASON, "pattern": _SAID.pattern}},
                    "reason",
                ),
                {"reason": "150 is the limit"},
            ),
            "responses": {"200": _ONE, **problems(400, 403, 404, 409)},
        },
    ),
    Route(
        method="POST",
        path="/v1/approvals/{approval_id}/run",
        handler=run,
        about={
            "operationId": "runApprovedCall",
            "summary": "Make an approved call",
            "description": "With exactly the arguments that were approved; for the caller that it was asked for.",
            "tags": _TAGS,
            "parameters": [_ID],
            "requestBody": body_of(an_object({}), required=False),
            "responses": {
                "200": answer("The result of the call.", ref("CallResult")),
                **problems(400, 403, 404, 409, 422, 499, 501, 502, 504),
            },
        },
    ),
)

__all__ = ["ROUTES", "approval_json", "conflict", "json_answer", "may_decide", "may_see", "read_members"]
