"""ToolContext: what a body may ask for about its call; and the small contracts a caller may hand in with it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from toolpost.calls.artifacts import ADDING, add_artifact
from toolpost.calls.asking import Asking
from toolpost.calls.egress import Egress
from toolpost.calls.errors import CallCancelledError, ConfigurationError
from toolpost.calls.events import Detached, Event, Logged, Progressed
from toolpost.calls.oauth import Grant
from toolpost.calls.redaction import Redactor

if TYPE_CHECKING:  # for readers and type checkers; nothing of it is loaded here
    from toolpost.calls.call import Caller
    from toolpost.runners.http_client import HttpClient
    from toolpost.sandbox.backend import Gateway
    from toolpost.sandbox.profile import SandboxNetwork

T = TypeVar("T")
LEVELS = ("debug", "info", "warning", "error", "critical")
MEASURED = frozenset({"cpu_s", "peak_memory_bytes", "written_bytes", "denied_syscalls", "exit_signal"})
"""Fields of ToolUsage that only a body can know."""


class IToolMemory(Protocol):
    """Small values with a lifetime in seconds; lock is an async context manager."""

    async def get(self, key: str) -> Any: ...
    async def set(self, key: str, val: Any, ttl_s: float | None = None) -> None: ...
    async def set_if_absent(self, key: str, val: Any, ttl_s: float | None = None) -> bool: ...
    async def delete(self, key: str) -> None: ...
    def lock(self, key: str, ttl_s: float = 10) -> AbstractAsyncContextManager[Any]: ...


class IToolMetrics(Protocol):
    """Where numbers go: counters, distributions and durations in milliseconds."""

    async def incr(self, name: str, value: float = 1, tags: Mapping[str, str] | None = None) -> None: ...
    async def observe(self, name: str, value: float, tags: Mapping[str, str] | None = None) -> None: ...
    async def timing_ms(self, name: str, value: float, tags: Mapping[str, str] | None = None) -> None: ...


class IToolTracer(Protocol):
    """Opens a span around the body."""

    def span(self, name: str, attrs: Mapping[str, Any] | None = None) -> AbstractAsyncContextManager[Any]: ...


class IToolLimiter(Protocol):
    """Grants or refuses a call; a refusal is False or an exception."""

    async def acquire(self, key: str, limit: Any = None) -> Any: ...


class IToolValidator(Protocol):
    """A further check of arguments: raises, or returns None (fine) or the arguments to go on with."""

    async def validate(self, args: Mapping[str, Any], spec: Any) -> Any: ...


class IToolSecurity(Protocol):
    """May this caller use this tool, and may these arguments leave: raising or returning False refuses."""

    async def authorize(self, ctx: Any, spec: Any) -> Any: ...
    async def check_egress(self, args: Mapping[str, Any], spec: Any) -> Any: ...


class IToolEmitter(Protocol):
    """Receives named events with a payload."""

    async def emit(self, type: str, payload: Mapping[str, Any]) -> None: ...


class IToolPolicy(Protocol):
    """Runs a factory of awaitables under some policy."""

    async def with_policy(
        self, factory: Callable[[], Awaitable[Any]], *, idempotent: bool = False, spec: Any = None, ctx: Any = None
    ) -> Any: ...


class IToolExecutor(Protocol):
    """Runs one tool."""

    async def execute(self, args: Mapping[str, Any], ctx: Any = None) -> Any: ...


class ContextGuards(Protocol):
    """What an executor lends the contexts of its calls, and its runners: egress guards where they may go."""

    egress: Any
    redactor: Redactor

    def http(self, context: Any, /) -> Any: ...
    async def secret(self, context: Any, reference: str, fresh: bool = False, /) -> str: ...
    def secret_sync(self, context: Any, reference: str, fresh: bool = False, /) -> str: ...
    async def reveal(self, references: Iterable[str], /) -> Mapping[str, str]: ...
    def forget(self, references: Iterable[str], /) -> None: ...
    async def token(self, context: Any, provider: str, fresh: bool = False, /) -> str: ...
    def token_sync(self, context: Any, provider: str, fresh: bool = False, /) -> str: ...
    def shared(self, name: Hashable, make: Callable[[], Any], /) -> Any: ...
    def gateway(self, context: Any, network: Any, /) -> Any: ...


@dataclass(slots=True, kw_only=True)
class ToolContext(Asking):
    """One call, seen from inside its body: who asked, which call and task, how much time is left, how to report.

    A body receives it by a parameter annotated ToolContext. A caller of a spec's executor makes one to say who asks and
    to hand in services (memory, metrics, tracer, limiter, validator, security), each optional.
    deadline_ts is wall time in seconds. auth may hold "permissions" and "user_role".
    """

    tenant_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    locale: str | None = None
    timezone: str | None = None
    deadline_ts: float | None = None
    auth: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    idempotency_key: str | None = None
    memory: IToolMemory | None = None
    metrics: IToolMetrics | None = None
    tracer: IToolTracer | None = None
    limiter: IToolLimiter | None = None
    validator: IToolValidator | None = None
    security: IToolSecurity | None = None
    emitter: IToolEmitter | None = None
    call_id: str = ""
    task_id: str | None = None
    tool: str = ""
    attempt: int = 1
    cancelled: bool = False
    _emit: Callable[[Event], None] | None = field(default=None, repr=False)
    _now: Callable[[], float] = field(default=time.time, repr=False)
    _logs: list[str] | None = field(default=None, repr=False)
    _guards: ContextGuards | None = field(default=None, repr=False)
    _egress: Egress | None = field(default=None, repr=False)
    _call: tuple[Any, Mapping[str, Any]] | None = field(default=None, repr=False)
    _grant: Grant | None = field(default=None, repr=False)
    _artifacts: dict[str, bytes] | None = field(default=None, repr=False)
    _used: dict[str, Any] | None = field(default=None, repr=False)
    _answers: Mapping[str, Any] | None = field(default=None, repr=False)
    _caller: Caller | None = field(default=None, repr=False)
    _asked: int = field(default=0, repr=False)

    @property
    def http(self) -> HttpClient:
        """An HTTP client that reaches only what the tool and its executor may reach; see HttpClient."""
        client: HttpClient = self._guarded().http(self)
        return client

    async def secret(self, reference: str, *, fresh: bool = False) -> str:
        """The value of a secret, "secret://env/NAME" and so on; fresh has its provider asked anew.

        From now on the value is hidden wherever it would be shown. The reference is the author's own, not made of
        arguments, unless secrets_allowed has it. Raises SecretUnavailableError.
        """
        return await self._guarded().secret(self, reference, fresh)

    def secret_sync(self, reference: str, *, fresh: bool = False) -> str:
        """secret for bodies that are not async."""
        return self._guarded().secret_sync(self, reference, fresh)

    async def token(self, provider: str = "default", *, fresh: bool = False) -> str:
        """The caller's own access token of the provider that the tool declared with OAuth(...), good now.

        Ask for it when it is needed and keep it no longer: in a long call it is refreshed. fresh says that it was
        refused, and has the provider asked for another; where there is none, or it was new, it is the same.
        Raises AuthorizationRequiredError where the grant has ended.
        """
        return await self._guarded().token(self, provider, fresh)

    def token_sync(self, provider: str = "default", *, fresh: bool = False) -> str:
        """token for bodies that are not async."""
        return self._guarded().token_sync(self, provider, fresh)

    def _guarded(self) -> ContextGuards:
        if self._guards is None:
            raise ConfigurationError(
                "only the context of a call that an executor runs has http, secret, token and shared"
            )
        return self._guards

    def artifact(self, name: str, data: bytes | str) -> None:
        """Give a file beside the value: ToolResult.artifacts has it by its name, a relative path such as "a/b.png".

        Secrets are hidden in text, and what is no text is left out where it holds one. A result with artifacts is not
        cached, and a replay by an idempotency key has none. Raises OutputValidationError for more than 256 of them, or
        than 64 MiB in all, and for a name that is none.
        """
        with ADDING:
            artifacts = {} if self._artifacts is None else dict(self._artifacts)
            add_artifact(artifacts, name, data)
            self._artifacts = artifacts

    @property
    def artifacts(self) -> Mapping[str, bytes]:
        """Those that were given so far, as they were given."""
        return dict(self._artifacts or {})

    def used(self, **amounts: Any) -> None:
        """Say what the body used, for ToolResult.usage: cpu_s, peak_memory_bytes, written_bytes, denied_syscalls, ...

        Raises ConfigurationError for what is none of those fields of ToolUsage that only a body can know.
        """
        unknown = sorted(amounts.keys() - MEASURED)
        if unknown:
            raise ConfigurationError(f"used takes {', '.join(sorted(MEASURED))}, but not {unknown[0]}")
        self._used = {**(self._used or {}), **amounts}

    def shared(self, name: Hashable, make: Callable[[], T]) -> T:
        """The thing of that name that the executor keeps for its tools, made when it is first asked for.

        It is closed with the executor, by its close().
        """
        kept: T = self._guarded().shared(name, make)
        return kept

    def gateway(self, network: SandboxNetwork) -> Gateway:
        """The way to network's hosts for a program of Sandboxes.run(gateway=...).

        It reaches what the tool and its executor may reach, with secrets that the executor resolves.
        """
        way: Gateway = self._guarded().gateway(self, network)
        return way

    def progress(self, value: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the call is. Safe from threads; does nothing when nobody listens."""
        if self._emit is not None:
            self._emit(Progressed(call_id=self.call_id, tool=self.tool, value=value, total=total, message=message))

    def log(self, message: str, level: str = "info", **fields: Any) -> None:
        """Write a log line that carries the call's id. level is debug, info, warning, error or critical."""
        if level not in LEVELS:
            raise ConfigurationError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
        if self._logs is not None and len(self._logs) < 1000:
            line = f"{level.upper()} {message}"
            self._logs.append(line if self._guards is None else self._guards.redactor.text(line))
        if self._emit is not None:
            self._emit(Logged(call_id=self.call_id, tool=self.tool, level=level, message=message, fields=fields))

    def detach(self) -> None:
        """Say that it takes long from here on, and the caller's connection need not be held.

        A client that can come back for the result (a session of MCP over HTTP) is let go; for all others it is nothing.
        """
        if self._emit is not None:
            self._emit(Detached(call_id=self.call_id, tool=self.tool))

    def remaining_s(self) -> float | None:
        """Seconds until the deadline (never below 0), None when there is none. Hand it to nested calls."""
        return None if self.deadline_ts is None else max(0.0, self.deadline_ts - self._now())

    def raise_if_cancelled(self) -> None:
        """Raise CallCancelledError once the call was cancelled or its deadline passed: for loops in threads."""
        if self.cancelled or (self.deadline_ts is not None and self._now() >= self.deadline_ts):
            raise CallCancelledError("the call was cancelled", tool=self.tool)


class ToolContextBuilder:
    """Builds a ToolContext step by step; every with_ method returns the builder."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def _with(self, name: str, value: Any) -> ToolContextBuilder:
        self._values[name] = value
        return self

    def with_tenant(self, tenant_id: str) -> ToolContextBuilder:
        return self._with("tenant_id", tenant_id)

    def with_user(self, user_id: str) -> ToolContextBuilder:
        return self._with("user_id", user_id)

    def with_session(self, session_id: str) -> ToolContextBuilder:
        return self._with("session_id", session_id)

    def with_trace(
        self, trace_id: str, span_id: str | None = None, parent_span_id: str | None = None
    ) -> ToolContextBuilder:
        self._values.update(trace_id=trace_id, span_id=span_id, parent_span_id=parent_span_id)
        return self

    def with_locale(self, locale: str) -> ToolContextBuilder:
        return self._with("locale", locale)

    def with_timezone(self, timezone: str) -> ToolContextBuilder:
        return self._with("timezone", timezone)

    def with_deadline(self, deadline_ts: float) -> ToolContextBuilder:
        """deadline_ts is wall time in seconds, as time.time() gives it."""
        return self._with("deadline_ts", deadline_ts)

    def with_auth(self, auth: Mapping[str, Any]) -> ToolContextBuilder:
        return self._with("auth", dict(auth))

    def with_extras(self, extras: Mapping[str, Any]) -> ToolContextBuilder:
        return self._with("extras", dict(extras))

    def with_run_id(self, run_id: str) -> ToolContextBuilder:
        return self._with("run_id", run_id)

    def with_idempotency_key(self, key: str) -> ToolContextBuilder:
        return self._with("idempotency_key", key)

    def with_memory(self, memory: IToolMemory) -> ToolContextBuilder:
        return self._with("memory", memory)

    def with_metrics(self, metrics: IToolMetrics) -> ToolContextBuilder:
        return self._with("metrics", metrics)

    def with_tracer(self, tracer: IToolTracer) -> ToolContextBuilder:
        return self._with("tracer", tracer)

    def with_limiter(self, limiter: IToolLimiter) -> ToolContextBuilder:
        return self._with("limiter", limiter)

    def with_validator(self, validator: IToolValidator) -> ToolContextBuilder:
        return self._with("validator", validator)

    def with_security(self, security: IToolSecurity) -> ToolContextBuilder:
        return self._with("security", security)

    def with_memory_by_name(self, name: str) -> ToolContextBuilder:
        return self._by_name("memory", name)

    def with_metrics_by_name(self, name: str) -> ToolContextBuilder:
        return self._by_name("metrics", name)

    def with_tracer_by_name(self, name: str) -> ToolContextBuilder:
        return self._by_name("tracer", name)

    def with_limiter_by_name(self, name: str) -> ToolContextBuilder:
        return self._by_name("limiter", name)

    def with_validator_by_name(self, name: str) -> ToolContextBuilder:
        return self._by_name("validator", name)

    def with_security_by_name(self, name: str) -> ToolContextBuilder:
        return self._by_name("security", name)

    def with_defaults(self, profile: str = "noop") -> ToolContextBuilder:
        """Fill what is not set yet from a profile; "noop" leaves every service absent, so that its step is skipped."""
        if profile != "noop":
            raise ConfigurationError(f"context profile {profile!r} is not known; known is 'noop'")
        for service in SERVICES:
            self._values.setdefault(service, None)
        return self

    def build(self) -> ToolContext:
        return ToolContext(**self._values)

    def _by_name(self, service: str, name: str) -> ToolContextBuilder:
        if name in ("noop", "none"):
            return self._with(service, None)
        try:
            return self._with(service, _NAMED[service][name])
        except KeyError:
            known = ", ".join(sorted(["noop", *_NAMED[service]]))
            raise ConfigurationError(
                f"no {service} is named {name!r} (known: {known}); register one with register_service"
            ) from None


SERVICES = ("memory", "metrics", "tracer", "limiter", "validator", "security")
_NAMED: dict[str, dict[str, Any]] = {service: {} for service in SERVICES}


def register_service(kind: str, name: str, service: Any) -> None:
    """Give a service a name for ToolContextBuilder's with_*_by_name. kind is memory, metrics, tracer and so on."""
    if kind not in _NAMED:
        raise ConfigurationError(f"service kind {kind!r} is not one of {', '.join(SERVICES)}")
    _NAMED[kind][name] = service
