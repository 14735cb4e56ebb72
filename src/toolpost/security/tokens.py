"""Authenticator: makes a caller of what a request comes with, an API key or a JWT; for the doors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from toolpost.calls.call import Caller
from toolpost.security.api_keys import PREFIX, ApiKeys, refused

if TYPE_CHECKING:
    from toolpost.security.jwt import JwtVerifier

SCHEMES: Final = ("bearer", "apikey")


class Authenticator:
    """Tells API keys and JWTs apart, and has each checked. Safe from any thread and event loop.

    jwt makes the verifier of JWTs when the first one comes; None: there is none, and JWTs are refused.
    """

    def __init__(self, api_keys: ApiKeys, jwt: Callable[[], JwtVerifier] | None = None) -> None:
        self.api_keys = api_keys
        self._make_jwt = jwt
        self._jwt: JwtVerifier | None = None

    async def caller(self, header: str | None) -> Caller:
        """The caller that an Authorization header speaks for: "Bearer <JWT or API key>" or "ApiKey <API key>".

        Raises UnauthorizedError, whose details have a stable reason ("missing", "malformed", "expired", ...) and never
        any of the header; and AuthorizerFailedError, a 503, where keys cannot be looked up now.
        """
        if header is None or not header.strip():
            raise refused("missing", "Authentication required: send an API key or a token as Authorization: Bearer ...")
        scheme, _, token = header.strip().partition(" ")
        if scheme.lower() not in SCHEMES:
            raise refused("unsupported_scheme", "Authorization must be of the scheme Bearer or ApiKey")
        return await self.caller_of(token.strip(), only_keys=scheme.lower() == "apikey")

    async def caller_of(self, token: str, *, only_keys: bool = False) -> Caller:
        """The caller that a key or token speaks for, however it came. Raises as caller does."""
        if token.startswith(PREFIX) or only_keys:
            return await self.api_keys.caller(token)
        if self._make_jwt is None:
            raise refused("unsupported_token", "only API keys are accepted here; no issuer of tokens is set")
        if self._jwt is None:
            self._jwt = self._make_jwt()
        return await self._jwt.verify(token)


__all__ = ["Authenticator"]
