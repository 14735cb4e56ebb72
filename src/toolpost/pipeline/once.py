"""once: calls with one idempotency key run the body once; the rest get what the first one left."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from toolpost.calls.context import ToolContext
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    EngineError,
    InputRequiredError,
    OutcomeUnknownError,
    StoreUnavailableError,
    ToolTimeoutError,
)
from toolpost.calls.policies import Idempotency, Reconciled, given
from toolpost.pipeline.answers import answered
from toolpost.pipeline.cache import AHEAD
from toolpost.pipeline.flights import Flight, Leads, left_s
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.keeper import Held, Keeper
from toolpost.pipeline.key_refusals import (
    already_done,
    claim_lost,
    claim_stopped,
    in_progress,
    key_mismatch,
    outcome_unknown,
)
from toolpost.pipeline.keys import fingerprint, key_maker
from toolpost.pipeline.memories import remember, remembered
from toolpost.pipeline.replays import (
    INLINE_MAX_BYTES,
    JSON,
    kept_failure,
    kept_value,
    raise_kept,
    value_of,
    written,
)
from toolpost.pipeline.services import Services
from toolpost.pipeline.steps import stepped, steps
from toolpost.runners.function import context_for
from toolpost.stores import Answer, Claim, ClaimAsk, Claims, Pending

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")

dumps, loads = orjson.dumps, orjson.loads
SIMPLE = frozenset({int, str, bool, type(None)})
"""Values of these classes are JSON as they are, or not at all."""
REPLAYED = "replays the result of an earlier call"
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
"""How often a duplicate of a call that runs in another process looks whether it has ended."""


def once(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Claim the key, run, keep the result; or replay it, wait for it, or refuse. Not in the chain without a policy."""
    policy = given(tool.policies.over(services.defaults).idempotency)
    if policy is None:
        return next
    return _Once(tool, services, policy, next).handler()


def claims_of(policy: Idempotency, services: Services) -> Claims:
    """Where a policy's claims live: durable Records go before a shared State, that before memory."""
    if policy.claims_in == "records" or (policy.claims_in == "auto" and services.records.durable):
        return services.records
    return services.state


class _Once:
    """What the stage has looked up at registration, and the steps of one call."""

    def __init__(self, tool: ToolDefinition, services: Services, policy: Idempotency, next: Handler) -> None:
        self.tool, self.services, self.policy, self.next = tool, services, policy, stepped(next)
        self.clock = services.clock
        claims = self.claims = claims_of(policy, services)
        where = "records" if claims is services.records else "state"
        self.where = claims.url  # type: ignore[attr-defined]
        self.leads: Leads = services.the(f"claims in {where}", Leads)
        self.keeper: Keeper | None = None
        self.look_ahead: Callable[[Invocation], None] | None = None
        if not claims.local:
            self.keeper = services.the(f"keeper of {where}", lambda: Keeper(claims, services.clock))
            self.look_ahead = getattr(next, AHEAD, None)
        self.key_of = key_maker(tool, policy)
        self.by_arguments = policy.generator is None and policy.key_fields is None
        hints = tool.hints
        self.safe = policy.rerun_unknown or hints.read_only is True or hints.idempotent is True

    def handler(self) -> Handler:
        """The stage. Where claims are at hand, a replay and a body that never suspends cost no coroutine."""
        tool, policy, services, claims = self.tool, self.policy, self.services, self.claims
        next, key_of, by_arguments, slowly, led = self.next, self.key_of, self.by_arguments, self._slowly, self._led
        leaders, end, local = self.leads.leaders, self.leads.end, claims.local
        grant: Any = None
        done: Any = None
        if local:
            grant, done = claims.at_hand(services.owner, tool.name, policy.ttl_s)  # type: ignore[attr-defined]
        persists, ttl_s = policy.persist_result, policy.ttl_s
        lease_s = math.inf if local else policy.lease_s
        take_over, rerun_failed = self.safe or policy.reconcile is not None, policy.failures == "run"
        owner, name, asked = services.owner, tool.name, itertools.count(1).__next__

        def handler(inv: Invocation) -> Awaitable[Any]:
            key = key_of(inv)
            if key is None:
                if inv.explain is not None:
                    inv.note("once", "no key: the call runs without the policy")
                return next(inv)
            # A key that is made of all arguments needs no fingerprint of them.
            print_of = None if by_arguments and inv.idempotency_key is None else fingerprint(tool, inv)
            tenant = inv.caller.tenant or ""
            row = None
            if grant is not None and inv.handed is None and key not in leaders:
                row = grant(key, print_of, tenant)
            if row.__class__ is not tuple:
                if row is None or row[:1] != JSON:
                    # Each ask has an owner of its own, so that a claim whose grant nobody heard of can be told.
                    whose = owner if local else f"{owner}/{asked()}"
                    return slowly(
                        inv, ClaimAsk(key, print_of, whose, lease_s, ttl_s, take_over, rerun_failed, name, tenant)
                    )
                inv.value = loads(row[1:])
                inv.source = "replay"
                inv.effect_key = key
                if inv.explain is not None:
                    inv.note("once", REPLAYED, key=key, store=self.where)
                return inv
            inv.effect_key = key
            if inv.explain is not None:
                inv.note("once", "claimed", key=key, fence=row[3], store=self.where)
            leaders[key] = inv
            try:
                work = next(inv)
            except BaseException as raised:
                error = self._failed(inv, key, row[3], None, raised)
                end(key, inv)
                raise error from raised.__cause__
            if work is not inv:
                return led(work, inv, key, print_of, row[3])
            text, outcome = None, None
            try:
                if persists:
                    value = inv.value
                    try:
                        text = dumps(value) if value.__class__ in SIMPLE else written(value, inv)
                    except TypeError:
                        text = written(value, inv)  # which says what is wrong with it
                    if text is not None:
                        if len(text) > INLINE_MAX_BYTES:
                            return led(inv, inv, key, print_of, row[3])
                        text = JSON + text
                        outcome = (print_of, text)
                done(row, text)
            finally:
                leaders.pop(key, None)
                if inv.joined is not None:
                    end(key, inv, outcome)
            return inv

        return steps(handler)

    async def _slowly(self, inv: Invocation, ask: ClaimAsk) -> Any:
        """What a call does that has to wait for something, or to say no."""
        policy = self.policy
        pause_s = FIRST_PAUSE_S
        while True:
            flight = self.leads.join(ask.key, self.leads.leaders.get(ask.key))
            if flight is not None:
                if policy.in_flight == "refuse":
                    raise in_progress(None)
                await self._joined(flight, inv)
                if flight.outcome is not None:
                    print_of, kept = flight.outcome
                    if print_of is not None and ask.fingerprint is not None and print_of != ask.fingerprint:
                        raise key_mismatch()
                    return await self._replay(inv, ask.key, kept)
                continue
            answer = self.claims.claim(ask)
            if self.look_ahead is not None and inv.ahead is None:
                self.look_ahead(inv)  # both questions are one round trip; the cache answers only whoever has the claim
            try:
                claim: Claim = await answered(answer, inv, self.clock)
            except StoreUnavailableError as error:
                self._abandon(answer, ask)
                if policy.when_down == "run":
                    inv.effect_key = ask.key
                    _explain(inv, "the store is down: the call runs without the policy", store=self.where)
                    return await self.next(inv)
                raise StoreUnavailableError(
                    f"the idempotency claim could not be made, so the call was refused: {error.message}"
                ) from error
            except BaseException:
                self._abandon(answer, ask)
                raise
            state = claim.state
            if state == "granted":
                return await self._lead(inv, ask, claim)
            if state == "done":
                return await self._replay(inv, ask.key, claim.result)
            if state == "failed":
                _explain(inv, "replays the failure", key=ask.key)
                inv.source = "replay"
                raise_kept(claim.result)
            if state == "mismatch":
                raise key_mismatch()
            if state == "unknown":
                raise outcome_unknown(claim)
            if policy.in_flight == "refuse":
                raise in_progress(claim.left_s)
            _explain(inv, "waits for a call in another process", owner=claim.owner)
            await self._paused(inv, min(pause_s, max(0.001, claim.left_s)))
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    # -- the steps ----------------------------------------------------------------------------------------------------

    async def _joined(self, flight: Flight, inv: Invocation) -> None:
        """Wait for a call of this process. Raises CallInProgressError at a blocking caller's deadline."""
        if inv.explain is not None:
            inv.note("once", "waits for a call in this process")
        if not inv.blocking:
            await flight.over()
        elif not flight.wait(self.clock, left_s(inv, self.clock.stopwatch())):
            raise in_progress(None)

    async def _paused(self, inv: Invocation, pause_s: float) -> None:
        if not inv.blocking:
            await self.clock.sleep(pause_s)
            return
        left = left_s(inv, self.clock.stopwatch())
        if left is not None and left <= 0:
            raise in_progress(None)
        self.clock.pause(pause_s if left is None else min(left, pause_s))

    async def _replay(self, inv: Invocation, key: str, kept: bytes | None) -> Any:
        if kept is None:
            raise already_done()
        value = await value_of(kept, inv, self.services)
        inv.source = "replay"
        inv.effect_key = key
        if inv.explain is not None:
            inv.note("once", REPLAYED, key=key, store=self.where)
        return value

    async def _lead(self, inv: Invocation, ask: ClaimAsk, claim: Claim) -> Any:
        """The claim is ours: run the body, or find out what an earlier run did, and say how it ended."""
        key, fence = ask.key, claim.fence
        inv.effect_key = key
        if inv.explain is not None:
            inv.note("once", "claimed", key=key, fence=fence, store=self.where)
        self.leads.leaders[key] = inv
        held = self._hold(inv, key, fence)
        outcome: Any = None
        try:
            if claim.taken_over and not self.safe:
                answer = await self._reconciled(inv, key, fence)
                if answer is not Reconciled.NOT_RUN:
                    if held is not None:
                        held.active = False
                    kept = await self._finish_done(inv, key, fence, answer)
                    outcome = None if kept is None else (ask.fingerprint, kept)
                    inv.source = "replay"
                    return answer
            try:
                found = await remembered(inv, key, self.tool.name)
            except BaseException:  # the call may wait no longer, and its body has not begun
                self._tell(key, fence, lambda: self.claims.release(key, fence))
                raise
            if found is not None:
                kept = await self._finish_done(inv, key, fence, found[0])
                outcome = None if kept is None else (ask.fingerprint, kept)
                inv.source = "replay"
                return found[0]
            try:
                value = await self.next(inv)
            except BaseException as raised:
                raise self._failed(inv, key, fence, held, raised) from raised.__cause__
            if held is not None:
                held.active = False  # a body that has ended needs no stopping: finish() says whose result counts
            kept = await self._finish_done(inv, key, fence, value)
            outcome = None if kept is None else (ask.fingerprint, kept)
            await remember(inv, key, kept, self.policy.ttl_s, self.services, self.tool.name)
            return value
        except asyncio.CancelledError:
            if held is None or not held.lost:
                raise
            raise claim_stopped() from None
        finally:
            if held is not None and self.keeper is not None:
                self.keeper.drop(held)
            self.leads.end(key, inv, outcome)

    async def _led(self, work: Awaitable[Any], inv: Invocation, key: str, print_of: str | None, fence: int) -> Any:
        """_lead, from where a body of a claim in this process has suspended, or has ended with a large value."""
        outcome = None
        try:
            try:
                value = await work
            except BaseException as raised:
                raise self._failed(inv, key, fence, None, raised) from raised.__cause__
            kept = await self._finish_done(inv, key, fence, value)
            outcome = None if kept is None else (print_of, kept)
            return value
        finally:
            self.leads.end(key, inv, outcome)

    async def _finish_done(self, inv: Invocation, key: str, fence: int, value: Any) -> bytes | None:
        """Store a result. A store that is down is told later: the body ran, and its caller gets the result now."""
        kept: bytes | None = None
        if self.policy.persist_result:
            try:
                kept = await kept_value(value, inv, self.services, self.claims)
            except BaseException:  # the call may wait for the blob no longer; what it did is told all the same
                text = written(value, inv)
                inline, ttl_s = (None if text is None else JSON + text), self.policy.ttl_s
                self._tell(key, fence, lambda: self.claims.finish(key, fence, "done", inline, ttl_s))
                raise

        def finish() -> Answer[bool]:
            return self.claims.finish(key, fence, "done", kept, self.policy.ttl_s)

        answer = finish()
        try:
            mine = await answered(answer, inv, self.clock)
        except StoreUnavailableError as error:
            if self.keeper is not None:
                self.keeper.tell_again(key, fence, finish)
            warning = f"the result is not stored yet ({error.message}); it is tried again while this executor is open"
            inv.warnings = [*(inv.warnings or ()), warning]
            logger.warning("%s: %s", self.tool.name, warning)
            return kept
        except BaseException:  # the call may wait no longer; the store is told all the same
            if self.keeper is not None:
                self.keeper.tell_again(key, fence, finish, answer)
            raise
        if not mine:
            raise claim_lost()
        return kept

    def _failed(self, inv: Invocation, key: str, fence: int, held: Held | None, raised: BaseException) -> BaseException:
        """Say how a run failed, waiting for no answer; what to raise."""
        if held is not None and held.lost:
            if isinstance(raised, asyncio.CancelledError):
                return claim_stopped()
            return raised
        if not inv.ran or isinstance(raised, InputRequiredError):
            self._tell(key, fence, lambda: self.claims.release(key, fence))
            return raised
        known = isinstance(raised, Exception) and not (
            isinstance(raised, ToolTimeoutError) or getattr(raised, "outcome", "ran") in ("unknown", "stopped")
        )
        if known and isinstance(raised, EngineError) and raised.outcome == "not_run":
            known = False  # the engine broke around a body that ran
        kept, ttl_s = (kept_failure(raised) if known else None), self.policy.ttl_s
        self._tell(key, fence, lambda: self.claims.finish(key, fence, "failed" if known else "unknown", kept, ttl_s))
        if inv.explain is not None:
            inv.note("once", f"the claim is {'failed' if known else 'unknown'}", key=key)
        return raised

    def _tell(self, key: str, fence: int, ask: Callable[[], Answer[bool]]) -> None:
        """Tell the store how a claim ended, waiting for nothing: this may be the last moment of a cancelled call."""
        if self.keeper is None:
            ask()
        else:
            self.keeper.tell(key, fence, ask)

    def _abandon(self, answer: Answer[Claim], ask: ClaimAsk) -> None:
        if self.keeper is not None and isinstance(answer, Pending):
            self.keeper.abandon(answer, ask)

    def _hold(self, inv: Invocation, key: str, fence: int) -> Held | None:
        if self.keeper is None:
            return None
        held = self.keeper.hold(key, fence, self.policy.lease_s)
        if not inv.blocking:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()

            def stop() -> None:
                if held.active and task is not None and not task.done():
                    task.cancel()

            def lost() -> None:
                loop.call_soon_threadsafe(stop)

            held.on_lost = lost
        return held

    async def _reconciled(self, inv: Invocation, key: str, fence: int) -> Any:
        """What the tool's hook says of an earlier run whose end is unknown: its result, or NOT_RUN. Else it raises."""
        hook = self.policy.reconcile
        assert hook is not None
        why = "the reconcile hook cannot say either"
        try:
            context: ToolContext = context_for(self.tool, inv, self.services.resources)
            found = hook(key, dict(inv.arguments), context)
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:
            logger.exception("reconcile of %s failed", self.tool.name)
            found, why = Reconciled.UNKNOWN, f"the reconcile hook failed ({type(error).__name__})"
        except BaseException:
            self._unsettled(key, fence)
            raise
        if inv.explain is not None:
            inv.note("once", "reconciled", found=found.value if isinstance(found, Reconciled) else "a result")
        if found is Reconciled.UNKNOWN:
            self._unsettled(key, fence)
            raise OutcomeUnknownError(
                f"an earlier call with this idempotency key may have had its effect, and {why}; settle it by hand",
                details={"key": key},
            )
        return found

    def _unsettled(self, key: str, fence: int) -> None:
        self._tell(key, fence, lambda: self.claims.finish(key, fence, "unknown", None, self.policy.ttl_s))


def _explain(inv: Invocation, decision: str, **more: Any) -> None:
    if inv.explain is not None:
        inv.note("once", decision, **more)


__all__ = ["claims_of", "once"]
