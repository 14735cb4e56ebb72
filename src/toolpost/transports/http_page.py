"""The page at /docs, which reads the OpenAPI document: three files of this gateway, and nothing from elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from toolpost.calls.call import Caller
from toolpost.transports.http_headers import etag_matches
from toolpost.transports.http_lookups import query_of
from toolpost.transports.http_routes import Door, Handler, Route
from toolpost.transports.http_schemas import answer, problems

if TYPE_CHECKING:
    from starlette.requests import Request

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def _file(name: str, media_type: str) -> Handler:
    """Answers with a file that lies beside this one, read when it is asked for first."""
    known: list[tuple[bytes, str]] = []

    async def show(request: Request, door: Door, caller: Caller) -> Response:
        query_of(request, ())
        if not known:
            body = Path(__file__).with_name(name).read_bytes()
            known.append((body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'))
        body, etag = known[0]
        headers = {"content-security-policy": _POLICY, "cache-control": "no-cache", "etag": etag}
        if etag_matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=media_type)

    return show


def _route(path: str, operation: str, summary: str, name: str, media_type: str) -> Route:
    return Route(
        method="GET",
        path=path,
        handler=_file(name, media_type),
        public=True,
        about={
            "operationId": operation,
            "summary": summary,
            "tags": ["documents"],
            "responses": {
                "200": answer("The file.", {"type": "string"}, media_type),
                "304": answer("It is what the caller has."),
                **problems(400),
            },
        },
    )


ROUTES: Final = (
    _route("/docs", "showPage", "Show a page that reads this document", "http_page.html", "text/html"),
    _route("/docs/page.js", "showPageScript", "The page's script", "http_page.js", "text/javascript"),
    _route("/docs/page.css", "showPageStyle", "The page's style", "http_page.css", "text/css"),
)

__all__ = ["ROUTES"]
