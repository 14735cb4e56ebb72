"""Writing answers: security headers, CORS, request ids and traces on all of them, and errors as problems."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException

from toolpost.calls.call import new_id
from toolpost.calls.errors import AuthorizationRequiredError, ToolExecutionError, UnauthorizedError
from toolpost.transports.http_auth import Fields, challenge
from toolpost.transports.http_bodies import ClientLeftError, declared_length
from toolpost.transports.http_headers import Headers, is_request_id, is_tracestate, trace_of
from toolpost.transports.http_problems import Answer, HttpRefusal, error_answer, refusal_answer
from toolpost.transports.serve_log import TOLD, note

if TYPE_CHECKING:
    from starlette.responses import Response

    from toolpost.transports.http_routes import Door

logger = logging.getLogger("toolpost")

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

SECURITY: Final[Headers] = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
"""On every answer that does not say otherwise itself."""
WHOLE: Final = "toolpost.whole"
"""Where a request's scope has what answers it in one piece, on servers that can: told (scope, fields, body) it writes
an answer of status 200 and returns True, or does nothing."""
_ASKS: Final = frozenset({b"x-request-id", b"origin", b"traceparent"})
"""Fields of a request that have its answer say more."""
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
EXPOSED: Final = (
    b"Location, Link, ETag, Retry-After, RateLimit, RateLimit-Policy, Idempotency-Replayed, Preference-Applied, "
    b"Toolpost-Call-Id, X-Request-Id, WWW-Authenticate, Content-Range, Content-Disposition, Mcp-Session-Id, "
    b"Mcp-Protocol-Version, traceparent, tracestate"
)
ALLOWED: Final = (
    b"Accept, Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Last-Event-ID, Prefer, Range, "
    b"Toolpost-Session, X-API-Key, X-Request-Id, traceparent, tracestate, baggage, Mcp-Session-Id, "
    b"Mcp-Protocol-Version, Mcp-Method, Mcp-Name"
)
PREFLIGHT_S: Final = b"600"
DISCARD_BYTES: Final = 8 << 20
DISCARD_S: Final = 1.0
"""What comes of a body that was refused is read for so long: a connection that is closed at once loses the answer."""


class Sent:
    """What is known of one request while it is answered. about: what it asks for, for the audit log. route: its
    template, for metrics."""

    __slots__ = (
        "_request_id", "about", "allowed_origin", "body_read", "fields", "receive", "route", "scope", "send", "started",
    )  # fmt: skip

    def __init__(self, scope: Any, receive: Any, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.fields: Fields = {}
        self.allowed_origin: str | None = None
        self.about = self.route = ""
        self.body_read = self.started = False
        self._request_id: str | None = None

    @property
    def request_id(self) -> str:
        """The caller's X-Request-Id, or one of ours."""
        if self._request_id is None:
            given = self.fields.get(b"x-request-id", b"").decode("latin-1")
            self._request_id = given if is_request_id(given) else new_id()
        return self._request_id

    def reading(self, receive: Any) -> Any:
        """receive for a handler: that it read the whole body is noted."""
        if self.body_read:
            return receive

        async def receiving() -> Any:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                self.body_read = True
            return message

        return receiving

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks if a page may call (Fetch, section 4.8)."""
        return b"origin" in self.fields and b"access-control-request-method" in self.fields


class Answers:
    """Sends the answers of one gateway."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._count = door.executor.figures.request
        secure = door.base_url.startswith("https://")
        self._security = [*SECURITY, _HSTS] if secure else SECURITY
        self._security_text = b"".join(b"%b: %b\r\n" % field for field in self._security)

    async def send(self, sent: Sent, answer: Answer) -> None:
        """Send a whole answer."""
        if (
            answer.status == 200
            and not answer.headers
            and answer.call_id is not None
            and self._sent_plainly(sent, answer, answer.call_id)
        ):
            return
        body = answer.body
        status = answer.status
        if status in (204, 304):
            headers, body = list(answer.headers), b""
        else:
            headers = [
                (b"content-type", answer.media_type),
                (b"content-length", b"%d" % len(body)),
                *answer.headers,
            ]
        if answer.own_caching:
            headers += (header for header in self._security if header[0] != b"cache-control")
        else:
            headers += self._security
        call_id = answer.call_id
        if call_id is not None:
            headers.append((b"toolpost-call-id", call_id.encode("latin-1")))
        if call_id is None or not _ASKS.isdisjoint(sent.fields) or self._door.service.draining:
            self._add(sent, headers)
        if answer.code is not None:
            note(sent.scope, call_id=call_id, code=answer.code)
        elif call_id is not None:
            note(sent.scope, call_id=call_id)
        sent.started = True
        self._count(sent.scope["method"], sent.route, status)
        if sent.scope["method"] == "HEAD":
            body = b""
        await sent.send({"type": "http.response.start", "status": status, "headers": headers})
        await sent.send({"type": "http.response.body", "body": body})

    def _sent_plainly(self, sent: Sent, answer: Answer, call_id: str) -> bool:
        """Send the result of a call in one piece, as nearly all answers are; False where there is more to say."""
        scope, fields = sent.scope, sent.fields
        whole = scope.get(WHOLE)
        if (
            whole is None
            or scope["method"] != "POST"
            or not _ASKS.isdisjoint(fields)
            or not (call_id.isascii() and call_id.isprintable())
            or fields.get(b"connection", b"keep-alive").lower() != b"keep-alive"
            or self._door.service.draining
        ):
            return False
        body = answer.body
        said = b"content-type: %b\r\ncontent-length: %d\r\n%btoolpost-call-id: %b\r\n"
        if not whole(scope, said % (answer.media_type, len(body), self._security_text, call_id.encode()), body):
            return False
        sent.started = True
        if TOLD in scope:
            note(scope, call_id=call_id)
            scope[TOLD]["whole"] = len(body)
        self._count("POST", sent.route, 200)
        return True

    async def respond(self, sent: Sent, response: Response) -> None:
        """Send a framework's answer, which may be a stream; of one to HEAD the headers only."""
        send = self.through(sent)
        if sent.scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await response(sent.scope, sent.receive, send)

    def through(self, sent: Sent) -> Send:
        """send for somebody else's answers: it adds what all answers have."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                own = {name.lower() for name, _ in headers}
                headers += [header for header in self._security if header[0] not in own]
                self._add(sent, headers, own)
                sent.started = True
                self._count(sent.scope["method"], sent.route, message["status"])
                message = {**message, "headers": headers}
            await sent.send(message)

        return sending

    def _add(self, sent: Sent, headers: Headers, own: Any = ()) -> None:
        """What depends on the request: ids, trace, CORS."""
        fields = sent.fields
        headers.append((b"x-request-id", sent.request_id.encode("latin-1")))
        if b"traceparent" in fields:
            self._trace(fields, headers)
        if sent.allowed_origin is not None and b"access-control-allow-origin" not in own:
            headers.append((b"access-control-allow-origin", sent.allowed_origin.encode("latin-1")))
            headers.append((b"access-control-expose-headers", EXPOSED))
            if sent.allowed_origin != "*":
                headers.append((b"access-control-allow-credentials", b"true"))
        if b"origin" in fields:
            headers.append((b"vary", b"Origin"))
        if self._door.service.draining:
            headers.append((b"connection", b"close"))

    @staticmethod
    def _trace(fields: Fields, headers: Headers) -> None:
        if trace_of(fields[b"traceparent"].decode("latin-1")) is None:
            return
        headers.append((b"traceparent", fields[b"traceparent"]))
        state = fields.get(b"tracestate")
        if state is not None and is_tracestate(state.decode("latin-1")):
            headers.append((b"tracestate", state))

    @staticmethod
    def preflight(sent: Sent, methods: list[str]) -> Answer:
        """The answer to a browser that asks whether a page may call. That its origin may was found before."""
        return Answer(
            204,
            b"",
            [
                (b"access-control-allow-methods", ", ".join(methods).encode()),
                (b"access-control-allow-headers", ALLOWED),
                (b"access-control-max-age", PREFLIGHT_S),
                (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
            ],
        )

    async def failed(self, sent: Sent, error: Exception) -> None:
        """Answer with a problem."""
        answer = self.problem(error, sent.request_id)
        if not sent.body_read:
            await self._leave_body(sent, answer)
        await self.send(sent, answer)

    def problem(self, error: Exception, request_id: str) -> Answer:
        """The problem that an error is."""
        base_url = self._door.base_url
        if isinstance(error, HttpRefusal):
            return refusal_answer(error, base_url, request_id)
        if isinstance(error, ToolExecutionError):
            answer = error_answer(error, base_url, request_id, within="/arguments")
            if isinstance(error, UnauthorizedError) and not isinstance(error, AuthorizationRequiredError):
                answer.headers.append((b"www-authenticate", challenge(error).encode("latin-1")))
            return answer
        if isinstance(error, HTTPException):
            refusal = HttpRefusal(error.status_code, "http_error", str(error.detail))
            return refusal_answer(refusal, base_url, request_id)
        logger.error("a request failed", exc_info=error)
        refusal = HttpRefusal(500, "internal_error", "the gateway failed; its log says how, under the request's id")
        return refusal_answer(refusal, base_url, request_id)

    async def _leave_body(self, sent: Sent, answer: Answer) -> None:
        """Read what comes of a body that nobody wants, so that the answer is not lost with the connection."""
        try:
            length = declared_length(sent.fields)
        except HttpRefusal:
            length = None
        if length == 0 or sent.fields.get(b"expect", b"").lower() == b"100-continue":
            return
        size = 0
        with suppress(TimeoutError, ClientLeftError):
            async with asyncio.timeout(DISCARD_S):
                while size <= DISCARD_BYTES:
                    message = await sent.receive()
                    size += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
        if not any(name == b"connection" for name, _ in answer.headers):
            answer.headers.append((b"connection", b"close"))

    async def refuse_socket(self, sent: Sent, error: Exception) -> None:
        """Refuse a WebSocket before it is accepted, with a problem where the server can send one."""
        answer = self.problem(error, sent.request_id)
        note(sent.scope, code=_code_of(error))
        if "websocket.http.response" not in (sent.scope.get("extensions") or {}):
            await sent.send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        headers = [(b"content-type", answer.media_type), *answer.headers, *self._security]
        await sent.send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
        await sent.send({"type": "websocket.http.response.body", "body": answer.body})


async def unanswered(sent: Sent) -> None:
    """End a request whose caller left: servers want an answer all the same, which nobody reads."""
    if not sent.started:
        sent.started = True
        with suppress(OSError):
            await sent.send({"type": "http.response.start", "status": 499, "headers": [(b"content-length", b"0")]})
            await sent.send({"type": "http.response.body", "body": b""})


def _code_of(error: Exception) -> str:
    return str(getattr(error, "code", "internal_error"))


__all__ = ["Answers", "Sent", "unanswered"]
