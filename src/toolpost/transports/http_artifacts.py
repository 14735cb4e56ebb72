"""Artifacts over HTTP: files of a call for whoever may see it, and by signed links for whoever has one; its value."""

from __future__ import annotations

import base64
import hmac
import logging
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import orjson
from starlette.responses import Response

from toolpost.calls.call import Caller
from toolpost.calls.errors import NotFoundError, PermissionDeniedError, ToolExecutionError
from toolpost.transports.http_files import file_in, file_of, file_response
from toolpost.transports.http_problems import HttpRefusal, failed_answer, not_ended
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import answer, in_header, in_path, in_query, problems
from toolpost.worker.reports import KeptArtifact

if TYPE_CHECKING:
    from starlette.requests import Request

logger = logging.getLogger("toolpost")

PURPOSE: Final = "artifact links"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
_EXPIRES: Final = re.compile(r"[0-9]{1,12}\Z", re.ASCII)


# -- links -------------------------------------------------------------------------------------------------------------


def artifact_url(door: Door, call_id: str, artifact: KeptArtifact) -> str:
    """Where a call's artifact can be had: by a signed link, or, without a secret_key, by whoever may see the call."""
    try:
        link = signed_link(door, artifact)
    except ToolExecutionError as error:  # a secret_key that cannot be had is no reason to withhold a result
        logger.warning("artifacts have no signed links: %s", error.message)
        link = None
    if link is not None:
        return link
    return f"{door.base_url}/v1/calls/{quote(call_id, safe='')}/artifacts/{quote(artifact.name)}"


def signed_link(door: Door, artifact: KeptArtifact) -> str | None:
    """A URL that gives these bytes to whoever has it, for links_ttl seconds; None without a secret_key.

    Its signature covers digest, name, media type and end, so that nothing about it can be changed.
    """
    keys = door.executor.derived_keys(PURPOSE)
    if not keys:
        return None
    expires = int(door.executor.clock.now() + door.executor.config.links_ttl)
    signed = _signature(keys[0], artifact.digest, artifact.name, artifact.media_type, expires)
    query = {"name": artifact.name, "type": artifact.media_type, "expires": str(expires), "signature": signed}
    return f"{door.base_url}/v1/artifacts/{artifact.digest}?{urlencode(query, quote_via=quote)}"


def _signature(key: bytes, digest: str, name: str, media_type: str, expires: int) -> str:
    text = orjson.dumps(["artifact link 1", digest, name, media_type, expires])
    return base64.urlsafe_b64encode(hmac.digest(key, text, "sha256")).decode().rstrip("=")


def _check_link(request: Request, door: Door, digest: str) -> tuple[str, str, int]:
    """Name, media type and end of a link that is one of ours and good. Raises PermissionDeniedError, HttpRefusal."""
    query = request.query_params
    name, media_type = query.get("name", ""), query.get("type", "")
    expires, given = query.get("expires", ""), query.get("signature", "").encode("utf-8", "replace")
    end = int(expires) if _EXPIRES.match(expires) else 0
    try:
        keys = door.executor.derived_keys(PURPOSE)
        good = [_signature(key, digest, name, media_type, end).encode() for key in keys]
    except orjson.JSONEncodeError:  # half a surrogate pair, which no link of ours has
        good = []
    matches = [hmac.compare_digest(one, given) for one in good]  # each, so that time says nothing of which
    if not any(matches) or not _DIGEST.match(digest):
        raise PermissionDeniedError("this link was not made here, or was altered; GET /v1/calls/{id} has good ones")
    if end <= door.executor.clock.now():
        raise HttpRefusal(410, "link_expired", "this link is over; GET /v1/calls/{id} has a new one")
    return name, media_type, end


# -- what is answered --------------------------------------------------------------------------------------------------


async def show_artifact(request: Request, door: Door, caller: Caller) -> Response:
    """One file of a call that the caller may see."""
    call_id, name = request.path_params["call_id"], request.path_params["name"]
    report = await door.service.calls.show(call_id, caller)
    artifact = None if report is None else next((one for one in report.artifacts if one.name == name), None)
    if artifact is None:
        what = f"there is no call {call_id!r:.80}" if report is None else f"the call has no artifact {name!r:.200}"
        raise NotFoundError(what)
    return file_response(
        request, await file_in(door.executor.blobs, artifact.digest, artifact.name, artifact.media_type)
    )


async def linked_artifact(request: Request, door: Door, caller: Caller) -> Response:
    """The bytes behind a signed link."""
    digest = request.path_params["digest"]
    name, media_type, end = _check_link(request, door, digest)
    cache = f"private, max-age={max(0, int(end - door.executor.clock.now()))}, immutable"
    return file_response(
        request, await file_in(door.executor.blobs, digest, name, media_type, cache=cache, site="cross-origin")
    )


async def show_result(request: Request, door: Door, caller: Caller) -> Any:
    """The value of a call alone, as JSON, however large; the problem document of one that failed."""
    call_id = request.path_params["call_id"]
    report = await door.service.calls.show(call_id, caller)
    if report is None:
        raise NotFoundError(f"there is no call {call_id!r:.80}")
    if report.result is None:
        raise not_ended(report, "GET /v1/calls/{id}?wait=60 waits for it")
    if not report.result.success:
        return failed_answer(report.result, door.base_url, extra={})
    # Whole, as what became known as a secret since has been hidden in it; so it is not what lies in blobs.
    data = orjson.dumps(report.result.data, option=orjson.OPT_NON_STR_KEYS)
    return file_response(request, file_of(data, f"{report.call_id}.json", "application/json"))


# -- what of that is said ----------------------------------------------------------------------------------------------

_TAGS: Final = ["Artifacts"]
_CALL: Final = in_path("call_id", "The call's id.")
_BYTES: Final[Any] = {"type": "string", "format": "binary"}
_CONDITIONS: Final = [
    in_header(
        "Range",
        "Which bytes, as in bytes=0-99 or bytes=-100; several come as multipart/byteranges.",
        {"type": "string"},
    ),
    in_header("If-Range", "The ETag that the ranges are of; of other bytes all are sent.", {"type": "string"}),
    in_header("If-None-Match", "ETags that the caller has: 304 where one is it.", {"type": "string"}),
    in_header("If-Match", "ETags that are wanted: 412 where none is it.", {"type": "string"}),
]


def _answers(what: str, schema: Any, media_type: str) -> dict[str, Any]:
    return {
        "200": answer(what, schema, media_type),
        "206": answer("The ranges that were asked for.", {} if media_type == "application/json" else _BYTES, "*/*"),
        "304": answer("The caller has it."),
        **problems(404, 412, 416),
    }


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/calls/{call_id}/artifacts/{name:path}",
        handler=show_artifact,
        about={
            "operationId": "showArtifact",
            "summary": "Get a file of a call",
            "description": "For whoever may see the call. Only what no browser runs is shown inline.",
            "tags": _TAGS,
            "parameters": [_CALL, in_path("name", "The artifact's name, in which slashes may be."), *_CONDITIONS],
            "responses": _answers("The bytes.", _BYTES, "*/*"),
        },
    ),
    Route(
        method="GET",
        path="/v1/artifacts/{digest}",
        handler=linked_artifact,
        public=True,
        about={
            "operationId": "showLinkedArtifact",
            "summary": "Get a file by its signed link",
            "description": "Links are in the artifacts of calls, as url; they are good for links_ttl seconds.",
            "tags": _TAGS,
            "parameters": [
                in_path("digest", "The SHA-256 of the bytes, in hex."),
                in_query("name", "As the link has it.", {"type": "string"}),
                in_query("type", "As the link has it.", {"type": "string"}),
                in_query("expires", "As the link has it.", {"type": "string"}),
                in_query("signature", "As the link has it.", {"type": "string"}),
                *_CONDITIONS,
            ],
            "responses": {**_answers("The bytes.", _BYTES, "*/*"), **problems(403, 410)},
        },
    ),
    Route(
        method="GET",
        path="/v1/calls/{call_id}/result",
        handler=show_result,
        about={
            "operationId": "showResult",
            "summary": "Get the value of a call",
            "description": "The value alone, however large, in ranges if wanted; a call that failed answers as it did.",
            "tags": _TAGS,
            "parameters": [_CALL, *_CONDITIONS],
            "responses": {**_answers("The value.", {}, "application/json"), **problems(409)},
        },
    ),
)
