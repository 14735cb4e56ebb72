"""Parked answers: what a provider sent back to a page where nobody is known, until its user says that it was them.

A redirect URI that belongs to an API has no session that tells who is at the browser. Completed there, a flow would
give whoever began it the account of whomever they had open its URL. So the answer is kept, sealed, and the page shows a
short code, which the user hands to the application that acts for them: only with it, and in their name, the flow is
completed.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from toolpost.calls.errors import UnauthorizedError
from toolpost.calls.oauth import AuthFlow, Authorization
from toolpost.security.oauth_kept import FLOW, Asked
from toolpost.stores.documents import Document

if TYPE_CHECKING:
    from toolpost.security.oauth import AuthorizationManager

ANSWER: Final = "oauth-answer"
LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""None that is mistaken for a digit or another letter, and no words."""
HALF: Final = 4
TRIES: Final = 5
"""So often a code may be wrong; there are 20^8 of them."""
STATES: Final = ("pending", "answered", "completing", "completed", "denied", "failed", "expired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """An answer as it is kept: the query that came, and the code that was shown."""

    query: str
    confirmation: str
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a flow stands, for its own user: flow.status is one of STATES."""

    flow: AuthFlow
    tenant: str | None


class ParkedAnswers:
    """The answers that came to one manager's redirect URI without a user."""

    def __init__(self, manager: AuthorizationManager) -> None:
        self._manager, self._kept, self._flows = manager, manager._kept, manager._flows
        self._clock = manager._clock

    async def standing(self, flow_id: str) -> Standing | None:
        """How a flow stands; None where there is none. Whose it is, is for whoever asks to check."""
        found = await self._kept.find(FLOW, flow_id)
        if found is None:
            return None
        flow = self._kept.opened(found, Asked)
        state = found.state
        if state == "pending" and flow.expires_at <= self._clock.now():
            state = "expired"
        elif state == "pending" and await self._kept.find(ANSWER, flow_id) is not None:
            state = "answered"
        shown = self._flows._shown(flow_id, found.user_id, flow)
        shown = replace(shown, status=state, auth_url=shown.auth_url if state == "pending" else "")
        return Standing(flow=shown, tenant=found.tenant or None)

    async def park(self, url: str) -> tuple[AuthFlow, str | None]:
        """Keep the answer in a callback's URL: its flow, and the code to show; None where the person said no.

        An answer is kept once for each flow. Raises UnauthorizedError for one that is not good.
        """
        query = urlsplit(url).query
        pairs = parse_qsl(query, keep_blank_values=True)
        answer = dict(pairs)
        state = answer.get("state", "")
        flow_id, dot, _ = state.partition(".")
        if not dot or len(answer) != len(pairs):
            raise UnauthorizedError("this is no answer to an authorization flow; it was not used")
        document, flow = await self._flows.find(flow_id)
        self._flows.check_state(flow, state)
        shown = self._flows._shown(flow_id, document.user_id, flow)
        if "error" in answer:
            await self._flows.refuse(document, flow)
            self._manager._notes.refused(document, flow, "the person said no", None)
            return shown, None
        if not answer.get("code"):
            raise UnauthorizedError("the answer to the authorization flow has no code; it was not used")
        parked = Parked(query=query, confirmation="".join(secrets.choice(LETTERS) for _ in range(2 * HALF)))
        kept = Document(
            ANSWER, flow_id, 0, b"", tenant=document.tenant, user_id=document.user_id, expires_at=flow.expires_at
        )
        if not await self._kept.put(kept, parked, 0):
            raise UnauthorizedError("the answer to this authorization flow came already; begin a new one")
        return shown, f"{parked.confirmation[:HALF]}-{parked.confirmation[HALF:]}"

    async def confirm(
        self,
        flow_id: str,
        confirmation: str,
        *,
        user_id: str,
        tenant: str | None = None,
        session_id: str | None = None,
    ) -> Authorization:
        """Complete a flow whose answer is parked, in its user's name. Raises UnauthorizedError as completing does."""
        document = await self._kept.find(ANSWER, flow_id)
        if document is None or (document.user_id, document.tenant) != (user_id, tenant or ""):
            raise UnauthorizedError("no answer to that authorization flow waits for a confirmation")
        parked = self._kept.opened(document, Parked)
        given = "".join(letter for letter in confirmation.upper() if letter in LETTERS)
        if not hmac.compare_digest(given.encode(), parked.confirmation.encode()):
            await self._wrong(document, parked, user_id)
            raise UnauthorizedError("the code is not the one that was shown after the authorization")
        if not await self._kept.drop(document):
            raise UnauthorizedError("the answer to this authorization flow was taken already; begin a new one")
        return await self._manager.complete_from_callback(
            f"?{parked.query}", user_id=user_id, tenant=tenant, session_id=session_id
        )

    async def drop(self, flow_id: str) -> bool:
        """Forget a flow, and its answer; whether it was there."""
        for kind in (ANSWER, FLOW):
            document = await self._kept.find(kind, flow_id)
            if document is not None:
                await self._kept.drop(document)
        return document is not None

    async def _wrong(self, document: Document, parked: Parked, by: str) -> None:
        """One try less; after the last one the flow is over. Of two at a time one is not counted; neither is good."""
        found, flow = await self._flows.find(document.key)
        self._manager._notes.refused(found, flow, "the code was not the one that was shown", by)
        if parked.tries + 1 < TRIES:
            await self._kept.put(document, replace(parked, tries=parked.tries + 1), document.version)
            return
        await self._kept.drop(document)
        await self._flows.fail(found, flow)


__all__ = ["STATES", "Parked", "ParkedAnswers", "Standing"]
