"""A provider that a manager knows: its declaration, and what it has said of itself so far."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.clock import Clock
from toolpost.calls.errors import RemoteToolError, UnauthorizedError
from toolpost.security.egress import EgressGuard
from toolpost.security.oauth_provider import Endpoints, OAuthProvider, endpoints_of

if TYPE_CHECKING:
    from toolpost.security.oauth_http import Wire

logger = logging.getLogger("toolpost.oauth")
METADATA_S: Final = 3600.0
"""How long what a provider says of itself is believed."""
KEYS_AGAIN_S: Final = 30.0
"""How soon its keys are asked for again when one is not among them."""


class Known:
    """One provider by its name. Safe from any thread: at worst two ask the same at once."""

    def __init__(
        self,
        name: str,
        provider: OAuthProvider,
        clock: Clock,
        transport: Callable[[], Any] | None,
        guard: EgressGuard | None,
    ) -> None:
        self.name, self.provider = name, provider
        self._clock, self._transport, self._guard = clock, transport, guard
        self._endpoints: tuple[float, Endpoints] | None = None
        self._keys: tuple[float, dict[str, Any]] | None = None

    @cached_property
    def wire(self) -> Wire:
        """How it is asked."""
        from toolpost.security.oauth_http import Wire

        return Wire(self.provider, self._transport, self._guard)

    @property
    def identity(self) -> str:
        return self.provider.identity

    @property
    def found(self) -> Endpoints | None:
        """What is known of it without asking."""
        return None if self._endpoints is None else self._endpoints[1]

    async def endpoints(self) -> Endpoints:
        """Where it is asked; found out when first needed, and again each hour. Raises RemoteToolError."""
        now, kept = self._clock.monotonic(), self._endpoints
        if kept is not None and now - kept[0] < METADATA_S:
            return kept[1]
        try:
            found = endpoints_of(self.provider, await self.wire.metadata())
        except RemoteToolError as error:
            if kept is None:
                raise
            logger.warning("%s; what it said before is still believed", error.message)
            found = kept[1]
        self._endpoints = (now, found)
        return found

    async def keys(self, kid: str | None) -> dict[str, Any]:
        """Its public keys, this one among them. Raises RemoteToolError, UnauthorizedError."""
        now, kept = self._clock.monotonic(), self._keys
        if kept is not None and (_has(kept[1], kid) or now - kept[0] < KEYS_AGAIN_S):
            return kept[1]
        url = (await self.endpoints()).jwks_uri
        if url is None:
            raise UnauthorizedError(f"the provider {self.identity} has no keys to check its ID tokens with")
        keys = await self.wire.keys(url)
        self._keys = (now, keys)
        return keys


def _has(keys: dict[str, Any], kid: str | None) -> bool:
    return any(isinstance(key, dict) and key.get("kid") == kid for key in keys["keys"])
