"""once: one key, one run, over every store; replays, duplicates, failures, lost holders, reconciling, outages."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from toolpost import (
    AlreadyDoneError,
    BaseTool,
    Breaker,
    CallInProgressError,
    ConfigurationError,
    FunctionToolExecutor,
    FunctionToolSpec,
    Hints,
    Idempotency,
    IdempotencyMismatchError,
    InputValidationError,
    OutcomeUnknownError,
    Reconciled,
    StoreUnavailableError,
    Tool,
    ToolContext,
    ToolError,
    ToolTimeoutError,
    create_tool_call,
    policy,
)
from toolpost.stores import Pending
from toolpost.testing import FakeClock, executor_for

STORES = ["memory", "redis", "sqlite", "postgres"]


@pytest.fixture(params=STORES)
def stores(request, tmp_path):
    """The settings of an executor whose claims live in each kind of store."""
    if request.param == "memory":
        return {}
    if request.param == "redis":
        return {"state_url": request.getfixturevalue("redis_url")}
    if request.param == "sqlite":
        return {"records_url": f"sqlite:///{tmp_path}/records.db"}
    return {"records_url": request.getfixturevalue("postgres_url")}


def charging(**idempotency):
    """A tool that counts its effects; what it is told to do decides how it ends."""
    state = {"effects": 0, "keys": []}

    @Tool(name="Pay.Charge", register=False, idempotency=Idempotency(**idempotency), timeout_seconds=20)
    async def charge(order: str, amount: int, ctx: ToolContext) -> dict:
        state["effects"] += 1
        state["keys"].append(ctx.idempotency_key)
        await state.get("body", asyncio.sleep)(0)
        return {"order": order, "amount": amount, "n": state["effects"]}

    return charge, state


def _flights(executor):
    """The runs in progress that duplicates wait for."""
    leads = [kept for name, kept in executor._shared.items() if "claims in" in name]
    return [flight for kept in leads for inv in kept.leaders.values() for flight in (inv.joined or {}).values()]


async def late(executor, clock, ran, call):
    """Make a call whose body hangs, and let its deadline pass once the body has begun."""
    task = asyncio.ensure_future(executor.execute_tool_call(call))
    while not ran():
        await asyncio.sleep(0.001)
    clock.advance(30)
    return await task


def charge_call(order="o-1", amount=5, **fields):
    return create_tool_call("Pay.Charge", {"order": order, "amount": amount}, **fields)


async def test_a_repeat_gets_the_first_result_and_runs_nothing(stores):
    tool, state = charging(key_fields=("order",))
    with executor_for(tool, **stores) as executor:
        first = await executor.execute_tool_call(charge_call())
        again = await executor.execute_tool_call(charge_call())

    assert (first.data, again.data) == ({"order": "o-1", "amount": 5, "n": 1},) * 2
    assert (first.source, again.source, state["effects"]) == ("run", "replay", 1)
    assert again.usage.idempotency_reused
    assert again.usage.attempts == 0


async def test_two_hundred_calls_with_one_key_run_the_body_once(stores):
    tool, state = charging()
    with executor_for(tool, **stores) as executor:
        results = await executor.execute_tool_calls([charge_call() for _ in range(200)], concurrency=200)

    assert state["effects"] == 1
    assert {tuple(result.data.items()) for result in results} == {(("order", "o-1"), ("amount", 5), ("n", 1))}
    assert sorted(result.source for result in results) == ["replay"] * 199 + ["run"]


def test_two_hundred_calls_from_threads_run_the_body_once(stores):
    effects = []

    @Tool(name="Pay.Charge", register=False, idempotency=Idempotency(), runs_in="inline")
    def charge(order: str, amount: int) -> int:
        effects.append(order)
        return len(effects)

    with executor_for(charge, **stores) as executor, ThreadPoolExecutor(50) as threads:
        results = list(threads.map(lambda _: executor.execute_sync(charge_call()), range(200)))

    assert [result.data for result in results] == [{"result": 1}] * 200
    assert len(effects) == 1


async def test_calls_of_several_loops_and_threads_share_one_run():
    tool, state = charging()
    with executor_for(tool) as executor:

        def in_own_loop(_):
            return asyncio.run(executor.execute_tool_call(charge_call())).data["n"]

        with ThreadPoolExecutor(8) as threads:
            found = await asyncio.gather(
                *(asyncio.get_running_loop().run_in_executor(threads, in_own_loop, n) for n in range(8))
            )

    assert found == [1] * 8
    assert state["effects"] == 1


async def test_the_same_key_with_other_arguments_is_refused(stores):
    tool, state = charging(key_fields=("order",))
    with executor_for(tool, **stores) as executor:
        await executor.execute_tool_call(charge_call(amount=5))
        other = await executor.execute_tool_call(charge_call(amount=6))

    assert (other.failure.code, other.status_code, other.status) == ("key_mismatch", 422, "rejected")
    assert state["effects"] == 1


async def test_a_duplicate_in_flight_with_other_arguments_is_refused_too():
    tool, state = charging(key_fields=("order",))
    started, go_on = asyncio.Event(), asyncio.Event()

    async def body(_):
        started.set()
        await go_on.wait()

    state["body"] = body
    with executor_for(tool) as executor:
        first = asyncio.create_task(executor.execute_tool_call(charge_call(amount=5)))
        await started.wait()
        other = asyncio.create_task(executor.execute_tool_call(charge_call(amount=6)))
        await asyncio.sleep(0)
        go_on.set()

        assert (await first).success
        assert (await other).failure.code == "key_mismatch"


async def test_a_duplicate_in_flight_is_refused_where_the_policy_says_so(stores):
    tool, state = charging(in_flight="refuse")
    started, go_on = asyncio.Event(), asyncio.Event()

    async def body(_):
        started.set()
        await go_on.wait()

    state["body"] = body
    with executor_for(tool, **stores) as executor:
        first = asyncio.create_task(executor.execute_tool_call(charge_call()))
        await started.wait()
        second = await executor.execute_tool_call(charge_call())
        go_on.set()

        assert (await first).success
    assert (second.failure.code, second.status_code, second.failure.retryable) == ("in_progress", 409, True)
    assert state["effects"] == 1


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"tenant": "a"}, {"tenant": "b"}),
        ({"user_id": "a"}, {"user_id": "b"}),
        ({"tenant": "a", "user_id": "b"}, {"tenant": "ab", "user_id": ""}),
        ({"idempotency_key": "k"}, {"idempotency_key": "k2"}),
    ],
)
async def test_keys_of_different_callers_are_different(one, two):
    tool, state = charging()
    with executor_for(tool) as executor:
        for who in (one, two, one):
            await executor.execute_tool_call(charge_call(**who))

    assert state["effects"] == 2
    assert state["keys"][0] != state["keys"][1]


async def test_users_share_a_key_where_the_policy_leaves_them_out():
    tool, state = charging(include_user=False)
    with executor_for(tool) as executor:
        for user in ("a", "b"):
            await executor.execute_tool_call(charge_call(user_id=user))

    assert state["effects"] == 1


async def test_the_callers_key_goes_before_one_made_from_the_arguments():
    tool, _ = charging(key_fields=("order",))
    with executor_for(tool) as executor:
        one = await executor.execute_tool_call(charge_call("o-1", idempotency_key="k"))
        two = await executor.execute_tool_call(charge_call("o-1", idempotency_key="other"))
        mismatch = await executor.execute_tool_call(charge_call("o-2", idempotency_key="k"))

    assert (one.data["n"], two.data["n"]) == (1, 2)
    assert mismatch.failure.code == "key_mismatch"


async def test_without_a_key_of_the_callers_the_policy_rests_where_it_asks_for_one():
    tool, state = charging(only_caller=True)
    with executor_for(tool) as executor:
        for key in (None, None, "k", "k"):
            await executor.execute_tool_call(charge_call(idempotency_key=key))

    assert state["effects"] == 3


async def test_the_body_sees_the_key_and_every_attempt_the_same():
    tool, state = charging()
    with executor_for(tool) as executor:
        await executor.execute_tool_call(charge_call(idempotency_key="mine"))

    (key,) = state["keys"]
    assert len(key) == 64
    assert key != "mine"


async def test_a_missing_key_field_is_an_error_and_never_a_shared_key():
    @Tool(name="T", register=False, idempotency=Idempotency(key_fields=("request_id",)))
    async def tool(text: str, request_id: str | None = None) -> str:
        return text

    with executor_for(tool) as executor:
        with pytest.raises(InputValidationError, match="request_id"):
            await executor.call("T", text="x")


async def test_a_missing_key_field_lets_the_call_run_where_the_policy_bypasses():
    ran = []

    @Tool(name="T", register=False, idempotency=Idempotency(key_fields=("request_id",), bypass_on_missing_key=True))
    async def tool(text: str, request_id: str | None = None) -> str:
        ran.append(text)
        return text

    with executor_for(tool) as executor:
        assert await executor.call("T", text="x") == "x"
        assert await executor.call("T", text="x") == "x"

    assert ran == ["x", "x"]


async def test_after_a_failure_the_next_call_runs_again(stores):
    tool, state = charging()

    async def fails(_):
        if state["effects"] == 1:
            raise ToolError("no such card", code="CARD")

    state["body"] = fails
    with executor_for(tool, **stores) as executor:
        first = await executor.execute_tool_call(charge_call())
        second = await executor.execute_tool_call(charge_call())

    assert (first.failure.code, second.data["n"]) == ("CARD", 2)


async def test_a_failure_is_replayed_where_the_policy_says_so(stores):
    tool, state = charging(failures="replay")

    async def fails(_):
        raise ToolError("no such card", code="CARD", details={"card": "4"})

    state["body"] = fails
    with executor_for(tool, **stores) as executor:
        await executor.execute_tool_call(charge_call())
        again = await executor.execute_tool_call(charge_call())

    assert state["effects"] == 1
    assert (again.failure.code, again.failure.message) == ("CARD", "no such card")
    assert again.failure.details["replayed"] is True
    assert again.source == "replay"


async def test_a_call_that_was_refused_before_its_body_ran_gives_its_claim_back(stores):
    ran = []

    @Tool(name="Pay.Charge", register=False, idempotency=Idempotency(), breaker=Breaker())
    async def charge(order: str, amount: int) -> int:
        ran.append(order)
        return len(ran)

    with executor_for(charge, **stores) as executor:
        executor.circuits.force("Pay.Charge", "open")
        refused = await executor.execute_tool_call(charge_call())
        executor.circuits.reset("Pay.Charge")
        after = await executor.execute_tool_call(charge_call())

    assert (refused.failure.code, refused.failure.outcome) == ("circuit_open", "not_run")
    assert (after.data, after.source) == ({"result": 1}, "run")


async def test_an_unknown_end_is_not_run_again(stores):
    tool, state = charging()
    hangs = asyncio.Event()

    async def hang(_):
        if state["effects"] == 1:
            await hangs.wait()

    state["body"] = hang
    clock = FakeClock()
    with executor_for(tool, clock=clock, **stores) as executor:
        gave_up = await late(executor, clock, lambda: state["effects"], charge_call())
        again = await executor.execute_tool_call(charge_call())
        (claim,) = executor.claims().unsettled()

        assert gave_up.failure.code == "timeout"
        assert (again.failure.code, again.status_code, again.status) == ("outcome_unknown", 409, "rejected")
        assert (claim.state, claim.tool, state["effects"]) == ("unknown", "Pay.Charge", 1)
        assert executor.claims().settle(claim.key, {"n": "by hand"})
        assert (await executor.execute_tool_call(charge_call())).data == {"n": "by hand"}
        assert executor.claims().forget(claim.key)
        assert (await executor.execute_tool_call(charge_call())).data["n"] == 2


@pytest.mark.parametrize("safe", [{"rerun_unknown": True}, {}])
async def test_an_unknown_end_is_run_again_where_the_tool_is_safe(safe, stores):
    runs = []
    hints = Hints() if safe else Hints(idempotent=True)

    @Tool(name="Pay.Charge", register=False, idempotency=Idempotency(**safe), hints=hints)
    async def put(order: str, amount: int) -> int:
        runs.append(order)
        if len(runs) == 1:
            await asyncio.Event().wait()
        return len(runs)

    clock = FakeClock()
    with executor_for(put, clock=clock, **stores) as executor:
        await late(executor, clock, lambda: runs, charge_call())
        again = await executor.execute_tool_call(charge_call())

    assert again.data == {"result": 2}
    assert again.source == "run"


@pytest.mark.parametrize(
    ("answer", "effects", "source"),
    [({"n": "found"}, 1, "replay"), (Reconciled.NOT_RUN, 2, "run"), (Reconciled.UNKNOWN, 1, None)],
)
async def test_a_reconcile_hook_decides_about_an_unknown_end(answer, effects, source, stores):
    asked = []

    async def reconcile(key, arguments, ctx):
        asked.append((key, arguments, ctx.idempotency_key))
        return answer

    tool, state = charging(reconcile=reconcile)

    async def hang(_):
        if state["effects"] == 1:
            await asyncio.Event().wait()

    state["body"] = hang
    clock = FakeClock()
    with executor_for(tool, clock=clock, **stores) as executor:
        await late(executor, clock, lambda: state["effects"], charge_call())
        again = await executor.execute_tool_call(charge_call())
        once_more = await executor.execute_tool_call(charge_call())

    assert state["effects"] == effects
    assert asked[0][1] == {"order": "o-1", "amount": 5}
    assert asked[0][0] == asked[0][2] == state["keys"][0]
    if source is None:
        assert (again.failure.code, once_more.failure.code, len(asked)) == ("outcome_unknown",) * 2 + (2,)
    else:
        assert (again.source, once_more.source, len(asked)) == (source, "replay", 1)
        assert again.data == once_more.data


async def test_a_reconcile_hook_that_fails_refuses_and_says_so(caplog):
    async def reconcile(key, arguments, ctx):
        raise RuntimeError("upstream is away")

    tool, state = charging(reconcile=reconcile)

    async def hang(_):
        await asyncio.Event().wait()

    state["body"] = hang
    clock = FakeClock()
    with executor_for(tool, clock=clock) as executor:
        await late(executor, clock, lambda: state["effects"], charge_call())
        again = await executor.execute_tool_call(charge_call())

    assert again.failure.code == "outcome_unknown"
    assert "the reconcile hook failed (RuntimeError)" in again.error
    assert "upstream is away" in caplog.text


async def test_a_thread_that_was_given_up_leaves_an_unknown_end():
    release = threading.Event()

    class Slow(BaseTool):
        @policy(Idempotency())
        def work(self, n: int) -> int:
            release.wait(10)
            return n

    slow = Slow()
    with executor_for(timeout=0.1) as executor:
        try:
            with pytest.raises(ToolTimeoutError) as late:
                await executor.execute_async(slow, "work", n=1)
            with pytest.raises(OutcomeUnknownError):
                await executor.execute_async(slow, "work", n=1)
        finally:
            release.set()

    assert late.value.outcome == "unknown"


async def test_a_result_that_is_not_kept_is_not_run_again_either(stores):
    tool, state = charging(persist_result=False)
    with executor_for(tool, **stores) as executor:
        await executor.execute_tool_call(charge_call())
        again = await executor.execute_tool_call(charge_call())

    assert (again.failure.code, again.status_code, state["effects"]) == ("already_done", 409, 1)


async def test_a_large_result_goes_to_the_blobs_and_comes_back(tmp_path):
    ran = []

    @Tool(name="Big", register=False, idempotency=Idempotency())
    async def big(n: int) -> str:
        ran.append(n)
        return "ä" * n

    stores = {"records_url": f"sqlite:///{tmp_path}/r.db", "blobs_url": f"file://{tmp_path}/blobs"}
    with executor_for(big, **stores) as executor:
        first = await executor.execute_tool_call(create_tool_call("Big", {"n": 100_000}))
    with executor_for(big, **stores) as executor:
        again = await executor.execute_tool_call(create_tool_call("Big", {"n": 100_000}))

    assert again.data == first.data
    assert len(ran) == 1
    assert any(path.is_file() for path in (tmp_path / "blobs").rglob("*"))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_deadline_that_passes_while_a_large_result_is_stored_loses_neither_claim_nor_result(kind, tmp_path):
    class Silent:
        """Blobs that take for ever: a stand-in for a store that hangs."""

        url, local, durable = "silent://", False, True
        asked: list = []  # noqa: RUF012

        def put(self, data):
            self.asked.append(len(data))
            return Pending()

        def close(self):
            pass

    ran = []

    @Tool(name="Big", register=False, idempotency=Idempotency(), timeout_seconds=20)
    async def big(n: int) -> str:
        ran.append(n)
        return "x" * n

    clock, blobs = FakeClock(), Silent()
    stores = {} if kind == "memory" else {"records_url": f"sqlite:///{tmp_path}/r.db"}
    with executor_for(big, clock=clock, blobs=blobs, **stores) as executor:
        call = create_tool_call("Big", {"n": 100_000})
        first = await late(executor, clock, lambda: blobs.asked, call)
        again = await executor.execute_tool_call(call)

    assert first.failure.code == "timeout"
    assert (again.source, len(again.data["result"]), ran) == ("replay", 100_000, [100_000])


async def test_a_deadline_that_passes_while_a_handed_memory_is_asked_gives_the_claim_back():
    asked = []

    class Silent:
        async def get(self, key):
            asked.append(key)
            await asyncio.Event().wait()

    ran = []

    async def body(args):
        ran.append(1)
        return {"n": len(ran)}

    spec = FunctionToolSpec(id="m", tool_name="M", description="", parameters=[], idempotency={"enabled": True})
    clock = FakeClock()
    with executor_for(clock=clock) as engine:
        executor = FunctionToolExecutor(spec, body, executor=engine)
        call = asyncio.ensure_future(executor.execute({}, ToolContext(memory=Silent())))
        while not asked:
            await asyncio.sleep(0.001)
        clock.advance(60)
        first, second = await call, await executor.execute({}, ToolContext())

    assert (first.failure.code, first.failure.outcome) == ("timeout", "not_run")
    assert (second.content, second.source) == ({"n": 1}, "run")


async def test_claims_outlive_their_executor_where_the_store_does(stores):
    if not stores:
        pytest.skip("memory ends with its executor")
    tool, state = charging()
    for _ in range(2):
        with executor_for(tool, **stores) as executor:
            result = await executor.execute_tool_call(charge_call())

    assert (result.source, state["effects"]) == ("replay", 1)


async def test_a_cancelled_caller_leaves_an_unknown_end_and_its_duplicates_are_told(stores):
    tool, state = charging()
    started = asyncio.Event()

    async def hang(_):
        started.set()
        await asyncio.Event().wait()

    state["body"] = hang
    with executor_for(tool, **stores) as executor:
        first = asyncio.create_task(executor.execute_tool_call(charge_call()))
        await started.wait()
        second = asyncio.create_task(executor.execute_tool_call(charge_call()))
        while not any(flight._waiters for flight in _flights(executor)):
            await asyncio.sleep(0.001)
        first.cancel()
        told = await second

        assert told.failure.code == "outcome_unknown"
    assert state["effects"] == 1


async def test_a_blocking_duplicate_waits_no_longer_than_its_deadline():
    go_on, started = threading.Event(), threading.Event()

    @Tool(name="Pay.Charge", register=False, idempotency=Idempotency())
    def charge(order: str, amount: int) -> int:
        started.set()
        go_on.wait(10)
        return 1

    with executor_for(charge) as executor, ThreadPoolExecutor(1) as threads:
        first = threads.submit(executor.execute_sync, charge_call())
        started.wait(10)
        second = executor.execute_sync(charge_call(deadline_s=0.05))
        go_on.set()

        assert first.result().success
    assert second.failure.code in ("in_progress", "timeout")
    assert second.failure.outcome == "not_run"


@pytest.mark.parametrize(("when_down", "code"), [("refuse", "store_unavailable"), ("run", None)])
async def test_when_the_store_is_down_the_policy_says_what_happens(when_down, code):
    tool, state = charging(when_down=when_down)
    with executor_for(tool, records_url="postgresql://nobody@127.0.0.1:1/none") as executor:
        result = await executor.execute_tool_call(charge_call())

    assert (result.failure and result.failure.code) == code
    assert state["effects"] == (0 if code else 1)


async def test_a_result_whose_store_is_gone_reaches_its_caller_and_is_stored_later(own_postgres):
    tool, state = charging()

    async def outage(_):
        await asyncio.to_thread(own_postgres.kill)

    state["body"] = outage
    with executor_for(tool, records_url=own_postgres.url) as executor:
        first = await executor.execute_tool_call(charge_call())
        state["body"] = asyncio.sleep
        await asyncio.to_thread(own_postgres.restart)
        again = await executor.execute_tool_call(charge_call())
        while again.failure is not None:  # until the store was told
            await asyncio.sleep(0.05)
            again = await executor.execute_tool_call(charge_call())

    assert first.success
    assert "not stored yet" in first.warnings[0]
    assert (again.data, again.source, state["effects"]) == (first.data, "replay", 1)


def test_the_stage_is_not_in_the_chain_without_a_policy():
    @Tool(name="Plain", register=False)
    async def plain() -> int:
        return 1

    with executor_for(plain) as executor:
        result = asyncio.run(executor.execute_tool_call(create_tool_call("Plain", {}), explain=True))

    assert {entry["stage"]: entry["decision"] for entry in result.explanation}["once"] == "not in the chain"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"key_fields": ()}, "key_fields is empty"),
        ({"key_fields": "order"}, "key_fields must be names"),
        ({"ttl_s": 0}, "ttl_s must be more than 0"),
        ({"in_flight": "drop"}, "in_flight must be 'wait' or 'refuse'"),
        ({"generator": 5}, "generator must have generate_key"),
    ],
)
def test_a_wrong_policy_is_refused_where_it_is_written(wrong, said):
    with pytest.raises(ConfigurationError, match=said):
        Idempotency(**wrong)


def test_the_errors_are_what_the_documents_promise():
    assert (CallInProgressError.status, IdempotencyMismatchError.status) == (409, 422)
    assert (AlreadyDoneError.status, OutcomeUnknownError.status, StoreUnavailableError.status) == (409, 409, 503)
