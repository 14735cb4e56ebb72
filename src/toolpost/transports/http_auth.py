"""Who calls, and whether a request may come at all: API keys and tokens, hosts, and origins of web pages."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from toolpost.calls.call import ANONYMOUS, Caller
from toolpost.calls.errors import PermissionDeniedError, UnauthorizedError
from toolpost.security.api_keys import PREFIX
from toolpost.transports.http_problems import HttpRefusal
from toolpost.worker.calls import OPERATE

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

Fields = Mapping[bytes, bytes]
"""A request's header fields by their names in lower case."""

OPEN: Final = Caller(scopes=frozenset({OPERATE}))
"""Who asks where nobody is asked who they are: it may look at all that there is, as anybody could be anybody. It is for
looking up only; calls that are made there are made by whom they name, without scopes."""

CHALLENGE: Final = 'Bearer realm="toolpost"'
_BEARER_KEY: Final = b"Bearer " + PREFIX.encode()
_SESSION: Final = re.compile(r"[\x21-\x7e]{1,256}")
_KNOWN: Final = 4096


_PASSED_ON: Final = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})
"""Fields by which proxies and tunnels say that somebody else calls; who calls from this machine sends none."""


class Entrance:
    """Says who calls. listens_on is the address that the gateway listens on: one of this machine only, or not."""

    def __init__(self, executor: ToolExecutor, listens_on: str) -> None:
        self.executor = executor
        self.local = is_loopback(listens_on)

    @property
    def required(self) -> bool:
        """Whether callers have to say who they are, by the setting authentication as it is now."""
        mode = self.executor.config.authentication
        return mode == "required" or (mode == "auto" and not self.local)

    @staticmethod
    def comes_with(fields: Fields) -> bool:
        """Whether a request has a key or a token, good or bad."""
        return b"authorization" in fields or b"x-api-key" in fields

    async def caller(self, fields: Fields) -> Caller | None:
        """The caller whose key or token a request has, None where it has none and needs none.

        With authentication "none" nothing that comes is looked at; with "auto" on this machine only, what comes must be
        good, and what a proxy passes on needs a key or token, as it may come from anywhere. Raises UnauthorizedError,
        and AuthorizerFailedError where keys cannot be checked now.
        """
        header, key = fields.get(b"authorization"), fields.get(b"x-api-key")
        if header is None and key is None:
            if self.required:
                return await self.executor.authenticator.caller(None)  # which says what is missing
            if not _PASSED_ON.isdisjoint(fields) and self.executor.config.authentication != "none":
                raise UnauthorizedError(
                    "this request came through a proxy, so that its caller may be anybody: send an API key as "
                    "Authorization: Bearer ..., and name the proxy in trusted_proxies; authentication=none asks nobody",
                    details={"reason": "missing"},
                )
            return None
        if self.executor.config.authentication == "none":
            return None
        authenticator = self.executor.authenticator
        if header is not None and key is not None:
            raise UnauthorizedError(
                "send one of Authorization and X-API-Key, not both", details={"reason": "ambiguous"}
            )
        if header is not None and header.startswith(_BEARER_KEY):  # as nearly all are
            found = await authenticator.api_keys.caller(header[7:].decode("latin-1").strip())
        elif header is not None:
            found = await authenticator.caller(header.decode("latin-1"))
        else:
            found = await authenticator.caller_of((key or b"").decode("latin-1").strip(), only_keys=True)
        return found if b"toolpost-session" not in fields else replace(found, session_id=session_of(fields))


def session_of(fields: Fields) -> str | None:
    """The session that a request names by the header Toolpost-Session."""
    given = fields.get(b"toolpost-session")
    if given is None:
        return None
    session = given.decode("latin-1").strip(" \t")
    if not _SESSION.fullmatch(session):
        raise HttpRefusal(
            400, "invalid_header", "Toolpost-Session must be 1 to 256 visible ASCII characters without spaces"
        )
    return session


_ONCE: Final = frozenset(
    b"authorization content-length content-type host idempotency-key if-range origin range toolpost-session "
    b"traceparent transfer-encoding x-api-key x-request-id".split()
)
"""Fields that a request may have once: of two, one reader would take the first and another the last."""


def fields_of(scope: Any) -> Fields:
    """The header fields of a request; lists that came in several are joined. Raises HttpRefusal (400)."""
    known = scope.get("toolpost.fields")
    if known is None:
        headers = scope["headers"]
        known = dict(headers)
        if len(known) != len(headers):
            known = _joined(headers)
        if b"transfer-encoding" in known:
            _check_coding(known)
        scope["toolpost.fields"] = known
    return known  # type: ignore[no-any-return]


def _check_coding(known: Fields) -> None:
    """Refuse bodies of which another reader might take another part for the body. Raises HttpRefusal (400)."""
    if b"content-length" in known:
        said = "a request has Content-Length or Transfer-Encoding, not both"
    elif known[b"transfer-encoding"].strip(b" \t").lower() != b"chunked":
        said = "Transfer-Encoding must be chunked, and nothing else"
    else:
        return
    raise HttpRefusal(400, "invalid_header", said, closes=True)


def _joined(headers: Any) -> dict[bytes, bytes]:
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in joined:
            joined[name] = value
        elif name in _ONCE:
            raise HttpRefusal(400, "invalid_header", f"the header {name.decode('latin-1')} is given twice", closes=True)
        else:
            joined[name] += b", " + value
    return joined


def challenge(error: UnauthorizedError) -> str:
    """The WWW-Authenticate field of a 401 (RFC 6750, section 3): no error where nothing was sent."""
    if error.details.get("reason") == "missing":
        return CHALLENGE
    return f'{CHALLENGE}, error="invalid_token"'


def needs_operator(caller: Caller, what: str) -> None:
    """Refuse what only operators may see or do. Raises PermissionDeniedError."""
    if OPERATE not in caller.scopes:
        raise PermissionDeniedError(f"{what} is for operators; come with a key that has the scope {OPERATE}")


def audit_caller(executor: ToolExecutor, what: str, error: Any, request_id: str) -> None:
    """Have the audit log tell that somebody was refused at the door."""
    executor.audit_refusal(what, error, call_id=request_id, caller=ANONYMOUS)


class Hosts:
    """Which Host fields are ours, against DNS rebinding: a page elsewhere whose name was pointed to this address.

    With the setting allowed_hosts exactly those, and the one of public_url. Without it the names of the address that
    the gateway listens on. Where that is all addresses of the machine, its names are not known: any is taken if callers
    have to authenticate, as a rebound page has no key; else addresses, and the machine's own name.
    """

    def __init__(self, entrance: Entrance, listens_on: str) -> None:
        self._entrance, self._listens_on = entrance, listens_on
        self._good: set[bytes] = set()
        self._made_for: object = None
        self._names: frozenset[str] = frozenset()
        self._any = self._addresses = False

    def check(self, host: bytes | None) -> None:
        """Raise HttpRefusal (400, 421) unless a Host field is one of ours."""
        config = self._entrance.executor.config
        now = (config.allowed_hosts, config.public_url, config.authentication)
        if now != self._made_for:
            self._make(now)
        if host in self._good:
            return
        if not host:
            raise HttpRefusal(400, "invalid_header", "the request has no Host")
        name = host_name(host.decode("latin-1").strip())
        if name is None:
            raise HttpRefusal(400, "invalid_header", "the request's Host is none", closes=True)
        if not (self._any or name in self._names or (self._addresses and _address(name) is not None)):
            raise HttpRefusal(
                421,
                "unknown_host",
                f"this gateway does not answer to {name[:100]!r}; add it to the setting allowed_hosts",
                closes=True,
            )
        if len(self._good) < _KNOWN:
            self._good.add(host)

    def _make(self, now: Any) -> None:
        allowed, public_url, _ = now
        self._good.clear()
        names = {one.lower() for one in allowed}
        public = urlsplit(str(public_url)).hostname if public_url else None
        if public:
            names.add(public.lower())
        self._any, self._addresses = "*" in names, False
        if not allowed:
            address = _address(self._listens_on)
            names |= {self._listens_on.lower().strip("[]")}
            if self._entrance.local:
                names |= {"localhost", "127.0.0.1", "::1"}
            elif address is not None and address.is_unspecified:
                self._any, self._addresses = self._entrance.required, True
                if not self._any:  # else nothing is asked of a resolver, which may take its time
                    names |= {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names, self._made_for = frozenset(names), now


class Origins:
    """Which web pages may call: those of the gateway's own origin, and those of the setting cors_origins."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor

    def check(self, origin: bytes | None, host: bytes | None) -> str | None:
        """The Access-Control-Allow-Origin to answer with, None where none is needed. Raises HttpRefusal (403)."""
        if origin is None:
            return None
        name = origin.decode("latin-1").strip()
        allowed = self._executor.config.cors_origins
        if name in allowed:
            return name
        if "*" in allowed:
            return "*"
        parts = _split(name) if "://" in name else None
        if parts is not None and parts.netloc and host is not None:
            if parts.netloc.lower() == host.decode("latin-1").strip().lower():
                return None
            public_url = self._executor.config.public_url
            if public_url and parts.netloc.lower() == urlsplit(str(public_url)).netloc.lower():
                return None
        raise HttpRefusal(
            403,
            "origin_refused",
            f"pages of {name[:100]!r} may not call this gateway; add it to the setting cors_origins",
        )


def _split(url: str) -> SplitResult | None:
    """A URL's parts, None for what is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")


def host_name(host: str) -> str | None:
    """The name or address in a Host field, in lower case, without port and brackets; None for what is no Host."""
    found = _HOST.fullmatch(host)
    return None if found is None else found[1].strip("[]").lower().removesuffix(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that is listened on; a path is that of a socket in a folder."""
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host.lower() == "localhost" or host.startswith("/")


__all__ = [
    "CHALLENGE",
    "OPEN",
    "Entrance",
    "Fields",
    "Hosts",
    "Origins",
    "audit_caller",
    "challenge",
    "fields_of",
    "host_name",
    "is_loopback",
    "needs_operator",
    "session_of",
]
