"""Flows: a person is sent to the provider, and comes back with a code. Each answer is taken once, and only from there.

PKCE with S256 always (RFC 7636); state of our own making, bound to the flow; the issuer of the answer is checked where
it is said or promised (RFC 9207); what was begun with one provider is never completed with another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from toolpost.calls.clock import Clock
from toolpost.calls.errors import RemoteToolError, SecretUnavailableError, UnauthorizedError
from toolpost.calls.oauth import AuthFlow
from toolpost.security.oauth_grants import Grants
from toolpost.security.oauth_identity import key_of, subject_of
from toolpost.security.oauth_kept import FLOW, Asked, Held, Kept
from toolpost.security.oauth_known import Known
from toolpost.security.oauth_provider import Endpoints
from toolpost.security.oauth_tokens import received
from toolpost.stores.documents import Document

KEPT_AFTER_S: Final = 3600.0
"""How long an ended flow is remembered, so that a second answer to it is told from one to a flow that never was."""
REUSED_S: Final = 60.0
"""How much time a person must have left for a pending flow to be handed out again."""
MOST_PENDING: Final = 20
"""How many flows of one person may wait; a further one takes the place of the oldest."""


class Flows:
    """Flows in one store."""

    def __init__(self, kept: Kept, grants: Grants, clock: Clock, login_s: float) -> None:
        self._kept, self._grants, self._clock, self._login_s = kept, grants, clock, login_s

    async def begin(
        self, known: Known, tenant: str, user_id: str, session_id: str | None, tool_name: str, scopes: Sequence[str]
    ) -> AuthFlow:
        """Ask for scopes besides what is granted already. Raises RemoteToolError where the provider cannot be asked."""
        endpoints, now = await known.endpoints(), self._clock.now()
        granted = await self._grants.scopes(known, tenant, user_id)
        asked = list(dict.fromkeys([*known.provider.ask_always, *filter(known.provider.may_ask, granted), *scopes]))
        await self._make_room(tenant, user_id)
        flow_id = secrets.token_urlsafe(18)
        flow = Asked(
            provider=known.name,
            issuer=known.identity,
            tool_name=tool_name,
            scopes=list(scopes),
            asked=asked,
            created_at=now,
            expires_at=now + self._login_s,
            session_id=session_id,
            state=f"{flow_id}.{secrets.token_urlsafe(24)}",
            verifier=secrets.token_urlsafe(48),
            nonce=secrets.token_urlsafe(24) if "openid" in asked else "",
        )
        flow = _with_url(flow, known, endpoints)
        await self._kept.put(_document(flow_id, tenant, user_id, "pending", flow), flow, 0)
        return self._shown(flow_id, user_id, flow)

    async def pending(
        self, known: Known, tenant: str, user_id: str, session_id: str | None, tool_name: str, scopes: Sequence[str]
    ) -> AuthFlow | None:
        """A flow for the same that waits for this person already."""
        now = self._clock.now()
        async for document in self._kept.each(FLOW, tenant=tenant, user_id=user_id, state="pending"):
            try:
                flow = self._kept.opened(document, Asked)
            except SecretUnavailableError:
                continue
            if (
                (flow.provider, flow.issuer, flow.tool_name) == (known.name, known.identity, tool_name)
                and set(flow.scopes) == set(scopes)
                and flow.session_id == session_id
                and flow.expires_at - now >= REUSED_S
            ):
                return self._shown(document.key, user_id, flow)
        return None

    async def _make_room(self, tenant: str, user_id: str) -> None:
        waiting = [one async for one in self._kept.each(FLOW, tenant=tenant, user_id=user_id, state="pending")]
        waiting.sort(key=lambda document: document.created_at)
        for document in waiting[: max(0, len(waiting) - MOST_PENDING + 1)]:
            await self._kept.drop(document)

    async def find(self, flow_id: str) -> tuple[Document, Asked]:
        """A flow that waits for its answer. Raises UnauthorizedError for every other."""
        document = await self._kept.find(FLOW, flow_id)
        if document is None:
            raise UnauthorizedError("there is no such authorization flow, or it has ended; begin a new one")
        flow = self._kept.opened(document, Asked)
        if flow.expires_at <= self._clock.now():
            raise UnauthorizedError("the authorization flow has expired; begin a new one")
        if document.state != "pending":
            raise UnauthorizedError(f"the authorization flow is {document.state}: its answer is taken once; begin anew")
        return document, flow

    def check_state(self, flow: Asked, state: str) -> None:
        """Raise UnauthorizedError for a state that was not given out with this flow."""
        if not hmac.compare_digest(state.encode(errors="replace"), flow.state.encode()):
            raise UnauthorizedError("the answer's state is not that of the authorization flow; it was not used")

    async def refuse(self, document: Document, flow: Asked) -> None:
        """The person said no."""
        await self._move(document, flow, "denied")

    async def fail(self, document: Document, flow: Asked) -> None:
        """Take no answer to it any more."""
        await self._move(document, flow, "failed")

    async def complete(
        self,
        known: Known,
        document: Document,
        flow: Asked,
        code: str,
        *,
        state: str | None,
        iss: str | None,
        iss_needed: bool,
    ) -> Held:
        """Exchange the code for tokens and keep them. Raises UnauthorizedError, RemoteToolError."""
        endpoints = await known.endpoints()
        if state is not None:
            self.check_state(flow, state)
        if (flow.provider, flow.issuer) != (known.name, known.identity):
            raise UnauthorizedError("the authorization flow was begun with another provider; begin a new one")
        if iss is None and endpoints.sends_issuer and iss_needed:
            raise UnauthorizedError("the answer does not say its issuer (iss), which this provider always does")
        if iss is not None and endpoints.issuer is None:
            raise UnauthorizedError(
                f"the answer says its issuer ({iss!r:.200}), and there is none to compare it with: if that is the "
                f"provider {known.name!r}, declare it with issuer"
            )
        if iss is not None and iss != endpoints.issuer:
            raise UnauthorizedError("the answer comes from another issuer than was asked; it was not used")
        claimed = await self._move(document, flow, "completing")
        if claimed is None:
            raise UnauthorizedError("the answer to this authorization flow was taken already; begin a new one")
        try:
            held = await self._exchanged(known, endpoints, flow, code)
        except BaseException as error:
            from toolpost.security.oauth_http import Refused, Unreached

            await self._move(claimed, flow, "pending" if isinstance(error, Unreached) else "failed")
            if isinstance(error, Refused):
                said = f": {error.description}" if error.description else ""
                raise UnauthorizedError(f"the provider did not take the code ({error.error}{said})") from None
            raise
        await self._grants.keep(known, document.tenant, document.user_id, held)
        await self._move(claimed, flow, "completed")
        return held

    async def _exchanged(self, known: Known, endpoints: Endpoints, flow: Asked, code: str) -> Held:
        provider, now = known.provider, self._clock.now()
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": provider.redirect_uri,
            "code_verifier": flow.verifier,
        }
        if provider.audience is not None:
            fields["resource"] = provider.audience
        answer = await known.wire.token(endpoints, fields)
        empty = Held(
            provider=known.name,
            issuer=known.identity,
            tool_name=flow.tool_name,
            scopes=[],
            access_token="",
            created_at=now,
        )
        held = received(answer, empty, flow.asked, now)
        token = answer.get("id_token")
        if not flow.nonce or (token is None and "openid" not in held.scopes):
            return held
        return replace(held, subject=await self._subject(known, endpoints, flow, token, now))

    async def _subject(self, known: Known, endpoints: Endpoints, flow: Asked, token: object, now: float) -> str:
        """Who granted."""
        if not isinstance(token, str):
            raise RemoteToolError(
                f"the OAuth provider {known.identity} sent no ID token", kind="tool_error", outcome="not_run"
            )
        if endpoints.issuer is None:
            raise UnauthorizedError(f"the provider {known.name!r} has no issuer to check its ID tokens against")
        return subject_of(
            token,
            await known.keys(key_of(token)),
            issuer=endpoints.issuer,
            client_id=known.provider.client_id,
            nonce=flow.nonce,
            now=now,
            algorithms=endpoints.algorithms,
        )

    async def _move(self, document: Document, flow: Asked, state: str) -> Document | None:
        """Take a flow to another state, once; None when somebody else moved it. An ended one keeps no secrets."""
        if state not in ("pending", "completing"):
            flow = replace(flow, verifier="", nonce="", state="", auth_url="")
        moved = document._replace(state=state)
        version = await self._kept.put(moved, flow, document.version)
        return moved._replace(version=version) if version else None

    async def clean(self) -> int:
        """Forget flows whose time is over; how many."""
        gone = 0
        async for document in self._kept.each(FLOW):
            if document.expires_at is not None and document.expires_at - KEPT_AFTER_S <= self._clock.now():
                gone += await self._kept.drop(document)
        return gone

    def _shown(self, flow_id: str, user_id: str, flow: Asked) -> AuthFlow:
        return AuthFlow(
            flow_id=flow_id,
            user_id=user_id,
            tool_name=flow.tool_name,
            scopes=list(flow.scopes),
            auth_url=flow.auth_url,
            created_at=flow.created_at,
            expires_at=flow.expires_at,
            provider=flow.provider,
            _now=self._clock.now,
        )


def _document(flow_id: str, tenant: str, user_id: str, state: str, flow: Asked) -> Document:
    ends = flow.expires_at + KEPT_AFTER_S
    return Document(FLOW, flow_id, 0, b"", tenant=tenant, user_id=user_id, state=state, expires_at=ends)


def _with_url(flow: Asked, known: Known, endpoints: Endpoints) -> Asked:
    """The flow with the URL that its person opens."""
    provider = known.provider
    hashed = hashlib.sha256(flow.verifier.encode()).digest()
    query = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": provider.redirect_uri,
        "scope": " ".join(flow.asked),
        "state": flow.state,
        "code_challenge": base64.urlsafe_b64encode(hashed).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
        "nonce": flow.nonce,
        "resource": provider.audience or "",
        **provider.parameters,
    }
    text = urlencode({name: value for name, value in query.items() if value})
    joint = "&" if "?" in endpoints.authorization else "?"
    return replace(flow, auth_url=f"{endpoints.authorization}{joint}{text}")
