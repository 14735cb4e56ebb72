"""What an author may ask of the engine for a tool, as values; the stages in pipeline/ act on them."""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar, get_args

from toolpost.calls.access import Access
from toolpost.calls.approval import Approval
from toolpost.calls.egress import Egress
from toolpost.calls.errors import ConfigurationError
from toolpost.calls.oauth import OAuth

if TYPE_CHECKING:
    from toolpost.calls.call import Caller
    from toolpost.calls.result import ToolUsage

P = TypeVar("P")


class Unset(enum.Enum):
    """The type of UNSET."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Not said: the executor's default holds. None, in contrast, switches a policy off."""

CacheScope = Literal["user", "task", "tenant", "global"]
RunsIn = Literal["auto", "inline", "thread", "process"]


def _one_of(owner: object, name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        *rest, last = map(repr, allowed)
        raise ConfigurationError(f"{type(owner).__name__}: {name} must be {', '.join(rest)} or {last}, got {value!r}")


def _not_negative(owner: object, name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigurationError(f"{type(owner).__name__}: {name} must be 0 or more, got {value!r}")


def _whole(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(
                f"{type(owner).__name__}: {name} must be a whole number of at least 1, got {value!r}"
            )


def _present(owner: object, *names: str) -> None:
    for name in names:
        if getattr(owner, name) is None:
            raise ConfigurationError(f"{type(owner).__name__}: {name} must be a number, got None")


def _finite(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and not math.isfinite(value):
            raise ConfigurationError(f"{type(owner).__name__}: {name} must be a finite number, got {value!r}")


def _tags(owner: object, name: str, value: object) -> None:
    if not isinstance(value, (tuple, list)) or not all(isinstance(tag, str) and tag for tag in value):
        raise ConfigurationError(f"{type(owner).__name__}: {name} must be a tuple of names, got {value!r}")
    object.__setattr__(owner, name, tuple(value))


def _positive(owner: object, name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(f"{type(owner).__name__}: {name} must be more than 0, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """How long a call may take. total_s covers queueing, every attempt and the body; attempt_s one attempt."""

    total_s: float | None = None
    attempt_s: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "total_s", self.total_s)
        _positive(self, "attempt_s", self.attempt_s)
        _finite(self, "total_s", "attempt_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Keep results. ttl_s is seconds, a callable (result, arguments) -> seconds, or None for the executor's cache_ttl.

    per says who shares an entry. Keys always hold tool, version, definition and arguments; task adds user and task,
    user adds the user (and the tenant), tenant the tenant, global nothing.
    stale_s: for so long after its ttl an entry is still given, while one call in the background renews it.
    negative_s: for how long a failure that is the tool's own answer (OperationError, ToolError) is given again;
    0: never.
    tags: names by which tools that write declare entries invalid; "order:{order_id}" takes the argument's value.
    max_bytes: a larger result (as JSON) is not kept. when_down: skip (run without the cache) or refuse.
    """

    ttl_s: float | Callable[[Any, Mapping[str, Any]], float | None] | None = None
    per: CacheScope = "task"
    stale_s: float = 0.0
    negative_s: float = 0.0
    tags: tuple[str, ...] = ()
    max_bytes: int = 1_048_576
    when_down: Literal["skip", "refuse"] = "skip"

    def __post_init__(self) -> None:
        if not callable(self.ttl_s):
            _positive(self, "ttl_s", self.ttl_s)
        _one_of(self, "per", self.per, get_args(CacheScope))
        _not_negative(self, "stale_s", self.stale_s)
        _not_negative(self, "negative_s", self.negative_s)
        _present(self, "stale_s", "negative_s")
        _whole(self, "max_bytes")
        _tags(self, "tags", self.tags)
        _one_of(self, "when_down", self.when_down, ("skip", "refuse"))


KeyOf = Callable[["Caller", Mapping[str, Any]], str | None]
"""Says by caller and arguments which bucket, place or resource a call belongs to; None: the policy does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most calls in any stretch of per_s seconds, after a burst, for each caller by: a token bucket.

    by is "user" (within a tenant), "tool", "tenant", "global", or a callable (caller, arguments) -> key.
    burst is the bucket's size, calls unless given. No more than burst + calls / per_s x time is ever granted.
    when_down: refuse or allow while the store cannot be reached.
    """

    calls: int
    per_s: float = 60.0
    by: Literal["user", "tool", "tenant", "global"] | KeyOf = "user"
    burst: int | None = None
    when_down: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        _whole(self, "calls", *(["burst"] if self.burst is not None else []))
        _positive(self, "per_s", self.per_s)
        _present(self, "per_s")
        _finite(self, "per_s")
        if not callable(self.by):
            _one_of(self, "by", self.by, ("user", "tool", "tenant", "global"))
        _one_of(self, "when_down", self.when_down, ("refuse", "allow"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """At most calls at the same time for each by: "tool", "user", "tenant", "upstream", "global", or a callable.

    "upstream" counts all tools that name the same upstream together. wait_s is how long a call may wait for a place
    (first come, first served; None: until its deadline); then ConcurrencyLimitError. Over a shared store a place that
    its process no longer renews is free after lease_s.
    """

    calls: int
    by: Literal["tool", "user", "tenant", "upstream", "global"] | KeyOf = "tool"
    upstream: str | None = None
    wait_s: float | None = 0.0
    lease_s: float = 30.0
    when_down: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        _whole(self, "calls")
        if not callable(self.by):
            _one_of(self, "by", self.by, ("tool", "user", "tenant", "upstream", "global"))
        if (self.by == "upstream") != (self.upstream is not None):
            raise ConfigurationError("Concurrency: by='upstream' and upstream='its name' go together")
        _not_negative(self, "wait_s", self.wait_s)
        _positive(self, "lease_s", self.lease_s)
        _one_of(self, "when_down", self.when_down, ("refuse", "allow"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusive:
    """One call at a time for each resource, and none while executor.get_lock(resource) is held.

    by names the parameter whose value is the resource, or is a callable (caller, arguments) -> resource id.
    wait_s as in Concurrency; None: until the call's deadline.
    """

    by: str | KeyOf
    wait_s: float | None = None
    lease_s: float = 30.0
    when_down: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        if not callable(self.by) and not (isinstance(self.by, str) and self.by):
            raise ConfigurationError(f"Exclusive: by must name a parameter or be a callable, got {self.by!r}")
        _not_negative(self, "wait_s", self.wait_s)
        _positive(self, "lease_s", self.lease_s)
        _one_of(self, "when_down", self.when_down, ("refuse", "allow"))


class Reconciled(enum.Enum):
    """What a reconcile hook may answer beside a result: the effect did not happen; nobody can say."""

    NOT_RUN = "not_run"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """Calls with one key run the body once; every further one gets the first one's result, for ttl_s seconds.

    The key is the caller's (ToolCall.idempotency_key, ToolContext.idempotency_key), else made from the arguments by
    generator (an object with generate_key(args, ctx, spec), a callable (args, ctx) -> text, or None for the default)
    and key_fields (None: all arguments). Tenant, tool and version always belong to it, the user unless include_user is
    off, the session if include_session is on. only_caller: without a caller's key the call runs as if without policy.

    A missing key field refuses the call; with bypass_on_missing_key it runs without the policy.
    in_flight: a duplicate of a running call waits for it, or is refused with CallInProgressError.
    failures: after a failure the next call runs again, or the failure is replayed.
    rerun_unknown: the tool is safe to run again although an earlier run may have had its effect (hints read_only and
    idempotent say so too). reconcile (key, arguments, ctx) finds out what became of such a run: it returns the result
    it had, or Reconciled.NOT_RUN, or Reconciled.UNKNOWN; it may be async.
    lease_s: a holder that has not renewed its claim for so long is taken for dead. claims_in: records, state, or auto:
    records where a durable one is set, else state. persist_result off: a repeat is refused with AlreadyDoneError.
    when_down: refuse, or run without the policy.
    """

    key_fields: tuple[str, ...] | None = None
    generator: Any = None
    ttl_s: float = 3600.0
    persist_result: bool = True
    bypass_on_missing_key: bool = False
    include_user: bool = True
    include_session: bool = False
    only_caller: bool = False
    in_flight: Literal["wait", "refuse"] = "wait"
    failures: Literal["run", "replay"] = "run"
    rerun_unknown: bool = False
    reconcile: Callable[..., Any] | None = None
    lease_s: float = 30.0
    claims_in: Literal["auto", "records", "state"] = "auto"
    when_down: Literal["refuse", "run"] = "refuse"

    def __post_init__(self) -> None:
        if self.key_fields is not None:
            if isinstance(self.key_fields, str) or not all(isinstance(f, str) and f for f in self.key_fields):
                raise ConfigurationError(f"Idempotency: key_fields must be names, got {self.key_fields!r}")
            if not self.key_fields:
                raise ConfigurationError("Idempotency: key_fields is empty, so every call would share one key")
            object.__setattr__(self, "key_fields", tuple(self.key_fields))
        if self.generator is not None and not (callable(self.generator) or hasattr(self.generator, "generate_key")):
            raise ConfigurationError(
                f"Idempotency: generator must have generate_key(args, ctx, spec) or be callable, got {self.generator!r}"
            )
        if self.reconcile is not None and not callable(self.reconcile):
            raise ConfigurationError(f"Idempotency: reconcile must be callable, got {self.reconcile!r}")
        _positive(self, "ttl_s", self.ttl_s)
        _positive(self, "lease_s", self.lease_s)
        _present(self, "ttl_s", "lease_s")
        _finite(self, "ttl_s", "lease_s")
        _one_of(self, "in_flight", self.in_flight, ("wait", "refuse"))
        _one_of(self, "failures", self.failures, ("run", "replay"))
        _one_of(self, "claims_in", self.claims_in, ("auto", "records", "state"))
        _one_of(self, "when_down", self.when_down, ("refuse", "run"))


class RetryableErrorType(StrEnum):
    """Kinds of failure after which trying again may help."""

    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    NETWORK = "network"
    RATE_LIMIT = "rate_limit"
    TRANSIENT = "transient"


class CircuitBreakerState(StrEnum):
    """closed lets calls through, open refuses them, half_open lets a few through to find out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


FailureKind = Literal["timeout", "unavailable", "network", "rate_limit", "transient", "tool_error"]
FAILURE_KINDS: tuple[str, ...] = get_args(FailureKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Stop calling what keeps failing, and find out by few probes when it is well again.

    Opens after failures in a row; or, with error_rate, adaptively: when a call fails while at least that share of the
    last window calls failed, and there are enough to judge by, a threshold that grows from failures to max_failures
    while calls mostly succeed (stores/circuits.py has the rule). Open for recovery_s, then half_open_calls probes are
    let through: all must succeed to close it, one failure opens it anew.
    trips_on: the kinds of failure that count (or error codes); the caller's own errors (4xx, validation, 429) never do.
    dependency: what stands behind the tool; tools that name the same one share a circuit. by_tenant: one circuit each.
    shared: the circuit lives in the executor's State, for all processes. when_down: skip or refuse.
    """

    failures: int = 5
    recovery_s: float = 30.0
    half_open_calls: int = 1
    error_rate: float | None = None
    max_failures: int = 20
    window: int = 100
    trips_on: tuple[str, ...] = ("timeout", "unavailable", "network", "transient", "tool_error")
    dependency: str | None = None
    by_tenant: bool = False
    shared: bool = False
    when_down: Literal["skip", "refuse"] = "skip"

    def __post_init__(self) -> None:
        _whole(self, "failures", "half_open_calls", "max_failures", "window")
        _positive(self, "recovery_s", self.recovery_s)
        _present(self, "recovery_s")
        _finite(self, "recovery_s")
        _tags(self, "trips_on", self.trips_on)
        _positive(self, "error_rate", self.error_rate)
        if self.error_rate is not None and self.failures > self.max_failures:
            raise ConfigurationError(
                f"Breaker: max_failures must be failures ({self.failures}) or more, got {self.max_failures!r}"
            )
        if self.error_rate is not None and self.error_rate > 1:
            raise ConfigurationError(f"Breaker: error_rate must be above 0 and at most 1, got {self.error_rate!r}")
        _one_of(self, "when_down", self.when_down, ("skip", "refuse"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again after failures that pass, where that is safe.

    attempts counts all tries (None: the executor's retry_attempts). Waits are wait_s * factor**n (None: the executor's
    retry_backoff), at most max_wait_s, plus up to jitter (a share of the wait) and jitter_s (seconds); wait
    (attempt, error) -> seconds replaces all of that.
    on: the kinds of failure that are tried again (or exception classes). Retry-After is honoured, the deadline never
    passed. Only tools that are read-only, idempotent or run under an idempotency key are tried again after their body
    ran, unless its author insists; a call whose body never ran may always be.
    budget: retries may be at most this share of calls to one dependency (with min_budget in reserve), so that an
    outage is not multiplied.
    """

    attempts: int | None = None
    wait_s: float | None = None
    factor: float = 2.0
    max_wait_s: float = 60.0
    jitter: float = 0.1
    jitter_s: float = 0.0
    on: tuple[str | type[BaseException], ...] = ("timeout", "unavailable", "network", "rate_limit", "transient")
    wait: Callable[[int, BaseException], float] | None = None
    insist: bool = False
    dependency: str | None = None
    budget: float = 0.2
    min_budget: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts is not None:
            _whole(self, "attempts")
        for name in ("wait_s", "factor", "max_wait_s", "jitter", "jitter_s", "budget", "min_budget"):
            _not_negative(self, name, getattr(self, name))
            if name != "wait_s":
                _present(self, name)
            _finite(self, name)
        if self.wait is not None and not callable(self.wait):
            raise ConfigurationError(f"Retry: wait must be callable as (attempt, error), got {self.wait!r}")
        if isinstance(self.on, (str, type)):
            raise ConfigurationError(f"Retry: on must be a tuple of kinds of failure, got {self.on!r}")
        for kind in self.on:
            if isinstance(kind, type) and issubclass(kind, BaseException):
                continue
            if kind not in FAILURE_KINDS:
                raise ConfigurationError(
                    f"Retry: on holds {kind!r}, which is no kind of failure; there are {', '.join(FAILURE_KINDS)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """How a tool's text is screened. roles maps parameter names to roles; the rest are inferred.

    untrusted (what @sanitize_input declares) says the text ends up in something that interprets it.
    level overrides the executor's security_level for this tool.
    """

    untrusted: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)
    level: Literal["low", "medium", "high", "strict"] | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            _one_of(self, "level", self.level, ("low", "medium", "high", "strict"))


class BreakerPolicy(Protocol):
    """A breaker of one's own: runs the call, or raises CircuitOpenError instead."""

    async def execute_with_breaker(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any: ...


class RetryPolicy(Protocol):
    """Retries of one's own: calls func as often as it sees fit."""

    async def execute_with_retry(self, func: Callable[[], Awaitable[Any]], tool_name: str) -> Any: ...


class UsageCalculator(Protocol):
    """Tells what one call used. args maps parameters to JSON values, result is the value that came out.

    flags are fields of ToolUsage that the caller knows already: attempts, retries, cached_hit and so on.
    """

    def calculate(
        self, args: Mapping[str, Any], result: Any, *, tool: str | None = None, **flags: Any
    ) -> ToolUsage: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Everything an author may attach. UNSET inherits the executor's default, None switches off.

    invalidates: cache tags whose entries are void once a call of this tool has run; "order:{order_id}" takes the
    argument's value. usage tells what a call used and cost.
    """

    timeout: Timeout | Unset | None = UNSET
    cache: Cache | Unset | None = UNSET
    rate_limit: RateLimit | tuple[RateLimit, ...] | Unset | None = UNSET
    concurrency: Concurrency | tuple[Concurrency, ...] | Unset | None = UNSET
    exclusive: Exclusive | Unset | None = UNSET
    idempotency: Idempotency | Unset | None = UNSET
    breaker: Breaker | BreakerPolicy | Unset | None = UNSET
    retry: Retry | RetryPolicy | Unset | None = UNSET
    screening: Screening | Unset | None = UNSET
    access: Access | Unset | None = UNSET
    oauth: OAuth | Unset | None = UNSET
    approval: Approval | Unset | None = UNSET
    egress: Egress | Unset | None = UNSET
    invalidates: tuple[str, ...] = ()
    usage: UsageCalculator | None = None
    runs_in: RunsIn = "auto"
    measured: bool = True

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, name, value)
            each = value if isinstance(value, tuple) and name in ("rate_limit", "concurrency") else (value,)
            if not all(one is None or one is UNSET or isinstance(one, kind) or _has(name, one) for one in each):
                way = f", or an object with {_METHODS[name]}" if name in _METHODS else ""
                raise ConfigurationError(f"{name} must be of the kind {kind.__name__}{way}, got {value!r:.100}")
        if self.usage is not None and not _has("usage", self.usage):
            raise ConfigurationError(f"usage must be an object with {_METHODS['usage']}, got {self.usage!r:.100}")
        _tags(self, "invalidates", self.invalidates)
        _one_of(self, "runs_in", self.runs_in, get_args(RunsIn))

    def over(self, defaults: Policies) -> Policies:
        """These policies, with what they leave UNSET taken from defaults."""
        missing = {f.name: getattr(defaults, f.name) for f in fields(self) if getattr(self, f.name) is UNSET}
        return replace(self, **missing)


_KINDS: Final[dict[str, type]] = {
    "timeout": Timeout,
    "cache": Cache,
    "rate_limit": RateLimit,
    "concurrency": Concurrency,
    "exclusive": Exclusive,
    "idempotency": Idempotency,
    "breaker": Breaker,
    "retry": Retry,
    "screening": Screening,
    "access": Access,
    "oauth": OAuth,
    "approval": Approval,
    "egress": Egress,
}
_METHODS: Final = {
    "breaker": "execute_with_breaker(func, tool_name)",
    "retry": "execute_with_retry(func, tool_name)",
    "usage": "calculate(args, result, *, tool, **flags)",
}


def _has(name: str, policy: object) -> bool:
    """Whether a policy of one's own, an object and no class, has the method of its field."""
    method = _METHODS.get(name, "").partition("(")[0]
    return bool(method) and not isinstance(policy, type) and callable(getattr(policy, method, None))


def given(policy: P | Unset | None) -> P | None:
    """The policy, or None where it is off or never said."""
    return None if policy is None or isinstance(policy, Unset) else policy
