"""Entries: the compiled tools of one executor, found by definition, by object and operation, or by name."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Mapping
from typing import Any, Literal

from toolpost.authoring.base import BaseTool, definitions_of
from toolpost.calls.call import ANONYMOUS, Caller, ToolCall
from toolpost.calls.definition import FunctionBody, ToolDefinition
from toolpost.calls.errors import (
    CallCancelledError,
    ConfigurationError,
    DefinitionDriftError,
    EngineError,
    InputValidationError,
    OverloadedError,
    ToolNotFoundError,
)
from toolpost.calls.policies import UNSET, Breaker, Retry, UsageCalculator, given
from toolpost.engine.registry import ToolRegistry, split_name
from toolpost.pipeline.authorize import judges_of
from toolpost.pipeline.breaker_policies import circuit_policy, does_nothing as no_breaker
from toolpost.pipeline.compile import Handler, compile
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.limit_standing import Standing, standing_of
from toolpost.pipeline.retry_policies import delayed_policy, does_nothing as no_retry
from toolpost.pipeline.services import Services
from toolpost.security.access import waits
from toolpost.telemetry.usage import safely

NOTICED_S = 0.01
"""How long a call may wait for its loop before that is taken off its limit."""
KEPT_BY_A_TOOL = 8
"""For how many executors a tool object keeps its compiled operations."""
KEPT_FOR_OTHERS = 128
"""For how many objects without a __dict__ an executor keeps them."""


class Entry:
    """A compiled tool: its definition, its handler, and what the executor must know to enter it."""

    __slots__ = (
        "admission",
        "calculator",
        "definition",
        "explaining",
        "handler",
        "limits",
        "needs_loop",
        "scoped",
        "visible",
    )

    def __init__(
        self, definition: ToolDefinition, handler: Handler, needs_loop: bool, calculator: UsageCalculator | None = None
    ) -> None:
        self.definition = definition
        self.handler = handler
        self.needs_loop = needs_loop
        self.explaining: Handler | None = None
        self.admission: Any = None
        """What Admission has found out about the tool."""
        self.limits: Standing | Literal["unknown"] | None = "unknown"
        self.calculator = calculator
        self.scoped = definition.operation is not None
        properties = definition.parameters.get("properties", {})
        self.visible = frozenset(n for n in ("user_id", "task_id") if n in properties)

    def enter(self, kwargs: dict[str, Any]) -> Invocation:
        """The invocation of a call with these arguments."""
        inv = Invocation()
        inv.arguments = kwargs
        if self.scoped and ("user_id" in kwargs or "task_id" in kwargs):
            self.scope(inv, kwargs)
        return inv

    def scope(self, inv: Invocation, kwargs: dict[str, Any]) -> None:
        """Take user_id and task_id for the call's own; they stay arguments only where the tool asks for them."""
        user_id, task_id = kwargs.get("user_id"), kwargs.get("task_id")
        if user_id is not None and user_id != "":
            inv.caller = Caller(user_id=str(user_id))
        if task_id is not None and task_id != "":
            inv.task_id = str(task_id)
        inv.arguments = {k: v for k, v in kwargs.items() if k in self.visible or k not in ("user_id", "task_id")}

    def enter_call(self, call: ToolCall) -> Invocation:
        """The invocation of a call as it came. Raises InputValidationError for arguments that are no object."""
        if not isinstance(call.arguments, Mapping):
            raise InputValidationError(
                f"Parameter validation failed: arguments must be an object, got {type(call.arguments).__name__}"
            )
        arguments = dict(call.arguments)
        if not all(isinstance(name, str) for name in arguments):
            raise InputValidationError("Parameter validation failed: names of arguments must be text")
        inv = Invocation.of(arguments)
        inv._id = call.id
        inv.encode = True
        inv.malformed = call.malformed
        caller = call.caller
        if caller is not ANONYMOUS:
            inv.caller = caller
        if call.task_id is not None:
            inv.task_id = call.task_id
        if call.deadline_s is not None:
            inv.deadline_s = call.deadline_s
        if call.idempotency_key is not None:
            inv.idempotency_key = call.idempotency_key
        inv.strict = call.strict
        if call.answers is not None:
            inv.answers = call.answers
        if self.scoped and self.visible:
            self._named_by_door(arguments, {"user_id": caller.user_id, "task_id": call.task_id})
        return inv

    def _named_by_door(self, arguments: dict[str, Any], named: dict[str, str | None]) -> None:
        """Fill in who the door says the call is for. Arguments, which a model wrote, may not say otherwise."""
        for name in self.visible:
            value = named[name]
            if value is not None and arguments.setdefault(name, value) != value:
                raise InputValidationError(
                    problems=[
                        {
                            "path": f"/{name}",
                            "loc": (name,),
                            "parameter": name,
                            "type": "const",
                            "msg": f"'{name}' must be the caller's own; leave it out",
                            "expected": f"the caller's own {name}",
                            "got": "another",
                        }
                    ]
                )


class Bound:
    """The compiled operations of one tool object for one executor's Entries, as of one state of its configuration."""

    __slots__ = ("entries", "epoch", "owner")

    def __init__(self, owner: Entries, epoch: int, entries: dict[str, Entry]) -> None:
        self.owner, self.epoch, self.entries = owner, epoch, entries


class Entries:
    """What one executor has compiled, as of one state of its configuration; usable from any thread.

    epoch counts those states: what was compiled in an earlier one is compiled anew when next asked for.
    """

    def __init__(self, registry: ToolRegistry, services: Services) -> None:
        self.epoch = 0
        self._closed = False
        self.lock = threading.RLock()
        self._registry = registry
        self._services = services
        self._bound_elsewhere: OrderedDict[int, tuple[Any, Bound]] = OrderedDict()
        self._definitions: weakref.WeakSet[ToolDefinition] = weakref.WeakSet()
        self._named: tuple[tuple[int, int], dict[tuple[str, str | None], Entry]] = ((-1, -1), {})
        self.own: Mapping[str, ToolDefinition] = {}
        """Tools of the engine's own, by name, which no registry has and no lock file pins."""

    def close(self) -> None:
        """Refuse every look-up from now on, also of what is compiled already."""
        with self.lock:
            self._closed = True
            self.epoch += 1
            for definition in list(self._definitions):  # they may outlive this executor, and are not to keep it
                known = definition.__dict__.get("_toolpost_entry")
                if known is not None and known[0] is self:
                    del definition.__dict__["_toolpost_entry"]

    def check_open(self) -> None:
        """Raise OverloadedError once closed. For whoever finds that the epoch is another."""
        if self._closed:
            raise OverloadedError("the executor is closed; make another")

    def renew(self, services: Services) -> None:
        """Compile with these services from now on. The lock is held by whoever changes what they hang on."""
        self._services = services
        self.epoch += 1

    def of(self, definition: ToolDefinition) -> Entry:
        """The entry of a definition, compiled when first asked for; it is kept with the definition."""
        known = definition.__dict__.get("_toolpost_entry")
        if known is not None and known[0] is self and known[1] == self.epoch:
            return known[2]  # type: ignore[no-any-return]
        with self.lock:
            self.check_open()
            epoch = self.epoch
            known = definition.__dict__.get("_toolpost_entry")
            if known is not None and known[0] is self and known[1] == epoch:
                return known[2]  # type: ignore[no-any-return]
            if self._services.pins is not None and self.own.get(definition.name) is not definition:
                self._services.pins.check(definition)
            needs_loop = _needs_loop(definition, self._services)
            entry = Entry(
                definition, compile(definition, self._services), needs_loop, calculator_of(definition, self._services)
            )
            definition.__dict__["_toolpost_entry"] = (self, epoch, entry)
            self._definitions.add(definition)
            return entry

    def _of_object(self, definition: ToolDefinition) -> Entry:
        """The entry of an operation; of one that the lock refuses, one that does so, while the others can be called."""
        try:
            return self.of(definition)
        except DefinitionDriftError as error:
            return Entry(definition, refusing(error), needs_loop=False)

    def explaining(self, entry: Entry) -> Handler:
        """The chain of a tool that tells what each stage decides, compiled when first asked for."""
        if entry.explaining is None:
            with self.lock:
                self.check_open()
                entry.explaining = compile(entry.definition, self._services, explain=True)
        return entry.explaining

    def limits(self, entry: Entry) -> Standing | None:
        """What tells how the rate limits of a tool stand, made when first asked for; None for a tool without."""
        if entry.limits == "unknown":
            entry.limits = standing_of(entry.definition, self._services)
        return entry.limits

    def operation(self, tool: Any, operation: str) -> Entry:
        """The entry of an operation of a tool object. Raises ToolNotFoundError."""
        try:
            bound = tool.__dict__.get("_toolpost_bound")
        except AttributeError:
            known = self._bound_elsewhere.get(id(tool))
            bound = known[1] if known is not None and known[0] is tool else None
        if bound is None or bound.owner is not self or bound.epoch != self.epoch:
            bound = self.bind(tool)
        try:
            return bound.entries[operation]  # type: ignore[no-any-return]
        except (KeyError, TypeError):
            raise _no_operation(tool, operation, bound.entries) from None

    def bind(self, tool: Any) -> Bound:
        """Compile all operations of a tool object and keep them with it."""
        if isinstance(tool, type):
            raise ConfigurationError(f"{tool.__name__} is a class; make an object of it: {tool.__name__}()")
        with self.lock:
            self.check_open()
            epoch = self.epoch
            others: dict[Any, Bound] = getattr(tool, "__dict__", {}).setdefault("_toolpost_bounds", {})
            bound = others.get(self)
            if bound is not None and bound.epoch == epoch:
                tool.__dict__["_toolpost_bound"] = bound
                return bound
            definitions = definitions_of(tool)
            if not definitions and not isinstance(tool, BaseTool):
                raise ConfigurationError(
                    f"execute takes a tool object and the name of its operation, got {type(tool).__name__}; "
                    f"use call(name, ...) for tools by name, execute_tool_call for a ToolCall"
                )
            bound = Bound(self, epoch, {d.operation or d.name: self._of_object(d) for d in definitions})
            if hasattr(tool, "__dict__"):
                tool.__dict__["_toolpost_bound"] = others[self] = bound
                while len(others) > KEPT_BY_A_TOOL:
                    del others[next(iter(others))]
            else:
                self._bound_elsewhere[id(tool)] = (tool, bound)
                while len(self._bound_elsewhere) > KEPT_FOR_OTHERS:
                    self._bound_elsewhere.popitem(last=False)
        return bound

    def named(self, name: str, version: str | None) -> Entry:
        """The entry of a registered tool. Raises ToolNotFoundError."""
        state = (self.epoch, self._registry.revision)
        known = self._named
        if known[0] != state:
            self.check_open()
            known = self._named = (state, {})
            self._services.resources.recycle()
        entries, key = known[1], (name, version)
        entry = entries.get(key) if isinstance(name, str) else None
        if entry is None:
            if not isinstance(name, str):
                raise ToolNotFoundError(f"a tool's name is text, got {type(name).__name__}")
            entry = self.of(self.own.get(name) or self._registry.get_tool(*split_name(name, version)))
            entries[key] = entry  # of the state it was looked up in: what changed meanwhile is looked up anew
        return entry

    def block(self, entry: Entry, inv: Invocation, *, explain: bool = False) -> Any:
        """Run a call for a thread that waits. Async bodies go to the loop for blocking callers."""
        handler = self.explaining(entry) if explain else entry.handler
        if entry.needs_loop:
            return self._block_on_loop(entry, inv, handler)
        inv.blocking = True
        coro: Any = handler(inv)
        try:
            coro.send(None)
        except StopIteration as done:
            return done.value
        coro.close()
        raise EngineError("a blocking call met something that has to wait for an event loop")

    def _block_on_loop(self, entry: Entry, inv: Invocation, handler: Handler) -> Any:
        if asyncio._get_running_loop() is not None:
            name = entry.definition.name
            raise ConfigurationError(
                f"{name} is async and an event loop is running here, which waiting would block; "
                f"await run_async(...), execute_async(...) or call(...) instead"
            )

        services = self._services
        policy = entry.definition.policies.timeout
        timeout = given(services.defaults.timeout if policy is UNSET else policy)
        limits = (inv.deadline_s, timeout.total_s if timeout is not None else None)
        limit_s = min((limit for limit in limits if limit is not None), default=None)

        def start(left_s: float | None) -> Awaitable[Any]:
            if left_s is not None and limit_s is not None and limit_s - left_s > NOTICED_S:
                inv.deadline_s = left_s  # the loop was busy: the wait for it is part of the call
            return handler(inv)

        try:
            return services.resources.loop.run(start, limit_s, grace_s=services.cancel_grace_s, clock=services.clock)
        except concurrent.futures.CancelledError:
            raise CallCancelledError("the call was cancelled", tool=entry.definition.name) from None


def refusing(error: DefinitionDriftError) -> Handler:
    """A handler that raises the error."""

    async def handler(inv: Invocation) -> Any:
        raise type(error)(error.message, tool=error.tool, details=dict(error.details))

    return handler


def no_call(tool_call: Any, error: AttributeError) -> Exception:
    """What to raise when entering with a call met error: the refusal of what is no ToolCall, or the error itself."""
    if isinstance(tool_call, ToolCall):
        return error
    return ConfigurationError(
        f"execute_tool_call takes a ToolCall, got {type(tool_call).__name__}; make one with create_tool_call(name, "
        f"arguments), or read what a model sent with decode_calls"
    )


def operation_of(item: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of {"op": name, "kwargs": {...}}. Raises InputValidationError for anything else."""
    if not isinstance(item, Mapping) or "op" not in item:
        raise InputValidationError('Parameter validation failed: each operation must be {"op": name, "kwargs": {...}}')
    unknown = [k for k in item if k not in ("op", "kwargs")]
    if unknown:
        raise InputValidationError(
            f"Parameter validation failed: unknown key {unknown[0]!r} in an operation; arguments go under 'kwargs'"
        )
    kwargs = item.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise InputValidationError(
            f"Parameter validation failed: 'kwargs' of an operation must be an object, got {type(kwargs).__name__}"
        )
    return item["op"], dict(kwargs)


def _no_operation(tool: Any, operation: Any, entries: Mapping[str, Entry]) -> ToolNotFoundError:
    import difflib

    name = type(tool).__name__
    near = difflib.get_close_matches(str(operation), list(entries), n=1, cutoff=0.6)
    if near:
        return ToolNotFoundError(f"{name} has no operation {operation!r}; did you mean {near[0]!r}?", tool=name)
    there = ", ".join(entries) or "none"
    return ToolNotFoundError(f"{name} has no operation {operation!r}; there are {there}", tool=name)


def calculator_of(definition: ToolDefinition, services: Services) -> UsageCalculator | None:
    """What tells the usage of a tool's calls: its own calculator, the executor's, or None for bytes alone."""
    calculator = definition.policies.usage or services.usage
    return None if calculator is None else safely(calculator)


def _needs_loop(definition: ToolDefinition, services: Services) -> bool:
    """Whether something of a call can only be awaited: an async body or hook, or a policy object of an author's own."""
    body, policies = definition.body, definition.policies.over(services.defaults)
    if not isinstance(body, FunctionBody) or body.is_async or given(policies.oauth) is not None:
        return True
    idempotency, breaker, retry = given(policies.idempotency), given(policies.breaker), given(policies.retry)
    access = given(policies.access)
    return (
        any(judge.waits for judge in judges_of(services))
        or (access is not None and any(waits(one.when) for one in access.parts()))
        or (idempotency is not None and waits(idempotency.reconcile))
        or not (breaker is None or isinstance(breaker, Breaker) or circuit_policy(breaker) or no_breaker(breaker))
        or not (retry is None or isinstance(retry, Retry) or delayed_policy(retry) or no_retry(retry))
    )
