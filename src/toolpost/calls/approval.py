"""Approval: which calls of a tool a person must approve first; a policy that approve and spend act on."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from toolpost.calls.access import check_compiles
from toolpost.calls.errors import ConfigurationError

if TYPE_CHECKING:
    from toolpost.calls.call import Caller

APPROVER_KINDS = ("role", "scope", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person must approve a call; with when or where, only a call of which one of them says so.

    when(caller, arguments) gives true, or a text that tells the person why. where maps parameters to JSON Schema,
    which the arguments must fit for the person to be asked: {"amount": {"exclusiveMinimum": 100}}. A condition that
    breaks has the person asked, too. reason tells them why they are asked.
    expires_s: what nobody decides within it is void, and so is a decision that is not used within it.
    approvers: "role:ops", "scope:refunds:approve" or "user:ann", one of which whoever decides must have; none: anybody
    of the tenant. self_approval lets callers approve their own calls. per: a grant is good for the caller's user and
    tenant, or (session) for that session of theirs alone. wait_s: for so long a call waits for the decision before it
    answers. max_pending: so many calls of one caller and this tool may wait for a person at a time.
    """

    reason: str = ""
    when: Callable[[Caller, Mapping[str, Any]], Any] | None = None
    where: Mapping[str, Any] | None = None
    expires_s: float = 3600.0
    approvers: tuple[str, ...] = ()
    self_approval: bool = False
    per: Literal["user", "session"] = "user"
    wait_s: float = 0.0
    max_pending: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str):
            raise ConfigurationError(f"Approval: reason must be text, got {self.reason!r:.100}")
        if self.when is not None and not callable(self.when):
            raise ConfigurationError(f"Approval: when must be callable as (caller, arguments), got {self.when!r:.100}")
        if inspect.iscoroutinefunction(self.when):
            raise ConfigurationError("Approval: when must be a plain function: callers that block cannot await it")
        _check_where(self.where)
        _seconds("expires_s", self.expires_s, above=True)
        _seconds("wait_s", self.wait_s, above=False)
        if isinstance(self.approvers, str) or not all(_is_approver(one) for one in self.approvers):
            raise ConfigurationError(
                f"Approval: approvers must be a tuple of 'role:...', 'scope:...' or 'user:...', got {self.approvers!r}"
            )
        object.__setattr__(self, "approvers", tuple(self.approvers))
        if not isinstance(self.self_approval, bool):
            raise ConfigurationError(f"Approval: self_approval must be True or False, got {self.self_approval!r}")
        if self.per not in ("user", "session"):
            raise ConfigurationError(f"Approval: per must be 'user' or 'session', got {self.per!r}")
        if isinstance(self.max_pending, bool) or not isinstance(self.max_pending, int) or self.max_pending < 1:
            raise ConfigurationError(
                f"Approval: max_pending must be a whole number of at least 1, got {self.max_pending!r}"
            )

    def condition(self) -> dict[str, Any] | None:
        """where as the schema of an object; None without it."""
        if self.where is None:
            return None
        return {"type": "object", "properties": dict(self.where), "required": sorted(self.where)}

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON. Raises ConfigurationError for a when, which is code."""
        if self.when is not None:
            raise ConfigurationError("Approval: when is code and cannot be written as data; say it as where")
        told = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Approval:
        """The policy that to_dict wrote. Raises ConfigurationError for anything else."""
        known = [one.name for one in fields(cls) if one.name != "when"]
        if not isinstance(data, Mapping):
            raise ConfigurationError(f"an approval as data maps fields of Approval to values, got {data!r:.100}")
        for name in data:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                way_out = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise ConfigurationError(f"Approval has no field {name!r:.40} that is data; {way_out}")
        return cls(**data)


def _is_approver(one: object) -> bool:
    kind, colon, name = one.partition(":") if isinstance(one, str) else ("", "", "")
    return bool(colon) and kind in APPROVER_KINDS and bool(name.strip())


def _check_where(where: object) -> None:
    if where is None:
        return
    if not isinstance(where, Mapping) or not where or not all(isinstance(name, str) for name in where):
        raise ConfigurationError(
            f'Approval: where maps parameters to JSON Schema, as {{"amount": {{"exclusiveMinimum": 100}}}}, '
            f"got {where!r:.100}"
        )
    for name, schema in where.items():
        check_compiles("Approval", schema, f"where[{name!r}]")


def _seconds(name: str, value: object, *, above: bool) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not (value > 0 if above else value >= 0):  # type: ignore[operator]
        bound = "more than 0" if above else "0 or more"
        raise ConfigurationError(f"Approval: {name} must be a number of seconds, {bound}, got {value!r}")
