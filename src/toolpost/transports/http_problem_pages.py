"""GET /problems/{code}: what a problem's type leads to, made of the errors' own words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

import orjson

from toolpost.calls.call import Caller
from toolpost.calls.errors import ToolExecutionError
from toolpost.transports.http_lookups import query_of
from toolpost.transports.http_problems import Answer, HttpRefusal, title_of
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import an_object, answer, in_path, problems

if TYPE_CHECKING:
    from starlette.requests import Request

OF_REQUESTS: Final = {
    "authorization_refused": (403, "The user, or the provider, did not grant what was asked for."),
    "body_timeout": (408, "The body did not arrive in time."),
    "body_too_large": (413, "The body has more bytes than max_body_size."),
    "conflict": (409, "It stands in a way in which that cannot be done; details say how."),
    "http_error": (400, "The request cannot be answered."),
    "internal_error": (500, "The gateway failed; its log says how, under the request's id."),
    "invalid_header": (400, "A header of the request cannot be read."),
    "invalid_idempotency_key": (
        400,
        "The header Idempotency-Key is no structured-field string of 1 to 255 characters.",
    ),
    "invalid_query": (400, "A parameter of the query is not known, given twice, or of no such value."),
    "link_expired": (410, "A signed link is over; the call's report has a new one."),
    "method_not_allowed": (405, "The path takes other methods, which Allow names."),
    "not_acceptable": (406, "The answer cannot be given in that form."),
    "not_ended": (409, "The call has not ended, so there is no result yet."),
    "not_found": (404, "There is nothing of that name, or not for this caller."),
    "not_ready": (503, "The process is about to end, or cannot reach a store."),
    "origin_refused": (403, "Pages of this origin may not call; the setting cors_origins has those that may."),
    "precondition_failed": (412, "What is there is not what the request expects."),
    "range_not_satisfiable": (416, "The file has no such range of bytes."),
    "too_many_calls": (400, "The request holds more calls than one may."),
    "unknown_host": (
        421,
        "The gateway does not answer to this Host; the setting allowed_hosts has those that it does.",
    ),
    "unsupported_media_type": (415, "The body is not of a type that is read here."),
}
"""Codes of requests that never became a call: their status, and what they mean."""


async def show_problem(request: Request, door: Door, caller: Caller) -> Answer:
    """What a code means."""
    query_of(request, ())
    code = request.path_params["code"]
    found = meanings().get(code)
    if found is None:
        raise HttpRefusal(404, "not_found", f"there is no problem {code[:60]!r}")
    status, meaning = found
    shown = {"code": code, "title": title_of(status), "status": status, "meaning": meaning}
    return Answer(200, orjson.dumps(shown), [(b"cache-control", b"public, max-age=3600")], own_caching=True)


@cache
def meanings() -> dict[str, tuple[int, str]]:
    """Every code with its status and its meaning."""
    own = {
        one.code: (one.status, (one.__doc__ or "").partition("\n\n")[0].replace("\n    ", " "))
        for one in _all(ToolExecutionError)
        if one.__module__.startswith("toolpost.")
    }
    return {**own, **OF_REQUESTS}


def _all(error: type[ToolExecutionError]) -> Iterator[type[ToolExecutionError]]:
    yield error
    for one in error.__subclasses__():
        yield from _all(one)


ROUTES: Final = [
    Route(
        method="GET",
        path="/problems/{code}",
        handler=show_problem,
        public=True,
        about={
            "operationId": "showProblem",
            "summary": "What a problem's type means",
            "tags": ["documents"],
            "parameters": [in_path("code", "The problem's code", "rate_limited")],
            "responses": {
                "200": answer(
                    "Its meaning", an_object({"code": {"type": "string"}, "meaning": {"type": "string"}}, more=True)
                ),
                **problems(400, 404),
            },
        },
    )
]

__all__ = ["OF_REQUESTS", "ROUTES", "meanings", "show_problem"]
