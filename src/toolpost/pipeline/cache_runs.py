"""Kept: how the results of one tool are kept and given again; one run for all who ask at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from toolpost.calls.content import read_by_programs
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    CallCancelledError,
    ClaimLostError,
    EngineError,
    OperationError,
    Rejected,
    StoreUnavailableError,
    ToolError,
    ToolExecutionError,
    ToolTimeoutError,
)
from toolpost.calls.policies import Cache, given
from toolpost.pipeline.cache_keys import SCOPES, arguments_of, prefix_of, shared_key
from toolpost.pipeline.deadline import timed_out, within
from toolpost.pipeline.encode import to_json
from toolpost.pipeline.failures import kind_of, root_of
from toolpost.pipeline.flights import Flight, Leads, Waits, left_s
from toolpost.pipeline.holding import with_all_places
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.refreshes import Refreshes
from toolpost.pipeline.services import Services
from toolpost.pipeline.settle import translated
from toolpost.pipeline.shared_cache import encoded, encoded_error, shared_cache
from toolpost.pipeline.steps import stepped
from toolpost.pipeline.tags import Tags, tags_of
from toolpost.runners.threads import lending
from toolpost.stores.memory import Entry, copied

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")
ALONE = object()
"""What a run leaves whose value cannot be copied: those who waited run for themselves, all at the same time."""
SCOPE_BYTES = 64
"""About what the ids in a key take."""
LEADING: ContextVar[tuple[Any, ...]] = ContextVar("toolpost_leads", default=())
"""(call, what was here before) of the calls that lead a run in this context: a body that calls its own tool must not
wait for itself."""


class Failed:
    """A failure that is kept in a value's place. Its size is that of its fields."""

    def __init__(self, error: ToolExecutionError) -> None:
        self.error = twin(error)
        self.error.__cause__ = None
        self.said = [error.message, error.details]

    def __deepcopy__(self, memo: object) -> Failed:
        return self


class Begun:
    """What was so before a body ran: it is not kept if the cache was cleared, or one of its tags void, since."""

    __slots__ = ("clears", "marks", "name", "since", "tags")

    def __init__(self, tags: tuple[str, ...], since: int, clears: int) -> None:
        self.tags, self.since, self.clears = tags, since, clears
        self.marks: dict[str, int] | None = None
        """The tags' marks in the shared cache; None where it is out of reach, so that nothing can be put there."""
        self.name: str | None = None
        """The key in the shared cache: made before the body, which may change its arguments."""


class Kept:
    """What the stage cache does for one tool beyond a plain hit; made at compile."""

    def __init__(self, tool: ToolDefinition, services: Services, policy: Cache, next: Handler) -> None:
        self.tool, self.services, self.policy, self.next = tool, services, policy, stepped(next)
        self.store, self.clock = services.cache, services.clock
        self.leads = services.the("leads", Leads)
        self.waits = services.the("waits", Waits)
        self.tags = services.the("tags", Tags)
        self.fill = tags_of(tool, policy.tags, "tags") if policy.tags else None
        self.shared = shared_cache(services)
        self.shared_key = shared_key(tool, policy.per) if self.shared is not None else None
        self.refreshes = services.the("refreshes", Refreshes)
        self.again = stepped(with_all_places(tool, services, next, patient=True)) if policy.stale_s else self.next
        """What renews: it runs behind the limits, where calls stand, and so takes a place of its own."""
        self.front_s = services.cache_front_ttl_s
        self.ttl = policy.ttl_s if callable(policy.ttl_s) else None
        self.fixed_ttl_s = services.cache_ttl_s if policy.ttl_s is None or callable(policy.ttl_s) else policy.ttl_s
        timeout = given(tool.policies.over(services.defaults).timeout)
        self.limit_s = timeout.total_s if timeout is not None else None
        self.plain = not (policy.stale_s or policy.negative_s or policy.tags or self.shared_key is not None)
        """Whether a hit needs nothing but the entry."""
        takes_context = getattr(tool.body, "context", None) is not None  # what may give artifacts
        self.lean = self.plain and self.ttl is None and tool.output_check is None and not takes_context
        """Whether a value needs only to be put."""
        self.max_bytes = policy.max_bytes
        self.keep = services.cache.keeper(self.fixed_ttl_s, policy.max_bytes)
        self.prefix = prefix_of(tool)
        self.prefix_bytes = len(self.prefix) + SCOPE_BYTES

    # -- what is there ------------------------------------------------------------------------------------------------

    def found(self, key: Hashable) -> Entry | None:
        """The entry that may be given, fresh or stale."""
        entry = self.store.entries.get(key)
        if entry is None or entry.gone <= self.clock.monotonic() or not self.tags.hold_for(entry):
            return None
        return entry

    def give(self, inv: Invocation, key: Hashable, entry: Entry, decision: str = "hit") -> Any:
        """The entry's value, or its failure raised; a stale one is renewed in the background."""
        inv.source = "cache"
        with contextlib.suppress(KeyError):  # another thread evicted it meanwhile
            self.store.entries.move_to_end(key)
        value = entry.value
        stale = entry.ends <= self.clock.monotonic()
        if inv.explain is not None:
            inv.note("cache", "stale" if stale else decision)
        if value.__class__ is Failed:
            error = twin(value.error)
            error.details["cached"] = True
            raise error
        if stale:
            self._renew(inv, key)
        return value if entry.plain else copied(value)

    # -- a run for all who ask ----------------------------------------------------------------------------------------

    def begun(self, clears: int) -> Begun:
        """What is so before a body without tags runs."""
        return Begun((), self.tags.now, clears)

    async def flown(
        self,
        work: Awaitable[Any],
        inv: Invocation,
        key: Hashable,
        air: Any,
        before: Any,
        clears: int,
        begun: Begun | None,
    ) -> Any:
        """The rest of a run that has suspended."""
        try:
            value = await work
            outcome = self.kept(inv, key, clears, begun, value)
        except BaseException as raised:
            self.over(inv, key, air, before, begun or self.begun(clears), raised)
            raise
        self.leads.end(air, inv, outcome)
        LEADING.set(before)
        return value

    def over(self, inv: Invocation, key: Hashable, air: Any, before: Any, begun: Begun, raised: BaseException) -> None:
        """A run failed."""
        outcome: Any = None
        try:
            if isinstance(raised, Exception) and inv.ran:
                outcome = self._failed(inv, key, raised, begun)
        finally:
            self.leads.end(air, inv, outcome)
            LEADING.set(before)

    def kept(self, inv: Invocation, key: Hashable, clears: int, begun: Begun | None, value: Any) -> Any:
        """What those who joined are given of a value; it is kept where that may be."""
        outcome: Any = None
        if begun is not None:
            outcome = self._keep(inv, key, value, begun)
        elif clears == self.store.clears:
            outcome = self.store.put(key, value, self.fixed_ttl_s, max_bytes=self.max_bytes)
        if outcome is None and inv.joined is not None:
            outcome = loose(value)
        return outcome

    async def miss(self, inv: Invocation, key: Hashable) -> Any:
        """Run the body, or wait for the run of an equal call, or find what another process has kept."""
        store, leads = self.store, self.leads
        tags = self.fill(inv.kwargs) if self.fill is not None else ()
        while True:
            # Who asks after tags were made void, or the cache cleared, must not be given what was begun before.
            clears = store.clears
            air: Any = (key, clears, self.tags.counts(tags)) if tags else (key, clears) if clears else key
            leader = leads.begin(air, inv)
            if leader is inv:
                break
            led = led_here()
            if (inv.blocking and asyncio._get_running_loop() is not None) or not self.waits.begin(led, leader):
                return await self.next(inv)  # who waits here may be who is waited for
            try:
                flight = leads.join(air, leader)
                if flight is not None:
                    await self._landed(inv, flight)
            finally:
                self.waits.end(led, leader)
            if flight is not None and flight.outcome is not None:
                return await self.next(inv) if flight.outcome is ALONE else self._joined(inv, flight.outcome)
            entry = self.found(key)
            if entry is not None:
                return self.give(inv, key, entry)
        outcome: Any = None
        before = LEADING.get()
        LEADING.set((inv, before))
        begun = Begun(tags, self.tags.now, store.clears)
        try:
            outcome = await self._elsewhere(inv, key, begun)
            if outcome is not None:
                return self.give(inv, key, outcome)
            if inv.explain is not None:
                inv.note("cache", "miss")
            value = await self.next(inv)
            outcome = self.kept(inv, key, clears, begun, value)
            return value
        except Exception as raised:
            if outcome is None and inv.ran:
                outcome = self._failed(inv, key, raised, begun)
            raise
        finally:
            leads.end(air, inv, outcome)
            LEADING.set(before)

    async def _landed(self, inv: Invocation, flight: Flight) -> None:
        """Wait for a flight within this call's own deadline."""
        if not inv.blocking:
            await flight.over()
            return
        with lending():
            if not flight.wait(self.clock, left_s(inv, self.clock.stopwatch())):
                raise timed_out(inv.limit_s or 0.0, inv)

    def _joined(self, inv: Invocation, outcome: Any) -> Any:
        inv.source = "cache"
        if inv.explain is not None:
            inv.note("cache", "joined")
        if isinstance(outcome, ToolExecutionError):
            raise twin(outcome) from outcome.__cause__
        if outcome.value.__class__ is Failed:
            raise twin(outcome.value.error)
        return outcome.value if outcome.plain else copied(outcome.value)

    async def _elsewhere(self, inv: Invocation, key: Hashable, begun: Begun) -> Entry | None:
        """What another flight has brought since this call looked, or a refresh brings, or the shared cache has."""
        entry = self.found(key)
        if entry is None and self.policy.stale_s:
            entry = await self._renewed(inv, key)
        if entry is None and self.shared_key is not None:
            entry = await self._look(inv, key, begun)
        return entry

    def look_ahead(self, inv: Invocation) -> None:
        """Ask the shared cache now for what this call will look for, so that it travels with what is asked besides."""
        shared, clears = self.shared, self.store.clears
        arguments = arguments_of(inv) if self.fill is None else None  # what tags make void in between must be seen
        if shared is None or self.shared_key is None or arguments is None:
            return
        key = (self.prefix, SCOPES[self.policy.per](inv), arguments)
        if self.found(key) is not None or key in self.leads.leaders:
            return
        name = self.shared_key(inv, arguments)
        with contextlib.suppress(StoreUnavailableError):
            inv.ahead = (name, clears, shared.ask(name))

    async def _look(self, inv: Invocation, key: Hashable, begun: Begun) -> Entry | None:
        """What the shared cache has, kept here for a moment."""
        assert self.shared is not None
        begun.name = name = self._shared_name(inv)
        if name is None:
            return None
        asked, inv.ahead = inv.ahead, None
        if asked is not None:
            asked = asked[2] if asked[:2] == (name, begun.clears) else None
        try:
            found, begun.marks = await self.shared.get(name, begun.tags, inv, asked)
        except StoreUnavailableError:
            if self.policy.when_down == "refuse":
                raise
            if inv.explain is not None:
                inv.note("cache", "skipped", why="the shared cache is out of reach")
            return None
        if found is None or found.left_s <= 0:
            return None
        value = found.value if found.error is None else Failed(found.error)
        now, tags, since = self.clock.monotonic(), begun.tags, begun.since
        if found.fresh_s > 0 and begun.clears == self.store.clears:
            entry = self.store.put(key, value, min(self.front_s, found.fresh_s), tags=tags, since=since)
            if entry is not None:
                return entry
        return Entry(now + found.fresh_s, False, value, 0, now + found.left_s, tags, since)

    def _shared_name(self, inv: Invocation) -> str | None:
        arguments = arguments_of(inv)
        return None if arguments is None or self.shared_key is None else self.shared_key(inv, arguments)

    # -- keeping ------------------------------------------------------------------------------------------------------

    def _keep(self, inv: Invocation, key: Hashable, value: Any, begun: Begun) -> Entry | None:
        """Keep a value, unless it is none, or void by now. Raises OutputValidationError for what is no result."""
        if inv.artifacts:
            return None  # a hit would be less than the run was
        output_check = self.tool.output_check
        if inv.encode or output_check is not None:
            json = to_json(value)  # raises for what is no result: that is never kept
            if output_check is not None and output_check.explain(read_by_programs(json)) is not None:
                return None  # validate, further out, says what is wrong with it
        ttl_s = self.fixed_ttl_s if self.ttl is None else self._ttl_of(self.ttl, value, inv.kwargs)
        policy, tags = self.policy, begun.tags
        if not ttl_s > 0 or begun.clears != self.store.clears or (tags and not self.tags.hold(tags, begun.since)):
            return None
        stale_s = policy.stale_s
        if self.shared is not None and self.shared_key is not None:
            data = encoded(value, policy.max_bytes)
            if data is not None and begun.marks is not None and begun.name is not None:
                self.shared.put(begun.name, data, ttl_s, stale_s, begun.marks)
            if data is not None or tags:  # what other processes make void, or renew, is not heard of here
                ttl_s, stale_s = min(self.front_s, ttl_s), 0.0
        if self.plain:
            return self.store.put(key, value, ttl_s, max_bytes=policy.max_bytes)
        return self.store.put(
            key, value, ttl_s, stale_s=stale_s, max_bytes=policy.max_bytes, tags=tags, since=begun.since
        )

    def _ttl_of(self, ttl: Callable[..., float | None], value: Any, arguments: Mapping[str, Any]) -> float:
        try:
            chosen = ttl(value, arguments)
            return self.fixed_ttl_s if chosen is None else float(chosen)
        except Exception:
            logger.exception("ttl of %s failed; the result is not kept", self.tool.name)
            return 0.0

    def _failed(self, inv: Invocation, key: Hashable, raised: Exception, begun: Begun) -> ToolExecutionError | None:
        """What a failure is for those who joined; kept where the policy wants that."""
        negative_s = self.policy.negative_s
        error = translated(raised, self.tool, inv, inv.limit_s)
        if error is not raised and error.__cause__ is None and not isinstance(raised, ToolExecutionError):
            error.__cause__ = raised
        valid = begun.clears == self.store.clears and self.tags.hold(begun.tags, begun.since)
        if negative_s > 0 and valid and is_answer(error):
            if self.shared is not None and begun.name is not None and begun.marks is not None:
                data = encoded_error(error, self.policy.max_bytes)
                if data is not None:
                    self.shared.put(begun.name, data, negative_s, 0.0, begun.marks)
                    negative_s = min(negative_s, self.front_s)
            limit, tags = self.policy.max_bytes, begun.tags
            self.store.put(key, Failed(error), negative_s, max_bytes=limit, tags=tags, since=begun.since)
        if isinstance(error, (Rejected, EngineError, CallCancelledError, ClaimLostError)):
            return None
        if isinstance(root_of(error), Rejected):
            return None  # an inner call was refused, perhaps for a limit or a right of this caller
        if isinstance(error, ToolTimeoutError):
            left = left_s(inv, self.clock.stopwatch())
            if left is not None and left <= 0:
                return None  # it was this caller's own deadline
        return error

    # -- renewing -----------------------------------------------------------------------------------------------------

    def _renew(self, inv: Invocation, key: Hashable) -> None:
        """Have one run in the background renew a stale entry."""
        flight, leads = self.refreshes.board(key)
        if not leads:
            return
        try:
            again = Invocation.of(copied(inv.arguments))
            again.kwargs = copied(inv.kwargs)
        except Exception as error:  # who was called may change what it gave us, and it cannot be copied
            self.refreshes.flights.land(key, flight)
            self.refreshes.failed(key, self.tool.name, error)
            return
        again.caller, again.task_id, again.encode, again.blocking = inv.caller, inv.task_id, inv.encode, inv.blocking
        again.handed, again.limit_s, again.started = inv.handed, self.limit_s, self.clock.stopwatch()
        again.grant = inv.grant
        if not self.refreshes.start(key, partial(self._refresh, again, key, flight), inv.blocking):
            self.refreshes.flights.land(key, flight)

    async def _refresh(self, inv: Invocation, key: Hashable, flight: Flight) -> None:
        outcome = None
        try:
            tags = self.fill(inv.kwargs) if self.fill is not None else ()
            begun = Begun(tags, self.tags.now, self.store.clears)
            if self.shared is not None and self.shared_key is not None:
                begun.name = self._shared_name(inv)
                with contextlib.suppress(StoreUnavailableError):
                    begun.marks = await self.shared.marks(tags, inv)
            work = self.again(inv)
            if work is inv or inv.blocking or inv.limit_s is None:
                value = await work
            else:
                value = await within(work, inv.limit_s, self.services, inv)
            outcome = self._keep(inv, key, value, begun)
            self.refreshes.succeeded(key)
        except Exception as error:
            self.refreshes.failed(key, self.tool.name, error)
        finally:
            self.refreshes.flights.land(key, flight, outcome)

    async def _renewed(self, inv: Invocation, key: Hashable) -> Entry | None:
        """What a refresh that runs now brings, for a call that came when the stale entry was gone."""
        flight = self.refreshes.at(key)
        if flight is None or (inv.blocking and asyncio._get_running_loop() is not None):
            return None
        await self._landed(inv, flight)
        return self.found(key)


def led_here() -> list[Invocation]:
    """The calls within whose bodies this is."""
    found, led = [], LEADING.get()
    while led:
        found.append(led[0])
        led = led[1]
    return found


def loose(value: Any) -> Any:
    """A value that is not kept, for those who asked meanwhile; ALONE where it cannot be given to several."""
    try:
        return Entry(0.0, False, copied(value), 0, 0.0)
    except Exception:
        return ALONE


def twin(error: ToolExecutionError) -> ToolExecutionError:
    """An equal error: one object must not be raised by two callers. It has no traceback and no cause."""
    try:
        made = copy.copy(error)
    except Exception:  # an author's own class that cannot be copied
        made = ToolError(error.message, error.retryable, error.code)
    try:
        made.details = copied(error.details)
    except Exception:
        made.details = dict(error.details)
    made.__traceback__ = made.__context__ = None
    return made


def is_answer(error: ToolExecutionError) -> bool:
    """Whether a failure is the tool's own answer, which it would give again: not one that passes."""
    if not isinstance(error, (OperationError, ToolError)) or isinstance(root_of(error), (Rejected, EngineError)):
        return False
    return kind_of(error) in (None, "tool_error")
