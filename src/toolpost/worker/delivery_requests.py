"""DeliveryRequests: sends one callback over HTTP, through the egress guard, and says what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple

try:
    import httpx
except ModuleNotFoundError:  # pragma: no cover
    from toolpost.calls.errors import ConfigurationError

    raise ConfigurationError("callbacks need the package httpx; install toolpost[serve]") from None

from toolpost.calls.errors import EgressDeniedError
from toolpost.security.egress import EgressGuard
from toolpost.security.egress_transport import GuardedTransport, guarded_transport
from toolpost.worker.callbacks import callback_target

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

TIMEOUT_S: Final = 20.0
CONNECT_S: Final = 10.0
READ_S: Final = 2.0
"""How long the body of an answer is read, for the sake of the connection: what it says is nobody's to see."""
READ_BYTES: Final = 16_384
LONGEST_WAIT_S: Final = 86_400.0
"""The longest that a receiver can have us wait."""
_SECONDS: Final = re.compile(r"[0-9]{1,9}\Z", re.ASCII)


class Outcome(NamedTuple):
    """What became of a request: a status, or what went wrong. retry_after_s is what the receiver asked for."""

    status: int | None
    error: str | None
    retry_after_s: float | None = None


class DeliveryRequests:
    """Sends requests on one event loop. Redirects are not followed, answers not kept: a callback's URL is a stranger's,
    and what answers there may be nobody's business."""

    def __init__(self, executor: ToolExecutor, *, timeout_s: float = TIMEOUT_S) -> None:
        self._executor, self._timeout_s = executor, timeout_s
        self._guard: EgressGuard | None = None
        self._transports: list[GuardedTransport] = []

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """POST a body; never raises for what the receiver or the way to it does."""
        try:
            target = callback_target(self._executor, url)
            timeouts = {"connect": CONNECT_S, "read": self._timeout_s, "write": self._timeout_s}
            request = httpx.Request(
                "POST",
                target.url,
                headers=[("accept-encoding", "identity"), *headers.items()],
                content=body,
                extensions={"timeout": {**timeouts, "pool": self._timeout_s}},
            )
            async with asyncio.timeout(self._timeout_s):
                return await self._answered(request)
        except EgressDeniedError as error:
            return Outcome(None, f"refused: {error.details.get('rule', 'egress')}")
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(None, f"no answer within {self._timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return Outcome(None, _said(error))

    async def _answered(self, request: httpx.Request) -> Outcome:
        response = await self._transport().handle_async_request(request)
        async with contextlib.aclosing(response):
            with contextlib.suppress(TimeoutError, httpx.HTTPError):  # the status is there, and is the answer
                async with asyncio.timeout(READ_S):
                    await _emptied(response)
        status = response.status_code
        wait_s = retry_after_s(response.headers.get("retry-after"), self._executor.clock.now())
        if 200 <= status < 300:
            return Outcome(status, None)
        what = "a redirect, which is not followed" if 300 <= status < 400 else f"status {status}"
        return Outcome(status, what, wait_s)

    def _transport(self) -> GuardedTransport:
        """Its connections belong to one set of rules; when the settings have others, so has it."""
        guard = self._executor.egress
        if guard is not self._guard:
            self._guard = guard
            self._transports.append(guarded_transport(guard, most=None))
        return self._transports[-1]

    async def close(self) -> None:
        """Close all connections."""
        transports, self._transports, self._guard = self._transports, [], None
        for transport in transports:
            await transport.aclose()


async def _emptied(response: httpx.Response) -> None:
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > READ_BYTES:
            return


def retry_after_s(value: str | None, now: float) -> float | None:
    """Seconds until a Retry-After field, as a number or a date; None where it says nothing of use."""
    if value is None:
        return None
    if _SECONDS.match(value.strip()):
        return min(float(value), LONGEST_WAIT_S)
    try:
        at = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, min(at - now, LONGEST_WAIT_S))


def _said(error: Exception) -> str:
    """The kind of failure. The text of such errors has addresses of a network that is not the caller's to know."""
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return "no connection could be made"
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return "the connection broke"
    return f"no request could be made ({type(error).__name__})"
