"""Retries: another attempt where that is safe, in time and within the budget; what comes out is the last real error."""

import asyncio
import contextlib
import copy
import dataclasses
import gc
import threading
import time
import traceback
from typing import Any

import pytest

from toolpost import (
    AttemptFailed,
    FunctionToolSpec,
    Hints,
    Idempotency,
    InputValidationError,
    OverloadedError,
    Policies,
    RateLimitError,
    StringParameter,
    Timeout,
    Tool,
    ToolContext,
    ToolError,
    ToolTimeoutError,
    create_tool_call,
)
from toolpost.calls.policies import Retry
from toolpost.engine.plugins import definitions_in
from toolpost.pipeline.compile import compile
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.retry import Budget, retry
from toolpost.pipeline.retry_policies import (
    CustomRetryPolicy,
    ExponentialBackoffRetryPolicy,
    FixedRetryPolicy,
    NoRetryPolicy,
)
from toolpost.testing import FakeClock, Recorder, executor_for

QUICK = Retry(attempts=3, wait_s=1, jitter=0)


class Script:
    """A body that ends each attempt as told; after the last of these it succeeds."""

    def __init__(self, clock: FakeClock, *ends: BaseException) -> None:
        self.clock, self.ends = clock, list(ends)
        self.at: list[float] = []
        self.contexts: list[ToolContext] = []

    @property
    def runs(self) -> int:
        return len(self.at)

    def _end(self) -> int:
        self.at.append(self.clock.monotonic())
        if len(self.at) <= len(self.ends):
            raise self.ends[len(self.at) - 1]
        return len(self.at)

    async def soon(self, x: int = 0) -> int:
        await asyncio.sleep(0)
        return self._end()

    async def at_once(self, x: int = 0) -> int:
        return self._end()

    def in_thread(self, x: int = 0) -> int:
        return self._end()

    async def with_context(self, ctx: ToolContext, x: int = 0) -> int:
        self.contexts.append(ctx)
        return self._end()


def tool(body, policy, *, hints=Hints(idempotent=True), name="Shop.order", **more):  # noqa: B008
    definition = definitions_in(Tool(name=name, register=False)(body))[0]
    return dataclasses.replace(definition, policies=Policies(retry=policy, **more), hints=hints)


class Skipping(FakeClock):
    """A clock whose sleeps take their time at once: for bodies in threads, which nobody can wait for by looking."""

    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)


async def called(executor, clock, *, name="Shop.order", **more):
    """One call of an async body, whose waits pass by themselves."""
    task = asyncio.ensure_future(executor.execute_tool_call(create_tool_call(name, {"x": 1}, **more)))
    while not task.done():
        for _ in range(5):
            await asyncio.sleep(0)
        if not task.done() and clock.waiting:
            clock.advance(max(0.0, min(at for at, _, alarm in clock._alarms if not alarm.silent) - clock.monotonic()))
    return task.result()


async def run(definition, clock, times=1, **settings):
    with executor_for(definition, clock=clock, **settings) as executor:
        results = [await called(executor, clock) for _ in range(times)]
    return results[-1]


@pytest.mark.parametrize("body", ["soon", "at_once", "in_thread"])
async def test_a_failure_that_passes_is_tried_again_after_growing_waits(body):
    clock = Skipping()
    script = Script(clock, ConnectionError("a"), TimeoutError("b"))

    with executor_for(tool(getattr(script, body), QUICK), clock=clock) as executor:
        result = await executor.execute_tool_call(create_tool_call("Shop.order", {}))

    assert result.data == {"result": 3}
    assert script.at == [0, 1, 3]


async def test_the_last_real_error_is_what_the_caller_sees():
    clock = FakeClock()
    errors = [
        ConnectionError("first"),
        ConnectionError("second"),
        ToolError("third", retryable=True, code="UNAVAILABLE"),
    ]
    script = Script(clock, *errors)

    result = await run(tool(script.soon, QUICK), clock)

    assert (result.failure.code, result.failure.message) == ("UNAVAILABLE", "third")
    assert result.failure.details == {"attempts": 3}
    assert errors[2].details == {}
    assert script.runs == 3


async def test_the_cause_of_a_wrapped_error_is_the_exception_of_the_last_attempt():
    clock = FakeClock()
    errors = [ConnectionError("first"), ConnectionError("second"), ConnectionError("third")]
    script = Script(clock, *errors)
    with executor_for(tool(script.at_once, Retry(attempts=3, wait_s=0)), clock=clock) as executor:
        with pytest.raises(Exception, match="third") as caught:
            await executor.call("Shop.order")

    assert caught.value.__cause__ is errors[2]
    assert caught.value.code == "tool_failed"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        InputValidationError("x"),
        ToolError("declined", code="CARD_DECLINED"),
        ToolError("down, and it will not help to ask again", code="UNAVAILABLE"),
    ],
)
async def test_what_does_not_pass_is_not_tried_again(error):
    clock = FakeClock()
    script = Script(clock, error)

    result = await run(tool(script.soon, QUICK), clock)

    assert script.runs == 1
    assert "attempts" not in result.failure.details
    assert "retry" not in result.failure.details


async def test_the_policy_may_name_other_kinds_and_classes():
    clock = FakeClock()
    script = Script(clock, KeyError("a"), ToolError("x"), ConnectionError("not named"))
    policy = Retry(attempts=9, wait_s=0, on=(LookupError, "tool_error"))

    await run(tool(script.soon, policy), clock)

    assert script.runs == 3


# -- only where it is safe ---------------------------------------------------------------------------------------------


async def test_a_body_with_effects_is_not_run_again_and_the_error_says_how_to_allow_it():
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"))

    result = await run(tool(script.soon, QUICK, hints=Hints()), clock)

    assert script.runs == 1
    for way in ("read-only", "Hints(idempotent=True)", "idempotency key", "Retry(insist=True)"):
        assert way in result.failure.details["retry"]


@pytest.mark.parametrize(
    ("hints", "policy", "idempotency"),
    [
        (Hints(read_only=True), QUICK, None),
        (Hints(idempotent=True), QUICK, None),
        (Hints(), dataclasses.replace(QUICK, insist=True), None),
        (Hints(), QUICK, Idempotency(only_caller=True)),
        (Hints(), FixedRetryPolicy(delay_seconds=1), None),
    ],
)
async def test_it_is_run_again_where_the_tool_the_author_or_a_claim_allows_it(hints, policy, idempotency):
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"))
    with executor_for(tool(script.soon, policy, hints=hints, idempotency=idempotency), clock=clock) as executor:
        result = await called(executor, clock, idempotency_key="k1")

    assert (result.success, script.runs) == (True, 2)


async def test_a_callers_key_allows_nothing_where_the_tool_keeps_to_none():
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"))
    with executor_for(tool(script.soon, QUICK, hints=Hints()), clock=clock) as executor:
        result = await called(executor, clock, idempotency_key="k1")

    assert (result.success, script.runs) == (False, 1)


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_call_whose_body_never_ran_may_always_be_tried_again(allowed):
    clock, starts = FakeClock(), []

    async def next(inv):
        starts.append(1)
        if len(starts) == 1:
            raise OverloadedError("full")
        return "done"

    definition = tool(Script(clock).soon, Retry(attempts=2, wait_s=0), hints=Hints(idempotent=allowed))
    with executor_for(clock=clock) as executor:
        assert await retry(definition, executor._services, next)(Invocation.of({})) == "done"


async def test_an_attempt_that_never_began_does_not_hide_the_error_of_one_that_did():
    clock, starts = FakeClock(), []

    async def next(inv):
        starts.append(1)
        if len(starts) == 1:
            inv.ran = True
            raise ConnectionError("real")
        raise OverloadedError("full")

    definition = tool(Script(clock).soon, Retry(attempts=2, wait_s=0))
    with executor_for(clock=clock) as executor:
        inv = Invocation.of({})
        with pytest.raises(Exception, match="ConnectionError: real") as caught:
            await retry(definition, executor._services, next)(inv)

    assert inv.ran
    assert caught.value.details == {"attempts": 2}


@pytest.mark.parametrize("insist", [False, True])
async def test_a_body_given_up_in_its_thread_is_run_again_only_where_that_is_safe(insist):
    clock, release, runs = FakeClock(), threading.Event(), []

    def order(x: int = 0) -> int:
        runs.append(1)
        if len(runs) == 1:
            release.wait(30)
        return len(runs)

    policy = Retry(attempts=2, wait_s=0, insist=insist)
    definition = tool(order, policy, hints=Hints(), timeout=Timeout(attempt_s=5), runs_in="thread")
    with executor_for(definition, clock=clock) as executor:
        task = asyncio.ensure_future(executor.execute_tool_call(create_tool_call("Shop.order", {})))
        while not (runs and clock.waiting):
            await asyncio.sleep(0)
        clock.advance(6)
        result = await task
        release.set()

    assert len(runs) == (2 if insist else 1)
    if not insist:
        assert result.failure.outcome == "unknown"
        assert "not tried again" in result.failure.details["retry"]


async def test_a_body_that_may_still_run_leaves_the_outcome_unknown_whatever_came_after():
    clock, release, runs = FakeClock(), threading.Event(), []

    def order(x: int = 0) -> int:
        runs.append(1)
        if len(runs) == 1:
            release.wait(30)
        raise ConnectionError("second")

    policy = Retry(attempts=2, wait_s=0, insist=True)
    definition = tool(order, policy, timeout=Timeout(attempt_s=5), runs_in="thread")
    with executor_for(definition, clock=clock) as executor:
        task = asyncio.ensure_future(executor.execute_tool_call(create_tool_call("Shop.order", {})))
        while not (runs and clock.waiting):
            await asyncio.sleep(0)
        clock.advance(6)
        result = await task
        release.set()

    assert result.failure.outcome == "unknown"
    assert "second" in result.failure.message


async def test_an_error_that_is_raised_again_and_again_is_left_as_it_was():
    clock, full = FakeClock(), OverloadedError("full")

    async def next(inv):
        raise full

    with executor_for(clock=clock) as executor:
        handler = retry(tool(Script(clock).soon, Retry(attempts=2, wait_s=0)), executor._services, next)
        with pytest.raises(OverloadedError) as caught:
            await handler(Invocation.of({}))

    assert caught.value.details == {"attempts": 2}
    assert full.details == {}


@pytest.mark.parametrize(("before", "after"), [("unknown", "unknown"), ("ran", "stopped")])
async def test_what_a_late_attempt_leaves_is_forgotten_unless_it_may_run_still(before, after):
    clock, seen = FakeClock(), []

    async def next(inv):
        seen.append(inv.on_timeout)
        inv.ran, inv.on_timeout = True, before
        late = ToolTimeoutError("late")
        late.outcome = before
        raise late

    with executor_for(clock=clock) as executor:
        handler = retry(tool(Script(clock).soon, Retry(attempts=2, wait_s=0)), executor._services, next)
        with pytest.raises(ToolTimeoutError) as caught:
            await handler(Invocation.of({}))

    assert seen == ["stopped", after]
    assert caught.value.outcome == before


# -- in time -----------------------------------------------------------------------------------------------------------


async def test_what_the_other_side_asks_to_wait_is_waited():
    clock = FakeClock()
    script = Script(clock, RateLimitError("slow", retry_after_s=7.5), RateLimitError("slow", retry_after_s=0.1))

    await run(tool(script.soon, QUICK), clock)

    assert script.at == [0, 7.5, 9.5]


async def test_no_attempt_begins_after_the_deadline_and_the_real_error_is_raised_at_once():
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"), ConnectionError("b"), ConnectionError("c"))
    policy = Retry(attempts=9, wait_s=2, factor=2, jitter=0)

    result = await run(tool(script.soon, policy, timeout=Timeout(total_s=6)), clock)

    assert script.at == [0, 2]
    assert clock.monotonic() == 2
    assert "ConnectionError: b" in result.failure.message
    assert "past the deadline" in result.failure.details["retry"]


async def test_each_attempt_has_its_own_limit_within_the_calls():
    clock, runs = FakeClock(), []

    async def order(x: int = 0) -> int:
        runs.append(clock.monotonic())
        if len(runs) < 3:
            await asyncio.get_running_loop().create_future()
        return len(runs)

    definition = tool(order, QUICK, timeout=Timeout(attempt_s=5, total_s=60))
    result = await run(definition, clock)

    assert result.success
    assert runs == [0, 6, 13]


async def test_a_call_cancelled_while_it_waits_runs_no_more():
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"))
    with executor_for(tool(script.soon, QUICK), clock=clock) as executor:
        task = asyncio.ensure_future(executor.execute_tool_call(create_tool_call("Shop.order", {})))
        while clock.waiting < 2:  # the deadline, and the wait
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        clock.advance(100)
        await asyncio.sleep(0)

    assert script.runs == 1


async def test_waits_are_capped_and_jitter_comes_on_top():
    clock = FakeClock()
    script = Script(clock, *[ConnectionError("a")] * 4)
    policy = Retry(attempts=5, wait_s=1, factor=10, max_wait_s=20, jitter=0.5, jitter_s=2)

    await run(tool(script.soon, policy, timeout=None), clock)  # a FakeClock's jitter is half of the most

    waits = [b - a for a, b in zip(script.at, script.at[1:], strict=False)]
    assert waits == pytest.approx([1 + 1.25, 10 + 3.5, 20 + 6, 20 + 6])


async def test_a_wait_function_replaces_the_arithmetic():
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"), TimeoutError("b"))
    policy = Retry(attempts=3, wait=lambda attempt, error: attempt + (10 if isinstance(error, TimeoutError) else 0))

    await run(tool(script.soon, policy), clock)

    assert script.at == [0, 1, 13]


@pytest.mark.parametrize("answer", [float("nan"), None, "soon"])
async def test_a_wait_function_that_breaks_ends_the_call_with_its_real_error(answer):
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"))

    result = await run(tool(script.soon, Retry(attempts=3, wait=lambda attempt, error: answer)), clock)

    assert script.runs == 1
    assert "could not say" in result.failure.details["retry"]


async def test_attempts_and_first_wait_are_the_executors_where_the_policy_leaves_them_open():
    clock = FakeClock()
    script = Script(clock, *[ConnectionError("a")] * 9)

    await run(tool(script.soon, Retry(jitter=0)), clock, retry_attempts=4, retry_backoff=0.5)

    assert script.at == [0, 0.5, 1.5, 3.5]


def test_a_blocking_caller_waits_in_its_thread():
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"), ConnectionError("b"))
    results = []
    with executor_for(tool(script.in_thread, QUICK), clock=clock) as executor:
        call = create_tool_call("Shop.order", {})
        caller = threading.Thread(target=lambda: results.append(executor.execute_sync(call)))
        caller.start()
        for wait_s in (1, 2):
            while not clock.waiting:
                time.sleep(0.001)
            clock.advance(wait_s)
            while clock.waiting and script.runs < wait_s + 1:
                time.sleep(0.001)
        caller.join(30)

    assert results[0].success
    assert script.at == [0, 1, 3]


# -- within the budget -------------------------------------------------------------------------------------------------


async def test_an_outage_is_not_multiplied():
    clock = FakeClock()
    script = Script(clock, *[ConnectionError("down")] * 10_000)
    policy = Retry(attempts=5, wait_s=0, budget=0.1, min_budget=3)
    with executor_for(tool(script.soon, policy), clock=clock) as executor:
        results = [await called(executor, clock) for _ in range(100)]

    assert 100 + 3 <= script.runs <= 100 + 3 + 0.1 * 100
    assert "retry budget of 'Shop.order' is spent" in results[-1].failure.details["retry"]


async def test_tools_of_one_dependency_share_the_budget():
    clock = FakeClock()
    script = Script(clock, *[ConnectionError("down")] * 100)
    policy = Retry(attempts=2, wait_s=0, budget=0, min_budget=3, dependency="db")
    tools = [tool(script.soon, policy, name="A"), tool(script.soon, policy, name="B")]
    with executor_for(*tools, clock=clock) as executor:
        for name in ("A", "B") * 5:
            await called(executor, clock, name=name)

    assert script.runs == 10 + 3


async def test_successes_earn_what_later_failures_may_spend():
    clock = FakeClock()
    script = Script(clock)
    policy = Retry(attempts=2, wait_s=0, budget=0.5, min_budget=0)
    with executor_for(tool(script.soon, policy), clock=clock) as executor:
        await called(executor, clock)
        await called(executor, clock)
        script.ends = [*script.at, ConnectionError("down")]  # type: ignore[list-item]
        assert (await called(executor, clock)).success

    assert script.runs == 4


def test_a_budget_never_goes_below_nothing():
    budget = Budget(1.5)

    assert [budget.spend() for _ in range(3)] == [True, False, False]
    assert budget.tokens == 0.5


# -- what is told ------------------------------------------------------------------------------------------------------


async def test_observers_hear_of_every_failed_attempt():
    clock, recorder = FakeClock(), Recorder()
    raised = ToolError("again", retryable=True)
    script = Script(clock, ConnectionError("a"), raised)

    await run(tool(script.soon, QUICK), clock, observers=[recorder])

    events = recorder.of(AttemptFailed)
    assert [(event.attempt, event.error.code, event.tool) for event in events] == [
        (1, "tool_failed", "Shop.order"),
        (2, "tool_error", "Shop.order"),
    ]
    assert raised.tool is None


async def test_the_traceback_leads_into_the_body_though_observers_were_told():
    for error in (ToolError("again", retryable=True), ConnectionError("again")):
        clock = FakeClock()
        script = Script(clock, *[error] * 2)
        definition = tool(script.at_once, Retry(attempts=2, wait_s=0))
        with executor_for(definition, clock=clock, observers=[Recorder()]) as executor:
            with pytest.raises(Exception, match="again") as caught:
                await executor.call("Shop.order")
        shown = caught.value if isinstance(error, ToolError) else caught.value.__cause__
        assert "_end" in [frame.name for frame in traceback.extract_tb(shown.__traceback__)]


async def test_the_body_sees_which_attempt_it_is():
    clock = FakeClock()
    script = Script(clock, ConnectionError("a"))

    await run(tool(script.with_context, QUICK), clock)

    assert [context.attempt for context in script.contexts] == [1, 2]
    assert [context.cancelled for context in script.contexts] == [True, True]


async def test_every_attempt_begins_with_the_same_arguments():
    seen = []

    async def order(args):
        seen.append(dict(args))
        args.pop("order_id")
        if len(seen) < 3:
            raise ConnectionError("a")
        return "done"

    spec = FunctionToolSpec(
        id="o1",
        tool_name="order",
        description="Order.",
        parameters=[StringParameter(name="order_id", description="which", required=True)],
    )
    definition = dataclasses.replace(
        spec.define(order), policies=Policies(retry=FixedRetryPolicy(delay_seconds=0)), hints=Hints()
    )
    with executor_for(definition, clock=FakeClock()) as executor:
        result = await executor.execute_tool_call(create_tool_call("order", {"order_id": "o-1"}))

    assert result.success
    assert seen == [{"order_id": "o-1"}] * 3


@pytest.mark.parametrize("annotation", [list, list[list[str]], dict[str, Any], Any])
@pytest.mark.parametrize("policy", [Retry(attempts=3, wait_s=0), FixedRetryPolicy(delay_seconds=0), "own"])
async def test_what_a_body_does_to_its_arguments_is_undone_for_the_next_attempt(annotation, policy):
    seen = []

    class Own:
        async def execute_with_retry(self, func, tool_name):
            for _ in range(2):
                with contextlib.suppress(ConnectionError):
                    await func()
            return await func()

    async def order(lines):
        seen.append(copy.deepcopy(lines))
        (lines["a"] if isinstance(lines, dict) else lines[0]).append("spoilt")
        if len(seen) < 3:
            raise ConnectionError("a")
        return "done"

    order.__annotations__ = {"lines": annotation}
    sent = {"a": ["1"]} if annotation == dict[str, Any] else [["1"]]
    definition = tool(order, Own() if policy == "own" else policy)
    with executor_for(definition, clock=FakeClock()) as executor:
        result = await executor.execute_tool_call(create_tool_call("Shop.order", {"lines": copy.deepcopy(sent)}))

    assert result.success
    assert seen == [sent] * 3


@pytest.mark.parametrize("wait_s", [float("inf"), 1e300])
@pytest.mark.parametrize("asks", [True, False])
async def test_without_a_deadline_nobody_waits_for_ever(wait_s, asks):
    clock = FakeClock()
    error = RateLimitError("slow", retry_after_s=1e300) if asks else ConnectionError("a")
    script = Script(clock, error)
    policy = Retry(attempts=3, wait=lambda attempt, raised: 0 if asks else wait_s)

    result = await run(tool(script.soon, policy, timeout=None), clock)

    assert script.runs == 1
    assert "not tried again" in result.failure.details["retry"]


async def test_its_decisions_are_explained():
    clock, notes = FakeClock(), []
    script = Script(clock, ConnectionError("a"), ValueError("b"))
    definition = tool(script.at_once, Retry(attempts=3, wait_s=0))
    with executor_for(clock=clock) as executor:
        inv = Invocation.of({"x": 1})
        inv.explain = notes
        with pytest.raises(Exception, match="b"):
            await compile(definition, executor._services)(inv)

    retries = [note for note in notes if note["stage"] == "retry"]
    assert [(note["decision"], note["kind"]) for note in retries] == [
        ("tries again", "network"),
        ("gave up", "tool_error"),
    ]


async def test_with_one_attempt_there_is_no_such_stage():
    definition = Script(FakeClock()).soon
    with executor_for(clock=FakeClock()) as executor:
        for policy in (None, Retry(attempts=1), NoRetryPolicy(), FixedRetryPolicy(max_attempts=1)):
            next = object()
            assert retry(tool(definition, policy), executor._services, next) is next


async def test_a_call_that_succeeds_pays_for_one_coroutine_at_most():
    made = []

    async def body(inv):
        return 1

    def at_once(inv):
        inv.value = 1
        return inv

    with executor_for(clock=FakeClock()) as executor:
        handler = retry(tool(Script(FakeClock()).soon, QUICK), executor._services, body)
        quick = retry(tool(Script(FakeClock()).soon, QUICK), executor._services, at_once)
        inv = Invocation.of({})
        assert quick(inv) is inv
        gc.collect()
        gc.disable()
        try:
            before = {id(o) for o in gc.get_objects()}
            work = handler(inv)
            made = [o for o in gc.get_objects() if id(o) not in before and asyncio.iscoroutine(o)]
        finally:
            gc.enable()
        assert await work == 1

    assert len(made) <= 2  # the body's own, and ours


# -- objects of document C's classes, and of others --------------------------------------------------------------------


async def test_c_objects_are_driven_with_their_own_arithmetic():
    for policy, at in (
        (FixedRetryPolicy(max_attempts=3, delay_seconds=2), [0, 2, 4]),
        (ExponentialBackoffRetryPolicy(max_attempts=4, base_delay=1, max_delay=3, jitter=0), [0, 1, 3, 6]),
    ):
        clock = FakeClock()
        script = Script(clock, *[ConnectionError("a")] * 9)

        await run(tool(script.soon, policy, hints=Hints()), clock)

        assert script.at == at


async def test_deadline_and_retry_after_hold_for_c_objects():
    clock = FakeClock()
    script = Script(clock, RateLimitError("slow", retry_after_s=7), ConnectionError("b"))
    policy = FixedRetryPolicy(max_attempts=9, delay_seconds=4)

    result = await run(tool(script.soon, policy, timeout=Timeout(total_s=10)), clock)

    assert script.at == [0, 7]
    assert "ConnectionError: b" in result.failure.message


async def test_a_subclass_that_says_what_to_retry_or_how_long_to_wait_is_asked():
    class Odd(FixedRetryPolicy):
        def should_retry(self, exception, attempt):
            return isinstance(exception, ValueError) and super().should_retry(ConnectionError(), attempt)

        def calculate_delay(self, attempt):
            return 3.0 * (attempt + 1)

    clock = FakeClock()
    script = Script(clock, ValueError("a"), ValueError("b"), ConnectionError("c"))

    await run(tool(script.soon, Odd(max_attempts=9)), clock)

    assert script.at == [0, 3, 9]


@pytest.mark.parametrize("blocking", [False, True])
async def test_retries_of_ones_own_run_attempts_as_they_see_fit(blocking):
    class Twice:
        async def execute_with_retry(self, func, tool_name):
            try:
                return await func()
            except ConnectionError:
                await asyncio.sleep(0)
                return await func()

    clock, recorder = FakeClock(), Recorder()
    script = Script(clock, ConnectionError("a"))
    with executor_for(tool(script.in_thread, Twice(), hints=Hints()), clock=clock, observers=[recorder]) as executor:
        call = create_tool_call("Shop.order", {})
        if blocking:
            result = await asyncio.to_thread(executor.execute_sync, call)
        else:
            result = await executor.execute_tool_call(call)

    assert result.data == {"result": 2}
    assert [event.attempt for event in recorder.of(AttemptFailed)] == [1]


async def test_a_custom_policys_function_decides_after_each_failure():
    clock, asked = FakeClock(), []
    script = Script(clock, ConnectionError("a"), ConnectionError("b"), ValueError("c"))

    async def decide(func, attempt, last_exception):
        asked.append((attempt, str(last_exception)))
        if isinstance(last_exception, ValueError):
            raise last_exception
        await clock.sleep(attempt)
        return await func()

    result = await run(tool(script.soon, CustomRetryPolicy(decide)), clock)

    assert asked == [(1, "a"), (2, "b"), (3, "c")]
    assert script.at == [0, 1, 3]
    assert "ValueError: c" in result.failure.message
    assert result.failure.details == {"attempts": 3}
