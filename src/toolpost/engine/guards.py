"""Guards: what watches over an executor's calls, made from its settings: secrets, egress, grants, audit, pins."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from toolpost.calls.access import PolicyEngine
from toolpost.calls.clock import Clock
from toolpost.calls.context import ToolContext
from toolpost.calls.errors import ConfigurationError
from toolpost.calls.redaction import Redactor, Revealed
from toolpost.engine.auditing import Auditing
from toolpost.engine.callers import authenticator_of, issuer_of
from toolpost.engine.secret_settings import follow_settings, secrets_of
from toolpost.engine.settings import ExecutorConfig
from toolpost.engine.stores import Stores
from toolpost.runners.resources import Resources
from toolpost.security.approvals import Approvals
from toolpost.security.egress import EgressGuard
from toolpost.security.engines import engine_named
from toolpost.security.pins import Pins
from toolpost.security.secrets import Secrets
from toolpost.security.secrets_named import check_reference
from toolpost.security.tokens import Authenticator
from toolpost.telemetry.audit import AuditLog

if TYPE_CHECKING:
    from toolpost.runners.http_client import HttpClient
    from toolpost.sandbox.backend import Gateway
    from toolpost.sandbox.profile import SandboxNetwork


class Guards:
    """What an executor's settings ask for, or it was given. Implements ContextGuards for the contexts of its calls."""

    def __init__(self, config: ExecutorConfig, stores: Stores, clock: Clock, **given: Any) -> None:
        self._clock = clock
        self._stores = stores
        self._given = {name: guard for name, guard in given.items() if guard is not None}
        self.secrets: Secrets = self._given.get("secrets") or secrets_of(config, clock)
        self.redactor: Redactor = self.secrets.redactor
        self.oauth: Any = None
        self.approvals: Any = None
        self.audit: AuditLog | None = None
        self._auditing = Auditing(self.secrets.opened, self.redactor, clock)
        self.pins: Any = None
        self.resources: Resources | None = None
        """What the executor's runners share; it is made after its guards."""
        self._egress_asked: tuple[Any, ...] | None = None
        self._oauth_asked: tuple[Any, ...] | None = None
        self.policy_engine: PolicyEngine | None = None
        self._engine_asked: tuple[Any, ...] = (None, None)
        self._lock_file: Path | None = None
        self.follow(config)

    def follow(self, config: ExecutorConfig) -> None:
        """Make anew what other settings ask for now."""
        follow_settings(self.secrets, config)
        self.audit = self._auditing.follow(config, self._stores.records)
        self._follow_access(config)
        self._follow_approvals(config)
        self._follow_pins(config)
        self._follow_egress(config)
        self._follow_oauth(config)

    def audit_log(self) -> AuditLog | None:
        """The audit log of now."""
        return self.audit

    def close(self) -> None:
        """Write what is still to be written, and let go of connections."""
        self._auditing.close()

    # -- who may ------------------------------------------------------------------------------------------------------

    def _follow_access(self, config: ExecutorConfig) -> None:
        asked = (config.authorizer, config.authorizer_policies)
        if asked != self._engine_asked:
            self.policy_engine = engine_named(config.authorizer, config) if config.authorizer is not None else None
            self._engine_asked = asked
        issuer_of(config)  # which checks what the settings say of it
        self._config = config
        self._authenticator: Authenticator | None = None

    @property
    def authenticator(self) -> Authenticator:
        """Who comes with a key or a token: by the settings jwt_..., and by the API keys in records."""
        made = self._authenticator
        if made is None:
            made = self._authenticator = authenticator_of(
                self._config, self._stores.records, self._clock, self.egress, self.audit_log
            )
        return made

    # -- where to -----------------------------------------------------------------------------------------------------

    def _follow_egress(self, config: ExecutorConfig) -> None:
        """Connections belong to a guard's rules, so that another guard is made only where the settings differ."""
        proxy = config.egress_proxy
        asked = (
            config.egress_allowed_hosts,
            config.egress_allowed_ports,
            config.egress_private,
            None if proxy is None else self.secrets.opened(proxy.get_secret_value()),
            config.egress_max_bytes,
        )
        if asked == self._egress_asked:
            return
        hosts, ports, private, via, max_bytes = asked
        self.egress: EgressGuard = self._given.get("egress") or EgressGuard(
            hosts=hosts, ports=ports, private=private, proxy=via, max_bytes=max_bytes
        )
        self._egress_asked = asked

    # -- in whose name ------------------------------------------------------------------------------------------------

    def _follow_oauth(self, config: ExecutorConfig) -> None:
        """The manager that was handed in, or one for the provider that the settings name."""
        records, egress = self._stores.records, self.egress
        asked = (
            config.oauth_issuer,
            config.oauth_client_id,
            _revealed(config.oauth_client_secret),
            config.oauth_redirect_uri,
            _revealed(config.secret_key),
            _revealed(config.secret_key_previous),
        )
        if (asked, records, egress) == self._oauth_asked:
            return
        issuer, client_id, client_secret, redirect_uri, secret_key, previous = asked
        manager = self._given.get("authorization")
        if manager is None and issuer is not None and client_id is not None:
            from toolpost.security.oauth import AuthorizationManager

            manager = AuthorizationManager(
                client_id,
                self._opened(client_secret),
                redirect_uri,
                issuer=issuer,
                records=records,
                secret_key=self._opened(secret_key),
                secret_key_previous=self._opened(previous) or "",
                clock=self._clock,
                guard=egress,
            )
            if secret_key is None and self.oauth is not None:
                manager.share_key_of(self.oauth)
        if manager is not None:
            manager.hide_by(self.redactor)
            manager.audit_by(self.audit_log)
        self.oauth = manager
        self._oauth_asked = (asked, records, egress)

    def _opened(self, setting: str | None) -> str | None:
        """A setting that may be a reference: what it stands for, as what is made of its own text anybody could make."""
        return None if setting is None else self.secrets.opened(setting)

    # -- what people approve, and which definitions hold --------------------------------------------------------------

    def _follow_approvals(self, config: ExecutorConfig) -> None:
        records = self._stores.records
        if self.approvals is None or self.approvals.records is not records:
            before, self.approvals = self.approvals, Approvals(records, self._clock, self.redactor, self.audit_log)
            if before is not None:
                self.approvals.tell = before.tell
        self.approvals.ask_for_destructive = config.approve_destructive
        key = _revealed(config.secret_key) or ""
        self.approvals.secret = cache(lambda: self.secrets.opened(key))

    def _follow_pins(self, config: ExecutorConfig) -> None:
        """The file is read when it is named, and not again."""
        if config.lock_file != self._lock_file:
            self.pins = None if config.lock_file is None else Pins.read(config.lock_file)
            self._lock_file = config.lock_file

    # -- for the contexts of calls ------------------------------------------------------------------------------------

    def shared(self, name: Hashable, make: Callable[[], Any], /) -> Any:
        """What the tools of this executor keep under a name of theirs, until it is closed."""
        if self.resources is None:
            raise ConfigurationError("ctx.shared is there once the executor is")
        return self.resources.clients.the(("shared", name), make)

    def http(self, context: ToolContext, /) -> HttpClient:
        """The client of one call: what it may reach is the executor's and the tool's to say."""
        from toolpost.runners.http_client import HttpClient

        if self.resources is None:
            raise ConfigurationError("ctx.http is there once the executor is")
        return HttpClient(context, self.egress.reach(context._egress), self.resources)

    def gateway(self, context: ToolContext, network: SandboxNetwork, /) -> Gateway:
        """The proxy of such a network for such a tool, kept until the executor is closed, or settings change."""
        from toolpost.runners.sandbox_proxy import SandboxProxy

        reach = self.egress.reach(context._egress)
        headers = sorted((host, *sorted(added.items())) for host, added in network.headers.items())
        name = ("gateway", network.allow, tuple(headers), reach)
        made: Gateway = self.shared(name, lambda: SandboxProxy(network, reach, self.reveal, self.forget))
        return made

    async def secret(self, context: ToolContext, reference: str, fresh: bool = False, /) -> Revealed:
        """A secret for a body: one that its author named, or that secrets_allowed has."""
        check_reference(context, reference, self.secrets)
        return await self.secrets.value(reference, fresh=fresh)

    async def reveal(self, references: Iterable[str], /) -> dict[str, Revealed]:
        """The secrets that a declaration names, for the runner that needs them."""
        named = list(references)
        for reference in named:
            self.secrets.refuse_unless_allowed(reference)
        return await self.secrets.values(named)

    def forget(self, references: Iterable[str], /) -> None:
        """Have these asked for anew: whoever they were shown to refused them."""
        self.secrets.forget(references)

    def secret_sync(self, context: ToolContext, reference: str, fresh: bool = False, /) -> Revealed:
        """secret for bodies that block."""
        check_reference(context, reference, self.secrets)
        return self.secrets.value_sync(reference, fresh=fresh)

    async def token(self, context: ToolContext, provider: str, fresh: bool = False, /) -> str:
        """Of the grant that the call runs with, and of no other."""
        grant = context._grant
        if grant is None or grant.policy.provider != provider:
            declared = "none" if grant is None else repr(grant.policy.provider)
            raise ConfigurationError(
                f"{context.tool} asks for a token of {provider!r} and declares {declared}; declare OAuth(provider=…)"
            )
        return await grant.token(fresh)

    def token_sync(self, context: ToolContext, provider: str, fresh: bool = False, /) -> str:
        """token for bodies that block."""
        from toolpost.security.oauth import waited

        return waited(self.token(context, provider, fresh))


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
