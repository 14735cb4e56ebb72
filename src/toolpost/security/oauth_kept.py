"""What is kept of OAuth: grants and flows, one sealed document each, changed by compare-and-set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeVar

import orjson

from toolpost.calls.errors import SecretUnavailableError
from toolpost.security.oauth_provider import digest
from toolpost.security.vault import Vault
from toolpost.stores import Answer, Pending, Records
from toolpost.stores.documents import Document

T = TypeVar("T")
GRANT = "oauth-grant"
FLOW = "oauth-flow"
PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A grant as it is kept. refreshing_until: somebody refreshes it, and has until then (wall time)."""

    provider: str
    issuer: str
    tool_name: str
    scopes: list[str]
    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    obtained_at: float = 0.0
    created_at: float = 0.0
    subject: str | None = None
    refreshing_until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A flow as it is kept. scopes are those that the tool needs, asked those that the provider was asked for."""

    provider: str
    issuer: str
    tool_name: str
    scopes: list[str]
    asked: list[str]
    created_at: float
    expires_at: float
    session_id: str | None = None
    auth_url: str = field(default="", repr=False)
    state: str = field(default="", repr=False)
    verifier: str = field(default="", repr=False)
    nonce: str = field(default="", repr=False)


class GrantRow(NamedTuple):
    """A grant as operators see it, without tokens. scopes is None where it cannot be opened with the keys there are."""

    tenant: str
    user_id: str
    provider: str
    scopes: list[str] | None
    refreshable: bool
    expires_at: float | None
    created_at: float
    updated_at: float


def grant_key(tenant: str, user_id: str, provider: str, issuer: str) -> str:
    """The key of a user's grant: no two users, tenants, providers or issuers have one."""
    return digest(tenant, user_id, provider, issuer)


async def settled(answer: Answer[T]) -> T:
    """What a store says, whether it says so at once or later."""
    return await answer if isinstance(answer, Pending) else answer


class Kept:
    """Documents of both kinds. Bodies are sealed for the row they are in: all its columns belong to the place."""

    def __init__(self, records: Records, vault: Vault) -> None:
        self.records, self.vault = records, vault

    async def find(self, kind: str, key: str) -> Document | None:
        """A document, sealed as it is."""
        return await settled(self.records.document(kind, key))

    def opened(self, document: Document, shape: type[T]) -> T:
        """What a document holds. Raises SecretUnavailableError when it cannot be opened."""
        try:
            return shape(**orjson.loads(self.vault.open(document.body, *_place(document))))
        except (orjson.JSONDecodeError, TypeError):
            raise SecretUnavailableError(f"the {document.kind} in the store is of another version") from None

    async def put(self, document: Document, body: Any, expect: int | None) -> int:
        """Write; the new version, 0 when something else was there."""
        plain = orjson.dumps(asdict(body))
        sealed = document._replace(body=self.vault.seal(plain, *_place(document)))
        return await settled(self.records.put_document(sealed, expect))

    async def drop(self, document: Document) -> bool:
        """Forget it, unless it has changed meanwhile."""
        return await settled(self.records.drop_document(document.kind, document.key, document.version))

    async def each(
        self, kind: str, *, tenant: str | None = None, user_id: str | None = None, state: str | None = None
    ) -> AsyncIterator[Document]:
        """All documents of a kind, a page at a time."""
        after: str | None = None
        while True:
            page = await settled(
                self.records.documents(kind, tenant=tenant, user_id=user_id, state=state, after=after, limit=PAGE)
            )
            for document in page:
                yield document
            if len(page) < PAGE:
                return
            after = page[-1].key

    async def reseal(self, document: Document) -> bool:
        """Seal it anew with the newest key, if it is not; whether that was done. Raises SecretUnavailableError."""
        now: Document | None = document
        while now is not None and self.vault.is_stale(now.body):
            place = _place(now)
            sealed = now._replace(body=self.vault.seal(self.vault.open(now.body, *place), *place))
            if await settled(self.records.put_document(sealed, now.version)):
                return True
            now = await self.find(now.kind, now.key)  # as another process, which may have the earlier key, changed it
        return False


def _place(document: Document) -> tuple[str, str, str, str, str]:
    return document.kind, document.key, document.tenant, document.user_id, document.state
