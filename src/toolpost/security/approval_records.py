"""ApprovalRecord: what was asked of a person about a call, how that stands, and what became of it; as in Records."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal

import orjson

from toolpost.calls.errors import EngineError

KIND: Final = "approval"
PAST: Final = "approval_past"
"""Records that another one of the same call has taken the place of, by their ids."""
LAST: Final = "approval_last"
"""What was approved last for a caller and tool, to compare with."""
SPENT: Final = "approval_spent"
"""Idempotency keys of calls that ran by a grant: a repeat may be answered from what was kept, and never runs."""

KEPT_S: Final = 7 * 86_400.0
"""For how long a record that can no longer be used is still shown."""
LAST_KEPT_S: Final = 90 * 86_400.0
"""For how long what was approved last is there to compare with."""
MAX_HISTORY: Final = 40

State = Literal["pending", "approved", "denied", "edited", "reserved", "consumed"]
Standing = Literal["pending", "approved", "denied", "edited", "reserved", "consumed", "expired", "lost"]

OVER: Final = ("consumed", "expired", "lost")
"""What a record stands as when the same call is to be asked about anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecord:
    """One question to a person. Times are wall time in seconds, arguments are fit to be shown.

    state: pending; approved (a grant that nobody has used yet), denied, edited (granted with other arguments, as
    edited_id); reserved (its call runs), consumed (it ran, or may have). hidden and cut name arguments that are not
    shown in full; odd, characters that nobody sees; changes, what differs from what was approved last. definition and
    arguments_digest are digests; subject is the one of all that the grant is bound to.
    """

    id: str
    tool: str
    version: str
    definition: str
    arguments_digest: str
    subject: str = ""
    tenant: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    task_id: str | None = None
    call_id: str = ""
    reason: str = ""
    description: str = ""
    hints: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    changes: tuple[Mapping[str, Any], ...] = ()
    approvers: tuple[str, ...] = ()
    self_approval: bool = False
    per: str = "user"
    expires_s: float = 3600.0
    state: State = "pending"
    asked_at: float = 0.0
    expires_at: float = 0.0
    decided_by: str | None = None
    decided_at: float | None = None
    decision_reason: str | None = None
    edited_id: str | None = None
    edited_from: str | None = None
    edited_arguments: Mapping[str, Any] | None = None
    lease_until: float | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    at_version: int = field(default=0, compare=False)

    def standing(self, now: float) -> Standing:
        """state, or expired; lost is a grant whose process never said how its call ended: it counts as consumed."""
        if self.state == "reserved":
            return "reserved" if self.lease_until is not None and now < self.lease_until else "lost"
        if self.state == "consumed":
            return "consumed"
        return self.state if now < self.expires_at else "expired"

    @property
    def whole(self) -> bool:
        """Whether arguments are all there, so that the call can be made from them."""
        return not (self.hidden or self.cut)

    def to_dict(self, now: float) -> dict[str, Any]:
        """JSON, for people and doors."""
        told = asdict(self)
        del told["at_version"]
        return {**told, "state": self.standing(now)}

    def with_event(self, at: float, what: str, **more: Any) -> ApprovalRecord:
        """The record, with a line more in its history."""
        told = {"at": at, "what": what, **{name: value for name, value in more.items() if value is not None}}
        return replace(self, history=(*self.history, told)[-MAX_HISTORY:])

    def body(self) -> bytes:
        """As kept."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "at_version"}
        return orjson.dumps(kept)


_FIELDS: Final = frozenset(f.name for f in fields(ApprovalRecord))
_TUPLES: Final = ("hidden", "cut", "odd", "changes", "approvers", "history")


def record_of(body: bytes, version: int) -> ApprovalRecord:
    """The record that was kept. Raises EngineError for what is none: nothing is granted by it."""
    try:
        told = orjson.loads(body)
        told = {name: value for name, value in told.items() if name in _FIELDS}
        told.update({name: tuple(told.get(name) or ()) for name in _TUPLES})
        return ApprovalRecord(**told, at_version=version)
    except (ValueError, TypeError, AttributeError) as error:
        raise EngineError("the store holds an approval that cannot be read, so the call was refused") from error


def new_approval_id(subject: str) -> str:
    """An id of a question about a call: it begins with what the call's record is kept under."""
    return f"{key_of(subject)}-{secrets.token_hex(4)}"


def key_of(subject: str) -> str:
    """What the record of a call is kept under: the start of the digest of all that the grant is bound to."""
    return subject[:24]


def key_in(approval_id: str) -> str:
    """What the record of an id is kept under."""
    return approval_id.partition("-")[0]
