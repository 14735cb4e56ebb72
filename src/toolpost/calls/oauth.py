"""OAuth: the access at a provider that a tool's calls need, in the caller's own name; and what is granted and asked."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from toolpost.calls.errors import ConfigurationError

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")
_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
LOGIN_S = 600.0
"""How long a person has to grant what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """A call needs the caller's own token of a provider, with these scopes; the body has it by ctx.token().

    provider is a name that the executor's AuthorizationManager knows. A call without the grant is refused with
    AuthorizationRequiredError, which has the URL where the caller grants it.
    """

    scopes: tuple[str, ...] = ()
    provider: str = "default"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scopes", tuple(scopes_of(self.scopes, "OAuth: scopes")))
        if not isinstance(self.provider, str) or not _PROVIDER.match(self.provider):
            raise ConfigurationError(
                f"OAuth: provider must be 1 to 64 letters, digits, '.', '_' or '-', got {self.provider!r:.100}"
            )


def scopes_of(scopes: Iterable[str], what: str = "scopes") -> list[str]:
    """Scopes as a list, each once. Raises ConfigurationError for what is no scope (RFC 6749, section 3.3)."""
    if isinstance(scopes, str) or not isinstance(scopes, Iterable):
        raise ConfigurationError(f"{what} must be a list of names such as ['read', 'write'], got {scopes!r:.100}")
    found = list(dict.fromkeys(scopes))
    for scope in found:
        if not isinstance(scope, str) or not _SCOPE.match(scope):
            raise ConfigurationError(f"{what} must be names without blanks, quotes and backslashes, got {scope!r:.100}")
    return found


@dataclass(frozen=True, slots=True)
class AuthFlow:
    """A grant that was asked for: the person opens auth_url and decides there. Times are wall time in seconds.

    status is "pending" until the answer came back. auth_url is left out of repr, as it is for this person alone.
    """

    flow_id: str
    user_id: str
    tool_name: str
    scopes: list[str]
    auth_url: str = field(repr=False)
    status: str = "pending"
    created_at: float = 0.0
    expires_at: float = 0.0
    provider: str = "default"
    _now: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.created_at:
            object.__setattr__(self, "created_at", self._now())
        if not self.expires_at:
            object.__setattr__(self, "expires_at", self.created_at + LOGIN_S)

    def is_expired(self) -> bool:
        """Whether the person is too late."""
        return self._now() >= self.expires_at


@dataclass(frozen=True, slots=True)
class Authorization:
    """What a user granted at a provider, for tools to act in their name. repr shows no token.

    scopes are those that were granted, which may be fewer than were asked for. tool_name is the tool for which the user
    was last asked. expires_at is when the access token ends (None: never, as far as the provider said).
    """

    user_id: str
    tool_name: str
    scopes: list[str]
    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    created_at: float = 0.0
    provider: str = "default"
    tenant: str | None = None
    subject: str | None = None
    _now: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    def is_expired(self) -> bool:
        """Whether the access token has ended."""
        return self.expires_at is not None and self._now() >= self.expires_at

    def has_scope(self, scope: str) -> bool:
        """Whether the user granted it."""
        return scope in self.scopes

    def has_all_scopes(self, required_scopes: Iterable[str]) -> bool:
        """Whether the user granted all of them."""
        return set(required_scopes) <= set(self.scopes)


@dataclass(frozen=True, slots=True)
class Revoked:
    """How a revocation ended. True as a condition when there was a grant; it is forgotten here in any case.

    at_provider: whether the provider ended the tokens too; None when it has no way to be told. why says why not.
    """

    found: bool
    at_provider: bool | None = None
    why: str | None = None

    def __bool__(self) -> bool:
        return self.found


class Grant(Protocol):
    """The grant that a call runs with: of its caller and no one else, and for the provider of its tool's policy."""

    policy: OAuth

    async def token(self, fresh: bool = False) -> str:
        """An access token that is good now; fresh says that the one there is was refused, and asks for another."""


__all__ = ["LOGIN_S", "AuthFlow", "Authorization", "Grant", "OAuth", "Revoked", "scopes_of"]
