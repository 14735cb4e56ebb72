"""What an author may ask of the engine for a tool, as values; the stages in pipeline/ act on them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeVar

from toolpost.calls.errors import ConfigurationError

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Keep results. ttl_s is seconds, a callable (result, arguments) -> seconds, or None for the executor's cache_ttl.

    per says who shares an entry. Keys always hold tool, version, definition and arguments; task adds user and task,
    user adds the user (and the tenant), tenant the tenant, global nothing.
    """

    ttl_s: float | Callable[[Any, Mapping[str, Any]], float | None] | None = None
    per: CacheScope = "task"

    def __post_init__(self) -> None:
        if not callable(self.ttl_s):
            _positive(self, "ttl_s", self.ttl_s)
        if self.per not in ("user", "task", "tenant", "global"):
            raise ConfigurationError(f"Cache: per must be 'user', 'task', 'tenant' or 'global', got {self.per!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most calls in any stretch of per_s seconds, after a burst of the same size, for each caller by."""

    calls: int
    per_s: float = 60.0
    by: Literal["user", "tool", "tenant", "global"] = "user"

    def __post_init__(self) -> None:
        _positive(self, "calls", self.calls)
        _positive(self, "per_s", self.per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """How a tool's text is screened. roles maps parameter names to roles; the rest are inferred.

    untrusted (what @sanitize_input declares) says the text ends up in something that interprets it.
    level overrides the executor's security_level for this tool.
    """

    untrusted: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)
    level: Literal["low", "medium", "high", "strict"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Everything an author may attach. UNSET inherits the executor's default, None switches off."""

    timeout: Timeout | Unset | None = UNSET
    cache: Cache | Unset | None = UNSET
    rate_limit: RateLimit | Unset | None = UNSET
    screening: Screening | Unset | None = UNSET
    runs_in: RunsIn = "auto"
    measured: bool = True

    def over(self, defaults: Policies) -> Policies:
        """These policies, with what they leave UNSET taken from defaults."""
        missing = {f.name: getattr(defaults, f.name) for f in fields(self) if getattr(self, f.name) is UNSET}
        return replace(self, **missing)


def given(policy: P | Unset | None) -> P | None:
    """The policy, or None where it is off or never said."""
    return None if policy is None or isinstance(policy, Unset) else policy
