"""AuthorizationManager: users' grants at OAuth providers: begun, completed, refreshed, revoked, kept encrypted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit
from weakref import ref

from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import (
    AuthorizationRequiredError,
    ConfigurationError,
    SecretUnavailableError,
    UnauthorizedError,
)
from toolpost.calls.oauth import LOGIN_S, AuthFlow, Authorization, OAuth, Revoked
from toolpost.calls.redaction import Redactor
from toolpost.security.egress import EgressGuard
from toolpost.security.noting import Audit
from toolpost.security.oauth_flows import Flows
from toolpost.security.oauth_grants import Grants
from toolpost.security.oauth_kept import FLOW, GRANT, Asked, GrantRow, Held, Kept
from toolpost.security.oauth_known import Known
from toolpost.security.oauth_notes import GrantNotes
from toolpost.security.oauth_provider import SCOPES, OAuthProvider, told
from toolpost.security.vault import Vault, keys_in
from toolpost.stores import Records
from toolpost.stores.documents import Document
from toolpost.stores.memory_records import MemoryRecords

T = TypeVar("T")
logger = logging.getLogger("toolpost.oauth")
REFRESH_BEFORE_S = 60.0


class AuthorizationManager:
    """Users' grants at OAuth providers, so that tools act in the caller's own name.

    The three oauth_ arguments with issuer (or further fields of OAuthProvider) declare the provider "default";
    providers adds others by name. A grant belongs to one tenant, user, provider and issuer, and serves every tool that
    needs no more than its scopes. It is kept in records, sealed with secret_key; those of secret_key_previous (between
    commas, or a JSON list) still open. Without secret_key only a store in memory will do, and nothing survives the
    process.

    Methods without _async block, also where they must ask the provider: inside an event loop use the others. Requests
    go through guard (by default one that reaches public hosts and those that the provider's declaration names).
    """

    def __init__(
        self,
        oauth_client_id: str | None = None,
        oauth_client_secret: str | None = None,
        oauth_redirect_uri: str | None = None,
        *,
        issuer: str | None = None,
        providers: Mapping[str, OAuthProvider] | None = None,
        records: Records | None = None,
        secret_key: str | None = None,
        secret_key_previous: str | Sequence[str] = (),
        clock: Clock = SYSTEM_CLOCK,
        guard: EgressGuard | None = None,
        transport: Callable[[], Any] | None = None,
        refresh_before_s: float = REFRESH_BEFORE_S,
        login_s: float = LOGIN_S,
        **provider: Any,
    ) -> None:
        """transport makes an httpx transport of one's own for each request, in place of the guarded one."""
        self._clock = clock
        records = records if records is not None else MemoryRecords(clock=clock)
        self._redactors: tuple[ref[Redactor], ...] = ()
        self._notes = GrantNotes()
        self._providers: dict[str, Known] = {}
        for name, one in (providers or {}).items():
            self._add(OAuth(provider=name).provider, one, transport, guard)
        self._unfinished: dict[str, Any] | None = None
        if oauth_client_id is not None:
            declared = {
                "client_id": oauth_client_id,
                "client_secret": oauth_client_secret,
                "redirect_uri": oauth_redirect_uri,
                "issuer": issuer,
                **provider,
            }
            if issuer is None and "authorization_endpoint" not in provider:
                self._unfinished = declared  # refused when it is used: it says who we are, but not where to ask
            else:
                self._add("default", OAuthProvider(**declared), transport, guard)
        elif provider or issuer is not None:
            raise ConfigurationError("AuthorizationManager: a provider needs oauth_client_id")
        self._kept = Kept(records, _vault(records, secret_key, secret_key_previous))
        self._grants = Grants(self._kept, clock, refresh_before_s, self._notes.ended)
        self._flows = Flows(self._kept, self._grants, clock, login_s)

    def __repr__(self) -> str:
        return f"AuthorizationManager(providers={sorted(self._providers)})"

    def _add(self, name: str, provider: OAuthProvider, transport: Any, guard: EgressGuard | None) -> None:
        if not isinstance(provider, OAuthProvider):
            raise ConfigurationError(f"provider {name!r} must be an OAuthProvider, got {type(provider).__name__}")
        if name in self._providers:
            raise ConfigurationError(f"provider {name!r} is declared twice")
        self._providers[name] = Known(name, provider, self._clock, transport, guard)

    # -- asking for a grant -------------------------------------------------------------------------------------------

    def initiate_authorization(
        self,
        user_id: str,
        tool_name: str,
        scopes: Sequence[str],
        *,
        provider: str = "default",
        tenant: str | None = None,
        session_id: str | None = None,
    ) -> AuthFlow:
        """Begin a flow: its auth_url is where this user grants the scopes, besides those granted already."""
        return waited(
            self.initiate_authorization_async(
                user_id, tool_name, scopes, provider=provider, tenant=tenant, session_id=session_id
            )
        )

    async def initiate_authorization_async(
        self,
        user_id: str,
        tool_name: str,
        scopes: Sequence[str],
        *,
        provider: str = "default",
        tenant: str | None = None,
        session_id: str | None = None,
    ) -> AuthFlow:
        """initiate_authorization for event loops. Raises ConfigurationError, RemoteToolError."""
        known = self._known(provider)
        checked = known.provider.checked(scopes)
        if not isinstance(tool_name, str) or not tool_name:
            raise ConfigurationError(f"tool_name must be a tool's name, got {tool_name!r:.100}")
        return await self._flows.begin(known, tenant or "", _user(user_id), session_id, tool_name, checked)

    async def complete_authorization(
        self,
        flow_id: str,
        authorization_code: str,
        *,
        state: str | None = None,
        iss: str | None = None,
        user_id: str | None = None,
        tenant: str | None = None,
        session_id: str | None = None,
    ) -> Authorization:
        """Exchange the code that the provider sent the user back with. A flow is completed once.

        state, iss, user_id, tenant and session_id are checked where they are given, session_id also only where the
        flow has one. For what comes from a browser take complete_from_callback, which needs to know whose it is.
        Raises UnauthorizedError where the answer is not good, RemoteToolError where the provider cannot be asked.
        """
        if not isinstance(flow_id, str) or not isinstance(authorization_code, str) or not authorization_code:
            raise UnauthorizedError("completing an authorization takes the flow's id and the code as texts")
        document, flow = await self._flows.find(flow_id)
        if user_id is not None:
            tenant = tenant or ""
        try:
            _check_whose(document, flow, user_id, tenant, session_id)
            held = await self._flows.complete(
                self._known(flow.provider),
                document,
                flow,
                authorization_code,
                state=state,
                iss=iss,
                iss_needed=state is not None or len(self._providers) > 1,
            )
        except UnauthorizedError as error:
            self._notes.refused(document, flow, error.message, user_id)
            raise
        shown = self._shown(document.user_id, document.tenant, held)
        self._notes.given(document, flow, held)
        return shown

    async def complete_from_callback(
        self, url: str, *, user_id: str, tenant: str | None = None, session_id: str | None = None
    ) -> Authorization:
        """Complete the flow whose answer came to the redirect URI. user_id is who is logged in at that browser.

        That must be the user for whom the flow was begun: else somebody could send them a URL of their own and be
        granted what is another's. Raises UnauthorizedError, also when the person said no.
        """
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        answer = dict(query)
        if len(answer) != len(query):
            raise UnauthorizedError("the callback names a parameter twice; it was not used")
        state = answer.get("state", "")
        flow_id, dot, _ = state.partition(".")
        if not dot:
            raise UnauthorizedError("the callback has no state of an authorization flow; it was not used")
        if "error" in answer:  # only who was asked may say no, or have words of theirs shown
            document, flow = await self._flows.find(flow_id)
            try:
                _check_whose(document, flow, _user(user_id), tenant or "", session_id)
                self._flows.check_state(flow, state)
            except UnauthorizedError as error:
                self._notes.refused(document, flow, error.message, user_id)
                raise
            await self._flows.refuse(document, flow)
            said = told(answer.get("error_description", ""))
            self._notes.refused(document, flow, f"{told(answer['error'])} {said}".strip(), user_id)
            raise UnauthorizedError(
                f"access was not granted: {told(answer['error'])!r}{said and f' ({said})'}",
                details={"why": "denied", "provider": flow.provider},
            )
        return await self.complete_authorization(
            flow_id,
            answer.get("code", ""),
            state=state,
            iss=answer.get("iss"),
            user_id=_user(user_id),
            tenant=tenant,
            session_id=session_id,
        )

    # -- using a grant ------------------------------------------------------------------------------------------------

    async def validate_authorization(
        self,
        user_id: str,
        tool_name: str,
        required_scopes: Sequence[str] | None = None,
        *,
        provider: str = "default",
        tenant: str | None = None,
    ) -> Authorization:
        """The user's grant with these scopes, refreshed if it is time to: what a call of the tool would run with.

        Raises AuthorizationRequiredError where there is none, without URL: initiate_authorization gives one.
        """
        known, user_id = self._known(provider), _user(user_id)
        try:
            held = await self._grants.fresh(known, tenant or "", user_id, list(required_scopes or ()))
        except AuthorizationRequiredError as error:
            error.tool = tool_name
            raise
        return self._shown(user_id, tenant or "", held)

    async def granted(self, caller: Caller, tool_name: str, policy: OAuth) -> Granted:
        """What a call runs with. Raises AuthorizationRequiredError, with the URL where the caller grants it."""
        if not caller.user_id:
            raise UnauthorizedError(
                "Authentication required: this tool acts in its user's name; make the call with a user_id"
            )
        granted = Granted(self, self._known(policy.provider), caller, tool_name, policy)
        await granted.renew()
        return granted

    async def _held(
        self, known: Known, caller: Caller, tool_name: str, policy: OAuth, refused: str | None = None
    ) -> Held:
        """A caller's grant. Where there is none, AuthorizationRequiredError: with a flow that waits, or a new one."""
        tenant, user_id = caller.tenant or "", _user(caller.user_id)
        try:
            return await self._grants.fresh(known, tenant, user_id, policy.scopes, refused)
        except AuthorizationRequiredError as raised:
            error = raised
        place = (known, tenant, user_id, caller.session_id, tool_name, known.provider.checked(policy.scopes))
        flow = await self._flows.pending(*place) or await self._flows.begin(*place)
        raise AuthorizationRequiredError(
            f"Authorization required: {error.message}; the user grants it at {flow.auth_url}; then call again",
            url=flow.auth_url,
            details={**error.details, "flow_id": flow.flow_id, "expires_at": flow.expires_at},
        )

    # -- looking at grants, and ending them ---------------------------------------------------------------------------

    def revoke_authorization(
        self, user_id: str, tool_name: str | None = None, *, provider: str = "default", tenant: str | None = None
    ) -> Revoked:
        """End a user's grant at a provider, for all tools that used it: forgotten here in any case, then ended there.

        The result is true when there was one; at_provider and why tell how the provider took it.
        """
        return waited(self.revoke_authorization_async(user_id, tool_name, provider=provider, tenant=tenant))

    async def revoke_authorization_async(
        self, user_id: str, tool_name: str | None = None, *, provider: str = "default", tenant: str | None = None
    ) -> Revoked:
        """revoke_authorization for event loops."""
        known = self._known(provider)
        revoked, document, held = await self._grants.revoke(known, tenant or "", _user(user_id))
        if document is not None:
            self._notes.revoked(document, held, provider, tool_name, revoked)
        return revoked

    def get_user_authorizations(self, user_id: str, *, tenant: str | None = None) -> list[Authorization]:
        """All that a user has granted, fresh or not."""
        return waited(self.get_user_authorizations_async(user_id, tenant=tenant))

    async def get_user_authorizations_async(self, user_id: str, *, tenant: str | None = None) -> list[Authorization]:
        """get_user_authorizations for event loops."""
        held = await self._grants.of_user(tenant or "", _user(user_id))
        return [self._shown(user_id, tenant or "", one) for one in held]

    def grants(self, *, tenant: str | None = None, user_id: str | None = None) -> list[GrantRow]:
        """All grants there are, or those of a tenant or a user, without tokens: for operators."""
        return waited(self._grants.rows(tenant, user_id))

    def cleanup_expired_authorizations(self) -> int:
        """Forget grants that have ended and cannot be refreshed, and flows whose time is over; how many."""
        return waited(self.cleanup_expired_authorizations_async())

    async def cleanup_expired_authorizations_async(self) -> int:
        """cleanup_expired_authorizations for event loops."""
        return await self._grants.clean() + await self._flows.clean()

    def get_available_scopes(self, provider: str = "default") -> dict[str, str]:
        """The scopes that may be asked for, with what each allows: as declared, else as the provider said so far."""
        known = self._known(provider) if provider != "default" or "default" in self._providers else None
        declared = known.provider.scopes if known is not None else None
        if declared is None:
            found = known.found.scopes if known is not None and known.found is not None else ()
            declared = found or SCOPES
        if isinstance(declared, Mapping):
            return dict(declared)
        return {scope: SCOPES.get(scope, "") for scope in declared}

    def rotate_secret_key(self) -> tuple[int, int]:
        """Seal all grants and flows with the newest secret_key: how many were, and how many could not be opened."""
        return waited(self.rotate_secret_key_async())

    async def rotate_secret_key_async(self) -> tuple[int, int]:
        """rotate_secret_key for event loops."""
        done = lost = 0
        for kind in (GRANT, FLOW):
            async for document in self._kept.each(kind):
                try:
                    done += await self._kept.reseal(document)
                except SecretUnavailableError as error:
                    lost += 1
                    logger.warning("%s (%s)", error.message, document.key)
        return done, lost

    # -- for the engine -----------------------------------------------------------------------------------------------

    @property
    def providers(self) -> Mapping[str, OAuthProvider]:
        """The providers by name."""
        return {name: known.provider for name, known in self._providers.items()}

    def hide_by(self, redactor: Redactor) -> None:
        """Have client secrets, and each token before it is handed out, hidden by redactor, as long as that is there."""
        living = [one for one in self._redactors if one() not in (None, redactor)]
        self._redactors = (*living, ref(redactor))
        for name, provider in self.providers.items():
            if provider.client_secret is not None:
                redactor.add(provider.client_secret, f"the client_secret of {name}")

    def _hide(self, *tokens: str | None) -> None:
        for redactor in (one() for one in self._redactors):
            for token in tokens:
                if redactor is not None and token is not None:
                    redactor.add_token(token)

    def audit_by(self, audit: Audit) -> None:
        """Have what becomes of grants told to the audit log that a method gives, as long as its object is there."""
        self._notes.tell(audit)

    def share_key_of(self, other: AuthorizationManager) -> None:
        """Where neither has a secret_key: open what the other has sealed in the same records."""
        if other._kept.records is self._kept.records:
            self._kept.vault = other._kept.vault

    def _known(self, name: str) -> Known:
        known = self._providers.get(name)
        if known is not None:
            return known
        if name == "default" and self._unfinished is not None:
            OAuthProvider(**self._unfinished)  # raises, saying what is missing
        names = ", ".join(map(repr, sorted(self._providers))) or "none"
        raise ConfigurationError(f"no OAuth provider is named {name!r:.100}; there are: {names}")

    def _shown(self, user_id: str, tenant: str, held: Held) -> Authorization:
        self._hide(held.access_token, held.refresh_token)
        return Authorization(
            user_id=user_id,
            tool_name=held.tool_name,
            scopes=list(held.scopes),
            access_token=held.access_token,
            refresh_token=held.refresh_token,
            expires_at=held.expires_at,
            created_at=held.created_at,
            provider=held.provider,
            tenant=tenant or None,
            subject=held.subject,
            _now=self._clock.now,
        )


class Granted:
    """The grant that one call runs with, of its caller alone; ctx.token() and the http runner take tokens from it."""

    __slots__ = ("_caller", "_held", "_known", "_manager", "_tool_name", "policy")
    _held: Held

    def __init__(
        self, manager: AuthorizationManager, known: Known, caller: Caller, tool_name: str, policy: OAuth
    ) -> None:
        self._manager, self._known, self._caller, self._tool_name = manager, known, caller, tool_name
        self.policy = policy

    def __repr__(self) -> str:
        return f"Granted({self.policy.provider!r})"

    async def renew(self, refused: str | None = None) -> None:
        """Look up what the caller has granted. Raises AuthorizationRequiredError, with the URL where that is done."""
        self._held = await self._manager._held(self._known, self._caller, self._tool_name, self.policy, refused)

    async def token(self, fresh: bool = False) -> str:
        """An access token that is good now: the one there is, or, in a long call, one refreshed since.

        fresh says that the one there is was refused. It is the same again where that is too new to be replaced.
        """
        if fresh or self._manager._grants.is_due(self._held):
            await self.renew(self._held.access_token if fresh else None)
        self._manager._hide(self._held.access_token)
        return self._held.access_token


def _vault(records: Records, secret_key: str | None, previous: str | Sequence[str]) -> Vault:
    if secret_key is not None:
        return Vault([secret_key, *keys_in(previous)])
    if records.durable:
        raise ConfigurationError(
            f"OAuth tokens in {records.url} are kept encrypted: set secret_key (TOOL_EXECUTOR_SECRET_KEY or SECRET_KEY)"
        )
    logger.warning("there is no secret_key: OAuth grants are kept in memory alone, and end with this process")
    return Vault.random()


def _check_whose(document: Document, flow: Asked, user_id: str | None, tenant: str | None, session: str | None) -> None:
    if user_id not in (None, document.user_id) or tenant not in (None, document.tenant):
        raise UnauthorizedError("the authorization flow was begun for another user; it was not used")
    if session is not None and flow.session_id not in (None, session):
        raise UnauthorizedError("the authorization flow was begun in another session; it was not used")


def _user(user_id: str | None) -> str:
    if not isinstance(user_id, str) or not user_id:
        raise UnauthorizedError("a grant belongs to a known user; give a user_id")
    return user_id


def waited(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, in a loop of its own; where a loop runs here, in a thread of its own meanwhile."""
    if asyncio._get_running_loop() is None:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "toolpost-oauth") as thread:
        return thread.submit(asyncio.run, work).result()
