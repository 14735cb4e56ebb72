"""Who granted: the checks of an ID token (OpenID Connect Core 1.0, section 3.1.3.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from toolpost.calls.errors import UnauthorizedError

SIGNED_BY: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""Signatures of a key pair. None at all, and those by the client's secret, are not among them."""
LEEWAY_S: Final = 60


def key_of(token: str) -> str | None:
    """The id of the key that a token says it is signed with. Raises UnauthorizedError for what is no token."""
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        header = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError) as error:
        raise _wrong(type(error).__name__) from None
    return header.get("kid")


def subject_of(
    token: str,
    keys: Mapping[str, Any],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    now: float,
    algorithms: Sequence[str] = (),
) -> str:
    """The person whom an ID token names, once all of it is right. Raises UnauthorizedError, saying what is not."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    allowed = [name for name in SIGNED_BY if not algorithms or name in algorithms]
    usable = [key for key in keys["keys"] if isinstance(key, dict) and key.get("kty") in ("RSA", "EC", "OKP")]
    try:
        claims = jwt.decode(token, KeySet.import_key_set({"keys": usable}), algorithms=allowed).claims
        jwt.JWTClaimsRegistry(
            now=int(now),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        ).validate(claims)
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise _wrong(str(error) or type(error).__name__) from None
    authorized = claims.get("azp")
    if (
        authorized is not None or (isinstance(claims["aud"], list) and len(claims["aud"]) > 1)
    ) and authorized != client_id:
        raise _wrong("it is for another client")
    return str(claims["sub"])


def _wrong(what: str) -> UnauthorizedError:
    return UnauthorizedError(f"the provider's ID token is not good ({what:.200}); the grant was not kept")
