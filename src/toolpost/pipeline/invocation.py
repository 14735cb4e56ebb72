"""Invocation: one call's scratch, handed down the chain."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from toolpost.calls.call import ANONYMOUS, Caller, new_id
from toolpost.calls.context import ToolContext
from toolpost.calls.errors import Outcome
from toolpost.calls.result import Source


class Invocation:
    """What one call carries. Fields left at the class's defaults cost nothing.

    arguments are as they came; kwargs are what validation made of them, and what the body gets.
    blocking says that a thread waits for this call, so that nothing may suspend. encode says that the result must be
    JSON. deadline_s is the caller's own limit in seconds from started.

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
    on_timeout: Outcome = "stopped"
    handed: ToolContext | None = None
    context: ToolContext | None = None
    logs: list[str] | None = None
    explain: list[dict[str, Any]] | None = None
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
