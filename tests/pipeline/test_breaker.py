"""The breaker: what keeps failing is left alone, and few find out whether it is well again."""

import asyncio
import dataclasses
import threading

import pytest

from toolpost import OverloadedError, Policies, Timeout, Tool, ToolError, ToolTimeoutError, create_tool_call
from toolpost.calls.errors import CircuitOpenError, ConfigurationError, InputValidationError, StoreUnavailableError
from toolpost.calls.policies import Breaker
from toolpost.engine.plugins import definitions_in
from toolpost.pipeline.breaker import breaker, circuit_key, circuits, force_circuit
from toolpost.pipeline.breaker_policies import (
    CAUSE_CHARS,
    TRIPS_ON,
    AdaptiveCircuitBreakerPolicy,
    NoOpCircuitBreakerPolicy,
    StandardCircuitBreakerPolicy,
    cause_of,
    counts,
)
from toolpost.pipeline.compile import ORDER, compile
from toolpost.pipeline.invocation import Invocation
from toolpost.stores import open_state
from toolpost.stores.pending import Pending
from toolpost.testing import FakeClock, executor_for


class Upstream:
    """What stands behind a tool: it raises what it is told to, and counts."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.runs = 0

    async def use(self, x: int = 0) -> int:
        self.runs += 1
        if self.error is not None:
            raise self.error
        return x

    def use_in_thread(self, x: int = 0) -> int:
        self.runs += 1
        if self.error is not None:
            raise self.error
        return x


def tool(body, policy, name="Shop.order", **more):
    definition = definitions_in(Tool(name=name, register=False)(body))[0]
    return dataclasses.replace(definition, policies=Policies(breaker=policy, **more))


DOWN = ConnectionError("refused by 10.0.0.7")
POLICY = Breaker(failures=3, recovery_s=30)


async def fail(executor, times=1, name="Shop.order"):
    for _ in range(times):
        result = await executor.execute_tool_call(create_tool_call(name, {}))
        assert not result.success


async def call(executor, name="Shop.order", **more):
    return await executor.execute_tool_call(create_tool_call(name, {"x": 1}, **more))


async def test_after_failures_in_a_row_the_body_is_left_alone():
    upstream, clock = Upstream(DOWN), FakeClock()
    with executor_for(tool(upstream.use, POLICY), clock=clock) as executor:
        await fail(executor, 3)
        clock.advance(10)
        result = await call(executor)

    assert upstream.runs == 3
    assert (result.failure.code, result.failure.status, result.failure.outcome) == ("circuit_open", 503, "not_run")
    assert result.failure.retry_after_s == pytest.approx(20)
    assert result.failure.retryable


async def test_the_error_that_tripped_it_is_kept_as_the_cause_without_secrets():
    upstream = Upstream(ConnectionError("refused: password=hunter2secret"))
    with executor_for(tool(upstream.use, Breaker(failures=1)), clock=FakeClock()) as executor:
        await fail(executor)
        upstream.error = ValueError("another")
        result = await call(executor)

    details = result.failure.details
    assert (details["circuit"], details["state"]) == ("Shop.order", "open")
    assert details["cause"].startswith("ConnectionError: refused")
    assert "hunter2secret" not in details["cause"] + result.failure.message


def test_a_secret_that_stands_where_a_long_cause_is_cut_is_hidden_too():
    for start in range(CAUSE_CHARS - 60, CAUSE_CHARS):
        cause = cause_of(ConnectionError("x" * start + " postgresql://shop:hunter2secret@db/orders"))
        assert "hunter2" not in cause
        assert len(cause) <= CAUSE_CHARS + len("ConnectionError: ")


async def test_a_success_between_starts_the_count_anew():
    upstream = Upstream(DOWN)
    with executor_for(tool(upstream.use, POLICY), clock=FakeClock()) as executor:
        await fail(executor, 2)
        upstream.error = None
        assert (await call(executor)).success
        upstream.error = DOWN
        await fail(executor, 2)

    assert upstream.runs == 5


@pytest.mark.parametrize("body", ["use", "use_in_thread"])
async def test_it_recovers_by_exactly_so_many_probes(body):
    upstream, clock = Upstream(DOWN), FakeClock()
    policy = Breaker(failures=1, recovery_s=30, half_open_calls=2)
    with executor_for(tool(getattr(upstream, body), policy), clock=clock) as executor:
        await fail(executor)
        clock.advance(30)
        upstream.error = None
        assert [(await call(executor)).success for _ in range(3)] == [True] * 3
        clock_state = circuits(executor._services)["Shop.order"]

    assert clock_state.state == "closed"
    assert upstream.runs == 4


async def test_while_probes_run_everybody_else_is_refused():
    clock, gate, runs = FakeClock(), asyncio.Event(), []

    async def order(x: int = 0) -> int:
        runs.append(x)
        if len(runs) == 1:
            raise DOWN
        await gate.wait()
        return x

    with executor_for(tool(order, Breaker(failures=1, half_open_calls=2)), clock=clock) as executor:
        await fail(executor)
        clock.advance(30)
        probes = [asyncio.ensure_future(call(executor)) for _ in range(2)]
        await asyncio.sleep(0)
        others = [await call(executor) for _ in range(3)]
        gate.set()
        ended = [await probe for probe in probes]

    assert [result.success for result in ended] == [True, True]
    assert {result.failure.details["state"] for result in others} == {"half_open"}
    assert len(runs) == 3


async def test_a_probe_that_fails_opens_it_anew_for_the_whole_time():
    upstream, clock = Upstream(DOWN), FakeClock()
    with executor_for(tool(upstream.use, Breaker(failures=1, recovery_s=30)), clock=clock) as executor:
        await fail(executor)
        clock.advance(30)
        await fail(executor)
        clock.advance(29)
        refused = await call(executor)

    assert upstream.runs == 2
    assert refused.failure.code == "circuit_open"


async def test_a_probe_that_is_cancelled_gives_its_place_back():
    clock, upstream, hanging = FakeClock(), Upstream(DOWN), asyncio.Event()

    async def order(x: int = 0) -> int:
        if upstream.error is None and not hanging.is_set():
            hanging.set()
            await asyncio.get_running_loop().create_future()
        return await upstream.use(x)

    with executor_for(tool(order, Breaker(failures=1)), clock=clock) as executor:
        await fail(executor)
        clock.advance(30)
        upstream.error = None
        probe = asyncio.ensure_future(call(executor))
        await hanging.wait()
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe

        assert (await call(executor)).success


@pytest.mark.parametrize(
    "error",
    [
        InputValidationError("bad"),
        OverloadedError("an inner tool had no room"),
        ToolError("no such order", code="NOT_FOUND"),
        ToolError("slow down", code="RATE_LIMITED", retryable=True),
    ],
)
async def test_the_callers_own_errors_do_not_count(error):
    upstream = Upstream(error)
    with executor_for(tool(upstream.use, Breaker(failures=1)), clock=FakeClock()) as executor:
        await fail(executor, 3)

    assert upstream.runs == 3


async def test_arguments_that_do_not_fit_never_reach_it():
    upstream = Upstream()
    with executor_for(tool(upstream.use, Breaker(failures=1)), clock=FakeClock()) as executor:
        for _ in range(3):
            await executor.execute_tool_call(create_tool_call("Shop.order", {"x": "one"}))
        assert (await call(executor)).success


async def test_a_timeout_counts_be_it_of_an_attempt_or_of_the_whole_call():
    async def order(x: int = 0) -> int:
        await asyncio.get_running_loop().create_future()
        return x

    for timeout in (Timeout(attempt_s=5), Timeout(total_s=5)):
        clock = FakeClock()
        with executor_for(tool(order, Breaker(failures=1), timeout=timeout), clock=clock) as executor:
            late = asyncio.ensure_future(call(executor))
            while not clock.waiting:
                await asyncio.sleep(0)
            clock.advance(5.1)
            assert (await late).failure.code == "timeout"
            refused = await call(executor)

        assert refused.failure.code == "circuit_open", timeout
        assert refused.failure.details["cause"].startswith("timeout: timed out after 5 s")


def test_a_blocking_callers_timeout_counts():
    release = threading.Event()

    def order(x: int = 0) -> int:
        release.wait(30)
        return x

    clock = FakeClock()
    definition = tool(order, Breaker(failures=1), timeout=Timeout(total_s=5), runs_in="thread")
    with executor_for(definition, clock=clock) as executor:
        results = []
        caller = threading.Thread(
            target=lambda: results.append(executor.execute_sync(create_tool_call("Shop.order", {})))
        )
        caller.start()
        while caller.is_alive():  # it may not have begun to wait yet
            clock.advance(6)
            caller.join(0.01)
        refused = executor.execute_sync(create_tool_call("Shop.order", {}))
        release.set()

    assert results[0].failure.code == "timeout"
    assert refused.failure.code == "circuit_open"


async def test_a_caller_who_cancels_does_not_count():
    started = asyncio.Event()

    async def order(x: int = 0) -> int:
        started.set()
        await asyncio.get_running_loop().create_future()
        return x

    clock = FakeClock()
    with executor_for(tool(order, Breaker(failures=1), timeout=Timeout(total_s=5)), clock=clock) as executor:
        for _ in range(2):
            started.clear()
            running = asyncio.ensure_future(call(executor))
            await started.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        assert circuits(executor._services)["Shop.order"].state == "closed"


async def test_only_the_kinds_and_codes_it_names_trip_it():
    upstream = Upstream(DOWN)
    policy = Breaker(failures=1, trips_on=("timeout", "CARD_DECLINED"))
    with executor_for(tool(upstream.use, policy), clock=FakeClock()) as executor:
        await fail(executor, 2)
        upstream.error = ToolError("declined", code="CARD_DECLINED")
        await fail(executor)
        refused = await call(executor)

    assert upstream.runs == 3
    assert refused.failure.details["cause"] == "CARD_DECLINED: declined"


async def test_a_body_that_never_began_says_nothing():
    upstream = Upstream()
    clock = FakeClock()
    definition = tool(upstream.use_in_thread, Breaker(failures=1), timeout=Timeout(attempt_s=1), runs_in="thread")
    with executor_for(definition, clock=clock, max_workers=1) as executor:
        release = threading.Event()
        busy = asyncio.ensure_future(executor._thread_pool.run(lambda: release.wait(30)))
        while not executor._thread_pool.active:
            await asyncio.sleep(0)
        waits = asyncio.ensure_future(call(executor))
        while not clock.waiting:
            await asyncio.sleep(0)
        clock.advance(2)
        late = await waits
        release.set()
        await busy

        assert late.failure.outcome == "not_run"
        assert (await call(executor)).success


async def test_a_failure_before_the_body_began_says_nothing():
    async def next(inv):
        raise DOWN

    with executor_for(clock=FakeClock()) as executor:
        handler = breaker(tool(Upstream().use, Breaker(failures=1)), executor._services, next)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await handler(Invocation.of({}))


def test_a_timeout_in_the_queue_says_nothing_even_after_another_attempt_ran():
    waited, ran = ToolTimeoutError("late"), ToolTimeoutError("late")
    waited.outcome = "not_run"

    assert not counts(waited, TRIPS_ON)
    assert counts(ran, TRIPS_ON)


async def test_tools_with_one_dependency_share_a_circuit_and_others_do_not():
    upstream = Upstream(DOWN)
    shared = Breaker(failures=2, dependency="orders-db")
    tools = [tool(upstream.use, shared, "A"), tool(upstream.use, shared, "B"), tool(upstream.use, POLICY, "C")]
    with executor_for(*tools, clock=FakeClock()) as executor:
        await fail(executor, 1, "A")
        await fail(executor, 1, "B")
        refused = await call(executor, "A")
        upstream.error = None
        assert (await call(executor, "C")).success

    assert refused.failure.details["circuit"] == "orders-db"


async def test_each_tenant_has_a_circuit_of_its_own_where_that_is_said():
    upstream = Upstream(DOWN)
    with executor_for(tool(upstream.use, Breaker(failures=1, by_tenant=True)), clock=FakeClock()) as executor:
        await call(executor, tenant="acme")
        refused = await call(executor, tenant="acme")
        upstream.error = None
        assert (await call(executor, tenant="other")).success
        assert (await call(executor)).success

        assert refused.failure.details["circuit"] == "acme|Shop.order"
        assert circuits(executor._services)["acme|Shop.order"].state == "open"


def test_no_two_names_and_tenants_have_one_key():
    names, tenants = ["a", "b", "a|b", "a%7Cb", "|", "%", ""], [None, "", "a", "a|b", "b", "%7C"]
    keys = {circuit_key(name, tenant) for name in names for tenant in tenants}

    assert len(keys) == len(names) * len(tenants)


async def test_a_result_says_that_its_call_opened_the_circuit_or_met_it_open():
    upstream, flags = Upstream(DOWN), []

    def watching(definition, services, next):
        async def handler(inv):
            try:
                return await next(inv)
            finally:
                flags.append(inv.circuit_opened)

        return handler

    with executor_for(clock=FakeClock()) as executor:
        order = (*ORDER[:2], watching, *ORDER[2:])
        handler = compile(tool(upstream.use, Breaker(failures=2)), executor._services, order)
        for _ in range(3):
            with pytest.raises(Exception, match=r"refused|open"):
                await handler(Invocation.of({}))

    assert flags == [False, True, True]


async def test_an_operator_holds_it_open_or_closed_and_lets_it_go():
    upstream = Upstream()
    with executor_for(tool(upstream.use, Breaker(failures=1)), clock=FakeClock()) as executor:
        services = executor._services
        force_circuit(services, "Shop.order", "open")
        held = await call(executor)
        force_circuit(services, "Shop.order", "closed")
        upstream.error = DOWN
        await fail(executor, 3)
        assert upstream.runs == 3
        force_circuit(services, "Shop.order", "")
        await fail(executor, 1)
        assert (await call(executor)).failure.code == "circuit_open"

        with pytest.raises(ConfigurationError, match="'open' or 'closed'"):
            force_circuit(services, "Shop.order", "half_open")
    assert "an operator holds it" in held.failure.message
    assert held.failure.retry_after_s is None


@pytest.mark.parametrize("body", ["use", "use_in_thread"])
def test_blocking_callers_are_refused_too(body):
    upstream = Upstream(DOWN)
    with executor_for(tool(getattr(upstream, body), Breaker(failures=2)), clock=FakeClock()) as executor:
        codes = [executor.execute_sync(create_tool_call("Shop.order", {})).failure.code for _ in range(4)]

    assert codes[2:] == ["circuit_open", "circuit_open"]
    assert upstream.runs == 2


async def test_a_tool_without_a_breaker_has_no_such_stage():
    for policy in (None, NoOpCircuitBreakerPolicy()):
        with executor_for(clock=FakeClock()) as executor:
            next = object()
            assert breaker(tool(Upstream().use, policy), executor._services, next) is next


async def test_its_decisions_are_explained():
    upstream = Upstream(DOWN)
    with executor_for(clock=FakeClock()) as executor:

        async def next(inv):
            inv.ran = True
            return await upstream.use()

        handler = breaker(tool(upstream.use, Breaker(failures=1)), executor._services, next)
        notes = []
        for _ in range(2):
            inv = Invocation.of({})
            inv.explain = notes
            with pytest.raises((ConnectionError, CircuitOpenError)):
                await handler(inv)

    assert [(note["decision"], note["state"], note["key"]) for note in notes] == [
        ("admitted", "closed", "Shop.order"),
        ("opened the circuit", "open", "Shop.order"),
        ("refused", "open", "Shop.order"),
    ]


# -- shared through the store ------------------------------------------------------------------------------------------


class Remote:
    """The executor's own State behind answers that come later, as a remote one's do; it may be down."""

    def __init__(self, state) -> None:
        self._state = state
        self.asked: list[str] = []
        self.down = False

    def __getattr__(self, name):
        def ask(*args):
            self.asked.append(name)
            pending: Pending = Pending()
            if self.down:
                pending.error = StoreUnavailableError("redis://cache is gone")
            else:
                pending.value = getattr(self._state, name)(*args)
            pending._done = True
            return pending

        return ask


def over(state, definition, clock):
    """A handler of the definition whose breaker uses this State."""
    context = executor_for(clock=clock)
    executor = context.__enter__()
    services = dataclasses.replace(executor._services, state=state, shared={})
    return compile(definition, services), services, lambda: context.__exit__(None, None, None)


def invocation(blocking=False):
    inv = Invocation.of({})
    inv.blocking = blocking
    return inv


@pytest.fixture
def state():
    clock = FakeClock()
    made = open_state("memory://", clock=clock)
    return clock, made


async def test_processes_share_a_circuit_through_the_store(state):
    clock, store = state
    upstream = Upstream(DOWN)
    definition = tool(upstream.use, Breaker(failures=2, shared=True))
    (one, services, close), (other, _, close_other) = (over(Remote(store), definition, clock) for _ in range(2))
    try:
        for handler in (one, other):
            with pytest.raises(Exception, match="refused"):
                await handler(invocation())
        for handler in (one, other):
            with pytest.raises(CircuitOpenError, match="retry in 30"):
                await handler(invocation())
        shown = circuits(services)["Shop.order"]
        assert (await shown).state == "open"
    finally:
        close()
        close_other()

    assert upstream.runs == 2


async def test_a_shared_circuit_costs_one_answer_to_wait_for(state):
    clock, store = state
    remote = Remote(store)
    handler, _, close = over(remote, tool(Upstream().use, Breaker(shared=True)), clock)
    try:
        assert await handler(invocation()) == 0
    finally:
        close()

    assert remote.asked == ["admit", "report"]


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_circuit_in_redis_opens_for_every_process_that_uses_it(redis_url, blocking):
    upstream = Upstream(DOWN)
    definition = tool(upstream.use_in_thread, Breaker(failures=2, recovery_s=60, shared=True))
    stores = [open_state(redis_url, prefix="breaker") for _ in range(2)]
    made = [over(store, definition, FakeClock()) for store in stores]

    async def ends_of(handler) -> str:
        inv = invocation(blocking)
        work = asyncio.to_thread(drive, handler, inv) if blocking else handler(inv)
        with pytest.raises(Exception, match=r"refused|open") as caught:
            await work
        return type(caught.value).__name__

    try:
        ends = [await ends_of(handler) for handler, _, _ in (*made, *made)]
    finally:
        for _, _, close in made:
            close()
        for store in stores:
            store.close()

    assert ends == ["OperationError", "OperationError", "CircuitOpenError", "CircuitOpenError"]
    assert upstream.runs == 2


def drive(handler, inv):
    """Run a blocking call to its end, as the executor does for a thread that waits."""
    coroutine = handler(inv)
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it suspended")


async def test_without_its_store_it_steps_aside_or_refuses_as_the_policy_says(state):
    clock, store = state
    remote, upstream = Remote(store), Upstream()
    remote.down = True
    skips, _, close = over(remote, tool(upstream.use, Breaker(shared=True)), clock)
    refuses, _, close_other = over(remote, tool(upstream.use, Breaker(shared=True, when_down="refuse")), clock)
    try:
        assert await skips(invocation()) == 0
        with pytest.raises(StoreUnavailableError, match=r"circuit of 'Shop\.order'"):
            await refuses(invocation())
    finally:
        close()
        close_other()

    assert upstream.runs == 1


async def test_a_store_that_goes_down_meanwhile_hides_no_error(state):
    clock, store = state
    remote = Remote(store)

    async def order() -> int:
        remote.down = True
        raise DOWN

    handler, _, close = over(remote, tool(order, Breaker(shared=True, when_down="refuse")), clock)
    try:
        with pytest.raises(Exception, match="refused by 10"):
            await handler(invocation())
    finally:
        close()


# -- objects of document C's classes, and of others --------------------------------------------------------------------


async def test_a_standard_policy_object_is_driven_by_the_stage_and_the_executors_clock():
    upstream, clock = Upstream(DOWN), FakeClock()
    policy = StandardCircuitBreakerPolicy(failure_threshold=2, recovery_timeout=60)
    with executor_for(tool(upstream.use, policy), clock=clock) as executor:
        await fail(executor, 2)
        assert policy.get_state("Shop.order") == "open"
        refused = await call(executor)
        clock.advance(60)
        assert policy.get_state("Shop.order") == "half_open"
        upstream.error = None
        assert (await call(executor)).success

        assert policy.get_state("Shop.order") == "closed"
        assert refused.failure.code == "circuit_open"
        assert circuits(executor._services)["Shop.order"].state == "closed"


async def test_resetting_a_policy_object_closes_the_circuit_of_its_tool():
    upstream = Upstream(DOWN)
    policy = AdaptiveCircuitBreakerPolicy(base_threshold=2, window_size=10)
    with executor_for(tool(upstream.use, policy), clock=FakeClock()) as executor:
        await fail(executor, 2)
        assert (await call(executor)).failure.code == "circuit_open"
        for name in ("Shop.order", None):
            policy.reset(name)
            assert policy.get_state("Shop.order") == "closed"
        upstream.error = None
        assert (await call(executor)).success


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_breaker_of_ones_own_runs_the_call(blocking):
    class Counting:
        calls = 0

        async def execute_with_breaker(self, func, tool_name):
            await asyncio.sleep(0)
            self.calls += 1
            return await func()

    policy, upstream = Counting(), Upstream()
    with executor_for(tool(upstream.use_in_thread, policy), clock=FakeClock()) as executor:
        one = create_tool_call("Shop.order", {"x": 1})
        if blocking:
            result = await asyncio.to_thread(executor.execute_sync, one)
        else:
            result = await executor.execute_tool_call(one)

    assert (result.data, policy.calls, upstream.runs) == ({"result": 1}, 1, 1)


async def test_what_a_breaker_of_ones_own_raises_instead_of_running_is_its_refusal():
    class Closed(StandardCircuitBreakerPolicy):
        async def execute_with_breaker(self, func, tool_name):
            raise RuntimeError(f"{tool_name} is closed on Sundays")

    upstream = Upstream()
    with executor_for(tool(upstream.use, Closed()), clock=FakeClock()) as executor:
        result = await call(executor)

    assert (result.failure.code, result.failure.outcome, upstream.runs) == ("circuit_open", "not_run", 0)
    assert "Sundays" in result.failure.message


async def test_what_the_body_raises_passes_a_breaker_of_ones_own():
    class Through:
        async def execute_with_breaker(self, func, tool_name):
            return await func()

    for error, code in ((ToolError("no", code="CARD_DECLINED"), "CARD_DECLINED"), (DOWN, "tool_failed")):
        with executor_for(tool(Upstream(error).use, Through()), clock=FakeClock()) as executor:
            assert (await call(executor)).failure.code == code
