"""Tokens as a provider hands them out: read strictly, and refreshed by one holder at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolpost.calls.errors import RemoteToolError
from toolpost.security.oauth_kept import Held

ASSUMED_S = 3600.0
"""How long an access token is taken to be good where the provider does not say, but can refresh it."""
LONGEST_S = 10 * 365 * 86_400.0
"""A longer life is taken for this one: a time beyond it need be no date."""


def received(answer: Mapping[str, Any], before: Held, asked: Sequence[str], now: float) -> Held:
    """A grant with the tokens of an answer (RFC 6749, section 5.1). Raises RemoteToolError for what is no such answer.

    What the answer leaves out is as before; scopes it leaves out are as asked.
    """
    token, kind = answer.get("access_token"), answer.get("token_type", "Bearer")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise _wrong(before, "no access token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise _wrong(before, "a token that is not of the type Bearer")
    refresh = answer.get("refresh_token")
    if refresh is not None and (not isinstance(refresh, str) or not refresh):
        raise _wrong(before, "a refresh token that is no text")
    refresh = refresh or before.refresh_token
    scope = answer.get("scope")
    scopes = list(asked) if scope is None else scope.split() if isinstance(scope, str) else None
    if scopes is None:
        raise _wrong(before, "scopes that are no text")
    return replace(
        before,
        access_token=token,
        refresh_token=refresh,
        scopes=scopes,
        expires_at=_ends(answer.get("expires_in"), before, refresh is not None, now),
        obtained_at=now,
        refreshing_until=0.0,
    )


def _ends(lifetime: Any, held: Held, refreshable: bool, now: float) -> float | None:
    if lifetime is None:
        return now + ASSUMED_S if refreshable else None
    try:
        seconds = float(lifetime)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(held, "a lifetime that is no number") from None
    if isinstance(lifetime, bool) or not math.isfinite(seconds) or seconds < 0:
        raise _wrong(held, "a lifetime that is no number")
    return now + min(seconds, LONGEST_S)


def is_due(held: Held, now: float, before_s: float) -> bool:
    """Whether it is time to refresh: so long before the end, but not in the first three quarters of a short life."""
    if held.expires_at is None:
        return False
    return now >= held.expires_at - min(before_s, (held.expires_at - held.obtained_at) / 4)


def is_over(held: Held, now: float) -> bool:
    """Whether the access token has ended."""
    return held.expires_at is not None and now >= held.expires_at


def _wrong(held: Held, what: str) -> RemoteToolError:
    return RemoteToolError(
        f"the OAuth provider {held.issuer} answered with {what}", kind="tool_error", outcome="not_run"
    )
