"""OAuthProvider: who grants access, and as which client we ask: declared by hand, or found by OIDC discovery."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from toolpost.calls.errors import ConfigurationError
from toolpost.calls.oauth import scopes_of
from toolpost.calls.redaction import HIDDEN, scrub_message

SCOPES: Mapping[str, str] = {
    "read": "Read data",
    "write": "Change data",
    "admin": "Administer the system",
    "sql": "Query databases",
    "file": "Use files",
    "web": "Make requests to other hosts",
}
"""Scopes that are there where neither a provider's declaration nor its discovery names any."""

RESERVED = frozenset(
    "response_type client_id redirect_uri scope state nonce code_challenge code_challenge_method resource "
    "client_secret code code_verifier grant_type refresh_token".split()
)
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|::1)\Z")
TOLD_FROM_CHARS = 10_000
TOLD_CHARS = 200
SHORTEST_SECRET = 6
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "revocation_endpoint", "jwks_uri")


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthProvider:
    """One provider, and the client that we are there. redirect_uri must be registered with it, letter by letter.

    issuer is enough for a provider with OIDC discovery (or RFC 8414); of one without, give authorization_endpoint and
    token_endpoint. What is given here goes before what is discovered.
    client_secret: None for a public client. client_auth: how it is sent, "basic" or "post"; None: as discovered.
    scopes: those that may be asked for, with a description each if it is a mapping; None: any.
    ask_always: scopes that go into every request, such as ("openid", "offline_access").
    audience: the API that the tokens are for (RFC 8707). parameters: more for the authorization URL, such as
    {"prompt": "consent"}.
    """

    client_id: str
    redirect_uri: str
    client_secret: str | None = field(default=None, repr=False)
    issuer: str | None = None
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    jwks_uri: str | None = None
    client_auth: Literal["basic", "post"] | None = None
    scopes: Mapping[str, str] | Sequence[str] | None = None
    ask_always: Sequence[str] = ()
    audience: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("client_id", "redirect_uri"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"an OAuth provider needs {name} (setting oauth_{name}), got {value!r:.100}")
        for name in ("issuer", *ENDPOINTS):
            value = getattr(self, name)
            if value is not None:
                safe_url(value, name)
        if self.issuer is None and not (self.authorization_endpoint and self.token_endpoint):
            raise ConfigurationError(
                "an OAuth provider needs its issuer (setting oauth_issuer), or, without discovery, its "
                "authorization_endpoint and token_endpoint"
            )
        if self.client_auth not in (None, "basic", "post"):
            raise ConfigurationError(f"client_auth must be 'basic', 'post' or None, got {self.client_auth!r:.100}")
        taken = sorted(RESERVED & set(self.parameters))
        if taken:
            raise ConfigurationError(f"parameters must not hold {taken[0]!r}, which is set for each flow")
        object.__setattr__(self, "ask_always", tuple(scopes_of(self.ask_always, "ask_always")))
        if self.scopes is not None:
            scopes_of(self.scopes, "scopes")

    @property
    def identity(self) -> str:
        """What tells this provider from every other: tokens of one are never used for another."""
        return self.issuer or str(self.token_endpoint)

    def may_ask(self, scope: str) -> bool:
        """Whether a scope may be asked for."""
        return self.scopes is None or scope in self.scopes

    def checked(self, scopes: Sequence[str]) -> list[str]:
        """Scopes that may be asked for. Raises ConfigurationError for others."""
        found = scopes_of(scopes)
        unknown = [scope for scope in found if not self.may_ask(scope)]
        if unknown:
            raise ConfigurationError(f"scope {unknown[0]!r:.100} is not one of {', '.join(self.scopes or ())}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a provider is asked, and what it says of itself."""

    issuer: str | None
    authorization: str
    token: str
    revocation: str | None = None
    jwks_uri: str | None = None
    sends_issuer: bool = False
    auth_methods: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


def endpoints_of(provider: OAuthProvider, found: Mapping[str, Any]) -> Endpoints:
    """A provider's declaration with what its metadata (RFC 8414) adds. Raises ConfigurationError for bad metadata."""
    if found and found.get("issuer") != provider.issuer:
        raise ConfigurationError(
            f"the provider at {provider.issuer} calls itself {found.get('issuer')!r:.200}; set oauth_issuer to exactly "
            "that if it is the right one"
        )
    methods = found.get("code_challenge_methods_supported")
    if methods is not None and "S256" not in _words(methods):
        raise ConfigurationError(f"the provider {provider.issuer} does not take PKCE with S256, which is required")
    urls = {name: getattr(provider, name) or found.get(name) for name in ENDPOINTS}
    for name in ("authorization_endpoint", "token_endpoint"):
        if not urls[name]:
            raise ConfigurationError(f"the provider {provider.identity} does not say its {name}; give it")
    for name, url in urls.items():
        if url is not None:
            safe_url(url, name)
    return Endpoints(
        issuer=provider.issuer,
        authorization=str(urls["authorization_endpoint"]),
        token=str(urls["token_endpoint"]),
        revocation=urls["revocation_endpoint"],
        jwks_uri=urls["jwks_uri"],
        sends_issuer=found.get("authorization_response_iss_parameter_supported") is True,
        auth_methods=_words(found.get("token_endpoint_auth_methods_supported")),
        algorithms=_words(found.get("id_token_signing_alg_values_supported")),
        scopes=_words(found.get("scopes_supported")),
    )


def safe_url(url: Any, name: str) -> str:
    """A URL that tokens may go to: https, or http on this machine. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except (ValueError, AttributeError, TypeError):
        raise ConfigurationError(f"{name} must be a URL, got {url!r:.200}") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ConfigurationError(f"{name} must be an https URL (http only on this machine), got {url!r:.200}")
    if not host or "@" in parts.netloc or parts.fragment:
        raise ConfigurationError(f"{name} must be a URL with a host, without user and fragment, got {url!r:.200}")
    return str(url)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    return _LOOPBACK.match(host) is not None


def told(text: str, *secrets: str) -> str:
    """What a provider says, as people and logs may be told: on one line, cut, and without what it was sent."""
    text = "".join(c if c.isprintable() else " " for c in text[:TOLD_FROM_CHARS])
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return scrub_message(text)[:TOLD_CHARS]


def _words(value: Any) -> tuple[str, ...]:
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def digest(*parts: str) -> str:
    """A name for a list of texts: no two lists have one name."""
    made = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass")
        made.update(b"%d:" % len(data))
        made.update(data)
    return made.hexdigest()
