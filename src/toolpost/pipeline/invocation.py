"""Invocation: one call's scratch, handed down the chain."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from toolpost.calls.call import ANONYMOUS, Caller, new_id
from toolpost.calls.context import ToolContext
from toolpost.calls.errors import Outcome
from toolpost.calls.oauth import Grant
from toolpost.calls.result import Source
from toolpost.runners.bodies import Bodies


class Invocation:
    """What one call carries. Fields left at the class's defaults cost nothing.

    arguments are as they came; kwargs are what validation made of them, and what the body gets.
    blocking says that a thread waits for this call, so that nothing may suspend. encode says that the result must be
    JSON. cleared is what approve found: that nobody need be asked, or the grant that spend takes. deadline_s is the
    caller's own limit in seconds from started. idempotency_key is the caller's own;
    effect_key, made of it or of the arguments by the stage once, is the one that the body and its upstreams see.

    An invocation is awaitable: a stage or runner that has the value at once puts it into value and returns the
    invocation itself, which costs less than a coroutine; settle takes the value without awaiting.
    """

    arguments: dict[str, Any]
    kwargs: dict[str, Any]
    value: Any
    caller: Caller = ANONYMOUS
    task_id: str | None = None
    deadline_s: float | None = None
    blocking: bool = False
    encode: bool = False
    strict: bool = False
    source: Source = "run"
    attempts: int = 0
    started: float = 0.0
    limit_s: float | None = None
    ran: bool = False
    malformed: str | None = None
    idempotency_key: str | None = None
    effect_key: str | None = None
    circuit_opened: bool = False
    warnings: list[str] | None = None
    artifacts: dict[str, bytes] | None = None
    on_timeout: Outcome = "stopped"
    bodies: Bodies | None = None
    handed: ToolContext | None = None
    context: ToolContext | None = None
    logs: list[str] | None = None
    explain: list[dict[str, Any]] | None = None
    visits: dict[str, Any] | None = None
    joined: dict[Any, Any] | None = None
    ahead: Any = None
    explanation: list[dict[str, Any]] | None = None
    cleared: Any = None
    grant: Grant | None = None
    answers: Mapping[str, Any] | None = None
    _id: str | None = None

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Invocation:
        """An invocation with these arguments. (No __init__: making one must cost as little as it can.)"""
        inv = cls()
        inv.arguments = arguments
        return inv

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.value
        yield

    @property
    def id(self) -> str:
        """The call's id, made when first asked for."""
        if self._id is None:
            self._id = new_id()
        return self._id

    @id.setter
    def id(self, value: str) -> None:
        self._id = value

    def note(self, stage: str, decision: str, **more: Any) -> None:
        """Say what a stage decided and why; kept only when somebody asked for an explanation."""
        if self.explain is not None:
            self.explain.append({"stage": stage, "decision": decision, **more})


def _name_all() -> None:
    """Have every invocation share one table of attribute names.

    CPython lets the objects of a class share the names that its first objects were given; one that is given another
    later has a dict of its own, which makes each access slower.
    """
    first = Invocation()
    for name in Invocation.__annotations__:
        setattr(first, name, None)


_name_all()
