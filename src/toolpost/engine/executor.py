"""ToolExecutor: runs tools of any style through their compiled pipelines, for callers that await or block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from toolpost.authoring.base import BaseTool, definitions_of
from toolpost.calls.call import ANONYMOUS, Caller, ToolCall
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.definition import FunctionBody, ToolDefinition
from toolpost.calls.errors import (
    CallCancelledError,
    ConfigurationError,
    EngineError,
    InputValidationError,
    ToolExecutionError,
    ToolNotFoundError,
    ToolTimeoutError,
)
from toolpost.calls.events import Event, Logged, Observer
from toolpost.calls.policies import Policies, RateLimit, Screening, Timeout
from toolpost.calls.result import ToolResult, ToolUsage, failed_result
from toolpost.engine.batch import in_order, streamed
from toolpost.engine.execution_utils import ExecutionUtils
from toolpost.engine.registry import ToolRegistry, get_tool_registry, split_name
from toolpost.engine.settings import ExecutorConfig, refuse_unsupported
from toolpost.pipeline.compile import Handler, compile
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.screen import refusal
from toolpost.pipeline.services import Authorizer, Limits, Services, Tracer
from toolpost.pipeline.settle import emit
from toolpost.runners.resources import Loop, Resources
from toolpost.runners.threads import Threads
from toolpost.security.rules import Rule, Screen, role_of
from toolpost.stores.memory import MemoryCache, TokenBuckets
from toolpost.telemetry.collector import MetricsCollector, get_metrics_collector
from toolpost.telemetry.logs import CallLog, debug_log
from toolpost.telemetry.metrics import ExecutorMetrics

logger = logging.getLogger("toolpost")


class Entry:
    """A compiled tool: its definition, its handler, and what the executor must know to enter it."""

    __slots__ = ("definition", "handler", "needs_loop", "scoped", "visible")

    def __init__(self, definition: ToolDefinition, handler: Handler, needs_loop: bool) -> None:
        self.definition = definition
        self.handler = handler
        self.needs_loop = needs_loop
        self.scoped = definition.operation is not None
        properties = definition.parameters.get("properties", {})
        self.visible = frozenset(n for n in ("user_id", "task_id") if n in properties)


class Bound:
    """The compiled operations of one tool object for one executor, as of one state of its configuration."""

    __slots__ = ("entries", "epoch", "executor")

    def __init__(self, executor: ToolExecutor, epoch: int, entries: dict[str, Entry]) -> None:
        self.executor, self.epoch, self.entries = executor, epoch, entries


class ToolExecutor:
    """Runs tools. config is a dict of ExecutorConfig's fields, or one; keywords override it.

    Everything may be called from any thread and any event loop. Async bodies run in the caller's task; sync bodies in
    worker threads (or processes), so that a deadline can be kept. Observers are called with every event and must be
    quick and safe from threads. Raises ConfigurationError (a ValueError) for settings that are wrong.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | ExecutorConfig | None = None,
        *,
        registry: ToolRegistry | None = None,
        arcade_client: Any = None,
        observers: Sequence[Observer] = (),
        authorizer: Authorizer | None = None,
        tracer: Tracer | None = None,
        rules: Sequence[Rule] = (),
        collector: MetricsCollector | None = None,
        clock: Clock = SYSTEM_CLOCK,
        **settings: Any,
    ) -> None:
        if arcade_client is not None:
            raise ConfigurationError("arcade_client: this version of toolpost runs tools locally only; leave it out")
        self.config = _config(config, settings)
        self.registry = registry if registry is not None else ToolRegistry(parent=get_tool_registry())
        self._clock = clock
        self._metrics = ExecutorMetrics()
        self._collector = collector if collector is not None else get_metrics_collector()
        self._observers: list[Observer] = list(observers)
        self._authorizer, self._tracer, self._rules = authorizer, tracer, tuple(rules)
        self._cache = MemoryCache(self.config.cache_size, clock.monotonic)
        self._buckets = TokenBuckets(clock.monotonic)
        self._thread_pool = Threads(self.config.max_workers)
        self._resources = Resources(
            threads=self._thread_pool,
            loop=Loop(),
            max_workers=self.config.max_workers,
            clock=clock,
            emit=self._emit,
        )
        self.execution_utils = ExecutionUtils(
            self.config.cache_size,
            self.config.cache_ttl,
            max(1, self.config.retry_attempts),
            self.config.retry_backoff,
            cache=self._cache,
            clock=clock,
        )
        self._locks: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
        self._locks_lock = threading.Lock()
        self._bound_elsewhere: weakref.WeakKeyDictionary[Any, Bound] = weakref.WeakKeyDictionary()
        self._named: dict[tuple[str, str | None], Entry] = {}
        self._named_state: tuple[int, int] = (-1, -1)
        self._by_definition: weakref.WeakKeyDictionary[ToolDefinition, tuple[int, Entry]] = weakref.WeakKeyDictionary()
        self._compile_lock = threading.RLock()
        self._epoch = 0
        self._closed = False
        self._services = self._make_services()
        self._watch_debug()
        self.config.on_change(self._reconfigured)
        for plugin in self.config.plugins:
            self.add(plugin)

    # -- class tools --------------------------------------------------------------------------------------------------

    def execute(self, tool_instance: Any, operation: str, /, **kwargs: Any) -> Any:
        """Run an operation of a tool object and return its value; blocks. Raises ToolExecutionError and its kinds.

        user_id and task_id among kwargs say for whom and for which task; they reach it only if it takes them.
        """
        return self._run(tool_instance, operation, kwargs)

    async def execute_async(self, tool_instance: Any, operation: str, /, **kwargs: Any) -> Any:
        """Run an operation, sync or async, and return its value. Raises as execute does."""
        return await self._start(tool_instance, operation, kwargs)

    async def execute_batch(
        self,
        tool_instance: Any,
        operations: Iterable[Mapping[str, Any]],
        *,
        fail_fast: bool = True,
        concurrency: int | None = None,
        deadline_s: float | None = None,
    ) -> list[Any]:
        """Run operations {"op": name, "kwargs": {...}}, at most concurrency (io_concurrency) at once; values in order.

        fail_fast raises the first error and cancels what still runs. Without it an error stands in its place in the
        list, as the exception. deadline_s holds for all of them together.
        """

        def start(item: Mapping[str, Any], left_s: float | None) -> Any:
            operation, kwargs = _operation_of(item)
            entry = self._operation(tool_instance, operation)
            inv = self._enter(entry, kwargs)
            inv.deadline_s = left_s
            return entry.handler(inv)

        if not isinstance(operations, Iterable):
            raise InputValidationError(
                f'Parameter validation failed: operations must be a list of {{"op": name, "kwargs": {{...}}}}, '
                f"got {type(operations).__name__}"
            )
        return await in_order(
            operations,
            start,
            concurrency=concurrency or self.config.io_concurrency,
            deadline_s=deadline_s,
            fail_fast=fail_fast,
            clock=self._clock,
        )

    # -- tool calls ---------------------------------------------------------------------------------------------------

    async def execute_tool_call(self, tool_call: ToolCall) -> ToolResult:
        """Run one call and report how it ended; raises nothing for a tool's failure."""
        started = self._clock.stopwatch()
        try:
            entry = self._named_entry(tool_call.name, tool_call.version)
            inv = self._enter_call(entry, tool_call)
        except ToolExecutionError as error:
            return self._refused(tool_call, error, self._clock.stopwatch() - started)
        except AttributeError as error:
            raise _no_call(tool_call, error) from None
        try:
            value = await entry.handler(inv)
        except ToolExecutionError as error:
            return self._failed(tool_call, entry, inv, error, self._clock.stopwatch() - started)
        return self._succeeded(tool_call, entry, inv, value, self._clock.stopwatch() - started)

    def execute_sync(self, tool_call: ToolCall) -> ToolResult:
        """execute_tool_call for callers that block."""
        started = self._clock.stopwatch()
        try:
            entry = self._named_entry(tool_call.name, tool_call.version)
            inv = self._enter_call(entry, tool_call)
        except ToolExecutionError as error:
            return self._refused(tool_call, error, self._clock.stopwatch() - started)
        except AttributeError as error:
            raise _no_call(tool_call, error) from None
        try:
            value = self._block(entry, inv)
        except ToolExecutionError as error:
            return self._failed(tool_call, entry, inv, error, self._clock.stopwatch() - started)
        return self._succeeded(tool_call, entry, inv, value, self._clock.stopwatch() - started)

    async def execute_tool_calls(
        self,
        tool_calls: Iterable[ToolCall],
        *,
        fail_fast: bool = False,
        concurrency: int | None = None,
        deadline_s: float | None = None,
    ) -> list[ToolResult]:
        """Run calls, at most concurrency (io_concurrency) at a time; one result each, in order.

        With fail_fast, calls that had not ended when one failed are reported as cancelled. deadline_s holds for all of
        them together.
        """
        results: list[ToolResult | None] = []
        waiting: list[ToolCall] = []
        async for index, result in self.stream_tool_calls(
            _noting(tool_calls, waiting, results), fail_fast=fail_fast, concurrency=concurrency, deadline_s=deadline_s
        ):
            results[index] = result
        return [r if r is not None else self._cancelled(c) for c, r in zip(waiting, results, strict=True)]

    async def stream_tool_calls(
        self,
        tool_calls: Iterable[ToolCall],
        *,
        fail_fast: bool = False,
        concurrency: int | None = None,
        deadline_s: float | None = None,
    ) -> AsyncIterator[tuple[int, ToolResult]]:
        """Run calls as they come from an iterable of any length; (index, result) as each ends, in flat memory.

        With fail_fast nothing is taken up after a failure, and what still runs is cancelled and not reported.
        """

        async def start(call: ToolCall, left_s: float | None) -> ToolResult:
            if left_s is not None:
                if left_s <= 0:
                    error = ToolTimeoutError("the batch's deadline had passed before this call was taken up")
                    error.outcome = "not_run"
                    return failed_result(call.id, call.name, error)
                own = call.deadline_s
                call = _with_deadline(call, left_s if own is None else min(own, left_s))
            return await self.execute_tool_call(call)

        async for pair in streamed(
            tool_calls,
            start,
            concurrency=concurrency or self.config.io_concurrency,
            deadline_s=deadline_s,
            stop=(lambda result: not result.success) if fail_fast else None,
            clock=self._clock,
        ):
            yield pair

    async def call(self, tool_name: str, /, **arguments: Any) -> Any:
        """Run a registered tool by name and return its value. Raises ToolExecutionError and its kinds."""
        entry = self._named_entry(tool_name, None)
        return await entry.handler(self._enter(entry, arguments))

    def call_sync(self, tool_name: str, /, **arguments: Any) -> Any:
        """call for callers that block."""
        entry = self._named_entry(tool_name, None)
        return self._block(entry, self._enter(entry, arguments))

    async def run_definition(self, definition: ToolDefinition, inv: Invocation) -> Any:
        """Run a definition that need not be registered, with an invocation made by the caller."""
        return await self._entry(definition).handler(inv)

    # -- tools --------------------------------------------------------------------------------------------------------

    def add(self, tool: Any, *, replace: bool = False) -> list[ToolDefinition]:
        """Register a tool written in any style with this executor; the definitions it gave.

        tool is a BaseTool object or class, a function declared with @Tool, a ToolDefinition, a "module:attribute", or a
        list of these. Raises ConfigurationError for anything else, DuplicateToolError for a name that is taken.
        """
        definitions = definitions_in(tool)
        for definition in definitions:
            self.registry.register_tool(definition, replace=replace)
        if isinstance(tool, BaseTool) and "_executor" not in tool.__dict__:
            tool._executor = self
        return definitions

    def get_available_tools(self) -> list[str]:
        """The names of all tools that can be called by name."""
        return self.registry.list_tools()

    def get_tool_info(self, tool_name: str) -> dict[str, Any]:
        """All that is known of a tool. Raises ToolNotFoundError."""
        return self.registry.get_tool_info(tool_name)

    # -- watching -----------------------------------------------------------------------------------------------------

    def get_metrics(self) -> dict[str, Any]:
        """requests, failures, cache_hits, avg_processing_time (s) and more, in constant memory."""
        metrics = self._metrics.to_dict()
        metrics["tool_threads_abandoned"] = self._thread_pool.abandoned_total
        metrics["active_threads"] = len(self._thread_pool._threads)
        metrics["cache_entries"] = len(self._cache)
        return metrics

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call observer with every event from now on; what comes back stops that."""
        self._observers.append(observer)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._observers.remove(observer)

        return stop

    async def health_check(self) -> dict[str, Any]:
        """How the executor is: healthy (bool), status (healthy, degraded or unhealthy) and what that is made of."""
        return self.health()

    def health(self) -> dict[str, Any]:
        """health_check for callers that block."""
        pool = self._thread_pool
        problems = []
        if self._closed:
            problems.append("the executor is closed")
        if pool.abandoned_now:
            problems.append(f"{pool.abandoned_now} bodies outlived their deadline and still hold a thread")
        if pool._work_queue.qsize() > 2 * pool._max_workers:
            problems.append(f"{pool._work_queue.qsize()} bodies wait for a thread; raise max_workers")
        return {
            "status": "unhealthy" if self._closed else ("degraded" if problems else "healthy"),
            "healthy": not self._closed,
            "problems": problems,
            "thread_pool_active": not self._closed,
            "cache_enabled": self.config.enable_cache,
            "metrics_available": self.config.enable_metrics,
            "active_threads": len(pool._threads),
            "threads_abandoned": pool.abandoned_now,
            "tools": len(self.registry.list_tools()),
            "timestamp": self._clock.now(),
        }

    # -- documents' small things --------------------------------------------------------------------------------------

    def get_lock(self, resource_id: str) -> threading.Lock:
        """The lock of a resource: one object for one id as long as anybody holds it."""
        with self._locks_lock:
            lock = self._locks.get(resource_id)
            if lock is None:
                lock = self._locks[resource_id] = threading.Lock()
            return lock

    def timeout_context(self, seconds: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        """An async context manager that raises ToolTimeoutError when its block takes longer than seconds."""
        return self.execution_utils.timeout_context(seconds)

    def clear_cache(self) -> int:
        """Forget every kept result; how many there were."""
        return self._cache.clear()

    def screen_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Screen arguments as those of a tool that declares @sanitize_input. Raises SecurityError."""
        if not self._services.screening:
            return
        level: Any = self._services.security_level
        for name, value in arguments.items():
            finding = Screen(role_of(name), level, untrusted=True, extra=self._rules).check(value)
            if finding is not None:
                raise refusal(name, finding)

    # -- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End threads, processes and the loop for blocking callers. Calls made afterwards are refused."""
        self._closed = True
        self._resources.close()

    async def __aenter__(self) -> ToolExecutor:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __enter__(self) -> ToolExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _make_services(self) -> Services:
        config = self.config
        strict = config.sanitization_rules == "strict"
        rate = None
        if config.enable_rate_limiting or config.max_calls_per_minute is not None:
            by = "user" if config.rate_limit_by_user else "global"
            rate = RateLimit(calls=config.max_calls_per_minute or 60, by=by)  # type: ignore[arg-type]
        timeout = Timeout(total_s=config.timeout) if config.timeout is not None else None
        self._resources.sync_in = config.thread_pool_type
        return Services(
            resources=self._resources,
            cache=self._cache,
            buckets=self._buckets,
            metrics=self._metrics,
            collector=self._collector if config.enable_metrics else None,
            log=CallLog(
                level="DEBUG" if config.debug else config.log_level, log_execution_time=config.log_execution_time
            ),
            clock=self._clock,
            observers=self._observers,
            defaults=Policies(timeout=timeout, rate_limit=rate, screening=Screening(), cache=None),
            limits=Limits(max_bytes=config.max_input_size, max_depth=config.max_depth, max_items=config.max_items),
            cache_enabled=config.enable_cache,
            cache_ttl_s=float(config.cache_ttl),
            cancel_grace_s=config.cancel_grace_s,
            screening=config.enable_security_checks,
            security_level="strict" if strict else config.security_level,
            rules=self._rules,
            authorizer=self._authorizer,
            tracer=self._tracer,
        )

    def _reconfigured(self, field: str) -> None:
        """A setting changed: what hangs on it is made anew before the next call."""
        refused = refuse_unsupported(self.config)
        if refused:
            raise ConfigurationError("; ".join(refused))
        with self._compile_lock:
            self._cache.resize(self.config.cache_size)
            self._resources.resize(self.config.max_workers)
            self._services = self._make_services()
            self._watch_debug()
            self._epoch += 1

    def _watch_debug(self) -> None:
        """Have every event logged while debug is on."""
        if self.config.debug != (debug_log in self._observers):
            (self._observers.append if self.config.debug else self._observers.remove)(debug_log)

    def _entry(self, definition: ToolDefinition) -> Entry:
        with self._compile_lock:
            epoch = self._epoch
            known = self._by_definition.get(definition)
            if known is not None and known[0] == epoch:
                return known[1]
            body = definition.body
            needs_loop = (isinstance(body, FunctionBody) and body.is_async) or _is_async(self._authorizer)
            entry = Entry(definition, compile(definition, self._services), needs_loop)
            self._by_definition[definition] = (epoch, entry)
            return entry

    def _operation(self, tool: Any, operation: str) -> Entry:
        try:
            bound = tool.__dict__.get("_toolpost_bound")
        except AttributeError:
            try:
                bound = self._bound_elsewhere.get(tool)
            except TypeError:  # what takes no weak reference, such as None, text and numbers
                bound = None
        if bound is None or bound.executor is not self or bound.epoch != self._epoch:
            bound = self._bind(tool)
        try:
            return bound.entries[operation]  # type: ignore[no-any-return]
        except (KeyError, TypeError):
            raise _no_operation(tool, operation, bound.entries) from None

    def _start(self, tool: Any, operation: str, kwargs: dict[str, Any]) -> Any:
        """The awaitable of one operation."""
        try:
            bound = tool.__dict__["_toolpost_bound"]
            if bound.executor is not self or bound.epoch != self._epoch:
                bound = self._bind(tool)
            entry: Entry = bound.entries[operation]
        except (AttributeError, KeyError, TypeError):
            entry = self._operation(tool, operation)
        inv = Invocation()
        inv.arguments = kwargs
        if entry.scoped and ("user_id" in kwargs or "task_id" in kwargs):
            self._scope(entry, inv, kwargs)
        return entry.handler(inv)

    def _run(self, tool: Any, operation: str, kwargs: dict[str, Any]) -> Any:
        """One operation for a thread that waits."""
        entry = self._operation(tool, operation)
        return self._block(entry, self._enter(entry, kwargs))

    def _bind(self, tool: Any) -> Bound:
        if isinstance(tool, type):
            raise ConfigurationError(f"{tool.__name__} is a class; make an object of it: {tool.__name__}()")
        with self._compile_lock:
            epoch = self._epoch
            old = getattr(tool, "__dict__", {}).get("_toolpost_bound")
            if old is not None and old.executor is self:
                definitions = [entry.definition for entry in old.entries.values()]
            else:
                definitions = definitions_of(tool)
            if not definitions and not isinstance(tool, BaseTool):
                raise ConfigurationError(
                    f"execute takes a tool object and the name of its operation, got {type(tool).__name__}; "
                    f"use call(name, ...) for tools by name, execute_tool_call for a ToolCall"
                )
            bound = Bound(self, epoch, {d.operation or d.name: self._entry(d) for d in definitions})
        try:
            tool.__dict__["_toolpost_bound"] = bound
        except AttributeError:
            with contextlib.suppress(TypeError):  # no weak references either: bound anew for each call
                self._bound_elsewhere[tool] = bound
        return bound

    def _named_entry(self, name: str, version: str | None) -> Entry:
        state = (self._epoch, self.registry.revision)
        if state != self._named_state:
            self._named, self._named_state = {}, state
            self._resources.recycle()
        key = (name, version)
        entry = self._named.get(key) if isinstance(name, str) else None
        if entry is None:
            if not isinstance(name, str):
                raise ToolNotFoundError(f"a tool's name is text, got {type(name).__name__}")
            entry = self._entry(self.registry.get_tool(*split_name(name, version)))
            self._named[key] = entry
        return entry

    def _enter(self, entry: Entry, kwargs: dict[str, Any]) -> Invocation:
        inv = Invocation()
        inv.arguments = kwargs
        if entry.scoped and ("user_id" in kwargs or "task_id" in kwargs):
            self._scope(entry, inv, kwargs)
        return inv

    @staticmethod
    def _scope(entry: Entry, inv: Invocation, kwargs: dict[str, Any]) -> None:
        """Take user_id and task_id for the call's own; they stay arguments only where the tool asks for them."""
        user_id, task_id = kwargs.get("user_id"), kwargs.get("task_id")
        if user_id is not None and user_id != "":
            inv.caller = Caller(user_id=str(user_id))
        if task_id is not None and task_id != "":
            inv.task_id = str(task_id)
        inv.arguments = {k: v for k, v in kwargs.items() if k in entry.visible or k not in ("user_id", "task_id")}

    def _enter_call(self, entry: Entry, call: ToolCall) -> Invocation:
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
        inv.strict = call.strict
        if entry.scoped and entry.visible:
            for name, value in (("user_id", caller.user_id), ("task_id", call.task_id)):
                if name in entry.visible and value is not None:
                    arguments.setdefault(name, value)
        return inv

    def _block(self, entry: Entry, inv: Invocation) -> Any:
        """Run a call for a thread that waits. Async bodies go to the loop for blocking callers."""
        if entry.needs_loop:
            return self._block_on_loop(entry, inv)
        inv.blocking = True
        coro: Any = entry.handler(inv)
        try:
            coro.send(None)
        except StopIteration as done:
            return done.value
        coro.close()
        raise EngineError("a blocking call met something that has to wait for an event loop")

    def _block_on_loop(self, entry: Entry, inv: Invocation) -> Any:
        if asyncio._get_running_loop() is not None:
            name = entry.definition.name
            raise ConfigurationError(
                f"{name} is async and an event loop is running here, which waiting would block; "
                f"await run_async(...), execute_async(...) or call(...) instead"
            )

        async def on_loop() -> Any:
            return await entry.handler(inv)

        try:
            return self._resources.loop.run(on_loop())
        except concurrent.futures.CancelledError:
            raise CallCancelledError("the call was cancelled", tool=entry.definition.name) from None

    def _refused(self, call: ToolCall, error: ToolExecutionError, elapsed_s: float) -> ToolResult:
        """The result of a call that never reached a tool; it is counted all the same."""
        stats = self._metrics.tool("(unknown)")
        stats.record(elapsed_s, error.code, True, False)
        if self._services.collector is not None:
            name = call.name if isinstance(call.name, str) else "(unknown)"
            row = (self._clock.now(), name[:128], False, elapsed_s * 1000.0, call.user_id, error.error_type)
            self._services.collector.note(row)
        return failed_result(call.id, call.name, error, elapsed_s=elapsed_s, metadata=self._metadata(call), attempts=0)

    def _failed(
        self, call: ToolCall, entry: Entry, inv: Invocation, error: ToolExecutionError, elapsed_s: float
    ) -> ToolResult:
        return failed_result(
            call.id,
            entry.definition.name,
            error,
            elapsed_s=elapsed_s,
            metadata=self._metadata(call),
            attempts=inv.attempts,
        )

    def _succeeded(self, call: ToolCall, entry: Entry, inv: Invocation, value: Any, elapsed_s: float) -> ToolResult:
        if entry.definition.wrap_result and not isinstance(value, dict):
            value = {"result": value}
        metadata = self._metadata(call)
        metadata["timestamp"] = self._clock.now()
        return ToolResult(
            call_id=call.id,
            tool_name=entry.definition.name,
            success=True,
            data=value,
            execution_time_ms=elapsed_s * 1000.0,
            metadata=metadata,
            source=inv.source,
            attempts=inv.attempts,
            usage=ToolUsage(attempts=inv.attempts, cached_hit=inv.source == "cache"),
        )

    def _cancelled(self, call: ToolCall) -> ToolResult:
        error = CallCancelledError("another call of the batch failed, so this one was cancelled", tool=call.name)
        return failed_result(call.id, call.name, error, metadata=self._metadata(call))

    @staticmethod
    def _metadata(call: ToolCall) -> dict[str, Any]:
        named = {"user_id": call.user_id, "session_id": call.session_id, "task_id": call.task_id}
        return {k: v for k, v in named.items() if v is not None}

    def _emit(self, event: Event) -> None:
        if isinstance(event, Logged):
            self._services.log.logged(event)
        emit(self._services, event)


def definitions_in(tool: Any) -> list[ToolDefinition]:
    """The definitions of anything that is a tool, or stands for some."""
    if isinstance(tool, ToolDefinition):
        return [tool]
    if isinstance(tool, str):
        return definitions_in(_load(tool))
    definition = getattr(tool, "tool_definition", None)
    if isinstance(definition, ToolDefinition):
        return [definition]
    if isinstance(tool, type) and issubclass(tool, BaseTool):
        return definitions_of(tool())
    if isinstance(tool, BaseTool):
        return definitions_of(tool)
    if isinstance(tool, (list, tuple, set, frozenset, Iterator)):
        return [definition for item in tool for definition in definitions_in(item)]
    name = getattr(tool, "__qualname__", type(tool).__name__)
    hint = "put @Tool() on it" if callable(tool) else "give a BaseTool, a function with @Tool, or a ToolDefinition"
    raise ConfigurationError(f"{name} is not a tool; {hint}")


def _load(reference: str) -> Any:
    from toolpost.engine.plugins import load_attribute

    return load_attribute(reference)


def _config(config: Mapping[str, Any] | ExecutorConfig | None, settings: dict[str, Any]) -> ExecutorConfig:
    if isinstance(config, ExecutorConfig):
        for name, value in settings.items():
            setattr(config, name, value)
        made = config
    elif config is None or isinstance(config, Mapping):
        made = ExecutorConfig.load({**(config or {}), **settings})
    else:
        raise ConfigurationError(f"config must be a dict or an ExecutorConfig, got {type(config).__name__}")
    refused = refuse_unsupported(made)
    if refused:
        raise ConfigurationError("; ".join(refused))
    return made


def _operation_of(item: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
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


def _no_call(tool_call: Any, error: AttributeError) -> Exception:
    if isinstance(tool_call, ToolCall):
        return error
    return ConfigurationError(
        f"execute_tool_call takes a ToolCall, got {type(tool_call).__name__}; make one with create_tool_call(name, "
        f"arguments), or read what a model sent with decode_calls"
    )


def _no_operation(tool: Any, operation: Any, entries: Mapping[str, Entry]) -> ToolNotFoundError:
    import difflib

    name = type(tool).__name__
    near = difflib.get_close_matches(str(operation), list(entries), n=1, cutoff=0.6)
    if near:
        return ToolNotFoundError(f"{name} has no operation {operation!r}; did you mean {near[0]!r}?", tool=name)
    there = ", ".join(entries) or "none"
    return ToolNotFoundError(f"{name} has no operation {operation!r}; there are {there}", tool=name)


def _noting(calls: Iterable[ToolCall], waiting: list[ToolCall], results: list[ToolResult | None]) -> Iterator[ToolCall]:
    for call in calls:
        waiting.append(call)
        results.append(None)
        yield call


def _with_deadline(call: ToolCall, deadline_s: float) -> ToolCall:
    from dataclasses import replace

    return replace(call, deadline_s=deadline_s)


def _is_async(authorizer: Any) -> bool:
    return asyncio.iscoroutinefunction(authorizer) or asyncio.iscoroutinefunction(getattr(authorizer, "__call__", None))  # noqa: B004


_default: ToolExecutor | None = None
_default_lock = threading.Lock()


def get_executor(config: Mapping[str, Any] | ExecutorConfig | None = None) -> ToolExecutor:
    """The process's executor, made when first asked for; with a config a new one of its own."""
    global _default
    if config is not None:
        return ToolExecutor(config)
    if _default is None or _default._closed:
        with _default_lock:
            if _default is None or _default._closed:
                _default = ToolExecutor()
    return _default


__all__ = ["ToolExecutor", "definitions_in", "get_executor"]
