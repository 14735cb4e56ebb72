"""Asks an OAuth provider: its metadata and keys, its token endpoint and its revocation endpoint, by guarded requests.

Plain httpx rather than a client library: five kinds of request, none of which may be redirected, retried, logged or
kept in a session, and whose tokens belong to the store's state machine, not to a client object's.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterable, Mapping
from contextlib import aclosing
from typing import Any, Final, cast
from urllib.parse import quote, urlencode, urlsplit

try:
    import httpx
except ModuleNotFoundError:  # pragma: no cover
    from toolpost.calls.errors import ConfigurationError

    raise ConfigurationError("AuthorizationManager needs the package httpx; install toolpost[auth]") from None
import orjson

from toolpost.calls.errors import RemoteToolError
from toolpost.security.egress import EgressGuard
from toolpost.security.oauth_provider import Endpoints, OAuthProvider, told

EXCHANGE_S: Final = 10.0
"""How long a provider has to answer."""
MAX_BYTES: Final = 262_144
SECRETS: Final = ("code", "code_verifier", "refresh_token", "token")
"""Fields of requests that nothing that a provider says of them may show."""


class Refused(Exception):
    """The provider answered with an error of OAuth's own: error is its code, such as "invalid_grant"."""

    def __init__(self, error: str, description: str, status: int) -> None:
        super().__init__(error)
        self.error, self.description, self.status = error, description, status


class Unreached(RemoteToolError):
    """No connection to the provider was had: nothing was sent."""

    error_type = "RemoteToolError"


class Wire:
    """The requests to one provider. Each has a connection of its own, so that any event loop may make them."""

    def __init__(self, provider: OAuthProvider, transport: Any, guard: EgressGuard | None) -> None:
        self._provider = provider
        self._transport = transport
        self._guard = guard or EgressGuard()

    async def metadata(self) -> dict[str, Any]:
        """The provider's own account of itself: OIDC discovery, else RFC 8414. Empty for one without issuer."""
        issuer = self._provider.issuer
        if issuer is None:
            return {}
        parts = urlsplit(issuer)
        path = parts.path.rstrip("/")
        origin = f"{parts.scheme}://{parts.netloc}"
        status, found = await self._send("GET", f"{origin}{path}/.well-known/openid-configuration")
        if status == 404:
            status, found = await self._send("GET", f"{origin}/.well-known/oauth-authorization-server{path}")
        if status == 404 and self._provider.authorization_endpoint and self._provider.token_endpoint:
            return {}  # it has none, and its declaration says enough
        if status != 200 or not isinstance(found, dict):
            raise self._failed(f"has no metadata at its issuer {issuer} (status {status})", status)
        return found

    async def keys(self, url: str) -> dict[str, Any]:
        """The provider's public keys (RFC 7517)."""
        status, found = await self._send("GET", url)
        if status != 200 or not isinstance(found, dict) or not isinstance(found.get("keys"), list):
            raise self._failed(f"gave no keys (status {status})", status)
        return found

    async def token(self, endpoints: Endpoints, fields: Mapping[str, str]) -> dict[str, Any]:
        """Ask the token endpoint. Raises Refused where the provider says no, RemoteToolError where it cannot say."""
        status, found = await self._send("POST", endpoints.token, *self._form(endpoints, fields))
        if status == 200 and isinstance(found, dict) and "error" not in found:
            return found
        raise self._refusal(status, found, fields)

    async def revoke(self, endpoints: Endpoints, token: str, hint: str) -> None:
        """End a token (RFC 7009). Raises Refused or RemoteToolError."""
        fields = {"token": token, "token_type_hint": hint}
        status, found = await self._send("POST", str(endpoints.revocation), *self._form(endpoints, fields))
        if not 200 <= status < 300:
            raise self._refusal(status, found, fields)

    def _form(self, endpoints: Endpoints, fields: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        """A request's body and headers, with who we are."""
        provider, headers, body = self._provider, {}, dict(fields)
        how, known = provider.client_auth, endpoints.auth_methods
        if provider.client_secret is None:
            how = "none"  # type: ignore[assignment]
        elif how is None:
            how = "post" if known and "client_secret_basic" not in known and "client_secret_post" in known else "basic"
        if how == "basic":
            pair = f"{quote(provider.client_id, safe='')}:{quote(provider.client_secret or '', safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            body["client_id"] = provider.client_id
            if how == "post":
                body["client_secret"] = provider.client_secret or ""
        return urlencode(body).encode(), headers

    def _refusal(self, status: int, found: Any, sent: Mapping[str, str]) -> Exception:
        if isinstance(found, dict) and isinstance(found.get("error"), str) and status not in (429, *range(500, 600)):
            description = found.get("error_description")
            secrets = [self._provider.client_secret or "", *(sent[name] for name in SECRETS if name in sent)]
            said = told(description, *secrets) if isinstance(description, str) else ""
            return Refused(told(found["error"], *secrets), said, status)
        return self._failed(f"answered {status}", status)

    def _failed(
        self, what: str, status: int | None = None, kind_of_error: type[RemoteToolError] = RemoteToolError
    ) -> RemoteToolError:
        kind = "rate_limit" if status == 429 else "unavailable" if status is None or status >= 500 else "tool_error"
        said = f"the OAuth provider {self._provider.identity} {what}"
        return kind_of_error(said, kind=kind, upstream_status=status, outcome="not_run")

    async def _send(
        self, method: str, url: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request: the status, and the JSON (None where there is none). Raises RemoteToolError."""
        asked = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "toolpost"}
        if content is not None:
            asked["Content-Type"] = "application/x-www-form-urlencoded"
        timeout = httpx.Timeout(EXCHANGE_S).as_dict()
        try:
            request = httpx.Request(
                method, url, content=content, headers={**asked, **(headers or {})}, extensions={"timeout": timeout}
            )
            async with asyncio.timeout(EXCHANGE_S), self._open() as transport:
                response = await transport.handle_async_request(request)
                async with aclosing(response):
                    data = await self._read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._failed(f"cannot be reached ({type(error).__name__})", None, Unreached) from error
        except httpx.InvalidURL as error:
            raise self._failed("names an address that is none") from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._failed(f"gave no answer ({type(error).__name__})") from error
        try:
            return response.status_code, orjson.loads(data) if data else None
        except orjson.JSONDecodeError:
            return response.status_code, None

    def _open(self) -> httpx.AsyncBaseTransport:
        if self._transport is not None:
            made: httpx.AsyncBaseTransport = self._transport()
            return made
        from toolpost.security.egress_transport import guarded_transport

        provider = self._provider
        named = [provider.issuer, provider.token_endpoint, provider.revocation_endpoint, provider.jwks_uri]
        return guarded_transport(self._guard.at(*(url for url in named if url is not None)))

    async def _read(self, response: httpx.Response) -> bytes:
        """The answer as it came: nothing is unpacked, as nothing packed was asked for."""
        parts, size = [], 0
        async for part in cast("AsyncIterable[bytes]", response.stream):
            size += len(part)
            if size > MAX_BYTES:
                raise self._failed(f"answered more than {MAX_BYTES} bytes")
            parts.append(part)
        return b"".join(parts)
