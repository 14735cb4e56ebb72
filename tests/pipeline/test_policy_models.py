"""Breaker and retry, as stages, against naive models of what their policies say."""

import asyncio
import dataclasses
import math

import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from toolpost import Hints, Policies, RateLimitError, Tool, ToolError
from toolpost.calls.errors import CircuitOpenError
from toolpost.calls.policies import Breaker, Retry
from toolpost.engine.plugins import definitions_in
from toolpost.pipeline.breaker import breaker, circuits
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.retry import retry
from toolpost.pipeline.retry_policies import ExponentialBackoffRetryPolicy, FixedRetryPolicy
from toolpost.testing import FakeClock, executor_for


async def nothing(x: int = 0) -> int:
    return x


def tool(hints=Hints(), **policies):  # noqa: B008
    definition = definitions_in(Tool(name="Shop.order", register=False)(nothing))[0]
    return dataclasses.replace(definition, policies=Policies(**policies), hints=hints)


class Body:
    """The rest of the chain: each call hangs until it is told how to end."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, inv):
        self.runs += 1
        inv.ran = True
        end = await Hold()
        if end is not None:
            raise end
        return "done"


class Hold:
    def __await__(self):
        return (yield self)


class Naive:
    """A breaker without error rate, written down as its docstring says it: a history, looked through each time.

    history holds (when, what, call) for calls that were let through; nothing is counted or kept besides.
    """

    def __init__(self, failures: int, recovery_s: float, places: int) -> None:
        self.failures, self.recovery_s, self.places = failures, recovery_s, places
        self.tripped_at: float | None = None
        self.row: list[bool] = []
        self.probes: dict[int, float] = {}
        self.passed: set[int] = set()
        self.era = 0

    def state(self, now: float) -> str:
        if self.tripped_at is None:
            return "closed"
        return "open" if now < self.tripped_at + self.recovery_s else "half_open"

    def lets_through(self, now: float) -> str:
        """closed: an ordinary call; probe: one of few; no: refused."""
        state = self.state(now)
        if state != "half_open":
            return state
        running = [started for started in self.probes.values() if now < started + self.recovery_s]
        return "probe" if len(running) + len(self.passed) < self.places else "open"

    def trip(self, now: float) -> None:
        self.tripped_at, self.row, self.probes, self.passed, self.era = now, [], {}, set(), self.era + 1

    def close(self) -> None:
        self.tripped_at, self.row, self.probes, self.passed, self.era = None, [], {}, set(), self.era + 1

    def ends(self, now: float, call: int, kind: str, era: int, how: str) -> None:
        if kind == "closed":
            if self.tripped_at is not None or how == "nothing":
                return
            self.row.append(how == "fails")
            if len(self.row) >= self.failures and all(self.row[-self.failures :]):
                self.trip(now)
        elif era == self.era and self.probes.pop(call, None) is not None:
            if how == "fails":
                self.trip(now)
            elif how == "succeeds":
                self.passed.add(call)
                if len(self.passed) >= self.places:
                    self.close()


ENDS = {
    "succeeds": lambda: None,
    "fails": lambda: ConnectionError("down"),
    "nothing": lambda: ToolError("your own mistake", code="NOT_FOUND"),
}


class BreakerMachine(RuleBasedStateMachine):
    """Any mix of calls that overlap, end in any way, and time that passes."""

    failures, recovery_s, places = 2, 30.0, 2

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.body = FakeClock(), Body()
        self.context = executor_for(clock=self.clock)
        self.services = self.context.__enter__()._services
        policy = Breaker(failures=self.failures, recovery_s=self.recovery_s, half_open_calls=self.places)
        self.handler = breaker(tool(breaker=policy), self.services, self.body)
        self.model = Naive(self.failures, self.recovery_s, self.places)
        self.running: dict[int, tuple] = {}
        self.calls = 0

    def teardown(self) -> None:
        for work, _, _ in self.running.values():
            work.close()
        self.context.__exit__(None, None, None)

    @rule()
    def begin(self) -> None:
        now, runs = self.clock.monotonic(), self.body.runs
        kind = self.model.lets_through(now)
        self.calls += 1
        if kind == "open":
            with pytest.raises(CircuitOpenError) as refused:
                self.handler(Invocation.of({}))
            assert self.body.runs == runs
            assert 0 < refused.value.retry_after_s <= self.recovery_s
            return
        work = self.handler(Invocation.of({}))
        work.send(None)
        if kind == "probe":
            self.model.probes[self.calls] = now
        self.running[self.calls] = (work, kind, self.model.era)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(sorted(ENDS)))
    def end(self, data, how) -> None:
        call = data.draw(st.sampled_from(sorted(self.running)))
        work, kind, era = self.running.pop(call)
        with pytest.raises((StopIteration, ConnectionError, ToolError)):
            work.send(ENDS[how]())
        self.model.ends(self.clock.monotonic(), call, kind, era, how)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        call = data.draw(st.sampled_from(sorted(self.running)))
        work, kind, era = self.running.pop(call)
        with pytest.raises(asyncio.CancelledError):
            work.throw(asyncio.CancelledError())
        self.model.ends(self.clock.monotonic(), call, kind, era, "nothing")

    @rule(seconds=st.sampled_from([1.0, 14.0, 15.0, 29.0, 30.0, 31.0]))
    def wait(self, seconds) -> None:
        self.clock.advance(seconds)

    @invariant()
    def stands_as_the_model(self) -> None:
        shown = circuits(self.services)["Shop.order"]
        assert shown.state == self.model.state(self.clock.monotonic())


class StrictMachine(BreakerMachine):
    failures, places = 1, 1


TestBreaker = BreakerMachine.TestCase
TestStrictBreaker = StrictMachine.TestCase


# -- retry -------------------------------------------------------------------------------------------------------------

ERRORS = {
    "network": lambda: ConnectionError("down"),
    "mistake": lambda: ValueError("x"),
    "slow": lambda: RateLimitError("slow", retry_after_s=4.0),
    "never": lambda: ToolError("no", code="NOT_FOUND"),
}
PASSES = {"network", "slow"}


class Timed(FakeClock):
    """Sleeping takes its time at once."""

    async def sleep(self, delay_s: float) -> None:
        assert delay_s > 0
        self.advance(delay_s)


def naively(ends, takes_s, *, attempts, wait_of, limit_s, safe, tokens):
    """When attempts begin, and which error (by number) comes out, None for success; from the docstring alone."""
    now, begins = 0.0, []
    for number, end in enumerate(ends, 1):
        begins.append(now)
        now += takes_s
        if end == "ok":
            return begins, None
        wait_s = max(wait_of(number), 4.0 if end == "slow" else 0.0)
        allowed = number < attempts and end in PASSES and safe and tokens >= 1
        if not allowed or now + wait_s >= limit_s:
            return begins, number
        tokens -= 1
        now += wait_s
    raise AssertionError("the script is too short")


RETRIES = st.fixed_dictionaries(
    {
        "attempts": st.integers(1, 6),
        "first_s": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "factor": st.sampled_from([1.0, 2.0, 3.0]),
        "most_s": st.sampled_from([2.0, 60.0]),
    }
)


@given(
    RETRIES,
    st.lists(st.sampled_from([*ERRORS, "network", "network", "slow", "ok"]), max_size=6).map(
        lambda e: [*e, *["ok"] * 7]
    ),
    st.sampled_from(["policy", "fixed", "exponential"]),
    st.sampled_from([math.inf, 3.0, 10.0]),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
    st.integers(0, 4),
)
def test_retries_begin_when_the_model_says_and_end_with_its_error(how, ends, kind, limit_s, takes_s, safe, tokens):
    clock, begins, raised = Timed(), [], []
    attempts, first_s, factor, most_s = how["attempts"], how["first_s"], how["factor"], how["most_s"]

    async def body(inv):
        inv.ran = True
        begins.append(clock.monotonic())
        clock.advance(takes_s)
        end = ends[len(begins) - 1]
        if end == "ok":
            return "done"
        raised.append(ERRORS[end]())
        raise raised[-1]

    if kind == "policy":
        policy = Retry(
            attempts=attempts, wait_s=first_s, factor=factor, max_wait_s=most_s, jitter=0, min_budget=tokens, budget=0
        )
        wait_of = lambda n: min(most_s, first_s * factor ** (n - 1))  # noqa: E731
    elif kind == "fixed":
        policy = FixedRetryPolicy(attempts, first_s)
        wait_of, safe, tokens = (lambda n: first_s), True, 10
    else:
        policy = ExponentialBackoffRetryPolicy(attempts, first_s, most_s, factor, jitter=0)
        wait_of = lambda n: min(most_s, first_s * factor ** (n - 1))  # noqa: E731
        safe, tokens = True, 10
    expected, number = naively(
        ends, takes_s, attempts=attempts, wait_of=wait_of, limit_s=limit_s, safe=safe, tokens=tokens
    )

    async def go():
        with executor_for(clock=clock) as executor:
            handler = retry(tool(Hints(idempotent=safe or None), retry=policy), executor._services, body)
            inv = Invocation.of({})
            inv.limit_s = None if limit_s == math.inf else limit_s
            try:
                return await handler(inv), None
            except Exception as error:
                return None, error

    value, error = asyncio.run(go())
    assert begins == pytest.approx(expected)
    if number is None:
        assert value == "done"
    else:
        real = raised[number - 1]
        assert error is real or error.__cause__ is real or (type(error) is type(real) and error.message == real.message)
        assert str(real) in str(error)
        assert len(raised) == number


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.1, 0.25, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.integers(2, 5),
)
def test_retries_are_never_more_than_the_reserve_and_the_share_of_calls(calls, share, reserve, attempts):
    clock, runs = Timed(), []

    async def go():
        with executor_for(clock=clock) as executor:
            policy = Retry(attempts=attempts, wait_s=0, budget=share, min_budget=reserve)
            fails = True

            async def body(inv):
                inv.ran = True
                runs.append(1)
                if fails:
                    raise ConnectionError("down")

            handler = retry(tool(Hints(idempotent=True), retry=policy), executor._services, body)
            for number, fails in enumerate(calls, 1):
                try:
                    await handler(Invocation.of({}))
                except Exception:
                    assert fails
                assert len(runs) - number <= reserve + share * number + 1e-6

    asyncio.run(go())
