"""The page to which OAuth providers send people back: it keeps what came, and says what is to be done with it."""

from __future__ import annotations

import base64
import hashlib
import html
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.responses import Response

from toolpost.calls.call import Caller
from toolpost.calls.errors import (
    ConfigurationError,
    NotFoundError,
    RemoteToolError,
    SecretUnavailableError,
    StoreUnavailableError,
    UnauthorizedError,
)
from toolpost.transports.http_oauth import changed, manager_of, parked_of
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import answer, in_query

if TYPE_CHECKING:
    from starlette.requests import Request

CALLBACK: Final = "/oauth/callback"
"""Where answers come to, unless the redirect URIs of the providers say otherwise."""


async def callback(request: Request, door: Door, caller: Caller) -> Response:
    """Where a provider sends people back to. What came is kept until its user confirms it; the page says how."""
    state = request.query_params.getlist("state")
    if len(state) != 1 or not state[0]:
        return page(400, "This answer was not used", "It does not say what it is an answer to. Begin again.")
    try:
        flow, code = await parked_of(manager_of(door)).park(str(request.url))
    except (NotFoundError, UnauthorizedError):
        return page(404, "This answer was not used", "It belongs to no authorization that waits for one. Begin again.")
    except (RemoteToolError, SecretUnavailableError, StoreUnavailableError):
        return page(503, "This did not work", "Something that is needed is not there now. Begin again in a while.")
    changed(door, flow.flow_id)
    if code is None:
        return page(200, "Access was not granted", "Nothing was changed. You can close this page.")
    return page(
        200,
        "One step is left",
        f"Give this code to the application that you came from, where you are known as {flow.user_id!r:.100}. "
        "If that is not you, or you did not begin this yourself, close this page and give the code to nobody.",
        code,
    )


def routes_of(door: Door) -> list[Route]:
    """The callback's route, at the path of each provider's redirect URI."""
    try:
        providers = door.executor.authorizations.providers
    except ConfigurationError:
        return list(ROUTES)
    paths = {urlsplit(one.redirect_uri or "").path for one in providers.values()} - {"", "/"}
    return [replace(route, path=path) for route in ROUTES for path in sorted(paths or {CALLBACK})]


_STYLE: Final = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;color:#1b1b1b;"
    "background:#fff}strong{font:1.8rem ui-monospace,monospace;letter-spacing:.1em}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
}


def page(status: int, title: str, text: str, code: str | None = None) -> Response:
    """A page without scripts, links and anything of the request."""
    shown = "" if code is None else f"<p><strong>{html.escape(code)}</strong></p>"
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f"{shown}<p>{html.escape(text)}</p></main></body></html>"
    )
    return Response(body, status, headers=PAGE_HEADERS, media_type="text/html")


_TEXT: Final = {"type": "string"}

ROUTES: Final = [
    Route(
        method="GET",
        path=CALLBACK,
        handler=callback,
        public=True,
        about={
            "operationId": "receiveAuthorization",
            "summary": "Where providers send people back to",
            "tags": ["authorizations"],
            "parameters": [
                {**in_query("state", "Which flow it is an answer to.", {**_TEXT, "minLength": 1}), "required": True},
                in_query("code", "What the tokens are had for.", _TEXT),
                in_query("iss", "Who answers (RFC 9207).", _TEXT),
                in_query("error", "Why access was not granted.", _TEXT),
                in_query("error_description", "The same in words, which are not shown.", _TEXT),
            ],
            "responses": {
                "200": answer("A page that says what is to be done.", _TEXT, "text/html"),
                "400": answer("A page that says that nothing was done.", _TEXT, "text/html"),
                "404": answer("A page that says that nothing waits for this answer.", _TEXT, "text/html"),
                "503": answer("A page that says so.", _TEXT, "text/html"),
            },
        },
    ),
]

__all__ = ["CALLBACK", "ROUTES", "callback", "page", "routes_of"]
