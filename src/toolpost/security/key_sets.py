"""The public keys of an issuer, fetched when first needed, kept, and asked for anew within bounds."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import re
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from toolpost.calls.clock import Clock
from toolpost.calls.errors import AuthorizerFailedError
from toolpost.security.issuers import ALGORITHMS, JwtIssuer, secure

try:
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey
    from joserfc.jws import JWSRegistry
except ModuleNotFoundError as missing:
    from toolpost.calls.errors import ConfigurationError

    raise ConfigurationError(f"JWTs need the package {missing.name}; install toolpost[auth]") from missing

if TYPE_CHECKING:
    from toolpost.security.egress import EgressGuard

logger = logging.getLogger("toolpost")

PATIENCE_S: Final = 5.0
"""How long an issuer has for its keys."""
PAUSE_S: Final = 10.0
"""An issuer is asked no more often, whatever keys tokens name and however often it failed."""
SHORTEST_S: Final = 60.0
KEPT_S: Final = 600.0
LONGEST_S: Final = 86_400.0
"""Keys are asked for anew after the answer's max-age, within these; KEPT_S where it has none."""
STALE_S: Final = 3600.0
"""While the issuer cannot be reached its keys go on for so long."""
MAX_BYTES: Final = 524_288
MAX_KEYS: Final = 100
SHORTEST_MODULUS: Final = 342
"""Letters of an RSA modulus of 2048 bits."""

PublicKey = RSAKey | ECKey | OKPKey


class Fetched(NamedTuple):
    """What a URL gave."""

    status: int
    body: bytes
    max_age_s: float | None = None


Fetch = Callable[[str], Awaitable[Fetched]]
"""Gets a URL, without following redirects. It may raise anything."""


class KeySet:
    """The keys of one issuer. Safe from any thread and event loop; one request at a time for all who wait."""

    def __init__(self, issuer: JwtIssuer, fetch: Fetch, clock: Clock) -> None:
        self._issuer, self._fetch, self._clock = issuer, fetch, clock
        self._lock = threading.Lock()
        self._flight: concurrent.futures.Future[None] | None = None
        self._task: asyncio.Future[None] | None = None
        self._keys: tuple[PublicKey, ...] = ()
        self._fresh_until = self._asked_at = float("-inf")
        self._failed = False

    async def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key that a token names; None where the issuer has none. Raises AuthorizerFailedError."""
        for _ in range(3):  # the loop in which it was asked may have ended meanwhile
            key, now = self._pick(kid, algorithm), self._clock.monotonic()
            if key is not None and now < self._fresh_until:
                return key
            if self._flight is None and now - self._asked_at < PAUSE_S:
                break
            await self._ask()
        key, now = self._pick(kid, algorithm), self._clock.monotonic()
        if key is not None and now < self._fresh_until + STALE_S:
            return key
        if not self._failed and now < self._fresh_until:
            return None
        raise AuthorizerFailedError(
            f"the keys of the issuer {self._issuer.url} cannot be had now, so the call is refused; try again",
            details={"authorizer": "failed", "reason": "issuer_unreachable"},
        )

    def _pick(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key of that name; of a token that names none, the only one that fits."""
        fitting = [key for key in self._keys if (kid is None or key.kid == kid) and _fits(key, algorithm)]
        return fitting[0] if fitting and (kid is not None or len(fitting) == 1) else None

    async def _ask(self) -> None:
        """Ask the issuer, or wait for the answer that somebody else is waiting for."""
        with self._lock:
            flight = self._flight
            if flight is None:
                flight = self._flight = concurrent.futures.Future()
                flight.set_running_or_notify_cancel()  # from now on nobody who waits for it can cancel it
                before, self._asked_at = self._asked_at, self._clock.monotonic()
                self._task = asyncio.ensure_future(self._fly(flight, before))  # which outlives whoever led
        try:
            async with asyncio.timeout(2 * PATIENCE_S):
                await asyncio.wrap_future(flight)
        except TimeoutError:  # the loop that asked has stopped
            with self._lock:
                self._flight = None if self._flight is flight else self._flight

    async def _fly(self, flight: concurrent.futures.Future[None], before: float) -> None:
        """Ask the issuer and tell those who wait. It goes on though they do not, else each would have it asked anew."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                keys, max_age_s = await self._load()
            kept_s = KEPT_S if max_age_s is None else max(SHORTEST_S, min(max_age_s, LONGEST_S))
            self._keys, self._failed, self._fresh_until = keys, False, self._clock.monotonic() + kept_s
        except asyncio.CancelledError:
            self._asked_at = before  # its loop ends; who waits in another one goes on
            raise
        except Exception as failed:
            self._failed = True
            logger.warning("the keys of %s cannot be had: %s: %s", self._issuer.url, type(failed).__name__, failed)
        finally:
            with self._lock:
                self._flight = None if self._flight is flight else self._flight
            flight.set_result(None)

    async def _load(self) -> tuple[tuple[PublicKey, ...], float | None]:
        url = self._issuer.jwks_url
        if url is None:
            where = f"{self._issuer.url.rstrip('/')}/.well-known/openid-configuration"
            told, _ = await self._get(where)
            if told.get("issuer") != self._issuer.url:
                raise ValueError(f"{where} is of another issuer")
            url = told.get("jwks_uri")
            if not isinstance(url, str) or not secure(url):
                raise ValueError(f"{where} names no https:// URL as jwks_uri")
        answer, max_age_s = await self._get(url)
        keys = read_keys(answer)
        if not keys:
            raise ValueError(f"{url} has no key that can be used")
        return keys, max_age_s

    async def _get(self, url: str) -> tuple[dict[str, Any], float | None]:
        fetched = await self._fetch(url)
        if fetched.status != 200:
            raise ValueError(f"{url} answered {fetched.status}")
        if len(fetched.body) > MAX_BYTES:
            raise ValueError(f"{url} gave more than {MAX_BYTES} bytes")
        answer = json.loads(fetched.body)
        if not isinstance(answer, dict):
            raise ValueError(f"{url} gave no JSON object")
        return answer, fetched.max_age_s


def read_keys(answer: dict[str, Any]) -> tuple[PublicKey, ...]:
    """The keys of a JWKS that can verify signatures. What cannot be read is left out, as RFC 7517 has it."""
    listed = answer.get("keys")
    if not isinstance(listed, list):
        raise ValueError("there is no list of keys")
    found: list[PublicKey] = []
    for one in listed[:MAX_KEYS]:
        if not isinstance(one, dict) or one.get("kty") not in ("RSA", "EC", "OKP"):  # a secret is no public key
            continue
        public = {name: value for name, value in one.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
        if one["kty"] == "RSA" and len(str(one.get("n"))) < SHORTEST_MODULUS:
            continue
        try:
            key = JWKRegistry.import_key(public)
            if isinstance(key, (RSAKey, ECKey, OKPKey)) and _sound(key):
                found.append(key)
        except Exception as unreadable:  # whatever a parser of other people's keys may raise
            logger.debug("a key of an issuer cannot be read: %s", type(unreadable).__name__)
    return tuple(found)


def _sound(key: PublicKey) -> bool:
    if key.get("use", "sig") != "sig" or "verify" not in (key.get("key_ops") or ["verify"]):
        return False
    return not isinstance(key, RSAKey) or 2048 <= key.public_key.key_size <= 8192


def _fits(key: PublicKey, algorithm: str) -> bool:
    kind, curve = ALGORITHMS[algorithm]
    if key.key_type != kind or (curve is not None and key.get("crv") != curve):
        return False
    return key.get("alg") in (None, algorithm)


def is_signed(algorithm: str, key: PublicKey, text: bytes, signature: bytes) -> bool:
    """Whether the signature is the key's. joserfc refuses keys that the algorithm is not for."""
    method = JWSRegistry.algorithms[algorithm]
    try:
        method.check_key(key)
        return method.verify(text, signature, key)
    except (JoseError, ValueError, TypeError):
        return False


def guarded_fetch(guard: EgressGuard, *urls: str) -> Fetch:
    """Gets what the operator's own URLs lead to, through the egress guard."""

    async def fetch(url: str) -> Fetched:
        import httpx

        from toolpost.security.egress_transport import guarded_transport

        transport = guarded_transport(guard.at(*urls))
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=PATIENCE_S) as client:
            answer = await client.get(url, headers={"accept": "application/json"})
        return Fetched(answer.status_code, answer.content, max_age_s(answer.headers.get("cache-control", "")))

    return fetch


def max_age_s(cache_control: str) -> float | None:
    """The max-age of a Cache-Control header, in seconds; 0 for what may not be kept."""
    if re.search(r"\bno-(store|cache)\b", cache_control, re.IGNORECASE):
        return 0.0
    found = re.search(r"\bmax-age\s*=\s*\"?(\d{1,10})", cache_control, re.IGNORECASE)
    return None if found is None else float(found[1])


__all__ = ["Fetch", "Fetched", "KeySet", "guarded_fetch", "is_signed"]
