"""An issuer for tests: keys, the tokens that it signs, its documents over a fetch that counts, or over real HTTP."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc.jwk import JWKRegistry
from joserfc.jws import JWSRegistry

from toolpost.security.key_sets import Fetched


@cache
def generated(kind: str, size: Any, kid: str | None) -> Any:
    return JWKRegistry.generate_key(kind, size).as_dict(private=True) | ({"kid": kid} if kid else {})


def key(kind: str, size: Any, kid: str | None = None, **more: Any) -> Any:
    """A private key; equal ones are made once, as RSA takes its time."""
    return imported(json.dumps({**generated(kind, size, kid), **more}))


@cache
def imported(jwk: str) -> Any:
    return JWKRegistry.import_key(json.loads(jwk))


def encoded(part: bytes | dict[str, Any]) -> str:
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def signed(
    header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes, by: Any, algorithm: str | None = None
) -> str:
    """A token whose signature is right, whatever else it is."""
    name = algorithm or (header["alg"] if isinstance(header, dict) else "RS256")
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{encoded(JWSRegistry.algorithms[name].sign(text.encode(), by))}"


class Issuer:
    """Publishes keys. down makes it fail, hang_s makes it slow."""

    def __init__(self, url: str = "https://login.example", keys: tuple[Any, ...] | None = None) -> None:
        self.url = url
        self.rsa = key("RSA", 2048, "r1", use="sig", alg="RS256")
        self.keys: list[Any] = list(keys) if keys is not None else [self.rsa]
        self.extra: list[Any] = []
        self.asked: list[str] = []
        self.down = False
        self.max_age_s: float | None = None
        self.issuer_in_document = url

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys"

    def jwks(self) -> dict[str, Any]:
        return {"keys": [*(one.as_dict(private=False) for one in self.keys), *self.extra]}

    def document(self, path: str) -> bytes | None:
        if path.endswith("/.well-known/openid-configuration"):
            return json.dumps({"issuer": self.issuer_in_document, "jwks_uri": self.jwks_url}).encode()
        return json.dumps(self.jwks()).encode() if path.endswith("/keys") else None

    async def fetch(self, url: str) -> Fetched:
        self.asked.append(url)
        if self.down:
            raise ConnectionError("connection refused")
        body = self.document(url)
        return Fetched(404, b"") if body is None else Fetched(200, body, self.max_age_s)

    def token(self, now: float, *, by: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token for `https://tools.example`, but for what is given; a claim that is None is left out."""
        by = by or self.rsa
        head = {"alg": by.get("alg") or "RS256", "typ": "at+jwt", "kid": by.kid, **(header or {})}
        body = {"iss": self.url, "aud": "https://tools.example", "sub": "ann", "iat": now, "exp": now + 300, **claims}
        return signed(
            {name: one for name, one in head.items() if one is not None},
            {name: one for name, one in body.items() if one is not None},
            by,
            head["alg"],
        )


@contextmanager
def served(issuer: Issuer) -> Iterator[Issuer]:
    """The issuer over real HTTP, at a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            body = issuer.document(self.path)
            self.send_response(503 if issuer.down else 404 if body is None else 200)
            if issuer.max_age_s is not None:
                self.send_header("Cache-Control", f"public, max-age={issuer.max_age_s:.0f}")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    issuer.url = issuer.issuer_in_document = f"http://127.0.0.1:{server.server_port}"
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


__all__ = ["Issuer", "encoded", "key", "served", "signed"]
