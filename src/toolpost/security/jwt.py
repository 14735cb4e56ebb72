"""JWTs as bearer tokens: their form, signature and claims are checked, in this order, and nothing in them is followed.

The signature is checked by joserfc, with a key that the issuer publishes and that fits the algorithm. What a token says
about where its key is (jku, x5u, jwk, x5c) is never read.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.security.api_keys import refused
from toolpost.security.issuers import JwtIssuer, check_apart, claim

if TYPE_CHECKING:
    from toolpost.security.key_sets import Fetch

MAX_TOKEN: Final = 16_384
"""Characters of a token."""
MAX_NAMES: Final = 1_000
"""Scopes, roles and audiences of a token, each."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no name has: stores and logs could not keep it as it is."""
_TOKEN: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)


class JwtVerifier:
    """Makes callers of JWTs of one issuer or of several. Safe from any thread and event loop.

    fetch gets the issuers' keys; executors hand in one that keeps to the egress guard. Raises ConfigurationError for
    issuers whose users could be taken for one another.
    """

    def __init__(self, issuers: Sequence[JwtIssuer], fetch: Fetch, clock: Clock = SYSTEM_CLOCK) -> None:
        from toolpost.security.key_sets import KeySet, is_signed

        check_apart(issuers)
        self._is_signed = is_signed
        self._issuers = {issuer.url: (issuer, KeySet(issuer, fetch, clock)) for issuer in issuers}
        self._clock = clock

    async def verify(self, token: str) -> Caller:
        """The caller that a token speaks for.

        Raises UnauthorizedError, whose details have a stable reason and never any of the token, and
        AuthorizerFailedError where the issuer's keys cannot be had.
        """
        parts = _TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN else None
        if parts is None:
            _refuse_form(token)
        try:
            header, claims = (
                _object(_decoded(parts[1])),
                _object(_decoded(parts[2])),
            )
            signature = _decoded(parts[3])
        except (ValueError, TypeError, RecursionError):
            raise refused("malformed", "the token is no JWT: a part of it cannot be read") from None
        named = claims.get("iss")
        issuer, keys = self._issuers.get(named if isinstance(named, str) else "", (None, None))
        if issuer is None or keys is None:
            raise refused("wrong_issuer", "the token is of an issuer that is not accepted here")
        algorithm, kid = _checked(header, issuer)
        key = await keys.find(kid, algorithm)
        if key is None:
            raise refused("unknown_key", "the token is signed with a key that its issuer does not publish")
        if not self._is_signed(algorithm, key, f"{parts[1]}.{parts[2]}".encode(), signature):
            raise refused("bad_signature", "the token's signature is wrong")
        self._check_times(claims, issuer)
        _check_audience(claims, issuer)
        return _caller(claims, issuer)

    def _check_times(self, claims: Mapping[str, Any], issuer: JwtIssuer) -> None:
        now, leeway_s = self._clock.now(), issuer.leeway_s
        expires, starts, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
        if expires is None:
            raise refused("missing_claim", "the token does not say when it expires")
        if now >= expires + leeway_s:
            raise refused("expired", "the token has expired")
        if starts is not None and now < starts - leeway_s:
            raise refused("not_yet_valid", "the token is not valid yet")
        if issued is not None and now < issued - leeway_s:
            raise refused("not_yet_valid", "the token was issued in the future; are the clocks right?")


def _refuse_form(token: str) -> NoReturn:
    if len(token) > MAX_TOKEN:
        raise refused("too_large", f"the token is longer than {MAX_TOKEN} characters")
    if token.count(".") == 4:
        raise refused("encrypted", "the token is encrypted; send one that is signed")
    raise refused("malformed", "the token is no JWT: three parts of letters, digits, '-' and '_' between dots")


def _checked(header: Mapping[str, Any], issuer: JwtIssuer) -> tuple[str, str | None]:
    """The algorithm and the key that a header names; everything else in it has no say."""
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise refused("bad_algorithm", "the token is signed by an algorithm that is not accepted here")
    for name in ("crit", "b64", "cty", "zip", "enc"):
        if name in header:
            raise refused("bad_header", f"the token's header has {name!r}, which is not accepted here")
    if "typ" in header and not (isinstance(kind, str) and kind.lower() in issuer.types):
        raise refused("bad_header", "the token is of another type than an access token (typ)")
    if "kid" in header and not (isinstance(kid, str) and 0 < len(kid) <= 256):
        raise refused("bad_header", "the token's header names its key (kid) by something that is no name")
    return algorithm, kid


def _check_audience(claims: Mapping[str, Any], issuer: JwtIssuer) -> None:
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not named:
        raise refused("wrong_audience", "the token does not say for whom it is (aud)")
    if len(named) > MAX_NAMES or not all(isinstance(one, str) for one in named):
        raise refused("bad_claim", "the token's audience (aud) must be text, or a list of texts")
    if not any(one in issuer.audiences for one in named):
        raise refused("wrong_audience", "the token is for another service; ask its issuer for one for this service")


def _caller(claims: Mapping[str, Any], issuer: JwtIssuer) -> Caller:
    user = _name(claims, issuer.user_claim)
    if user is None:
        raise refused("missing_claim", f"the token names no user (its claim {issuer.user_claim!r})")
    tenant = issuer.tenant
    if issuer.tenant_claim is not None:
        tenant = _name(claims, issuer.tenant_claim)
        if tenant is None:
            raise refused("missing_claim", f"the token names no tenant (its claim {issuer.tenant_claim!r})")
    scopes = claim(claims, issuer.scope_claim)
    return Caller(
        user_id=issuer.user_prefix + user,
        tenant=tenant,
        session_id=_name(claims, issuer.session_claim),
        scopes=_names(scopes.split() if isinstance(scopes, str) else scopes, issuer.scope_claim),
        roles=_names(claim(claims, issuer.roles_claim), issuer.roles_claim),
    )


def _name(claims: Mapping[str, Any], path: str) -> str | None:
    found = claim(claims, path)
    if found is None:
        return None
    if not isinstance(found, str) or not found or _CONTROL.search(found):
        raise refused("bad_claim", f"the token's claim {path!r} must be text that is not empty")
    return found


def _names(found: Any, path: str) -> frozenset[str]:
    if found is None:
        return frozenset()
    names = [found] if isinstance(found, str) else found
    fit = isinstance(names, list) and len(names) <= MAX_NAMES
    if not fit or not all(isinstance(one, str) and one and not _CONTROL.search(one) for one in names):
        raise refused("bad_claim", f"the token's claim {path!r} must be text, or a list of texts")
    return frozenset(names)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    found = claims.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not -1e15 < found < 1e15:
        raise refused("bad_claim", f"the token's claim {name!r} must be a time in seconds")
    return float(found)


def _decoded(part: str) -> bytes:
    """The bytes of a part. Raises ValueError unless it is the one spelling that they have."""
    found = base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True)
    if base64.urlsafe_b64encode(found).rstrip(b"=") != part.encode():
        raise ValueError("not base64url")
    return found


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice. Raises ValueError for anything else."""
    found = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


__all__ = ["JwtVerifier"]
