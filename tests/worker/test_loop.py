"""Accepted calls run once each, in turn, under leases; they are tried again where that is safe, and given back."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.worker.conftest import Serve, until
from tests.worker.shop import Shop
from tests.worker.test_calls import ALICE, call
from toolpost import Accept, Caller, Hints, StoreUnavailableError, Tool, ToolContext, ToolExecutor, ToolResult
from toolpost.stores import Pending, Task, Work
from toolpost.stores.pending import answer_all
from toolpost.testing import executor_for
from toolpost.worker import loop as loops
from toolpost.worker.calls import Calls
from toolpost.worker.keeping import had
from toolpost.worker.loop import Loop
from toolpost.worker.reports import CallReport
from toolpost.worker.service import Service
from toolpost.worker.source import Delivery, LocalSource
from toolpost.worker.verdicts import Verdict


async def ended(calls: Calls, report: CallReport, patience_s: float = 10.0) -> CallReport:
    found = await calls.wait(report.call_id, ALICE, patience_s)
    assert found is not None
    assert found.ended, found
    return found


async def failure_of(calls: Calls, report: CallReport) -> Any:
    found = await ended(calls, report)
    assert found.result is not None
    assert found.result.failure is not None
    return found.result.failure


@asynccontextmanager
async def looping(executor: ToolExecutor, owner: str = "here") -> AsyncIterator[Loop]:
    """A loop without anything else, stopped hard."""
    loop = Loop(Calls(executor), LocalSource(executor, owner), owner)
    loop._calls.accepted = loop._source.wake
    loop._calls.stop_here = loop.stop
    tasks = [asyncio.create_task(loop.take()), asyncio.create_task(loop.renew())]
    try:
        yield loop
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await loop.close()
        await loop._calls.close()


# -- running ----------------------------------------------------------------------------------------------------------


async def test_an_accepted_call_runs_and_its_report_says_all(service: Service) -> None:
    report = await service.calls.accept(call("Shop.Files", {}), Accept(explain=True))

    found = await ended(service.calls, report)

    assert found.state == "succeeded"
    assert found.result is not None
    assert found.result.data == {"result": "two"} or found.result.data == "two"
    assert [one.name for one in found.artifacts] == ["plots/one.png", "notes.txt"]
    assert await had(service.executor.blobs.get(found.artifacts[1].digest)) == b"hello"
    assert found.result.explanation
    assert found.attempt == 1
    assert found.started_at is not None
    assert found.finished_at is not None
    assert found.created_at <= found.started_at + 0.01 <= found.finished_at + 0.02


async def test_the_caller_is_who_accepted_it_with_its_scopes_and_no_more(serve: Serve, executor: ToolExecutor) -> None:
    seen: list[Caller] = []

    async def who(ctx: ToolContext) -> str:
        seen.append(Caller(user_id=ctx.user_id, tenant=ctx.tenant_id, session_id=ctx.session_id))
        return "ok"

    executor.add(Tool(name="Who", register=False, permissions=["may"])(who))
    allowed = replace(ALICE, session_id="s", scopes=frozenset({"may"}))
    async with serve() as service:
        report = await service.calls.accept(call("Who", {}, allowed))
        # accepted by a process that has it open to all, run by one that asks for a scope
        await had(executor.records.submit(Task(task_id="no-scope", tool="Who", user_id="alice", tenant="acme")))
        found = await ended(service.calls, report)
        refused = await service.calls.wait("no-scope", ALICE, 10)

    assert found.state == "succeeded"
    assert seen == [replace(allowed, scopes=frozenset())]
    assert refused is not None
    assert refused.state == "rejected"


async def test_no_more_run_at_a_time_than_may(shop: Shop, settings: dict[str, Any]) -> None:
    with executor_for(*shop.tools(), **settings, worker_concurrency=3) as executor:
        async with Service(executor) as service:
            shop.shut()
            reports = [await service.calls.accept(call("Shop.Buy", {"what": str(n)})) for n in range(8)]
            await until(lambda: shop.running == 3)
            await asyncio.sleep(0.05)
            assert shop.running == 3
            shop.open()
            for report in reports:
                await ended(service.calls, report)

    assert shop.most == 3
    assert set(shop.ended.values()) == {1}


async def test_what_is_more_urgent_goes_first_and_delayed_calls_wait(shop: Shop, settings: dict[str, Any]) -> None:
    with executor_for(*shop.tools(), **settings, worker_concurrency=1) as executor:
        async with looping(executor) as loop:
            calls = loop._calls
            shop.shut()
            await calls.accept(call("Shop.Buy", {"what": "first"}))
            await until(lambda: shop.running == 1)
            await calls.accept(call("Shop.Buy", {"what": "low"}), Accept(priority=-5))
            await calls.accept(call("Shop.Buy", {"what": "later"}), Accept(priority=100, delay_s=0.6))
            await calls.accept(call("Shop.Buy", {"what": "normal"}))
            await calls.accept(call("Shop.Buy", {"what": "high"}), Accept(priority=50))
            shop.open()
            await until(lambda: len(shop.ended) == 5)

    assert shop.order == ["first", "high", "normal", "low", "later"]


async def test_calls_with_one_order_key_run_one_after_the_other(service: Service, shop: Shop) -> None:
    shop.shut()
    for n in range(4):
        await service.calls.accept(call("Shop.Buy", {"what": f"a{n}"}), Accept(order_key="a"))
    await service.calls.accept(call("Shop.Buy", {"what": "b"}), Accept(order_key="b"))
    await until(lambda: shop.running == 2)
    await asyncio.sleep(0.05)
    assert shop.running == 2

    shop.open()
    await until(lambda: len(shop.ended) == 5)

    assert [what for what in shop.order if what.startswith("a")] == ["a0", "a1", "a2", "a3"]


STRANGERS = {
    "another tenant's user": Caller(user_id="alice", tenant="other"),
    "a user without tenant": Caller(user_id="alice"),
    "another user without tenant": Caller(user_id="bob"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_nobody_waits_for_a_strangers_call_of_the_same_order_key(
    stranger: str, service: Service, shop: Shop
) -> None:
    others = [ALICE, *(caller for name, caller in STRANGERS.items() if name != stranger)]
    for caller in others:
        slow = call("Shop.Buy", {"what": "late"}, caller)
        await service.calls.accept(slow, Accept(order_key="a", delay_s=3_600))
    quick = call("Shop.Buy", {"what": "tea"}, STRANGERS[stranger])
    report = await service.calls.accept(quick, Accept(order_key="a"))

    found = await service.calls.wait(report.call_id, STRANGERS[stranger], 10)

    assert found is not None
    assert found.state == "succeeded"


async def test_tools_that_are_not_loaded_here_are_left_to_others(shop: Shop, settings: dict[str, Any]) -> None:
    with executor_for(**settings) as poor, executor_for(*shop.tools(), **settings) as rich:
        if settings["records_url"] == "memory://":
            poor._stores.records = rich.records
        async with Service(poor):
            report = await Calls(rich).accept(call("Shop.Buy", {"what": "tea"}))
            await asyncio.sleep(0.1)
            row = await had(rich.records.task(report.call_id))
            assert row is not None
            assert (row.state, row.attempt) == ("queued", 0)
            async with Service(rich) as service:
                assert (await ended(service.calls, report)).state == "succeeded"


@pytest.mark.parametrize("records_url", ["sqlite", "postgres"], indirect=True)
@pytest.mark.parametrize("lost", [False, True])
async def test_a_version_that_is_not_loaded_here_is_left_to_others(
    lost: bool, shop: Shop, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a rolling upgrade the old processes know the tool, and not its new version."""
    monkeypatch.setattr(loops, "LAST_S", 0.1)

    async def look() -> str:
        return "new"

    async def looked() -> str:
        return "old"

    safe = Hints(idempotent=True)
    new = Tool(name="Look", version="2.0.0", register=False, hints=safe)(look)
    old = Tool(name="Look", version="1.0.0", register=False, hints=safe)(looked)
    with executor_for(old, **settings) as before, executor_for(new, **settings) as after:
        report = await Calls(after).accept(call("Look@2.0.0", {}))
        if lost:
            [_] = await had(after.records.claim_tasks("gone", 1, 0.01))
            await asyncio.sleep(0.02)
        async with looping(before, "before") as loop:
            await until(lambda: given_back(before, report))
            async with looping(after, "after"):
                found = await ended(loop._calls, report)

    assert found.state == "succeeded"
    assert found.result is not None
    assert found.result.data in ("new", {"result": "new"})


async def given_back(executor: ToolExecutor, report: CallReport) -> bool:
    row = await had(executor.records.task(report.call_id))
    return row is not None and row.fence > 0 and row.state == "queued"


async def test_what_nobody_has_loaded_is_refused_in_the_end(
    serve: Serve, executor: ToolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "LAST_S", 0.01)
    monkeypatch.setattr(loops, "PATIENT", 2)
    async with serve() as service:
        task = Task(task_id="old", tool="Shop.Buy", version="9.9.9", user_id="alice", tenant="acme")
        await had(executor.records.submit(task))
        found = await service.calls.wait("old", ALICE, 40)

    assert found is not None
    assert (found.state, found.attempt) == ("rejected", 1)


async def test_calls_that_another_process_accepted_are_found(serve: Serve, executor: ToolExecutor) -> None:
    async with serve() as service:
        await asyncio.sleep(0.1)
        other = Calls(executor)

        report = await other.accept(call("Shop.Buy", {"what": "tea"}))

        assert (await ended(service.calls, report)).state == "succeeded"


# -- again ------------------------------------------------------------------------------------------------------------


async def test_a_failure_that_passes_is_tried_again_as_often_as_may_be(service: Service, shop: Shop) -> None:
    shop.fails.update({"tea": 1, "milk": 9})
    tea = await service.calls.accept(call("Shop.Fetch", {"what": "tea"}), Accept(max_attempts=3))
    milk = await service.calls.accept(call("Shop.Fetch", {"what": "milk"}), Accept(max_attempts=2))

    got, not_got = await ended(service.calls, tea), await ended(service.calls, milk)

    assert (got.state, got.attempt, shop.began["tea"]) == ("succeeded", 2, 2)
    assert (not_got.state, not_got.attempt, shop.began["milk"]) == ("failed", 2, 2)
    assert not_got.result is not None
    assert not_got.result.failure is not None
    assert not_got.result.failure.code == "BUSY"


async def test_while_it_waits_to_be_tried_again_a_call_says_so(service: Service, shop: Shop) -> None:
    shop.fails["tea"] = 1
    report = await service.calls.accept(call("Shop.Fetch", {"what": "tea"}), Accept(max_attempts=2))

    async def waiting() -> bool:
        found = await service.calls.show(report.call_id, ALICE)
        return found is not None and found.state == "waiting" and found.due_at is not None

    await until(waiting)
    assert (await ended(service.calls, report)).state == "succeeded"


async def test_a_body_that_may_have_had_its_effect_is_not_tried_again(service: Service, shop: Shop) -> None:
    shop.fails["tea"] = 1
    report = await service.calls.accept(call("Shop.Send", {"what": "tea"}), Accept(max_attempts=5))

    found = await ended(service.calls, report)

    assert (found.state, found.attempt, shop.began["tea"]) == ("failed", 1, 1)


# -- deadlines --------------------------------------------------------------------------------------------------------


async def test_a_call_whose_deadline_passed_in_the_queue_does_not_run(
    serve: Serve, executor: ToolExecutor, shop: Shop
) -> None:
    report = await Calls(executor).accept(call("Shop.Buy", {"what": "tea"}, deadline_s=0.05))
    await asyncio.sleep(0.1)

    async with serve() as service:
        failure = await failure_of(service.calls, report)
        found = await service.calls.show(report.call_id, ALICE)

    assert found is not None
    assert (found.state, failure.code, failure.outcome) == ("rejected", "timeout", "not_run")
    assert shop.began["tea"] == 0


@pytest.mark.parametrize("has_tools", [True, False])
async def test_a_call_that_nobody_can_run_ends_at_its_deadline(
    serve: Serve, shop: Shop, settings: dict[str, Any], has_tools: bool
) -> None:
    with executor_for(*(shop.tools() if has_tools else ()), **settings) as executor:
        gone = Task(task_id="gone", tool="Nobody.Has", user_id="alice", tenant="acme", deadline_in_s=0.4)
        await had(executor.records.submit(gone))

        async with serve(of=executor) as service:
            early = await service.calls.wait("gone", ALICE, 0.1)
            found = await service.calls.wait("gone", ALICE, 10)

    assert early is not None
    assert early.state == "queued"
    assert found is not None
    assert found.result is not None
    assert found.result.failure is not None
    assert (found.state, found.result.failure.code, found.result.failure.outcome) == ("rejected", "timeout", "not_run")


async def test_a_deadline_that_passes_between_attempts_does_not_say_that_nothing_ran(
    service: Service, shop: Shop
) -> None:
    shop.fails["tea"] = 9
    report = await service.calls.accept(call("Shop.Fetch", {"what": "tea"}, deadline_s=0.3), Accept(max_attempts=9))

    failure = await failure_of(service.calls, report)
    found = await service.calls.show(report.call_id, ALICE)

    assert found is not None
    assert (found.state, failure.code, failure.outcome, failure.rejected) == ("failed", "timeout", "unknown", False)


async def test_the_deadline_counts_from_acceptance(serve: Serve, executor: ToolExecutor, shop: Shop) -> None:
    shop.shut()
    report = await Calls(executor).accept(call("Shop.Buy", {"what": "tea"}, deadline_s=0.5))
    await asyncio.sleep(0.2)

    async with serve() as service:
        found = await ended(service.calls, report)

    assert found.result is not None
    assert (found.state, found.result.failure and found.result.failure.code) == ("failed", "timeout")
    assert found.result.execution_time_ms < 400


# -- lost holders -----------------------------------------------------------------------------------------------------


async def lose(executor: ToolExecutor, *reports: CallReport) -> None:
    """Have a holder vanish: it claims the calls and is never heard of again."""
    works = await had(executor.records.claim_tasks("dead", 10, 0.05))
    assert {work.task.task_id for work in works} == {report.call_id for report in reports}
    await asyncio.sleep(0.1)


async def test_a_call_that_lost_its_holder_runs_again_only_where_that_is_safe(
    serve: Serve, executor: ToolExecutor, shop: Shop
) -> None:
    asked = [
        call("Shop.Look", {"what": "reads"}),
        call("Shop.Fetch", {"what": "idempotent"}),
        call("Shop.Pay", {"what": "keyed"}, idempotency_key="k"),
        call("Shop.Pay", {"what": "without key"}),
        call("Shop.Buy", {"what": "unsafe"}),
        call("Shop.Buy", {"what": "keyed, but the tool has no policy"}, idempotency_key="k"),
    ]
    reports = [await Calls(executor).accept(one) for one in asked]
    await lose(executor, *reports)

    async with serve() as service:
        states = [(await ended(service.calls, report)).state for report in reports]
        failure = await failure_of(service.calls, reports[4])

    # Claims in memory are gone with whoever held them, so that they protect nothing.
    lasting = executor.records.durable
    assert states == ["succeeded", "succeeded", "succeeded" if lasting else "failed", "failed", "failed", "failed"]
    assert set(shop.began) == {"reads", "idempotent", "keyed"} - (set() if lasting else {"keyed"})
    assert (failure.code, failure.outcome, failure.rejected) == ("outcome_unknown", "unknown", False)


async def test_a_key_counts_for_all_tools_where_the_setting_says_so(shop: Shop, settings: dict[str, Any]) -> None:
    with executor_for(*shop.tools(), **settings, idempotency_keys="all") as executor:
        report = await Calls(executor).accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))
        await lose(executor, report)

        async with Service(executor) as service:
            found = await ended(service.calls, report)

    # Claims in memory die with their process, so with records that live on they protect nothing.
    safe = settings["records_url"] != "memory://"
    assert found.state == ("succeeded" if safe else "failed")


async def test_a_keyed_call_whose_claim_says_that_it_began_is_reported_and_not_doubled(
    shop: Shop, settings: dict[str, Any]
) -> None:
    """The holder died after it had claimed the key: nobody knows whether it had its effect."""
    if settings["records_url"] == "memory://":
        pytest.skip("claims in memory end with their process")
    with executor_for(*shop.tools(), **settings) as dead:
        async with looping(dead, "dead") as loop:
            shop.shut()
            report = await loop._calls.accept(call("Shop.Pay", {"what": "tea"}, idempotency_key="k"))
            await until(lambda: shop.began["tea"])
            held = loop._held[report.call_id]
            for task in list(loop._tasks):  # the process is gone, as far as the store can tell
                task.cancel()
            await asyncio.gather(*loop._tasks, return_exceptions=True)
            await had(dead.records.renew_tasks("dead", [(report.call_id, held.work.fence)], 0.01))
            claims = await had(dead.records.unsettled(10))
            loop.draining = True
            loop._source.wake()
        shop.open()
        await asyncio.sleep(0.05)
        with executor_for(*shop.tools(), **settings) as executor:
            async with Service(executor) as service:
                found = await ended(service.calls, report, 20)

    assert shop.began["tea"] == 1
    assert found.state in ("failed", "succeeded")
    assert found.result is not None
    if claims:
        assert found.result.failure is not None
        assert (found.result.failure.code, found.result.failure.outcome) == ("outcome_unknown", "unknown")


async def test_a_call_that_loses_every_holder_is_dead_and_can_be_made_again_by_an_operator(
    serve: Serve, executor: ToolExecutor, shop: Shop
) -> None:
    report = await Calls(executor).accept(call("Shop.Look", {"what": "tea"}))
    for _ in range(3):
        await lose(executor, report)
    swept = await had(executor.records.sweep())
    assert swept["dead"] == 1

    async with serve() as service:
        failure = await failure_of(service.calls, report)
        dead = await service.calls.show(report.call_id, ALICE)
        [letter] = await had(executor.records.dead())
        assert await had(executor.records.redrive(letter["id"], "01ffffff-0000-7000-8000-000000000000"))
        service.calls.accepted()
        again = await service.calls.wait("01ffffff-0000-7000-8000-000000000000", ALICE, 10)

    assert dead is not None
    assert (dead.state, failure.code, failure.outcome) == ("dead", "outcome_unknown", "unknown")
    assert again is not None
    assert (again.state, again.accepted, again.arguments) == ("succeeded", True, {"what": "tea"})


async def test_a_holder_that_was_taken_for_dead_is_ended_and_what_it_gave_is_dropped(
    serve: Serve, executor: ToolExecutor, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    executor.config.task_lease = 0.3
    async with looping(executor, "zombie") as loop:
        shop.shut()
        report = await loop._calls.accept(call("Shop.Look", {"what": "tea"}))
        await until(lambda: shop.began["tea"] == 1)
        real = executor.records.renew_tasks
        frozen = asyncio.Event()

        def renew_tasks(owner: str, held: Any, lease_s: float) -> Any:
            return ["held"] * len(held) if owner == "zombie" and not frozen.is_set() else real(owner, held, lease_s)

        executor.records.renew_tasks = renew_tasks  # type: ignore[method-assign]
        await loop._source.drain()
        await asyncio.sleep(0.4)
        with caplog.at_level(logging.WARNING, "toolpost.worker"):
            async with looping(executor, "taker") as taker:
                await until(lambda: shop.began["tea"] == 2)
                frozen.set()
                await until(lambda: not loop.held)
                shop.open()
                found = await ended(taker._calls, report)
        executor.records.renew_tasks = real  # type: ignore[method-assign]

    assert (found.state, found.attempt, shop.ended["tea"]) == ("succeeded", 2, 1)
    assert any("another process's" in record.getMessage() for record in caplog.records)


async def test_a_process_that_takes_a_call_over_from_itself_lets_the_body_run_on(
    executor: ToolExecutor, shop: Shop
) -> None:
    executor.config.task_lease = 0.2
    async with looping(executor) as loop:
        real = executor.records.renew_tasks
        executor.records.renew_tasks = lambda owner, held, lease_s: ["held"] * len(held)  # type: ignore[method-assign]
        shop.shut()
        report = await loop._calls.accept(call("Shop.Buy", {"what": "tea"}))
        await until(lambda: shop.began["tea"] == 1)

        async def taken_over() -> bool:
            row = await had(executor.records.task(report.call_id))
            return row is not None and row.fence >= 2

        await until(taken_over)
        executor.records.renew_tasks = real  # type: ignore[method-assign]
        shop.open()
        found = await ended(loop._calls, report)

    assert (found.state, shop.began["tea"]) == ("succeeded", 1)


async def test_leases_are_renewed_while_bodies_run(executor: ToolExecutor, shop: Shop) -> None:
    executor.config.task_lease = 0.3
    async with looping(executor) as loop:
        shop.shut()
        report = await loop._calls.accept(call("Shop.Buy", {"what": "tea"}))
        await until(lambda: shop.began["tea"] == 1)
        async with looping(executor, "greedy"):
            await asyncio.sleep(0.8)
            shop.open()
            found = await ended(loop._calls, report)

    assert (found.state, found.attempt, shop.began["tea"]) == ("succeeded", 1, 1)


# -- cancelling -------------------------------------------------------------------------------------------------------


async def test_a_call_that_runs_elsewhere_is_cancelled_at_its_next_renewal(executor: ToolExecutor, shop: Shop) -> None:
    executor.config.task_lease = 0.3
    async with looping(executor) as loop:
        shop.shut()
        report = await loop._calls.accept(call("Shop.Buy", {"what": "tea"}))
        await until(lambda: shop.began["tea"] == 1)
        elsewhere = Calls(executor)

        told = await elsewhere.cancel(report.call_id, ALICE)
        found = await ended(elsewhere, report)

    assert told is not None
    assert told.state in ("running", "cancelled")  # a renewal may have come first
    assert found.state == "cancelled"
    assert shop.ended["tea"] == 0


@pytest.mark.parametrize("what", ["cancelled", "lost", "given up"])
async def test_a_body_is_not_begun_when_that_came_too_late(
    what: str, executor: ToolExecutor, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its claim and its body a call's arguments are fetched, which may take a while."""
    real = loops.call_of
    async with looping(executor) as loop:

        async def call_of(work: Work, executor: ToolExecutor) -> Any:
            monkeypatch.setattr(loops, "call_of", real)
            if what == "cancelled":
                await loop._calls.cancel(work.task.task_id, ALICE)
            elif what == "lost":
                loop._heed(work.task.task_id, work.fence, "lost")
            else:
                await loop.drain(0.0)
            return await real(work, executor)

        monkeypatch.setattr(loops, "call_of", call_of)
        monkeypatch.setattr(loop, "_emptied", no_patience)
        report = await loop._calls.accept(call("Shop.Buy", {"what": "tea"}))
        if what == "given up":
            await until(lambda: given_back(executor, report))
            assert shop.began["tea"] == 0
        elif what == "lost":
            await until(lambda: not loop.held)
            assert shop.began["tea"] == 0
        else:
            found = await ended(loop._calls, report)
            assert (found.state, shop.began["tea"]) == ("cancelled", 0)
            assert found.result is not None
            assert found.result.failure is not None
            assert found.result.failure.outcome == "not_run"


async def test_what_was_given_back_and_taken_again_before_that_was_known_here_is_held_again(
    executor: ToolExecutor, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may do both in one go, and tell of the second first."""
    async with looping(executor) as loop:
        real = loop._written

        async def written(finish: Any) -> bool:
            monkeypatch.setattr(loop, "_written", real)
            answer = await real(finish)
            for work in await had(executor.records.claim_tasks(loop.owner, 1, 15.0)):  # unless the loop was faster
                await loop._take_up(Delivery(work=work))
            return answer

        monkeypatch.setattr(loop, "_written", written)
        monkeypatch.setattr(loops, "afterwards", given_back_once(loops.afterwards, monkeypatch))
        report = await loop._calls.accept(call("Shop.Fetch", {"what": "tea"}))
        found = await ended(loop._calls, report)

    assert (found.state, shop.began["tea"]) == ("succeeded", 2)


async def test_a_call_that_ended_here_and_is_brought_again_does_not_run_again(
    executor: ToolExecutor, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that repeats a statement of which it did not hear brings it twice, under one fence."""
    async with looping(executor) as loop:
        real, brought = loop._take_up, []

        async def take_up(delivery: Delivery) -> None:
            brought.append(delivery)
            await real(delivery)

        monkeypatch.setattr(loop, "_take_up", take_up)
        report = await loop._calls.accept(call("Shop.Fetch", {"what": "tea"}))
        await ended(loop._calls, report)
        await until(lambda: not loop.held)

        await real(brought[0])

        assert loop.held == 0
    assert shop.began["tea"] == 1


def given_back_once(real: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def afterwards(work: Work, result: ToolResult, **more: Any) -> Any:
        monkeypatch.setattr(loops, "afterwards", real)
        return Verdict("queued", result)

    return afterwards


async def no_patience(timeout_s: float) -> bool:
    return False


async def test_a_queued_or_waiting_call_is_cancelled_at_once(executor: ToolExecutor, shop: Shop) -> None:
    calls = Calls(executor)
    report = await calls.accept(call("Shop.Buy", {"what": "tea"}), Accept(delay_s=60))

    found = await calls.cancel(report.call_id, ALICE)

    assert found is not None
    assert found.state == "cancelled"
    assert found.result is not None
    assert found.result.failure is not None
    assert (found.result.failure.code, found.result.failure.outcome) == ("cancelled", "not_run")


# -- a store that is away ---------------------------------------------------------------------------------------------


async def test_results_are_kept_until_their_store_is_back_and_one_asks_for_it(
    serve: Serve, executor: ToolExecutor, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, pings, finishes = asyncio.Event(), 0, 0
    records = executor.records
    finish_task, ping, claim_tasks = records.finish_task, records.ping, records.claim_tasks

    def gated(real: Any) -> Any:
        def asked(*args: Any) -> Any:
            if away.is_set():
                raise StoreUnavailableError("away")
            return real(*args)

        return asked

    def counted_finish(finish: Any) -> Any:
        nonlocal finishes
        finishes += 1
        return gated(finish_task)(finish)

    def counted_ping() -> Any:
        nonlocal pings
        pings += 1
        return gated(ping)()

    monkeypatch.setattr(records, "finish_task", counted_finish)
    monkeypatch.setattr(records, "claim_tasks", gated(claim_tasks))
    monkeypatch.setattr(records, "ping", counted_ping)
    async with serve() as service:
        shop.shut()
        reports = [await service.calls.accept(call("Shop.Buy", {"what": str(n)})) for n in range(5)]
        await until(lambda: shop.running == 5)
        away.set()
        shop.open()
        await until(lambda: pings >= 2)
        assert finishes <= 5
        away.clear()
        for report in reports:
            assert (await ended(service.calls, report)).state == "succeeded"

    assert set(shop.began.values()) == {1}


@pytest.mark.parametrize("records_url", ["sqlite", "postgres"], indirect=True)
async def test_after_an_outage_that_outlasts_leases_what_was_done_in_it_counts_and_is_not_taken_over(
    shop: Shop, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that held the call learns later than others that the store is back."""
    settings = {**settings, "task_lease": 1.0}
    with executor_for(*shop.tools(), **settings) as here, executor_for(*shop.tools(), **settings) as there:
        away = {id(here.records), id(there.records)}

        def cut(records: Any) -> None:
            for name in ("ping", "finish_task", "claim_tasks", "renew_tasks"):
                real = getattr(records, name)

                def asked(*args: Any, real: Any = real) -> Any:
                    if id(records) in away:
                        raise StoreUnavailableError("away")
                    return real(*args)

                monkeypatch.setattr(records, name, asked)

        async with looping(here, "here") as holder:
            shop.shut()
            report = await holder._calls.accept(call("Shop.Buy", {"what": "tea"}))
            await until(lambda: shop.began["tea"] == 1)
            async with looping(there, "there") as other:
                cut(here.records)
                cut(there.records)
                await until(lambda: not holder.gate.is_open and not other.gate.is_open)
                shop.open()
                await asyncio.sleep(1.2)  # the lease is over
                away.discard(id(there.records))
                await until(lambda: other.gate.is_open)
                await asyncio.sleep(0.2)
                away.discard(id(here.records))
                found = await ended(Calls(there), report)

    assert (found.state, shop.began["tea"]) == ("succeeded", 1)


async def test_the_next_call_begins_while_the_end_of_one_is_written(
    shop: Shop, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with executor_for(*shop.tools(), **settings, worker_concurrency=1) as executor:
        real, written = executor.records.finish_task, asyncio.Event()

        async def slowly(finish: Any) -> bool:
            await written.wait()
            return bool(await had(real(finish)))

        async with looping(executor) as loop:
            monkeypatch.setattr(executor.records, "finish_task", real)
            monkeypatch.setattr(loop, "_written", slowly)
            reports = [await loop._calls.accept(call("Shop.Buy", {"what": str(n)})) for n in range(4)]

            await until(lambda: shop.ended["1"] == 1)
            await asyncio.sleep(0.05)
            assert set(shop.began) == {"0", "1"}  # and no more are held than twice as many as may run
            written.set()
            for report in reports:
                await ended(loop._calls, report)

    assert shop.most == 1


# -- drain ------------------------------------------------------------------------------------------------------------


async def test_what_is_being_claimed_when_a_drain_begins_is_given_back(
    serve: Serve, executor: ToolExecutor, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would wait for its lease to end, and count as begun."""
    real, claimed, go_on = executor.records.claim_tasks, asyncio.Event(), asyncio.Event()
    under_way: set[Any] = set()

    def claim_tasks(*args: Any) -> Any:
        pending: Any = Pending()

        async def answered() -> None:
            pending.value = await had(real(*args))
            if pending.value:
                claimed.set()
                await go_on.wait()
            answer_all([pending])

        under_way.add(asyncio.create_task(answered()))
        return pending

    monkeypatch.setattr(executor.records, "claim_tasks", claim_tasks)
    async with serve() as service:
        report = await service.calls.accept(call("Shop.Buy", {"what": "tea"}))
        await claimed.wait()
        stopping = asyncio.create_task(service.stop())
        await asyncio.sleep(0.05)
        go_on.set()
        await stopping
    row = await had(executor.records.task(report.call_id))

    assert row is not None
    assert (row.state, row.attempt, shop.began["tea"]) == ("queued", 0, 0)


async def test_a_drain_lets_what_runs_end_and_leaves_the_rest_in_the_queue(
    shop: Shop, settings: dict[str, Any]
) -> None:
    with executor_for(*shop.tools(), **settings, worker_concurrency=2) as executor:
        async with Service(executor) as service:
            shop.shut()
            reports = [await service.calls.accept(call("Shop.Buy", {"what": str(n)})) for n in range(4)]
            await until(lambda: shop.running == 2)
            drained = asyncio.create_task(service.drain(10))
            await until(lambda: service.draining)
            shop.open()

            assert await drained is True

            rows = [await had(executor.records.task(report.call_id)) for report in reports]

    assert [(row.state, row.attempt) for row in rows if row is not None] == [
        ("succeeded", 1),
        ("succeeded", 1),
        ("queued", 0),
        ("queued", 0),
    ]


async def test_what_does_not_end_in_a_drain_is_given_back_where_that_is_safe_and_ended_where_it_is_not(
    serve: Serve, executor: ToolExecutor, shop: Shop
) -> None:
    async with serve() as service:
        shop.shut()
        safe = await service.calls.accept(call("Shop.Look", {"what": "safe"}))
        unsafe = await service.calls.accept(call("Shop.Buy", {"what": "unsafe"}))
        stuck = await service.calls.accept(call("Shop.Block", {"what": "stuck"}))
        await until(lambda: len(shop.began) == 3)

        assert await service.drain(0.05) is False

        given_back, stopped, unknown = [
            await had(executor.records.task(report.call_id)) for report in (safe, unsafe, stuck)
        ]
        ends = [await service.calls.show(report.call_id, ALICE) for report in (unsafe, stuck)]
        shop.open()

    assert given_back is not None
    assert (given_back.state, given_back.attempt) == ("queued", 0)
    assert stopped is not None
    assert unknown is not None
    assert (stopped.state, unknown.state) == ("cancelled", "cancelled")
    outcomes = [end.result.failure.outcome for end in ends if end and end.result and end.result.failure]
    assert outcomes == ["stopped", "unknown"]

    async with serve() as service:
        assert (await ended(service.calls, safe)).state == "succeeded"


# -- other sources ----------------------------------------------------------------------------------------------------


class Topic:
    """A source as a queue's is: it brings records, and hears what is settled."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Delivery] = asyncio.Queue()
        self.acked: list[Any] = []
        self.released: list[tuple[Any, float]] = []

    async def take(self, room: int, /) -> list[Delivery]:
        return [await self.came.get()]

    def ack(self, token: Any, /) -> None:
        self.acked.append(token)

    def release(self, token: Any, after_s: float, /) -> None:
        self.released.append((token, after_s))

    def wake(self) -> None: ...

    async def drain(self) -> None: ...


async def test_a_queue_only_brings_calls_in_and_is_told_when_they_are_settled(
    executor: ToolExecutor, shop: Shop
) -> None:
    topic = Topic()
    loop = Loop(Calls(executor), topic, "worker")
    taking = asyncio.create_task(loop.take())
    task = Task(task_id="t1", tool="Shop.Buy", arguments=b'{"what":"tea"}', src=("topic", 0, 7), user_id="alice")
    held = replace(task, task_id="t2")
    await had(executor.records.claim_task(held, "another", 60.0))

    topic.came.put_nowait(Delivery(task=task, token=7))
    await until(lambda: topic.acked == [7])
    topic.came.put_nowait(Delivery(task=task, token=8))  # the same record again
    await until(lambda: topic.acked == [7, 8])
    topic.came.put_nowait(Delivery(task=held, token=9))
    await until(lambda: topic.released)

    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await loop.close()
    assert shop.began["tea"] == 1
    assert topic.released == [(9, executor.config.task_lease)]
    assert topic.acked == [7, 8]
    row = await had(executor.records.task("t1"))
    assert row is not None
    assert row.state == "succeeded"


async def test_a_call_that_cannot_be_read_ends_and_does_not_come_again(service: Service) -> None:
    await had(
        service.executor.records.submit(
            Task(task_id="bad", tool="Shop.Buy", arguments=b"[1]", tenant="acme", user_id="alice")
        )
    )
    await had(
        service.executor.records.submit(
            Task(task_id="worse", tool="Shop.Buy", arguments=b"{nope", tenant="acme", user_id="alice")
        )
    )

    bad, worse = await service.calls.wait("bad", ALICE, 10), await service.calls.wait("worse", ALICE, 10)

    assert bad is not None
    assert worse is not None
    assert (bad.state, worse.state) == ("rejected", "rejected")


def test_work_is_what_the_store_gives() -> None:
    assert Work(task=Task(task_id="t", tool="x"), fence=1, attempt=1).lost == 0
    assert ToolResult(call_id="c", tool_name="t", success=True).status == "ok"
