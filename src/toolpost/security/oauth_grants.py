"""Grants: the tokens that users granted, fresh whenever they are asked for, and gone when they are revoked.

A refresh is claimed in the grant's own document by compare-and-set, so that of all tasks and processes one asks the
provider: where refresh tokens work once only, a second would end the grant. Whoever loses the race reads again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from toolpost.calls.clock import Clock
from toolpost.calls.errors import AuthorizationRequiredError, RemoteToolError, SecretUnavailableError
from toolpost.calls.oauth import Revoked
from toolpost.security.oauth_kept import GRANT, GrantRow, Held, Kept, grant_key
from toolpost.security.oauth_known import Known
from toolpost.security.oauth_tokens import is_due, is_over, received
from toolpost.stores.documents import Document

logger = logging.getLogger("toolpost.oauth")
CLAIM_S: Final = 30.0
"""How long a refresh may take before its holder is taken for dead: longer than any request of it."""
LOOK_AGAIN_S: Final = 0.05
FORCED_AFTER_S: Final = 30.0
"""How old a token must be that is refreshed because an API refused it: one that refuses all costs no more than that."""
KEPT_AFTER_S: Final = 7 * 86_400.0
"""How long a grant that ended and cannot be refreshed is remembered, so that the refusal can say so."""
WHY: Final = {
    "missing": "has not been granted yet",
    "insufficient_scope": "does not go far enough yet",
    "expired": "has ended",
    "revoked": "was ended at the provider",
}


class Grants:
    """Users' grants in one store."""

    def __init__(self, kept: Kept, clock: Clock, before_s: float, ended: Callable[[Document, Held], None]) -> None:
        """ended is told of each grant that its provider ended."""
        self._kept, self._clock, self._before_s, self._ended = kept, clock, before_s, ended
        self._running: set[asyncio.Task[Any]] = set()

    async def scopes(self, known: Known, tenant: str, user_id: str) -> list[str]:
        """What a user has granted so far; nothing where what is kept cannot be opened, as a new grant replaces it."""
        document = await self._kept.find(GRANT, grant_key(tenant, user_id, known.name, known.identity))
        try:
            return [] if document is None else self._kept.opened(document, Held).scopes
        except SecretUnavailableError:
            return []

    async def of_user(self, tenant: str, user_id: str) -> list[Held]:
        """All that a user has granted, fresh or not."""
        documents = [one async for one in self._kept.each(GRANT, tenant=tenant, user_id=user_id)]
        return [self._kept.opened(document, Held) for document in documents]

    async def keep(self, known: Known, tenant: str, user_id: str, held: Held) -> None:
        """Keep a grant in the place of what was there."""
        await self._kept.put(self._document(known, tenant, user_id, held), held, None)

    async def fresh(
        self, known: Known, tenant: str, user_id: str, needed: Sequence[str], refused: str | None = None
    ) -> Held:
        """A user's grant, refreshed if it is time, or if its access token is refused, which an API did not take.

        Raises AuthorizationRequiredError without URL, RemoteToolError.
        """
        key = grant_key(tenant, user_id, known.name, known.identity)
        while True:
            document = await self._kept.find(GRANT, key)
            if document is None:
                raise required(known, needed, needed, "missing")
            held = self._kept.opened(document, Held)
            missing = [scope for scope in needed if scope not in held.scopes]
            if missing:
                raise required(known, needed, missing, "insufficient_scope")
            now = self._clock.now()
            is_refused = refused == held.access_token and now >= held.obtained_at + FORCED_AFTER_S
            if not self.is_due(held) and not is_refused:
                return held
            if held.refresh_token is None:
                if is_refused or is_over(held, now):
                    raise required(known, needed, needed, "revoked" if is_refused else "expired")
                return held
            if now < held.refreshing_until <= now + 2 * CLAIM_S:  # a later end is that of a clock that went wrong
                if not is_over(held, now) and not is_refused:
                    return held
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            try:
                await known.endpoints()  # before the claim, whose time is for one request
            except RemoteToolError as error:
                return self._as_long_as_good(held, error)
            version = await self._kept.put(document, replace(held, refreshing_until=now + CLAIM_S), document.version)
            if version:
                held = await self._safely(self._refresh(known, document._replace(version=version), held, needed))
                missing = [scope for scope in needed if scope not in held.scopes]
                if missing:
                    raise required(known, needed, missing, "insufficient_scope")
                return held

    def is_due(self, held: Held) -> bool:
        """Whether it is time to refresh it."""
        return is_due(held, self._clock.now(), self._before_s)

    async def _safely(self, work: Any) -> Held:
        """Go on with a refresh though its caller is cancelled: its answer may hold the only token that works now."""
        task: asyncio.Task[Held] = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._over)
        return await asyncio.shield(task)

    def _over(self, task: asyncio.Task[Held]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # which is looked at, so that none is logged that nobody waited for

    async def _refresh(self, known: Known, document: Document, held: Held, needed: Sequence[str]) -> Held:
        """Have the provider renew the tokens. The document is claimed; whatever comes of it, the claim ends."""
        from toolpost.security.oauth_http import Refused

        fields = {"grant_type": "refresh_token", "refresh_token": str(held.refresh_token)}
        if known.provider.audience is not None:
            fields["resource"] = known.provider.audience
        now = self._clock.now()
        try:
            answer = await known.wire.token(await known.endpoints(), fields)
            fresh = received(answer, held, held.scopes, now)
        except Refused as refused:
            if refused.error == "invalid_grant":
                if not await self._kept.drop(document):  # another was granted meanwhile
                    return await self.fresh(known, document.tenant, document.user_id, needed)
                self._ended(document, held)
                raise required(known, needed, needed, "revoked") from None
            return await self._unrefreshed(document, held, _cannot(known, refused))
        except RemoteToolError as error:
            return await self._unrefreshed(document, held, error)
        except Exception:
            await self._kept.put(document, held, document.version)
            raise
        if await self._kept.put(document, fresh, document.version):
            return fresh
        if await self._kept.find(GRANT, document.key) is not None:  # another was granted meanwhile
            return await self.fresh(known, document.tenant, document.user_id, needed)
        await self._end(known, fresh)
        raise required(known, needed, needed, "revoked")

    async def _unrefreshed(self, document: Document, held: Held, error: RemoteToolError) -> Held:
        """Let another try later; the token there is does as long as it lasts."""
        await self._kept.put(document, held, document.version)
        return self._as_long_as_good(held, error)

    def _as_long_as_good(self, held: Held, error: RemoteToolError) -> Held:
        if is_over(held, self._clock.now()):
            raise error
        logger.warning("%s; its token is used until it ends", error.message)
        return held

    async def revoke(self, known: Known, tenant: str, user_id: str) -> tuple[Revoked, Document | None, Held | None]:
        """Forget a grant, then have the provider end its tokens; how that went, and what it was, if that can be read.

        What fails at the provider is said, not raised.
        """
        key = grant_key(tenant, user_id, known.name, known.identity)
        while True:
            document = await self._kept.find(GRANT, key)
            if document is None:
                return Revoked(False), None, None
            if await self._kept.drop(document):
                break  # else it was refreshed meanwhile: these are not the tokens to end
        try:
            held = self._kept.opened(document, Held)
        except SecretUnavailableError as error:
            return Revoked(True, False, error.message), document, None
        return await self._end(known, held), document, held

    async def _end(self, known: Known, held: Held) -> Revoked:
        from toolpost.security.oauth_http import Refused

        try:
            endpoints = await known.endpoints()
            if endpoints.revocation is None:
                return Revoked(True, None, f"the provider {known.identity} has no revocation endpoint")
            if held.refresh_token is not None:
                await known.wire.revoke(endpoints, held.refresh_token, "refresh_token")
            await known.wire.revoke(endpoints, held.access_token, "access_token")
        except Refused as refused:
            why = _cannot(known, refused).message
        except RemoteToolError as error:
            why = error.message
        else:
            return Revoked(True, True)
        logger.warning("a grant was forgotten here, but not ended at its provider: %s", why)
        return Revoked(True, False, why)

    async def rows(self, tenant: str | None, user_id: str | None) -> list[GrantRow]:
        """All grants, or those of a tenant or a user, as operators see them."""
        found = []
        async for one in self._kept.each(GRANT, tenant=tenant, user_id=user_id):
            try:
                held: Held | None = self._kept.opened(one, Held)
            except SecretUnavailableError:
                held = None
            found.append(
                GrantRow(
                    tenant=one.tenant,
                    user_id=one.user_id,
                    provider=one.state,
                    scopes=None if held is None else held.scopes,
                    refreshable=held is not None and held.refresh_token is not None,
                    expires_at=None if held is None else held.expires_at,
                    created_at=one.created_at,
                    updated_at=one.updated_at,
                )
            )
        return found

    async def clean(self) -> int:
        """Forget the grants that have ended and cannot be refreshed; how many."""
        gone = 0
        async for document in self._kept.each(GRANT):
            try:
                held = self._kept.opened(document, Held)
            except SecretUnavailableError:
                continue
            if held.refresh_token is None and is_over(held, self._clock.now()):
                gone += await self._kept.drop(document)
        return gone

    def _document(self, known: Known, tenant: str, user_id: str, held: Held) -> Document:
        ends = None
        if held.refresh_token is None and held.expires_at is not None:
            ends = held.expires_at + KEPT_AFTER_S
        key = grant_key(tenant, user_id, known.name, known.identity)
        return Document(GRANT, key, 0, b"", tenant=tenant, user_id=user_id, state=known.name, expires_at=ends)


def required(known: Known, needed: Sequence[str], missing: Sequence[str], why: str) -> AuthorizationRequiredError:
    """The refusal of a call whose user must grant something first; where to is added by who begins a flow."""
    wanted = f" ({', '.join(needed)})" if needed else ""
    return AuthorizationRequiredError(
        f"the user's access to {known.name!r}{wanted} {WHY[why]}",
        details={"provider": known.name, "scopes": list(needed), "missing": list(missing), "why": why},
    )


def _cannot(known: Known, refused: Any) -> RemoteToolError:
    said = f": {refused.description}" if refused.description else ""
    return RemoteToolError(
        f"the OAuth provider {known.identity} refused with {refused.error}{said}",
        kind="tool_error",
        upstream_status=refused.status,
        outcome="not_run",
    )
