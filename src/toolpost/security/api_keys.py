"""API keys: made once, shown once, kept only as a hash, in Records.

A key is `tp_<id>_<secret><checksum>`: 16, 43 and 6 letters and digits. The id is public, the secret is 256 random bits,
and the checksum (CRC-32 of what is before it) tells a key from a typo, and scanners of source code a key from noise.

The hash is one SHA-256, and no slow one: slow hashes make guessing dear where people chose the secret, and 256 random
bits cannot be guessed at any speed. It is made over the id too, so that a hash is of no use under another id.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeVar

import orjson

from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import (
    AuthorizerFailedError,
    ConfigurationError,
    StoreUnavailableError,
    UnauthorizedError,
)
from toolpost.security.noting import Audit, no_audit, noted
from toolpost.stores import Answer, Document, Pending, Records

T = TypeVar("T")

KIND: Final = "api-key"
PREFIX: Final = "tp_"
PATTERN: Final = re.compile(r"tp_([0-9A-Za-z]{16})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")
"""What a scanner may look for; checksum() then tells whether it is one."""

FELT_AFTER_S: Final = 5.0
"""A key that was revoked in another process is refused after this many seconds at the latest; in this one at once."""

CACHED: Final = 1024
USED_EVERY_S: Final = 3600.0
"""When a key was last used is kept to this many seconds, so that calls write nothing."""

KEPT_S: Final = 30 * 86_400.0
"""How long a key that has expired or was revoked is still listed, and told apart from one that never was."""

PATIENCE_S: Final = 5.0
_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key; not the key itself. Times are wall time in seconds."""

    id: str
    tenant: str | None
    user_id: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    state: Literal["active", "revoked", "expired"] = "active"
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None

    @property
    def caller(self) -> Caller:
        """For whom the key speaks."""
        return Caller(
            user_id=self.user_id, tenant=self.tenant, scopes=frozenset(self.scopes), roles=frozenset(self.roles)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key that was just made. secret is the whole of it, which nothing shows again."""

    key: ApiKey
    secret: str = field(repr=False)


_Keys: TypeAlias = list[ApiKey]


class ApiKeys:
    """The API keys in a store. create, list, revoke and rotate are for operators and block; verify is for doors.

    Safe from any thread and event loop.
    """

    def __init__(self, records: Records, clock: Clock = SYSTEM_CLOCK, audit: Audit = no_audit) -> None:
        self._records, self._clock, self._audit = records, clock, audit
        self._cache: OrderedDict[str, tuple[float, Document]] = OrderedDict()
        self._good: dict[bytes, tuple[float, float, Caller]] = {}
        self._changes = 0
        self._lock = threading.Lock()

    # -- for operators ------------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        user_id: str | None = None,
        tenant: str | None = None,
        scopes: Iterable[str] = (),
        roles: Iterable[str] = (),
        expires_in_s: float | None = None,
        name: str = "",
    ) -> NewApiKey:
        """Make a key. Without a user_id it speaks for a user of its own, named key-<id>."""
        if expires_in_s is not None and not expires_in_s > 0:
            raise ConfigurationError(f"expires_in_s must be more than 0, got {expires_in_s!r}")
        now = self._clock.now()
        key_id = _random(16)
        key = ApiKey(
            id=key_id,
            tenant=_text("tenant", tenant),
            user_id=_text("user_id", user_id) or f"key-{key_id}",
            name=name,
            scopes=_names("scopes", scopes),
            roles=_names("roles", roles),
            created_at=now,
            expires_at=None if expires_in_s is None else now + expires_in_s,
        )
        head = f"{PREFIX}{key_id}_{_random(43)}"
        secret = head + checksum(head)
        if not self._had(self._records.put_document(_document(key, _hash(secret)), 0)):
            raise ConfigurationError("a key of this id is there already; try again")  # 95 bits met 95 equal ones
        rights = {"scopes": key.scopes, "roles": key.roles, "expires_at": key.expires_at}
        noted(self._audit, "key.created", user=key.user_id, tenant=key.tenant, id=key.id, name=name, **rights)
        return NewApiKey(key=key, secret=secret)

    def list(self, *, tenant: str | None = None, user_id: str | None = None) -> _Keys:
        """All keys (of a tenant, of a user), by id; those that ended are listed for 30 days more."""
        found: list[ApiKey] = []
        after: str | None = None
        while page := self._had(self._records.documents(KIND, tenant=tenant, user_id=user_id, after=after, limit=500)):
            found += [self._read(document)[0] for document in page]
            after = page[-1].key
        return found

    def show(self, key_id: str, *, tenant: str | None = None) -> ApiKey | None:
        """One key by its id (or by the whole key); None where there is none, or not in this tenant."""
        document = self._one(key_id, tenant)
        return None if document is None else self._read(document)[0]

    def revoke(self, key_id: str, *, tenant: str | None = None) -> bool:
        """Refuse a key from now on; False where there is none (in this tenant), or it was revoked before."""
        while (document := self._one(key_id, tenant)) is not None and document.state != "revoked":
            now = self._clock.now()
            body = {**orjson.loads(document.body), "revoked_at": now}
            ended = document._replace(body=orjson.dumps(body), state="revoked", expires_at=now + KEPT_S)
            done = self._had(self._records.put_document(ended, document.version))
            self._forget(document.key)
            if done:
                whose = {"user": document.user_id, "tenant": document.tenant or None}
                noted(self._audit, "key.revoked", **whose, id=document.key)
                return True
        return False

    def rotate(self, key_id: str, *, tenant: str | None = None, overlap_s: float = 0.0) -> NewApiKey | None:
        """Make a key with the rights of another, which ends after overlap_s; None where that one is not in force."""
        document = self._one(key_id, tenant)
        if document is None or (old := self._read(document)[0]).state != "active":
            return None
        now = self._clock.now()
        made = self.create(
            user_id=old.user_id,
            tenant=old.tenant,
            scopes=old.scopes,
            roles=old.roles,
            name=old.name,
            expires_in_s=None if old.expires_at is None else old.expires_at - now,
        )
        if overlap_s <= 0:
            self.revoke(old.id)
            return made
        ends = now + overlap_s if old.expires_at is None else min(old.expires_at, now + overlap_s)
        while document is not None and document.state != "revoked":  # it may have been used meanwhile
            body = {**orjson.loads(document.body), "expires_at": ends}
            ending = document._replace(body=orjson.dumps(body), expires_at=ends + KEPT_S)
            if self._had(self._records.put_document(ending, document.version)):
                about = {"id": old.id, "expires_at": ends, "instead": made.key.id}
                noted(self._audit, "key.ending", user=old.user_id, tenant=old.tenant, **about)
                break
            document = self._one(old.id, None)
        self._forget(old.id)
        return made

    # -- for doors ----------------------------------------------------------------------------------------------------

    async def caller(self, secret: str) -> Caller:
        """For whom a key speaks. Raises as verify does, which is asked again FELT_AFTER_S after it was last.

        What was found good meanwhile is remembered by a digest of the key, until any key is changed here.
        """
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        known = self._good.get(digest)
        clock = self._clock
        if known is not None and clock.monotonic() < known[0] and clock.now() < known[1]:
            return known[2]
        asked_at, changes = clock.monotonic(), self._changes
        key = await self.verify(secret)
        with self._lock:
            found = self._cache.get(key.id)
            if found is not None and changes == self._changes:
                if len(self._good) >= CACHED:
                    self._good.clear()
                ends = float("inf") if key.expires_at is None else key.expires_at
                self._good[digest] = (min(asked_at, found[0]) + FELT_AFTER_S, ends, key.caller)
        return key.caller

    async def verify(self, secret: str) -> ApiKey:
        """The key that this text is. Raises UnauthorizedError (details have the reason), AuthorizerFailedError.

        Nothing is written but, once an hour, that the key was used.
        """
        parts = parse(secret)
        if parts is None:
            raise refused("malformed", "this is no API key: its length or its checksum is wrong")
        document = self._kept(parts)
        if document is None:
            document = await self._fetched(parts)
        key, digest = (None, "") if document is None else self._read(document)
        same = hmac.compare_digest(_hash(secret), digest)
        if document is None or key is None or not same:
            raise refused("unknown_key", "there is no such API key")
        if key.state == "revoked":
            raise refused("revoked", "this API key was revoked")
        if key.state == "expired":
            raise refused("expired", "this API key has expired")
        self._note_use(document, key)
        return key

    def _kept(self, key_id: str) -> Document | None:
        with self._lock:
            found = self._cache.get(key_id)
            if found is None or self._clock.monotonic() - found[0] >= FELT_AFTER_S:
                return None
            self._cache.move_to_end(key_id)
            return found[1]

    async def _fetched(self, key_id: str) -> Document | None:
        asked_at, changes = self._clock.monotonic(), self._changes
        try:
            answer: Any = self._records.document(KIND, key_id)
            document: Document | None = await within(answer) if isinstance(answer, Pending) else answer
        except StoreUnavailableError as error:
            raise AuthorizerFailedError(
                "API keys cannot be checked now, so the call is refused; try again",
                details={"authorizer": "failed", "reason": "keys_unavailable"},
            ) from error
        with self._lock:
            if document is None:
                self._cache.pop(key_id, None)
                return None
            if changes != self._changes:  # it may have been read before it was revoked
                return document
            self._cache[key_id] = (asked_at, document)
            self._cache.move_to_end(key_id)
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return document

    def _forget(self, key_id: str) -> None:
        """Read a key anew when it comes next, also where it is being read now."""
        with self._lock:
            self._changes += 1
            self._cache.pop(key_id, None)
            self._good.clear()

    def _note_use(self, document: Document, key: ApiKey) -> None:
        """Have it written that the key was used, where that is longer ago; nobody waits for it."""
        now = self._clock.now()
        if key.last_used_at is not None and now - key.last_used_at < USED_EVERY_S:
            return
        used = document._replace(body=orjson.dumps({**orjson.loads(document.body), "last_used_at": now}))
        with self._lock:
            found = self._cache.get(document.key)
            if found is not None and found[1].version == document.version:
                self._cache[document.key] = (found[0], used)
        try:
            self._records.put_document(used, document.version)  # not if it was revoked or changed meanwhile
        except StoreUnavailableError:
            return

    # -- inside -------------------------------------------------------------------------------------------------------

    def _one(self, key_id: str, tenant: str | None) -> Document | None:
        document = self._had(self._records.document(KIND, parse(key_id) or key_id))
        return document if document is None or tenant is None or document.tenant == tenant else None

    def _read(self, document: Document) -> tuple[ApiKey, str]:
        """A key and the hash of its secret."""
        body = orjson.loads(document.body)
        expires_at = body["expires_at"]
        state: Any = document.state
        if state == "active" and expires_at is not None and expires_at <= self._clock.now():
            state = "expired"
        key = ApiKey(
            id=document.key,
            tenant=document.tenant or None,
            user_id=document.user_id,
            name=body["name"],
            scopes=tuple(body["scopes"]),
            roles=tuple(body["roles"]),
            state=state,
            created_at=body["created_at"],
            expires_at=expires_at,
            revoked_at=body.get("revoked_at"),
            last_used_at=body.get("last_used_at"),
        )
        return key, body["hash"]

    def _had(self, answer: Answer[T]) -> T:
        return answer.wait(self._clock, 2 * PATIENCE_S) if isinstance(answer, Pending) else answer


def parse(secret: object) -> str | None:
    """The id in a key; None for what is no key: of another form, or with a wrong checksum."""
    found = PATTERN.fullmatch(secret) if isinstance(secret, str) and len(secret) == 69 else None
    if found is None or not hmac.compare_digest(checksum(secret[:-6]), found[3]):  # type: ignore[index]
        return None
    return found[1]


def checksum(head: str) -> str:
    """The last six letters of a key whose other ones these are."""
    number, letters = zlib.crc32(head.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        letters = _LETTERS[digit] + letters
    return letters


def refused(reason: str, message: str) -> UnauthorizedError:
    """The refusal of what somebody came with; reason is stable, and neither holds any of it."""
    return UnauthorizedError(message, details={"reason": reason})


async def within(pending: Pending[T]) -> T:
    """A store's answer. Raises StoreUnavailableError where it says nothing for some seconds."""
    import asyncio

    try:
        async with asyncio.timeout(PATIENCE_S):
            return await pending
    except TimeoutError:
        raise StoreUnavailableError(f"the store gave no answer within {PATIENCE_S:g} s") from None


def _document(key: ApiKey, digest: str) -> Document:
    body = {
        "hash": digest,
        "name": key.name,
        "scopes": key.scopes,
        "roles": key.roles,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }
    return Document(
        kind=KIND,
        key=key.id,
        version=0,
        body=orjson.dumps(body),
        tenant=key.tenant or "",
        user_id=key.user_id,
        state="active",
        expires_at=None if key.expires_at is None else key.expires_at + KEPT_S,
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _random(letters: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(letters))


def _text(what: str, value: str | None) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigurationError(f"{what} must be text that is not empty, got {value!r:.100}")
    return value


def _names(what: str, names: Iterable[str]) -> tuple[str, ...]:
    given = () if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in given):
        raise ConfigurationError(f"{what} must be a list of names, got {names!r:.100}")
    if what == "scopes" and any(len(name.split()) != 1 or name != name.strip() for name in given):
        raise ConfigurationError(f"a scope has no spaces; give each as a name of its own, got {given!r:.100}")
    return tuple(dict.fromkeys(given))


__all__ = ["ApiKey", "ApiKeys", "NewApiKey"]
