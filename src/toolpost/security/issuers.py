"""JwtIssuer: whose JWTs callers may come with, and how their claims are read."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from toolpost.calls.errors import ConfigurationError

ALGORITHMS: Final[Mapping[str, tuple[str, str | None]]] = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "Ed25519": ("OKP", "Ed25519"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Algorithm -> the type and the curve that a key for it has. None of them has a secret that both sides know."""

TYPES: Final = ("jwt", "at+jwt", "application/at+jwt")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtIssuer:
    """An issuer of JWTs, by the exact text of its claim iss.

    audience is what aud must name: this service, as the issuer knows it. Without it tokens that were given to any other
    service would do here. jwks_url is where its keys are; None asks its OpenID configuration.
    Claims are named by a path: "realm_access.roles" leads into objects, unless there is a claim of exactly that name.
    Scopes are text with spaces or a list; roles a list or one text. tenant puts all its users into one tenant;
    user_prefix begins their user ids. types are the values of the header typ that it may have, or none.
    """

    url: str
    audience: str | tuple[str, ...]
    jwks_url: str | None = None
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    types: tuple[str, ...] = TYPES
    user_claim: str = "sub"
    tenant_claim: str | None = None
    scope_claim: str = "scope"
    roles_claim: str = "roles"
    session_claim: str = "sid"
    tenant: str | None = None
    user_prefix: str = ""
    leeway_s: float = 30.0

    def __post_init__(self) -> None:
        check_url("url", self.url)
        if self.jwks_url is not None:
            check_url("jwks_url", self.jwks_url)
        audience = (self.audience,) if isinstance(self.audience, str) else tuple(self.audience)
        if not audience or not all(isinstance(one, str) and one for one in audience):
            raise ConfigurationError(
                f"JwtIssuer: audience must name this service as tokens do, such as 'https://tools.example.com', "
                f"got {self.audience!r:.100}"
            )
        object.__setattr__(self, "audience", audience)
        for algorithm in self.algorithms:
            if algorithm not in ALGORITHMS:
                raise ConfigurationError(
                    f"JwtIssuer: algorithm {algorithm!r} is not one that is safe with public keys; there are "
                    f"{', '.join(ALGORITHMS)}"
                )
        if not self.algorithms or isinstance(self.algorithms, str):
            raise ConfigurationError(f"JwtIssuer: algorithms must be a tuple of names, got {self.algorithms!r}")
        if not 0 <= self.leeway_s <= 600:
            raise ConfigurationError(f"JwtIssuer: leeway_s must be from 0 to 600 seconds, got {self.leeway_s!r}")
        if self.tenant is not None and self.tenant_claim is not None:
            raise ConfigurationError("JwtIssuer: give tenant or tenant_claim, not both")

    @property
    def audiences(self) -> tuple[str, ...]:
        """audience as a tuple."""
        return self.audience if isinstance(self.audience, tuple) else (self.audience,)


def check_apart(issuers: Sequence[JwtIssuer]) -> None:
    """Refuse issuers whose users could be taken for one another. Raises ConfigurationError."""
    if not issuers:
        raise ConfigurationError("JwtVerifier needs an issuer: JwtIssuer(url=..., audience=...)")
    for index, one in enumerate(issuers):
        for other in issuers[:index]:
            if one.url == other.url:
                raise ConfigurationError(
                    f"JwtVerifier: the issuer {one.url!r} is there twice; give all audiences in one"
                )
            apart = one.tenant is not None and other.tenant is not None and one.tenant != other.tenant
            prefixes = one.user_prefix, other.user_prefix
            if not apart and (prefixes[0].startswith(prefixes[1]) or prefixes[1].startswith(prefixes[0])):
                raise ConfigurationError(
                    f"JwtVerifier: a user of {one.url!r} could be taken for one of {other.url!r}; give each issuer a "
                    f"tenant, or a user_prefix of which none begins with another"
                )


def check_url(what: str, url: object, example: str = "https://login.example.com") -> None:
    """Refuse what is no https URL, or http to another machine. Raises ConfigurationError."""
    if not secure(url):
        raise ConfigurationError(f"JwtIssuer: {what} must be an https:// URL such as {example!r}, got {url!r:.200}")


def secure(url: object) -> bool:
    """Whether nobody on the way can change what a URL gives: it is https, or stays on this machine."""
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_here(host))


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a path into objects; None where it is not there."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


__all__ = ["ALGORITHMS", "JwtIssuer"]
