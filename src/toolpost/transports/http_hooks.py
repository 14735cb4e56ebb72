"""Callbacks over HTTP: what became of them, sending one again, the secrets that they are signed with, endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response

from toolpost.calls.call import Caller
from toolpost.calls.errors import NotFoundError, NotSupportedError, PermissionDeniedError
from toolpost.security.egress_urls import MAX_URL_CHARS
from toolpost.transports.http_bodies import read_json
from toolpost.transports.http_headers import next_link
from toolpost.transports.http_lookups import query_of, whole_number
from toolpost.transports.http_problems import HttpRefusal
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import an_object, answer, body_of, in_path, in_query, problems
from toolpost.worker.cloudevents import rfc3339
from toolpost.worker.delivery_log import STATES, Delivery, DeliveryLog, shown_url
from toolpost.worker.seeing import OPERATE
from toolpost.worker.webhooks import webhook_secrets

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_PAGE: Final = 1000


async def list_deliveries(request: Request, door: Door, caller: Caller) -> Response:
    """Those of callbacks that the caller may see, newest first."""
    query = query_of(request, ("call", "state", "after", "limit"))
    state = query.get("state")
    if state is not None and state not in STATES:
        raise HttpRefusal(400, "invalid_query", f"state must be one of {', '.join(STATES)}, got {state[:40]!r}")
    page = await DeliveryLog(door.executor).list(
        caller,
        state=state,
        call_id=query.get("call"),
        after=query.get("after"),
        limit=whole_number(query, "limit", 1, MAX_PAGE, 100),
    )
    headers = {}
    if page.after is not None:
        headers["link"] = next_link(f"{door.base_url}/v1/deliveries", {**query, "after": page.after})
    return _json({"deliveries": [delivery_json(one) for one in page.deliveries], "next": page.after}, headers)


async def show_delivery(request: Request, door: Door, caller: Caller) -> Response:
    """One, with its attempts."""
    query_of(request, ())
    delivery_id = request.path_params["delivery_id"]
    delivery = await DeliveryLog(door.executor).find(delivery_id, caller)
    if delivery is None:
        raise NotFoundError(f"there is no delivery {delivery_id!r:.100}")
    return _json(delivery_json(delivery))


async def resend_delivery(request: Request, door: Door, caller: Caller) -> Response:
    """Send a callback again, at once and with all its retries."""
    query_of(request, ())
    delivery = await DeliveryLog(door.executor).resend(request.path_params["delivery_id"], caller)
    if door.service.deliveries is not None:
        door.service.deliveries.wake()
    door.executor.audit_note(
        "webhook.resent", user=caller.user_id, tenant=caller.tenant, call=delivery.call_id, id=delivery.id
    )
    return _json(delivery_json(delivery), status=202)


async def show_secrets(request: Request, door: Door, caller: Caller) -> Response:
    """What the receivers of the caller's callbacks check them with.

    A tenant's are its operators' to see: with them anybody's callback within it can be made, and its users may be
    programs that act on what others wrote. Who has no tenant has secrets of his own.
    """
    query = query_of(request, ("tenant", "user"))
    owner = _owner(caller, query.get("tenant"), query.get("user"))
    if owner.tenant is not None and OPERATE not in caller.scopes:
        raise PermissionDeniedError(f"the secrets of a tenant are for those who have the scope {OPERATE}")
    secrets = webhook_secrets(door.executor, owner.tenant, owner.user_id)
    if not secrets:
        raise NotSupportedError("callbacks are signed, and there is no secret_key to sign with: set secret_key")
    whose = {"tenant": owner.tenant, "user_id": None if owner.tenant else owner.user_id}
    door.executor.audit_note("webhook.secrets_shown", user=caller.user_id, tenant=caller.tenant, of=whose)
    return _json({**whose, "secrets": secrets}, {"cache-control": "no-store"})


async def enable_endpoint(request: Request, door: Door, caller: Caller) -> Response:
    """Take callbacks to a URL up again, after its receiver said 410 Gone."""
    query_of(request, ())
    body = read_json(await request.body())
    given = body if isinstance(body, dict) else {}
    if not given.keys() <= {"url", "tenant", "user_id"} or not all(isinstance(one, str) for one in given.values()):
        raise HttpRefusal.at("", 'the body must be {"url": "https://..."}; operators may name tenant or user_id')
    url = given.get("url", "")
    if not 0 < len(url) <= MAX_URL_CHARS:
        raise HttpRefusal.at("/url", f"url must be the callback's, with up to {MAX_URL_CHARS} characters")
    owner = _owner(caller, given.get("tenant"), given.get("user_id"))
    enabled = await DeliveryLog(door.executor).enable(url, owner)
    door.executor.audit_note(
        "webhook.enabled", user=caller.user_id, tenant=caller.tenant, url=shown_url(url), was_disabled=enabled
    )
    return _json({"url": shown_url(url), "was_disabled": enabled})


def _owner(caller: Caller, tenant: str | None, user_id: str | None) -> Caller:
    """Whose callbacks are meant: the caller's own, or whoever's an operator without a tenant names."""
    own = Caller(user_id=caller.user_id, tenant=caller.tenant or None)
    if not tenant and not user_id:
        return own
    if OPERATE in caller.scopes and own.tenant is None:
        return Caller(user_id=user_id or None, tenant=tenant or None)
    if (tenant or own.tenant) == own.tenant and (user_id or own.user_id) == own.user_id:
        return own
    raise PermissionDeniedError("that is for the operators of the tenant, or for those of all")


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    """A delivery with its times as text."""
    shown = delivery.to_json()
    for name in ("created_at", "updated_at", "next_at"):
        if name in shown:
            shown[name] = rfc3339(shown[name])
    for attempt in shown["attempts"]:
        attempt["at"] = rfc3339(attempt["at"])
    return shown


def _json(value: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, headers=headers, media_type="application/json")


# -- what of that is said ----------------------------------------------------------------------------------------------

_TAGS: Final = ["Callbacks"]
_ID: Final = in_path("delivery_id", "The delivery's id, which is the webhook-id of what was sent.")
_TIME: Final = {"type": "string", "format": "date-time"}
_TEXT: Final = {"type": "string"}
_ATTEMPT: Final = an_object(
    {
        "at": _TIME,
        "turn": {"type": "integer", "description": "1, and one more with each resend."},
        "status": {"type": "integer", "description": "What the receiver answered, if it did."},
        "error": _TEXT,
        "elapsed_ms": {"type": "number"},
    },
    "at",
    "turn",
    "elapsed_ms",
)
_DELIVERY: Final = an_object(
    {
        "id": _TEXT,
        "call_id": _TEXT,
        "type": {"type": "string", "description": "call.succeeded, call.failed and so on."},
        "url": {"type": "string", "description": "Where it goes, without the query."},
        "tenant": _TEXT,
        "user_id": _TEXT,
        "state": {"type": "string", "enum": list(STATES)},
        "turn": {"type": "integer"},
        "attempts": {"type": "array", "items": _ATTEMPT},
        "created_at": _TIME,
        "updated_at": _TIME,
        "next_at": {**_TIME, "description": "When it is tried again."},
        "error": _TEXT,
    },
    *"id call_id type url state turn attempts created_at updated_at".split(),
)

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/deliveries",
        handler=list_deliveries,
        about={
            "operationId": "listDeliveries",
            "summary": "List what became of callbacks",
            "description": "Of the caller's own calls; operators see all of their tenant. Newest first.",
            "tags": _TAGS,
            "parameters": [
                in_query("call", "The one of this call.", _TEXT),
                in_query("state", "Those that stand so.", {"type": "string", "enum": list(STATES)}),
                in_query("after", "The member next of the page before.", _TEXT),
                in_query("limit", "Most of a page.", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}),
            ],
            "responses": {
                "200": answer(
                    "Deliveries; next, where there are more.",
                    an_object(
                        {"deliveries": {"type": "array", "items": _DELIVERY}, "next": {"type": ["string", "null"]}},
                        "deliveries",
                        "next",
                    ),
                ),
                **problems(400),
            },
        },
    ),
    Route(
        method="GET",
        path="/v1/deliveries/{delivery_id}",
        handler=show_delivery,
        about={
            "operationId": "showDelivery",
            "summary": "Show what became of a callback",
            "tags": _TAGS,
            "parameters": [_ID],
            "responses": {"200": answer("The delivery.", _DELIVERY), **problems(400, 404)},
        },
    ),
    Route(
        method="POST",
        path="/v1/deliveries/{delivery_id}/resend",
        handler=resend_delivery,
        about={
            "operationId": "resendDelivery",
            "summary": "Send a callback again",
            "description": "At once, with the same webhook-id and all retries, whatever became of it before.",
            "tags": _TAGS,
            "parameters": [_ID],
            "responses": {"202": answer("It is sent.", _DELIVERY), **problems(400, 404)},
        },
    ),
    Route(
        method="GET",
        path="/v1/webhooks/secrets",
        handler=show_secrets,
        about={
            "operationId": "showWebhookSecrets",
            "summary": "Show what callbacks are signed with",
            "description": "The secrets of the caller's tenant, for its operators; without a tenant the caller's own. "
            "The newest first; during a rotation of secret_key callbacks are signed with all.",
            "tags": _TAGS,
            "parameters": [
                in_query("tenant", "Whose they are, for operators who have no tenant.", _TEXT),
                in_query("user", "Whose they are that has no tenant, for operators who have none.", _TEXT),
            ],
            "responses": {
                "200": answer(
                    "The secrets.",
                    an_object(
                        {
                            "tenant": {"type": ["string", "null"]},
                            "user_id": {"type": ["string", "null"]},
                            "secrets": {"type": "array", "items": _TEXT},
                        },
                        "tenant",
                        "user_id",
                        "secrets",
                    ),
                ),
                **problems(400, 403, 501),
            },
        },
    ),
    Route(
        method="POST",
        path="/v1/webhooks/endpoints/enable",
        handler=enable_endpoint,
        about={
            "operationId": "enableWebhookEndpoint",
            "summary": "Take callbacks to a URL up again",
            "description": "A receiver that answers 410 Gone is sent nothing more by the tenant until this.",
            "tags": _TAGS,
            "requestBody": body_of(
                an_object(
                    {
                        "url": {"type": "string", "minLength": 1, "maxLength": MAX_URL_CHARS},
                        "tenant": {"type": "string", "description": "Whose it is, for operators who have no tenant"},
                        "user_id": {"type": "string", "description": "Whose it is that has no tenant, for the same"},
                    },
                    "url",
                ),
                {"url": "https://example.com/hook"},
            ),
            "responses": {
                "200": answer(
                    "It is enabled.",
                    an_object({"url": _TEXT, "was_disabled": {"type": "boolean"}}, "url", "was_disabled"),
                ),
                **problems(400, 403),
            },
        },
    ),
)
