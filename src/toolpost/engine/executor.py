"""ToolExecutor: runs tools of any style through their compiled pipelines, for callers that await or block."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from toolpost.authoring.base import BaseTool
from toolpost.calls.access import PolicyEngine
from toolpost.calls.call import ANONYMOUS, Caller, ToolCall, new_id
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    ConfigurationError,
    EngineError,
    InputValidationError,
    ToolExecutionError,
    ToolNotFoundError,
)
from toolpost.calls.events import Event, Logged, Observer, Progressed
from toolpost.calls.policies import Idempotency, Policies, RateLimit, Screening, Timeout, UsageCalculator
from toolpost.calls.result import ToolResult, failed_result
from toolpost.engine.admission import Admission
from toolpost.engine.approvals import ApprovalOperations, approved_call
from toolpost.engine.audit_operations import AuditOperations
from toolpost.engine.auditing import audit_key_of, audit_keys_of
from toolpost.engine.batch import checked_concurrency, checked_deadline, each, in_order, streamed, too_late
from toolpost.engine.catalog import Catalog, apart
from toolpost.engine.derived_keys import derived_keys
from toolpost.engine.discovery import CALL, Discovery
from toolpost.engine.entries import Entries, Entry, no_call, operation_of
from toolpost.engine.execution_utils import ExecutionUtils
from toolpost.engine.guards import Guards
from toolpost.engine.metrics_port import MetricsPort
from toolpost.engine.operators import CircuitOperations, ClaimOperations
from toolpost.engine.plugins import definitions_in
from toolpost.engine.registry import ToolRegistry, get_tool_registry
from toolpost.engine.results import Place, audited, cancelled, failed, no_tool_call, refused, succeeded
from toolpost.engine.rules import rules_named
from toolpost.engine.secret_settings import secrets_of
from toolpost.engine.settings import ExecutorConfig, refuse_unsupported
from toolpost.engine.stores import Stores
from toolpost.engine.visibility import Visibility
from toolpost.pipeline.breaker import local_circuits
from toolpost.pipeline.cache import clear_cache
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.limit_standing import LimitStanding
from toolpost.pipeline.once import claims_of
from toolpost.pipeline.screen import refusal
from toolpost.pipeline.services import Authorizer, Limits, Services, Tracer
from toolpost.pipeline.settle import emit
from toolpost.runners.resources import Loop, NeverBegan, Resources
from toolpost.runners.threads import Threads
from toolpost.security.api_keys import ApiKeys
from toolpost.security.egress import EgressGuard
from toolpost.security.engines import Judge
from toolpost.security.noting import noted
from toolpost.security.rules import Rule, Screen, role_of
from toolpost.security.secrets import SecretProvider
from toolpost.security.tokens import Authenticator
from toolpost.stores import Blobs, Records, State
from toolpost.stores.memory import MemoryCache, TokenBuckets
from toolpost.telemetry.audit import AuditLog
from toolpost.telemetry.collector import MetricsCollector, get_metrics_collector
from toolpost.telemetry.figures import Figures
from toolpost.telemetry.logs import CallLog, debug_log
from toolpost.telemetry.metrics import ExecutorMetrics

if TYPE_CHECKING:
    from toolpost.security.oauth import AuthorizationManager

logger = logging.getLogger("toolpost")


class ToolExecutor:
    """Runs tools. config is a dict of ExecutorConfig's fields, or one; keywords override it, in a copy.

    Everything may be called from any thread and any event loop. Async bodies run in the caller's task; sync bodies in
    worker threads (or processes), so that a deadline can be kept. Observers are called with every event and must be
    quick and safe from threads. state, records and blobs are stores of one's own, and egress is a guard of one's own,
    in place of those that the settings name; secrets are providers of secrets by name. Raises ConfigurationError (a
    ValueError) for settings that are wrong.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | ExecutorConfig | None = None,
        *,
        registry: ToolRegistry | None = None,
        arcade_client: Any = None,
        observers: Sequence[Observer] = (),
        authorizer: Authorizer | PolicyEngine | str | None = None,
        tracer: Tracer | None = None,
        rules: Sequence[Rule] | Sequence[str] = (),
        collector: MetricsCollector | None = None,
        usage: UsageCalculator | None = None,
        state: State | None = None,
        records: Records | None = None,
        blobs: Blobs | None = None,
        egress: EgressGuard | None = None,
        authorization: AuthorizationManager | None = None,
        secrets: Mapping[str, SecretProvider] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        **settings: Any,
    ) -> None:
        if arcade_client is not None:
            raise ConfigurationError("arcade_client: this version of toolpost runs tools locally only; leave it out")
        if isinstance(authorizer, str):  # the setting, which is passed by the same name
            authorizer, settings = None, {**settings, "authorizer": authorizer}
        if rules and all(isinstance(rule, str) for rule in rules):  # likewise
            rules, settings = (), {**settings, "rules": rules}
        for rule in rules:
            if not callable(rule):
                raise ConfigurationError(
                    f"rules takes functions (value, role), or names of plugins only, got {rule!r:.100}"
                )
        if authorizer is not None:
            Judge(authorizer)  # which checks it
        self.config = _config(config, settings)
        self.registry = registry if registry is not None else ToolRegistry(parent=get_tool_registry())
        self.catalog = Catalog()
        self._clock = clock
        self._metrics = ExecutorMetrics()
        self._figures = Figures(self._metrics)
        self._metrics_port = MetricsPort()
        self._collector = collector if collector is not None else get_metrics_collector()
        self._observers: list[Observer] = list(observers)
        self._authorizer, self._tracer, self._rules = authorizer, tracer, tuple(rules)
        self._usage = Policies(usage=usage).usage  # which checks it
        self._cache = MemoryCache(self.config.cache_size, clock.monotonic, self.config.cache_max_bytes)
        known = secrets_of(self.config, clock, secrets)
        self._stores = Stores(self.config, clock, known, state=state, records=records, blobs=blobs)
        self._guards = Guards(
            self.config, self._stores, clock, egress=egress, authorization=authorization, secrets=known
        )
        self._shared: dict[str, Any] = {}
        self._earlier_keepers: list[Any] = []
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{new_id()}"
        self._buckets = TokenBuckets(clock.monotonic)
        self._thread_pool = Threads(self.config.max_workers)
        self._resources = Resources(
            threads=self._thread_pool,
            loop=Loop(),
            max_workers=self.config.max_workers,
            clock=clock,
            emit=self._emit,
            guards=self._guards,
        )
        threads, loop = self._thread_pool, self._resources.loop
        self._figures.watch("tool_executor_active_threads", lambda: len(threads._threads))
        self._figures.watch("tool_executor_abandoned_threads", lambda: threads.abandoned_now + loop.abandoned_now)
        self._guards.resources = self._resources
        self._guards.approvals.tell = self._emit
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
        self._closed = False
        self._services = self._make_services()
        self._entries = Entries(self.registry, self._services)
        self._discovery: Discovery | None = None
        self._watch_discovery()
        self._guards.redactor.on_active = _recompiling(self)
        self._watch_debug()
        self._audited: AuditLog | None = None
        self._watch_audit()
        self._unwatch = _watch(self)
        for plugin in self.config.plugins:
            self.add(plugin)
        self._metrics_port.follow(self)

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
        list, as the exception. deadline_s holds for all of them together. Context variables that one operation sets
        are not seen by the others, nor by the caller.
        """

        def start(item: Mapping[str, Any], left_s: float | None) -> Any:
            try:
                if left_s is not None and left_s <= 0:
                    raise too_late()
                operation, kwargs = operation_of(item)
            except ToolExecutionError as error:
                self.audit_refusal(type(tool_instance).__name__, error)
                raise
            entry = self._operation(tool_instance, operation)
            inv = entry.enter(kwargs)
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
            concurrency=checked_concurrency(concurrency, self.config.io_concurrency),
            deadline_s=checked_deadline(deadline_s),
            fail_fast=fail_fast,
            clock=self._clock,
        )

    # -- tool calls ---------------------------------------------------------------------------------------------------

    async def execute_tool_call(self, tool_call: ToolCall, *, explain: bool = False) -> ToolResult:
        """Run one call and report how it ended; raises nothing for a tool's failure.

        explain has the result tell what each stage of the pipeline decided, by which rule, and how long it took.
        """
        started = self._clock.stopwatch()
        try:
            if tool_call.name == CALL:
                tool_call = self.opened(tool_call)
            entry = self._entries.named(tool_call.name, tool_call.version)
            inv = entry.enter_call(tool_call)
        except ToolExecutionError as error:
            return refused(
                tool_call, self._shown_to(error, tool_call), self._clock.stopwatch() - started, self._services
            )
        except AttributeError as error:
            raise no_call(tool_call, error) from None
        handler = self._entries.explaining(entry) if explain else entry.handler
        try:
            value = await handler(inv)
        except ToolExecutionError as error:
            return failed(tool_call, entry, inv, error, self._clock.stopwatch() - started)
        return succeeded(tool_call, entry, inv, value, self._clock.stopwatch() - started, self._clock.now())

    def execute_sync(self, tool_call: ToolCall, *, explain: bool = False) -> ToolResult:
        """execute_tool_call for callers that block."""
        started = self._clock.stopwatch()
        try:
            if tool_call.name == CALL:
                tool_call = self.opened(tool_call)
            entry = self._entries.named(tool_call.name, tool_call.version)
            inv = entry.enter_call(tool_call)
        except ToolExecutionError as error:
            return refused(
                tool_call, self._shown_to(error, tool_call), self._clock.stopwatch() - started, self._services
            )
        except AttributeError as error:
            raise no_call(tool_call, error) from None
        try:
            value = self._entries.block(entry, inv, explain=explain)
        except ToolExecutionError as error:
            elapsed_s = self._clock.stopwatch() - started
            if isinstance(error.__cause__, NeverBegan):  # no stage has told of it
                refused(tool_call, error, elapsed_s, self._services, entry.definition)
            return failed(tool_call, entry, inv, error, elapsed_s)
        return succeeded(tool_call, entry, inv, value, self._clock.stopwatch() - started, self._clock.now())

    async def execute_tool_calls(
        self,
        tool_calls: Iterable[ToolCall] | AsyncIterable[ToolCall],
        *,
        fail_fast: bool = False,
        concurrency: int | None = None,
        deadline_s: float | None = None,
    ) -> list[ToolResult]:
        """Run calls, at most concurrency (io_concurrency) at a time; one result each, in order.

        With fail_fast, calls that had not ended when one failed are reported as cancelled, with the outcome not_run,
        stopped, or unknown for a body that runs on in its thread; an async iterable is then asked for no more.
        deadline_s holds for all of them together. What is no ToolCall has an error for its result.
        """
        places: list[Place] = []

        def place(call: ToolCall) -> Place:
            places.append(Place(call))
            return places[-1]

        source = each(_iterable(tool_calls), place)
        async for index, result in self._stream(source, fail_fast, concurrency, deadline_s):
            places[index].end(result)
        if isinstance(source, Iterable):
            for _ in source:  # not taken up after a failure
                pass
        return [cancelled(place, self._services) if place.result is None else place.result for place in places]

    def stream_tool_calls(
        self,
        tool_calls: Iterable[ToolCall] | AsyncIterable[ToolCall],
        *,
        fail_fast: bool = False,
        concurrency: int | None = None,
        deadline_s: float | None = None,
    ) -> AsyncIterator[tuple[int, ToolResult]]:
        """Run calls as they come from an iterable of any length; (index, result) as each ends, in flat memory.

        With fail_fast nothing is taken up after a failure, and what still runs is cancelled and not reported. An async
        iterable may be slow: what has ended is given meanwhile.
        """
        return self._stream(each(_iterable(tool_calls), Place), fail_fast, concurrency, deadline_s)

    def _stream(
        self,
        places: Iterable[Place] | AsyncIterable[Place],
        fail_fast: bool,
        concurrency: int | None,
        deadline_s: float | None,
    ) -> AsyncIterator[tuple[int, ToolResult]]:
        return streamed(
            places,
            self._report,
            concurrency=checked_concurrency(concurrency, self.config.io_concurrency),
            deadline_s=checked_deadline(deadline_s),
            stop=(lambda result: not result.success) if fail_fast else None,
            clock=self._clock,
        )

    async def _report(self, place: Place, left_s: float | None) -> ToolResult:
        """execute_tool_call for one place of a batch that has left_s seconds left; its invocation is noted there."""
        call = place.call
        if not isinstance(call, ToolCall):
            return no_tool_call(call, self._services)
        if call.name == CALL:
            call = self.opened(call)
        if left_s is not None:
            if left_s <= 0:
                late = too_late()
                audited(self._services, call, late)
                return failed_result(call.id, call.name, late)
            own = call.deadline_s
            call = dataclasses.replace(call, deadline_s=left_s if own is None else min(own, left_s))
        started = self._clock.stopwatch()
        try:
            entry = self._entries.named(call.name, call.version)
            inv = place.inv = entry.enter_call(call)
        except ToolExecutionError as error:
            return refused(call, self._shown_to(error, call), self._clock.stopwatch() - started, self._services)
        try:
            value = await entry.handler(inv)
        except ToolExecutionError as error:
            return failed(call, entry, inv, error, self._clock.stopwatch() - started)
        return succeeded(call, entry, inv, value, self._clock.stopwatch() - started, self._clock.now())

    async def call(self, tool_name: str, /, **arguments: Any) -> Any:
        """Run a registered tool by name and return its value. Raises ToolExecutionError and its kinds."""
        entry = self._named(tool_name)
        return await entry.handler(entry.enter(arguments))

    def call_sync(self, tool_name: str, /, **arguments: Any) -> Any:
        """call for callers that block."""
        entry = self._named(tool_name)
        return self._entries.block(entry, entry.enter(arguments))

    def run_definition(self, definition: ToolDefinition, inv: Invocation) -> Awaitable[Any]:
        """Run a definition that need not be registered, with an invocation made by the caller."""
        return self._entries.of(definition).handler(inv)

    def opened(self, tool_call: ToolCall) -> ToolCall:
        """The call that is meant: with discovery on, the one that a call of call_tool names; else the call itself."""
        return tool_call if self._discovery is None or tool_call.name != CALL else self._discovery.opened(tool_call)

    async def limits_of(self, tool_call: ToolCall) -> list[LimitStanding]:
        """How the rate limits of a call's tool stand for its caller, spending nothing; for doors' headers.

        Empty for a tool without any, one that is not there, and while the store of the limits is out of reach.
        """
        tool_call = self.opened(tool_call)
        try:
            standing = self._entries.limits(self._entries.named(tool_call.name, tool_call.version))
        except ToolExecutionError:
            return []
        return [] if standing is None else await standing(tool_call.caller)

    # -- tools --------------------------------------------------------------------------------------------------------

    def add(self, tool: Any, *, replace: bool = False) -> list[ToolDefinition]:
        """Register a tool written in any style with this executor; the definitions it gave.

        tool is a BaseTool object or class, a function declared with @Tool, a ToolDefinition, a "module:attribute", or a
        list of these. A Resource or Prompt among them goes into the catalog. Raises ConfigurationError for anything
        else, DuplicateToolError for a name that is taken, DefinitionDriftError for a tool that is not the one in the
        lock file.
        """
        offers, tool = apart(tool)
        definitions = [] if offers and tool is None else definitions_in(tool)
        for offer in offers:
            self.catalog.add(offer, replace=replace)
        if self._guards.pins is not None:
            for definition in definitions:
                self._guards.pins.check(definition)
        for definition in definitions:
            self.registry.register_tool(definition, replace=replace)
        if isinstance(tool, BaseTool) and "_executor" not in tool.__dict__:
            tool._executor = self
        return definitions

    def get_available_tools(self, caller: Caller | None = None) -> list[str]:
        """The names of all tools that can be called by name; with a caller, of those that it may call."""
        if caller is None:
            return self.registry.list_tools()
        return [definition.name for definition in self.tools_for(caller)]

    def get_tool_info(self, tool_name: str, caller: Caller | None = None) -> dict[str, Any]:
        """All that is known of a tool. Raises ToolNotFoundError; with a caller that may not call it, what refuses."""
        if caller is None:
            return self.registry.get_tool_info(tool_name)
        try:
            about = self.registry.get_tool_info(tool_name)
        except ToolNotFoundError as error:
            raise self._visible.unknown(error, tool_name, caller) from None
        about["versions"] = self._visible.versions(tool_name, about, caller)
        return about

    def tools_for(self, caller: Caller, query: str | None = None, limit: int | None = None) -> list[ToolDefinition]:
        """The tools that a caller is shown: those that it could call with some arguments; with a query, best first.

        A tool is left out by the same rules by which its call would be refused. Raises AuthorizerFailedError where a
        policy engine cannot say. Inside an event loop an engine that is async is asked by tools_for_async.
        """
        return self._visible.tools(caller, query, limit)

    async def tools_for_async(
        self, caller: Caller, query: str | None = None, limit: int | None = None
    ) -> list[ToolDefinition]:
        """tools_for, which awaits engines that are async."""
        return await self._visible.listed(caller, query, limit)

    def tools_for_model(self, caller: Caller) -> list[ToolDefinition]:
        """What a model that acts for this caller is shown: tools_for, or with discovery on, three tools in their place.

        Those find, describe and call all that tools_for has.
        """
        return self.tools_for(caller) if self._discovery is None else list(self._discovery.tools.values())

    async def tools_for_model_async(self, caller: Caller) -> list[ToolDefinition]:
        """tools_for_model, which awaits engines that are async."""
        return await self.tools_for_async(caller) if self._discovery is None else list(self._discovery.tools.values())

    def tool_named(self, name: str, version: str | None = None) -> ToolDefinition:
        """The tool that a call of this name runs. Raises ToolNotFoundError."""
        return self._entries.own.get(name) or self.registry.get_tool(name, version)

    # -- watching -----------------------------------------------------------------------------------------------------

    def get_metrics(self) -> dict[str, Any]:
        """requests, failures, cache_hits, avg_processing_time (s) and more, in constant memory."""
        metrics = self._metrics.to_dict()
        metrics["tool_threads_abandoned"] = self._thread_pool.abandoned_total + self._resources.loop.abandoned_total
        metrics["active_threads"] = len(self._thread_pool._threads)
        metrics["cache_entries"] = len(self._cache)
        return metrics

    @property
    def figures(self) -> Figures:
        """What Prometheus is told, which doors and workers count their own in."""
        return self._figures

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
        pool, loops_blocked = self._thread_pool, self._resources.loop.abandoned_now
        problems = []
        if self._closed:
            problems.append("the executor is closed")
        if pool.abandoned_now:
            problems.append(f"{pool.abandoned_now} bodies outlived their deadline and still hold a thread")
        if loops_blocked:
            problems.append(f"{loops_blocked} event loops are blocked by async bodies that outlived their deadline")
        if self._guards.audit is not None and self._guards.audit.problem is not None:
            problems.append(f"the audit log cannot be written: {self._guards.audit.problem}")
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
            "threads_abandoned": pool.abandoned_now + loops_blocked,
            "tools": len(self.registry.list_tools()),
            "timestamp": self._clock.now(),
        }

    # -- operating ----------------------------------------------------------------------------------------------------

    @property
    def records(self) -> Records:
        """Where idempotency claims and tasks survive."""
        return self._stores.records

    @property
    def state(self) -> State:
        """Where limits, circuits and claims that need not survive live."""
        return self._stores.state

    @property
    def blobs(self) -> Blobs:
        """Where large results and artifacts are kept."""
        return self._stores.blobs

    @property
    def admission(self) -> Admission:
        """What can be said of calls without running them, for doors and queues."""
        return Admission(self._entries, self._services, self._shown_to)

    @property
    def clock(self) -> Clock:
        """The clock that everything here goes by."""
        return self._clock

    @property
    def egress(self) -> EgressGuard:
        """The guard of where requests may go."""
        return self._guards.egress

    def derived_keys(self, purpose: str) -> list[bytes]:
        """Keys for one purpose, made of secret_key and the ones before it: newest first, none where there is none."""
        return derived_keys(self.config, self._guards.secrets.opened, purpose)

    def claims(self, where: Literal["auto", "records", "state"] = "auto") -> ClaimOperations:
        """Idempotency claims, for operators: those in records or state; auto: where tools that do not say have them."""
        return ClaimOperations(claims_of(Idempotency(claims_in=where), self._services), self._clock)

    @property
    def authenticator(self) -> Authenticator:
        """Makes callers of what requests come with: bearer tokens by the settings jwt_..., API keys by records."""
        return self._guards.authenticator

    @property
    def api_keys(self) -> ApiKeys:
        """The API keys in records: create, list, revoke, rotate."""
        return self._guards.authenticator.api_keys

    @property
    def authorizations(self) -> AuthorizationManager:
        """Users' grants at OAuth providers: by the settings oauth_..., or as handed in by authorization=."""
        manager = self._guards.oauth
        if manager is None:
            raise ConfigurationError(
                "there is no OAuth provider: set oauth_issuer, oauth_client_id and oauth_redirect_uri, or hand in "
                "ToolExecutor(authorization=AuthorizationManager(...))"
            )
        return manager  # type: ignore[no-any-return]

    @property
    def _visible(self) -> Visibility:
        return Visibility(self.registry, self._services)

    def _shown_to(self, error: ToolExecutionError, call: ToolCall) -> ToolExecutionError:
        """Why a call was refused; of tools that its caller is not shown it names none."""
        return self._visible.unknown(error, call.name, call.caller) if isinstance(error, ToolNotFoundError) else error

    @property
    def approvals(self) -> ApprovalOperations:
        """Calls that wait for a person, for those who decide about them."""
        return ApprovalOperations(self._guards.approvals, self.registry, self._clock)

    async def execute_approved(self, approval_id: str, *, caller: Caller | None = None, **fields: Any) -> ToolResult:
        """Make the call that was approved, with exactly the arguments that were approved; it runs once.

        caller is whoever the call is for, with the scopes and roles that the tool asks for: without it, the user of the
        record with none. fields are further ones of ToolCall, such as idempotency_key. An id whose call was approved
        with other arguments makes that call. What is not approved is refused as any call is.
        """
        return await self.execute_tool_call(await self.approved_call(approval_id, caller=caller, **fields))

    async def approved_call(self, approval_id: str, *, caller: Caller | None = None, **fields: Any) -> ToolCall:
        """The call that execute_approved makes, for doors that make it themselves.

        Raises ConfigurationError where there is none, or its arguments are not kept in full; PermissionDeniedError for
        another caller than the one it was asked for.
        """
        return await approved_call(self._guards.approvals, approval_id, caller, fields)

    @property
    def audit(self) -> AuditOperations:
        """The audit log in records, for operators: verify, export, newest, rotate."""
        opened = self._guards.secrets.opened
        key, keys = audit_key_of(self.config, opened), audit_keys_of(self.config, opened)
        return AuditOperations(self._stores.records, key, keys, self._clock, self._guards.audit)

    @property
    def circuits(self) -> CircuitOperations:
        """The breakers' circuits, for operators."""
        return CircuitOperations(local_circuits(self._services), self._stores.state, self._clock)

    def audit_note(self, kind: str, **fields: Any) -> None:
        """Have the audit log, where there is one, say that something happened which is no call. Never raises."""
        noted(self._guards.audit_log, kind, **fields)

    def audit_refusal(
        self,
        tool: str,
        error: ToolExecutionError,
        *,
        call_id: str | None = None,
        caller: Caller = ANONYMOUS,
        task_id: str | None = None,
    ) -> None:
        """Have the audit log tell of a call that was refused before this executor saw it, as doors do."""
        if self._guards.audit is not None:
            self._guards.audit.refused(call_id or new_id(), tool, error, caller, task_id)

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
        """Forget every kept result, those in a shared cache too; how many there were. It may block for a second."""
        return clear_cache(self._services)

    def screen_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Screen arguments as those of a tool that declares @sanitize_input. Raises SecurityError."""
        if not self._services.screening:
            return
        level: Any = self._services.security_level
        for name, value in arguments.items():
            role = role_of(name)
            judge = Screen(role, level, untrusted=True, extra=self._services.rules, private=self._services.private)
            finding = judge.check(value)
            if finding is not None:
                raise refusal(name, finding)

    # -- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End threads, processes and the loop for blocking callers. Calls made afterwards raise OverloadedError."""
        self._closed = True
        self._unwatch()
        self._metrics_port.close()
        self._entries.close()
        for kept in [*self._earlier_keepers, *self._shared.values()]:
            getattr(kept, "close", lambda: None)()
        self._guards.close()
        self._resources.close()
        self._stores.close()

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
            defaults=Policies(
                timeout=timeout,
                rate_limit=rate,
                screening=Screening(),
                cache=None,
                idempotency=Idempotency(only_caller=True, in_flight="refuse")
                if config.idempotency_keys == "all"
                else None,
            ),
            limits=Limits(max_bytes=config.max_input_size, max_depth=config.max_depth, max_items=config.max_items),
            cache_enabled=config.enable_cache,
            cache_ttl_s=float(config.cache_ttl),
            cancel_grace_s=config.cancel_grace_s,
            screening=config.enable_security_checks,
            security_level="strict" if strict else config.security_level,
            rules=(*self._rules, *rules_named(config.rules)),
            private=config.egress_private,
            authorizer=self._authorizer,
            policy_engine=self._guards.policy_engine,
            tracer=self._tracer,
            redactor=self._guards.redactor,
            guards=self._guards,
            secrets=self._guards.secrets,
            oauth=self._guards.oauth,
            approvals=self._guards.approvals,
            audit=self._guards.audit,
            pins=self._guards.pins,
            state=self._stores.state,
            records=self._stores.records,
            blobs=self._stores.blobs,
            shared_cache=self._stores.shared_cache,
            cache_max_bytes=config.cache_max_bytes,
            cache_front_ttl_s=config.cache_front_ttl,
            retry_attempts=max(1, config.retry_attempts),
            retry_backoff_s=config.retry_backoff,
            lock_of=self.get_lock,
            usage=self._usage,
            owner=self._owner,
            shared=self._shared,
        )

    def _reconfigured(self, field: str) -> None:
        """A setting changed: what hangs on it is made anew before the next call."""
        unsupported = refuse_unsupported(self.config)
        if unsupported:
            raise ConfigurationError("; ".join(unsupported))
        with self._entries.lock:
            for name in self._stores.follow(self.config):  # a keeper renews claims in one store
                keeper = self._shared.pop(f"keeper of {name}", None)
                self._earlier_keepers += [] if keeper is None else [keeper]
            self._guards.follow(self.config)
            self._cache.resize(self.config.cache_size, self.config.cache_max_bytes)
            self._resources.resize(self.config.max_workers)
            self._services = self._make_services()
            self._watch_debug()
            self._watch_discovery()
            self._watch_audit()
            self._entries.renew(self._services)
        self._metrics_port.follow(self)
        if self._guards.audit is not None:
            self._guards.audit.note("settings", changed=field)

    def _watch_debug(self) -> None:
        """Have every event logged while debug is on."""
        if self.config.debug != (debug_log in self._observers):
            (self._observers.append if self.config.debug else self._observers.remove)(debug_log)

    def _watch_discovery(self) -> None:
        """Have the three tools that find all others, while discovery is on, and count what callers use."""
        if self.config.discovery and self._discovery is None:
            self._discovery = Discovery(self)
            self._observers.append(self._discovery.usage.note)
        elif not self.config.discovery and self._discovery is not None:
            self._observers.remove(self._discovery.usage.note)
            self._discovery = None
        self._entries.own = {} if self._discovery is None else self._discovery.tools

    def _watch_audit(self) -> None:
        """Have the audit log of now, and no other, told how calls end."""
        before, self._audited = self._audited, self._guards.audit
        if before is not self._audited:
            if before is not None:
                self._observers.remove(before.observe)
            if self._audited is not None:
                self._observers.append(self._audited.observe)

    def _named(self, name: str) -> Entry:
        """The entry of a tool that is called by name; where there is none, that is audited."""
        try:
            return self._entries.named(name, None)
        except ToolExecutionError as error:
            self.audit_refusal(str(name), error)
            raise

    def _operation(self, tool: Any, operation: str) -> Entry:
        """The entry of an operation of a tool object; where there is none, that is audited."""
        try:
            return self._entries.operation(tool, operation)
        except ToolExecutionError as error:
            self.audit_refusal(f"{type(tool).__name__}.{operation}", error)
            raise

    def _start(self, tool: Any, operation: str, kwargs: dict[str, Any]) -> Any:
        """The awaitable of one operation."""
        entries = self._entries
        try:
            bound = tool.__dict__["_toolpost_bound"]
            if bound.owner is not entries or bound.epoch != entries.epoch:
                bound = entries.bind(tool)
            entry: Entry = bound.entries[operation]
        except (AttributeError, KeyError, TypeError):
            entry = self._operation(tool, operation)
        inv = Invocation()
        inv.arguments = kwargs
        if entry.scoped and ("user_id" in kwargs or "task_id" in kwargs):
            entry.scope(inv, kwargs)
        return entry.handler(inv)

    def _run(self, tool: Any, operation: str, kwargs: dict[str, Any]) -> Any:
        """One operation for a thread that waits: as _start, written out once more as each frame less is felt."""
        entries = self._entries
        try:
            bound = tool.__dict__["_toolpost_bound"]
            if bound.owner is not entries or bound.epoch != entries.epoch:
                bound = entries.bind(tool)
            entry: Entry = bound.entries[operation]
        except (AttributeError, KeyError, TypeError):
            entry = self._operation(tool, operation)
        inv = Invocation()
        inv.arguments = kwargs
        if entry.scoped and ("user_id" in kwargs or "task_id" in kwargs):
            entry.scope(inv, kwargs)
        if entry.needs_loop:
            return entries.block(entry, inv)
        inv.blocking = True
        try:
            entry.handler(inv).send(None)  # type: ignore[attr-defined]
        except StopIteration as done:
            return done.value
        raise EngineError("a blocking call met something that has to wait for an event loop")

    def _emit(self, event: Event) -> None:
        if self._guards.redactor.active and isinstance(event, (Logged, Progressed)):  # what a body says as it runs
            event = self._guards.redactor.value(event)
        if isinstance(event, Logged):
            self._services.log.logged(event)
        emit(self._services, event)


def _config(config: Mapping[str, Any] | ExecutorConfig | None, settings: dict[str, Any]) -> ExecutorConfig:
    if isinstance(config, ExecutorConfig):
        made = config.model_copy(update=settings) if settings else config
    elif config is None or isinstance(config, Mapping):
        made = ExecutorConfig.load({**(config or {}), **settings})
    else:
        raise ConfigurationError(f"config must be a dict or an ExecutorConfig, got {type(config).__name__}")
    unsupported = refuse_unsupported(made)
    if unsupported:
        raise ConfigurationError("; ".join(unsupported))
    return made


def _iterable(calls: Iterable[ToolCall] | AsyncIterable[ToolCall]) -> Iterable[ToolCall] | AsyncIterable[ToolCall]:
    """calls as they are. Raises InputValidationError for what cannot be gone through."""
    if isinstance(calls, (Iterable, AsyncIterable)):
        return calls
    raise InputValidationError(
        f"Parameter validation failed: tool_calls must be a list or another iterable of ToolCalls, "
        f"got {type(calls).__name__}"
    )


def _watch(executor: ToolExecutor) -> Callable[[], None]:
    """Tell an executor of changes to its config for as long as both live; what comes back ends that."""
    reconfigured = weakref.WeakMethod(executor._reconfigured)

    def changed(field: str) -> None:
        method = reconfigured()
        if method is None:
            end()
        else:
            method(field)

    end = executor.config.on_change(changed)
    return end


def _recompiling(executor: ToolExecutor) -> Callable[[], None]:
    """Has an executor that lives compile its tools anew: from its first secret on their chains hide what it knows."""
    alive = weakref.ref(executor)

    def compile_anew() -> None:
        one = alive()
        if one is not None:
            with one._entries.lock:
                one._entries.renew(one._services)

    return compile_anew


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
