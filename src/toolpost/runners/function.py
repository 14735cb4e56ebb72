"""Runs a Python function: in the task, where the caller stands, in a worker thread, or in a worker process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from typing import Any, Protocol

from toolpost.calls.call import Caller
from toolpost.calls.context import ToolContext
from toolpost.calls.definition import FunctionBody, ToolDefinition
from toolpost.calls.errors import Outcome
from toolpost.calls.oauth import Grant
from toolpost.calls.policies import given
from toolpost.runners.bodies import Bodies
from toolpost.runners.resources import Resources


class Run(Protocol):
    """What a runner needs to know of a call; the pipeline's Invocation is one."""

    kwargs: dict[str, Any]
    value: Any
    caller: Caller
    task_id: str | None
    idempotency_key: str | None
    effect_key: str | None
    blocking: bool
    attempts: int
    started: float
    limit_s: float | None
    ran: bool
    on_timeout: Outcome
    bodies: Bodies | None
    handed: ToolContext | None
    context: ToolContext | None
    grant: Grant | None
    logs: list[str] | None
    answers: Mapping[str, Any] | None

    @property
    def id(self) -> str: ...

    def __await__(self) -> Generator[Any, Any, Any]: ...


Runs = Callable[[Any], Awaitable[Any]]


def function_runner(tool: ToolDefinition, body: FunctionBody, resources: Resources) -> Runs:
    """The runner of a function, chosen once: nothing about the function is looked up per call."""
    arguments = _arguments(tool, body, resources)
    if body.is_async:
        return _in_task(body.func, arguments)
    where = tool.policies.runs_in
    if where == "auto":
        where = "inline" if body.leaf else ("process" if resources.sync_in == "process" else "thread")
    if where == "inline":
        return _inline(body.func, arguments)
    if where == "process":
        return _in_process(body, arguments, resources)
    return _in_thread(body.func, arguments, resources, unasked=tool.policies.runs_in == "auto")


Arguments = Callable[[Run], tuple[tuple[Any, ...], Mapping[str, Any]]]


def _arguments(tool: ToolDefinition, body: FunctionBody, resources: Resources) -> Arguments | None:
    """How positional and named arguments are made; None when they are just the checked ones."""
    name, passes, mapping = body.context, tool.passes, body.takes_mapping
    if name is None and not passes and not mapping:
        return None

    def make(run: Run) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        named: dict[str, Any] = {} if mapping else dict(run.kwargs)
        if name is not None:
            named[name] = run.context = context_for(tool, run, resources)
        for scoping in passes:  # these come from the call, never from its arguments
            named.pop(scoping, None)
            value = run.caller.user_id if scoping == "user_id" else run.task_id
            if value is not None:
                named[scoping] = value
        # A body may change its dict, and another attempt begins with the arguments as they were.
        return ((dict(run.kwargs),) if mapping else ()), named

    return make


def context_for(tool: ToolDefinition, run: Run, resources: Resources) -> ToolContext:
    """The context a body sees: what the caller handed in, with this call's ids and deadline."""
    handed = run.handed
    context = ToolContext() if handed is None else _copy(handed)
    caller = context._caller = run.caller
    context.user_id = caller.user_id if handed is None else handed.user_id
    context.tenant_id = caller.tenant if handed is None else handed.tenant_id
    context.session_id = caller.session_id if handed is None else handed.session_id
    context.call_id, context.tool, context.attempt = run.id, tool.name, run.attempts
    context.task_id = run.task_id
    context.idempotency_key = run.idempotency_key if run.effect_key is None else run.effect_key
    clock = resources.clock
    context._now = clock.now
    if run.limit_s is not None:
        context.deadline_ts = clock.now() + run.limit_s - (clock.stopwatch() - run.started)
    context._emit = resources.emit
    context._guards, context._egress = resources.guards, given(tool.policies.egress)
    context._call = (getattr(tool.body, "func", None), run.kwargs)
    context._logs, context._grant, context._answers = run.logs, run.grant, run.answers
    context._artifacts = context._used = None
    return context


def _copy(context: ToolContext) -> ToolContext:
    new = ToolContext()
    for field in ToolContext.__dataclass_fields__:
        setattr(new, field, getattr(context, field))
    return new


def _in_task(func: Callable[..., Any], arguments: Arguments | None) -> Runs:
    if arguments is None:

        def plain(run: Run) -> Awaitable[Any]:
            run.attempts += 1
            run.ran = True
            return func(**run.kwargs)  # type: ignore[no-any-return]

        return plain

    async def made(run: Run) -> Any:
        run.attempts += 1
        args, named = arguments(run)
        run.ran = True
        try:
            return await func(*args, **named)
        finally:
            if run.context is not None:
                run.context.cancelled = True

    return made


def _inline(func: Callable[..., Any], arguments: Arguments | None) -> Runs:
    def plain(run: Run) -> Awaitable[Any]:
        run.attempts += 1
        run.ran = True
        if arguments is None:
            run.value = func(**run.kwargs)
        else:
            args, named = arguments(run)
            run.value = func(*args, **named)
        return run

    return plain


def _in_thread(func: Callable[..., Any], arguments: Arguments | None, resources: Resources, *, unasked: bool) -> Runs:
    threads, clock = resources.threads, resources.clock

    async def threaded(run: Run) -> Any:
        run.attempts += 1
        args, named = ((), run.kwargs) if arguments is None else arguments(run)
        if unasked and run.blocking and run.limit_s is None:
            run.ran = True
            return func(*args, **named)  # nothing to keep: a thread that waits for another gains nothing

        def started() -> None:
            run.ran = True
            run.on_timeout = "unknown"

        work = partial(func, *args, **named)
        if run.bodies is not None:
            work = partial(run.bodies.run, work)
        try:
            if run.blocking:
                return threads.run_blocking(work, _left(run, clock.stopwatch), clock, started)
            return await threads.run(work, started)
        finally:
            if run.context is not None:
                run.context.cancelled = True

    return threaded


def _in_process(body: FunctionBody, arguments: Arguments | None, resources: Resources) -> Runs:
    from toolpost.runners.targets import Target

    target = Target.of(body.func, takes_mapping=body.takes_mapping)
    clock = resources.clock

    async def remote(run: Run) -> Any:
        run.attempts += 1
        positional, named = ((), run.kwargs) if arguments is None else arguments(run)
        values = {**positional[0], **named} if positional else named

        def started() -> None:
            run.ran = True

        if run.blocking:
            left_s = _left(run, clock.stopwatch)
            return resources.processes.run_blocking(target, values, left_s, clock, on_start=started)
        return await resources.processes.run(target, values, on_start=started)

    return remote


def _left(run: Run, stopwatch: Callable[[], float]) -> float | None:
    return None if run.limit_s is None else max(0.0, run.limit_s - (stopwatch() - run.started))
