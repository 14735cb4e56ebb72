"""Users' grants at OAuth providers over HTTP: begun, followed, completed, listed and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from toolpost.calls.call import Caller
from toolpost.calls.errors import (
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnauthorizedError,
)
from toolpost.calls.oauth import OAuth
from toolpost.transports.http_approvals import conflict, json_answer, read_members
from toolpost.transports.http_auth import OPEN
from toolpost.transports.http_bodies import until_gone
from toolpost.transports.http_headers import MAX_WAIT_S
from toolpost.transports.http_lookups import query_of, whole_number
from toolpost.transports.http_problems import HttpRefusal
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import an_object, answer, body_of, in_path, in_query, problems, ref

if TYPE_CHECKING:
    from starlette.requests import Request

    from toolpost.security.oauth import AuthorizationManager
    from toolpost.security.oauth_parked import ParkedAnswers, Standing

LOOK_S: Final = 1.0
"""How often a flow is looked up that may be completed in another process."""
MAX_URL: Final = 8192
MAX_SCOPES: Final = 100
WAITING: Final = ("pending", "answered", "completing")


async def begin(request: Request, door: Door, caller: Caller) -> Response:
    """Begin a flow for the scopes that a tool needs."""
    query_of(request, ())
    body = await read_members(request, {"tool": str, "scopes": list, "user_id": str, "tenant": str}, most=256)
    manager = manager_of(door)
    user_id, tenant = _whom(caller, body)
    more = body.get("scopes", [])
    if len(more) > MAX_SCOPES or not all(isinstance(scope, str) for scope in more):
        raise HttpRefusal.at("/scopes", f"scopes must be at most {MAX_SCOPES} names of scopes")
    name = body.get("tool")
    if name is None:
        raise HttpRefusal.at("/tool", "tool must be the name of a tool that acts at a provider")
    shown = caller if caller is not OPEN else Caller(user_id=user_id, tenant=tenant)
    about = await asyncio.to_thread(door.executor.get_tool_info, name, shown)
    tool = door.executor.registry.get_tool(about["name"], about["version"])
    policy = tool.policies.oauth
    if not isinstance(policy, OAuth):
        raise conflict(f"{tool.name} acts at no OAuth provider, so that there is nothing to grant")
    try:
        flow = await manager.initiate_authorization_async(
            user_id,
            tool.name,
            [*dict.fromkeys([*policy.scopes, *more])],
            provider=policy.provider,
            tenant=tenant,
            session_id=caller.session_id,
        )
    except ConfigurationError as error:
        raise HttpRefusal(400, "invalid_input", error.message) from None
    standing = await parked_of(manager).standing(flow.flow_id)
    if standing is None:
        raise StoreUnavailableError("the authorization flow that was begun is not to be found")
    response = json_answer(flow_json(standing), 201)
    response.headers["location"] = f"{door.base_url}/v1/authorizations/{flow.flow_id}"
    return response


async def show(request: Request, door: Door, caller: Caller) -> Response:
    """How a flow stands; with wait, once it is over or so many seconds are."""
    query = query_of(request, ("wait",))
    wait_s = min(whole_number(query, "wait", 0, 86_400, 0), MAX_WAIT_S)
    standing = await _found(request, door, caller)
    if wait_s and standing.flow.status in WAITING:
        standing = await until_gone(_until_over(door, standing, wait_s), request.receive)
    return json_answer(flow_json(standing))


async def complete(request: Request, door: Door, caller: Caller) -> Response:
    """Complete a flow in its user's name: with the code that the callback's page showed, or an own callback's URL."""
    query_of(request, ())
    body = await read_members(request, {"confirmation": str, "callback_url": str}, most=MAX_URL)
    if len(body) != 1:
        raise HttpRefusal.at("", "give one of confirmation and callback_url")
    standing = await _found(request, door, caller)
    flow, manager = standing.flow, manager_of(door)
    if flow.status not in WAITING:
        raise conflict(f"the authorization flow is {flow.status}; begin a new one", state=flow.status)
    who: Any = {"user_id": flow.user_id, "tenant": standing.tenant, "session_id": caller.session_id}
    url = body.get("callback_url")
    try:
        if url is None:
            await parked_of(manager).confirm(flow.flow_id, body["confirmation"], **who)
        else:
            _check_url(url, flow.flow_id)
            await manager.complete_from_callback(url, **who)
    except UnauthorizedError as error:
        raise HttpRefusal(403, "authorization_refused", error.message) from None
    changed(door, flow.flow_id)
    return json_answer(flow_json(await _found(request, door, caller)))


async def grants(request: Request, door: Door, caller: Caller) -> Response:
    """What the user has granted; no token is shown."""
    query = query_of(request, ("user_id", "tenant"))
    manager = manager_of(door)
    user_id, tenant = _whom(caller, query)
    found = await manager.get_user_authorizations_async(user_id, tenant=tenant)
    told = [
        {
            "provider": one.provider,
            "scopes": list(one.scopes),
            "tool": one.tool_name,
            "created_at": one.created_at,
            "expires_at": one.expires_at,
            "refreshable": one.refresh_token is not None,
            "subject": one.subject,
        }
        for one in found
    ]
    return json_answer({"authorizations": told})


async def revoke(request: Request, door: Door, caller: Caller) -> Response:
    """End the user's grant at a provider, here and there."""
    query = query_of(request, ("provider", "user_id", "tenant"))
    manager = manager_of(door)
    user_id, tenant = _whom(caller, query)
    return await _revoked(manager, user_id, tenant, query.get("provider", "default"))


async def end(request: Request, door: Door, caller: Caller) -> Response:
    """Forget a flow; the grant that came of it is ended, here and at the provider."""
    query_of(request, ())
    standing = await _found(request, door, caller)
    flow, manager = standing.flow, manager_of(door)
    response = (
        await _revoked(manager, flow.user_id, standing.tenant, flow.provider)
        if flow.status == "completed"
        else json_answer({"found": False, "at_provider": None, "why": None})
    )
    await parked_of(manager).drop(flow.flow_id)
    changed(door, flow.flow_id)
    return response


def flow_json(standing: Standing) -> dict[str, Any]:
    """A flow as its user sees it."""
    flow = standing.flow
    told: dict[str, Any] = {
        "id": flow.flow_id,
        "status": flow.status,
        "provider": flow.provider,
        "tool": flow.tool_name,
        "scopes": list(flow.scopes),
        "created_at": flow.created_at,
        "expires_at": flow.expires_at,
    }
    if flow.auth_url:
        told["authorization_url"] = flow.auth_url
    return told


# -- inside -----------------------------------------------------------------------------------------------------------


def manager_of(door: Door) -> AuthorizationManager:
    """The manager of grants. Raises NotFoundError where there is none."""
    try:
        return door.executor.authorizations
    except ConfigurationError as error:
        raise NotFoundError(error.message) from None


def parked_of(manager: AuthorizationManager) -> ParkedAnswers:
    """The answers that came to a manager's redirect URI."""
    from toolpost.security.oauth_parked import ParkedAnswers

    return ParkedAnswers(manager)


def _whom(caller: Caller, given: Mapping[str, Any]) -> tuple[str, str | None]:
    """The user whose grants these are: the caller, or, where nobody is asked who they are, whoever is named."""
    if caller is not OPEN:
        if "user_id" in given or "tenant" in given:
            raise PermissionDeniedError("user_id and tenant are those of the key or token; leave them out")
        if not caller.user_id:
            raise UnauthorizedError("grants are users' own: come with a key or token that names one")
        return caller.user_id, caller.tenant
    if not given.get("user_id"):
        raise HttpRefusal(400, "invalid_input", "user_id must say whose grants these are")
    return given["user_id"], given.get("tenant") or None


async def _found(request: Request, door: Door, caller: Caller) -> Standing:
    its_id = request.path_params["authorization_id"]
    standing = await parked_of(manager_of(door)).standing(its_id)
    if standing is None or (
        caller is not OPEN and (standing.flow.user_id, standing.tenant) != (caller.user_id, caller.tenant or None)
    ):
        raise NotFoundError(f"there is no authorization {its_id!r:.80}")
    return standing


async def _revoked(manager: AuthorizationManager, user_id: str, tenant: str | None, provider: str) -> Response:
    try:
        ended = await manager.revoke_authorization_async(user_id, provider=provider, tenant=tenant)
    except ConfigurationError as error:
        raise NotFoundError(error.message) from None
    return json_answer({"found": ended.found, "at_provider": ended.at_provider, "why": ended.why})


async def _until_over(door: Door, standing: Standing, wait_s: float) -> Standing:
    """Looks when this process changed the flow, and now and then because another may have."""
    parked, flow_id = parked_of(manager_of(door)), standing.flow.flow_id
    told = door.state.setdefault("authorizations", {}).setdefault(flow_id, set())
    before, event = standing.flow.status, asyncio.Event()
    told.add(event)
    try:
        async with asyncio.timeout(wait_s):
            while standing.flow.status == before:
                try:
                    async with asyncio.timeout(LOOK_S):
                        await event.wait()
                except TimeoutError:
                    pass
                event.clear()
                standing = await parked.standing(flow_id) or standing
    except TimeoutError:
        pass
    finally:
        told.discard(event)
        if not told:
            door.state["authorizations"].pop(flow_id, None)
    return standing


def changed(door: Door, flow_id: str) -> None:
    """Tell those who wait for a change of a flow."""
    for event in door.state.get("authorizations", {}).get(flow_id, ()):
        event.set()


def _check_url(url: str, flow_id: str) -> None:
    if f"state={flow_id}." not in url:
        raise HttpRefusal.at(
            "/callback_url",
            "callback_url must be the URL that this flow's provider called back",
            code="authorization_refused",
            status=403,
        )


_ID: Final = in_path("authorization_id", "The id of an authorization flow.", minLength=1)
_USER: Final = in_query("user_id", "Whose, where nobody is asked who they are.", {"type": "string", "minLength": 1})
_TENANT: Final = in_query("tenant", "Of which tenant, where nobody is asked who they are.", {"type": "string"})
_TAGS: Final = ["authorizations"]
_FLOW: Final = answer("How the flow stands.", ref("Authorization"))
_ENDED: Final = answer(
    "found: whether there was a grant, which is forgotten here in any case; at_provider: whether the provider ended it "
    "too, null where it cannot be told; why: why it did not.",
    an_object(
        {
            "found": {"type": "boolean"},
            "at_provider": {"type": ["boolean", "null"]},
            "why": {"type": ["string", "null"]},
        },
        "found",
        "at_provider",
        "why",
    ),
)

ROUTES: Final = [
    Route(
        method="POST",
        path="/v1/authorizations",
        handler=begin,
        about={
            "operationId": "beginAuthorization",
            "summary": "Begin an authorization",
            "description": "The user grants what a tool needs at authorization_url, which is for this user alone.",
            "tags": _TAGS,
            "requestBody": body_of(
                an_object(
                    {
                        "tool": {"type": "string", "minLength": 1, "maxLength": 256},
                        "scopes": {
                            "type": "array",
                            "items": {"type": "string", "pattern": r"^[\x21\x23-\x5b\x5d-\x7e]+$"},
                            "maxItems": MAX_SCOPES,
                            "description": "Further ones than the tool needs.",
                        },
                        "user_id": {"type": "string", "minLength": 1, "maxLength": 256},
                        "tenant": {"type": "string", "minLength": 1, "maxLength": 256},
                    },
                    "tool",
                ),
                {"tool": "Mail.Inbox"},
            ),
            "responses": {
                "201": {
                    **answer("The flow that was begun.", ref("Authorization")),
                    "headers": {"Location": {"description": "Where it is looked up", "schema": {"type": "string"}}},
                },
                **problems(400, 403, 404, 409, 502, 503),
            },
        },
    ),
    Route(
        method="GET",
        path="/v1/authorizations",
        handler=grants,
        about={
            "operationId": "listAuthorizations",
            "summary": "List what the user has granted",
            "tags": _TAGS,
            "parameters": [_USER, _TENANT],
            "responses": {
                "200": answer(
                    "The grants, without tokens.",
                    an_object({"authorizations": {"type": "array", "items": ref("Grant")}}, "authorizations"),
                ),
                **problems(400, 403, 404, 503),
            },
        },
    ),
    Route(
        method="DELETE",
        path="/v1/authorizations",
        handler=revoke,
        about={
            "operationId": "revokeGrant",
            "summary": "End the user's grant at a provider",
            "tags": _TAGS,
            "parameters": [
                in_query("provider", "The provider's name.", {"type": "string", "default": "default"}),
                _USER,
                _TENANT,
            ],
            "responses": {"200": _ENDED, **problems(400, 403, 404, 502, 503)},
        },
    ),
    Route(
        method="GET",
        path="/v1/authorizations/{authorization_id}",
        handler=show,
        about={
            "operationId": "showAuthorization",
            "summary": "Show how an authorization stands",
            "tags": _TAGS,
            "parameters": [
                _ID,
                in_query(
                    "wait", "Wait so many seconds for a change.", {"type": "integer", "minimum": 0, "maximum": 86_400}
                ),
            ],
            "responses": {"200": _FLOW, **problems(400, 403, 404, 503)},
        },
    ),
    Route(
        method="DELETE",
        path="/v1/authorizations/{authorization_id}",
        handler=end,
        about={
            "operationId": "endAuthorization",
            "summary": "Forget an authorization, and end the grant that came of it",
            "tags": _TAGS,
            "parameters": [_ID],
            "responses": {"200": _ENDED, **problems(400, 403, 404, 502, 503)},
        },
    ),
    Route(
        method="POST",
        path="/v1/authorizations/{authorization_id}/complete",
        handler=complete,
        about={
            "operationId": "completeAuthorization",
            "summary": "Complete an authorization",
            "description": "With confirmation, the code that the page showed after the login; or with callback_url, "
            "where the redirect URI is a page of your own, the URL that it was called with.",
            "tags": _TAGS,
            "parameters": [_ID],
            "requestBody": body_of(
                {
                    "oneOf": [
                        an_object(
                            {"confirmation": {"type": "string", "minLength": 1, "maxLength": MAX_URL}}, "confirmation"
                        ),
                        an_object(
                            {"callback_url": {"type": "string", "minLength": 1, "maxLength": MAX_URL}}, "callback_url"
                        ),
                    ]
                },
                {"confirmation": "BCDF-GHJK"},
            ),
            "responses": {"200": _FLOW, **problems(400, 403, 404, 409, 502, 503)},
        },
    ),
]

__all__ = ["ROUTES", "changed", "manager_of", "parked_of"]
