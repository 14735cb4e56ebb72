"""Services: what the stages of one executor share."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from toolpost.calls.access import PolicyEngine
from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.context import ContextGuards
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.events import Observer
from toolpost.calls.policies import Policies, UsageCalculator
from toolpost.calls.redaction import Redactor
from toolpost.pipeline.invocation import Invocation
from toolpost.runners.resources import Resources
from toolpost.stores import Blobs, Records, State
from toolpost.stores.memory import MemoryCache, TokenBuckets
from toolpost.telemetry.collector import MetricsCollector
from toolpost.telemetry.logs import CallLog
from toolpost.telemetry.metrics import ExecutorMetrics

if TYPE_CHECKING:
    from toolpost.security.approvals import Approvals
    from toolpost.security.oauth import AuthorizationManager
    from toolpost.security.pins import Pins
    from toolpost.security.secrets import Secrets
    from toolpost.telemetry.audit import AuditLog

T = TypeVar("T")
Authorizer = Callable[[ToolDefinition, Caller, Mapping[str, Any]], "bool | Awaitable[bool | None] | None"]
"""Says whether a caller may make a call: False or an exception refuses, True or None lets it pass."""

Tracer = Callable[[ToolDefinition, Invocation], AbstractContextManager[Any]]
"""Opens a span that is current while the body runs."""


@dataclass(slots=True, kw_only=True)
class Limits:
    """Bounds on arguments: bytes of text in all, nesting, and members of containers in all."""

    max_bytes: int = 1_048_576
    max_depth: int = 64
    max_items: int = 100_000


@dataclass(slots=True, kw_only=True)
class Services:
    """What an executor gives its stages. Read at compile; a changed setting compiles anew."""

    resources: Resources
    cache: MemoryCache
    buckets: TokenBuckets
    metrics: ExecutorMetrics
    log: CallLog
    collector: MetricsCollector | None = None
    clock: Clock = SYSTEM_CLOCK
    observers: list[Observer] = field(default_factory=list)
    defaults: Policies = field(default_factory=Policies)
    limits: Limits = field(default_factory=Limits)
    cache_enabled: bool = True
    cache_ttl_s: float = 3600.0
    cache_max_bytes: int = 64 * 1024 * 1024
    cache_front_ttl_s: float = 1.0
    shared_cache: State | None = None
    retry_attempts: int = 3
    retry_backoff_s: float = 1.0
    lock_of: Callable[[str], threading.Lock] | None = None
    usage: UsageCalculator | None = None
    cancel_grace_s: float = 1.0
    screening: bool = True
    security_level: str = "medium"
    rules: tuple[Any, ...] = ()
    private: tuple[str, ...] = ()
    authorizer: Authorizer | PolicyEngine | None = None
    policy_engine: PolicyEngine | None = None
    tracer: Tracer | None = None
    redactor: Redactor = field(default_factory=Redactor)
    guards: ContextGuards | None = None
    secrets: Secrets | None = None
    oauth: AuthorizationManager | None = None
    approvals: Approvals | None = None
    audit: AuditLog | None = None
    pins: Pins | None = None
    state: State
    records: Records
    blobs: Blobs
    owner: str = ""
    shared: dict[str, Any] = field(default_factory=dict)

    def the(self, name: str, make: Callable[[], T]) -> T:
        """What the stages of one executor share under a name, made when first asked for; kept over new settings."""
        found = self.shared.get(name)
        if found is None:
            found = self.shared.setdefault(name, make())
        return found  # type: ignore[no-any-return]
