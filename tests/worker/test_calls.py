"""Calls of doors: run at once, bounded, seen by whom they concern, cancelled by id, and written down."""

import asyncio
import logging
from typing import Any

import pytest

from tests.worker.conftest import Serve, until
from tests.worker.shop import Shop
from toolpost import (
    OPERATE,
    Caller,
    StoreUnavailableError,
    Tool,
    ToolCall,
    ToolContext,
    ToolExecutor,
    create_tool_call,
)
from toolpost.calls.call import ANONYMOUS
from toolpost.testing import executor_for
from toolpost.worker import recording
from toolpost.worker.calls import Calls
from toolpost.worker.keeping import had
from toolpost.worker.service import Service

ALICE = Caller(user_id="alice", tenant="acme")
SEERS = {
    "herself": (ALICE, True),
    "in another session": (Caller(user_id="alice", tenant="acme", session_id="s2"), True),
    "another user": (Caller(user_id="bob", tenant="acme"), False),
    "the same name in another tenant": (Caller(user_id="alice", tenant="other"), False),
    "the same name without tenant": (Caller(user_id="alice"), False),
    "nobody": (ANONYMOUS, False),
    "an operator of the tenant": (Caller(user_id="eve", tenant="acme", scopes=frozenset({OPERATE})), True),
    "an operator of another tenant": (Caller(user_id="eve", tenant="other", scopes=frozenset({OPERATE})), False),
    "an operator of all": (Caller(user_id="root", scopes=frozenset({OPERATE})), True),
    "another with other scopes": (Caller(user_id="eve", tenant="acme", scopes=frozenset({"admin"})), False),
}


def call(name: str, arguments: dict[str, Any], caller: Caller = ALICE, **fields: Any) -> ToolCall:
    return create_tool_call(
        name,
        arguments,
        user_id=caller.user_id,
        tenant=caller.tenant,
        session_id=caller.session_id,
        scopes=caller.scopes,
        **fields,
    )


async def recorded(service: Service, call_id: str) -> Any:
    await service.calls.recorder.flush()
    return await had(service.executor.records.task(call_id))


# -- who sees what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seer", SEERS)
async def test_who_sees_a_call_that_was_accepted_follows_cancels_and_lists_it(
    service: Service, shop: Shop, seer: str
) -> None:
    caller, sees = SEERS[seer]
    shop.shut()
    report = await service.calls.accept(call("Shop.Buy", {"what": "tea"}))
    await until(lambda: shop.began["tea"])

    shown = await service.calls.show(report.call_id, caller)
    listed = [one.call_id for one in (await service.calls.list(caller)).calls]
    waited = await service.calls.wait(report.call_id, caller, 0.01)
    cancelled = await service.calls.cancel(report.call_id, caller)
    shop.open()
    followed = [event.kind async for event in service.calls.follow(report.call_id, caller)]

    assert [bool(shown), report.call_id in listed, bool(waited), bool(cancelled), bool(followed)] == [sees] * 5
    ended = await service.calls.wait(report.call_id, ALICE, 10)
    assert ended is not None
    assert ended.state == ("cancelled" if sees else "succeeded")


@pytest.mark.parametrize("records_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seer", SEERS)
async def test_who_sees_a_call_that_runs_here_and_is_written_down(service: Service, shop: Shop, seer: str) -> None:
    caller, sees = SEERS[seer]
    shop.shut()
    running = asyncio.create_task(service.calls.run(asked := call("Shop.Buy", {"what": "tea"})))
    await until(lambda: shop.began["tea"])

    while_it_runs = await service.calls.show(asked.id, caller)
    listed = [one.call_id for one in (await service.calls.list(caller)).calls]
    shop.open()
    await running
    after = await service.calls.show(asked.id, caller)
    await service.calls.recorder.flush()
    from_the_store = await service.calls.show(asked.id, caller)
    relisted = [one.call_id for one in (await service.calls.list(caller)).calls]

    found = [while_it_runs, asked.id in listed, after, from_the_store, asked.id in relisted]
    assert list(map(bool, found)) == [sees] * 5
    if while_it_runs is not None and after is not None and from_the_store is not None:
        assert (while_it_runs.state, after.state, from_the_store.state) == ("running", "succeeded", "succeeded")
        assert after.result == from_the_store.result
        assert after.arguments == from_the_store.arguments == {"what": "tea"}


async def test_nobody_sees_the_calls_of_nobody_and_of_nobody_else(service: Service) -> None:
    await service.calls.run(call("Shop.Look", {"what": "tea"}, ANONYMOUS))
    await service.calls.run(call("Shop.Look", {"what": "milk"}))
    await service.calls.recorder.flush()

    page = await service.calls.list(ANONYMOUS)

    assert [one.arguments or one.tool for one in page.calls] == ["Shop.Look"]
    assert [one.caller for one in page.calls] == [ANONYMOUS]


async def test_a_user_cannot_list_another_by_asking_for_them(service: Service) -> None:
    await service.calls.run(call("Shop.Look", {"what": "tea"}))
    await service.calls.recorder.flush()
    bob = Caller(user_id="bob", tenant="acme")
    operator = Caller(user_id="eve", tenant="acme", scopes=frozenset({OPERATE}))

    assert (await service.calls.list(bob, user_id="alice")).calls == ()
    assert len((await service.calls.list(operator, user_id="alice")).calls) == 1
    assert (await service.calls.list(operator, user_id="bob")).calls == ()


@pytest.mark.parametrize(
    "id", ["", "no such call", "a\0b", "é" * 30, "x" * 500, "01a21e27-9011-7230-90da-3205fbc8f07a"]
)
async def test_ids_that_are_none_are_not_there(service: Service, id: str) -> None:
    assert await service.calls.show(id, ALICE) is None
    assert await service.calls.cancel(id, ALICE) is None
    assert await service.calls.wait(id, ALICE, 1) is None
    assert [event async for event in service.calls.follow(id, ALICE)] == []


# -- lists ------------------------------------------------------------------------------------------------------------


async def test_lists_are_newest_first_filtered_and_paged(service: Service) -> None:
    ids = []
    for number in range(7):
        asked = call("Shop.Look", {"what": str(number)})
        ids.append(asked.id)
        await service.calls.run(asked)
        await asyncio.sleep(0.002)  # ids are ordered by the millisecond
    await service.calls.run(failing := call("Shop.Look", {}))
    await service.calls.recorder.flush()
    ids.append(failing.id)
    newest_first = ids[::-1]

    seen: list[str] = []
    after = None
    while True:
        page = await service.calls.list(ALICE, after=after, limit=3)
        seen += [one.call_id for one in page.calls]
        after = page.after
        if after is None:
            break

    assert seen == newest_first
    assert [one.call_id for one in (await service.calls.list(ALICE, states=["rejected"])).calls] == [failing.id]
    assert [one.call_id for one in (await service.calls.list(ALICE, tool="Shop.Buy")).calls] == []
    first = await service.calls.show(ids[0], ALICE)
    assert first is not None
    at = first.created_at
    assert len((await service.calls.list(ALICE, since=at - 60, until=at + 60)).calls) == 8
    assert (await service.calls.list(ALICE, since=at + 60)).calls == ()
    assert (await service.calls.list(ALICE, until=at - 60)).calls == ()


# -- running ----------------------------------------------------------------------------------------------------------


async def test_a_result_is_the_executors_and_its_row_says_the_same(service: Service) -> None:
    asked = call("Shop.Look", {"what": "tea"})

    result = await service.calls.run(asked, explain=True)
    row = await recorded(service, asked.id)
    report = await service.calls.show(asked.id, ALICE)

    assert result.data == {"what": "tea", "call": asked.id}
    assert result.explanation
    assert row is not None
    assert report is not None
    assert report.result == result
    assert not report.accepted
    assert report.finished_at is not None
    assert abs(report.created_at - asked.timestamp) < 1.0


async def test_only_so_many_run_the_next_wait_in_line_and_the_rest_are_told_when_to_come_back(
    shop: Shop, settings: dict[str, Any]
) -> None:
    with executor_for(*shop.tools(), **settings, max_in_flight=2, max_waiting=3) as executor:
        calls = Calls(executor)
        shop.shut()
        tasks = [asyncio.create_task(calls.run(call("Shop.Buy", {"what": str(n)}))) for n in range(5)]
        await until(lambda: shop.running == 2 and calls.places.waiting == 3)
        refused = await calls.run(call("Shop.Buy", {"what": "late"}))
        waiting = [one.state for one in (await calls.list(ALICE)).calls]

        shop.open()
        results = await asyncio.gather(*tasks)
        await calls.close()

    assert refused.failure is not None
    assert (refused.failure.code, refused.status_code, refused.failure.retryable) == ("overloaded", 503, True)
    assert refused.failure.retry_after_s is not None
    assert sorted(waiting) == ["queued"] * 3 + ["running"] * 2
    assert [result.success for result in results] == [True] * 5
    assert shop.most == 2
    assert shop.order == ["0", "1", "2", "3", "4"]
    assert calls.places.taken == 0
    assert "late" not in shop.began


async def test_a_call_waits_for_a_place_no_longer_than_its_deadline(shop: Shop, settings: dict[str, Any]) -> None:
    with executor_for(*shop.tools(), **settings, max_in_flight=1) as executor:
        calls = Calls(executor)
        shop.shut()
        first = asyncio.create_task(calls.run(call("Shop.Buy", {"what": "first"})))
        await until(lambda: shop.running == 1)

        late = await calls.run(call("Shop.Buy", {"what": "late"}, deadline_s=0.05))

        assert late.failure is not None
        assert (late.failure.code, late.failure.outcome) == ("overloaded", "not_run")
        assert calls.places.waiting == 0
        shop.open()
        assert (await first).success
        assert (await calls.run(call("Shop.Buy", {"what": "next"}))).success
        await calls.close()


async def test_a_caller_that_goes_away_while_it_waits_or_runs_leaves_its_place(
    shop: Shop, settings: dict[str, Any]
) -> None:
    with executor_for(*shop.tools(), **settings, max_in_flight=1) as executor:
        calls = Calls(executor)
        shop.shut()
        first = asyncio.create_task(calls.run(asked := call("Shop.Buy", {"what": "first"}), watched=True))
        await until(lambda: shop.running == 1)
        second = asyncio.create_task(calls.run(call("Shop.Buy", {"what": "second"})))
        await until(lambda: calls.places.waiting == 1)
        third = asyncio.create_task(calls.run(call("Shop.Buy", {"what": "third"})))
        await until(lambda: calls.places.waiting == 2)

        second.cancel()
        first.cancel()
        gone = await asyncio.gather(first, second, return_exceptions=True)
        shop.open()

        assert [type(one) for one in gone] == [asyncio.CancelledError] * 2
        assert (await third).success
        assert calls.places.taken == calls.places.waiting == 0
        report = await calls.show(asked.id, ALICE)
        assert report is not None
        assert report.result is not None
        assert report.result.failure is not None
        assert (report.state, report.result.failure.outcome) == ("cancelled", "unknown")
        await calls.close()


async def test_a_running_call_is_cancelled_by_its_id_and_its_task_lives_on(service: Service, shop: Shop) -> None:
    shop.shut()
    asked = call("Shop.Buy", {"what": "tea"})

    async def door() -> Any:
        result = await service.calls.run(asked)
        await asyncio.sleep(0)
        return result

    task = asyncio.create_task(door())
    await until(lambda: shop.began["tea"])
    report = await service.calls.cancel(asked.id, ALICE)
    result = await task

    assert report is not None
    assert report.state == "running"
    assert result.failure is not None
    assert (result.failure.code, result.status_code, result.failure.outcome) == ("cancelled", 499, "stopped")
    assert shop.ended["tea"] == 0
    assert task.cancelling() == 0
    row = await recorded(service, asked.id)
    assert row.state == "cancelled"


async def test_a_call_that_is_over_is_not_cancelled_while_its_files_are_kept(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping, kept = asyncio.Event(), asyncio.Event()

    async def keep(result: Any) -> Any:
        keeping.set()
        await kept.wait()
        return result, ()

    monkeypatch.setattr(service.calls, "_keep", keep)
    asked = call("Shop.Files", {})
    task = asyncio.create_task(service.calls.run(asked))
    await keeping.wait()
    told = await service.calls.cancel(asked.id, ALICE)
    kept.set()

    assert told is not None
    assert (await task).success
    assert task.cancelling() == 0


async def test_of_a_cancelled_body_in_a_thread_nobody_knows_how_far_it_came(service: Service, shop: Shop) -> None:
    shop.shut()
    task = asyncio.create_task(service.calls.run(asked := call("Shop.Block", {"what": "tea"})))
    await until(lambda: shop.began["tea"])

    await service.calls.cancel(asked.id, ALICE)
    result = await task
    shop.open()

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome) == ("cancelled", "unknown")


async def test_a_call_that_waits_for_a_place_can_be_cancelled(shop: Shop, settings: dict[str, Any]) -> None:
    with executor_for(*shop.tools(), **settings, max_in_flight=1) as executor:
        calls = Calls(executor)
        shop.shut()
        first = asyncio.create_task(calls.run(call("Shop.Buy", {"what": "first"})))
        await until(lambda: shop.running == 1)
        second = asyncio.create_task(calls.run(asked := call("Shop.Buy", {"what": "second"})))
        await until(lambda: calls.places.waiting == 1)

        await calls.cancel(asked.id, ALICE)
        result = await second
        shop.open()
        await first
        await calls.close()

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome) == ("cancelled", "not_run")
    assert calls.places.taken == calls.places.waiting == 0


async def test_cancelling_a_call_that_ended_tells_how_it_ended(service: Service) -> None:
    await service.calls.run(asked := call("Shop.Look", {"what": "tea"}))

    report = await service.calls.cancel(asked.id, ALICE)

    assert report is not None
    assert report.state == "succeeded"


async def test_artifacts_are_in_blobs_when_run_returns_and_in_the_result(service: Service) -> None:
    result = await service.calls.run(asked := call("Shop.Files", {}))

    report = await service.calls.show(asked.id, ALICE)

    assert result.artifacts == {"plots/one.png": b"\x89PNG\x00", "notes.txt": b"hello"}
    assert report is not None
    assert report.result is not None
    assert report.result.artifacts == {}
    kept = {one.name: await had(service.executor.blobs.get(one.digest)) for one in report.artifacts}
    assert kept == result.artifacts
    assert {one.name: one.media_type for one in report.artifacts}["plots/one.png"] == "image/png"


async def test_nothing_that_is_secret_is_kept_or_shown_of_arguments(service: Service, shop: Shop) -> None:
    service.executor._guards.redactor.add("known-secret-value")
    arguments = {"user": "known-secret-value", "password": "hunter22", "pin": "123456"}

    await service.calls.run(asked := call("Shop.Login", arguments))
    row = await recorded(service, asked.id)
    accepted = await service.calls.accept(call("Shop.Login", arguments))
    await service.calls.wait(accepted.call_id, ALICE, 10)
    shown = [await service.calls.show(id, ALICE) for id in (asked.id, accepted.call_id)]

    for secret in (b"known-secret-value", b"hunter22", b"123456"):
        assert secret not in row.arguments
    for report in shown:
        assert report is not None
        assert report.arguments == {"user": "[hidden]", "password": "[hidden]", "pin": "[hidden]"}
    assert shop.tokens == [("hunter22", "123456")] * 2


async def test_calls_are_not_written_down_where_only_accepted_ones_are_to_be(shop: Shop) -> None:
    with executor_for(*shop.tools(), record_calls="accepted") as executor:
        calls = Calls(executor)
        await calls.run(asked := call("Shop.Look", {"what": "tea"}))

        assert await calls.show(asked.id, ALICE) is None
        executor.config.record_calls = "all"
        await calls.run(later := call("Shop.Look", {"what": "tea"}))
        assert await calls.show(later.id, ALICE) is not None
        await calls.close()


async def test_what_cannot_be_written_down_is_counted_said_once_and_holds_no_call_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "MAX_WAITING", 5)
    with (
        executor_for(*shop.tools(), log_level="ERROR") as executor,
        caplog.at_level(logging.WARNING, "toolpost.worker"),
    ):
        calls = Calls(executor)
        asked = [call("Shop.Look", {"what": str(n)}) for n in range(12)]
        for one in asked:
            assert (await calls.run(one)).success

        await calls.recorder.flush()

        assert calls.recorder.dropped == 7
        kept = [one.id for one in asked if await had(executor.records.task(one.id)) is not None]
        assert kept == [one.id for one in asked[:5]]
        assert len([r for r in caplog.records if "not recorded" in r.getMessage()]) == 1
        await calls.close()


@pytest.mark.parametrize("flushes", [False, True])
async def test_calls_are_written_in_short_batches_and_all_at_once_where_time_is_short(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, flushes: bool
) -> None:
    monkeypatch.setattr(recording, "BATCH", 4)
    monkeypatch.setattr(recording, "PAUSE_S", 0.01)
    with executor_for(*shop.tools(), log_level="ERROR") as executor:
        real, sizes = executor.records.record_tasks, list[int]()

        def record_tasks(rows: Any) -> Any:
            sizes.append(len(rows))
            return real(rows)

        monkeypatch.setattr(executor.records, "record_tasks", record_tasks)
        calls = Calls(executor)
        for n in range(10):
            await calls.run(call("Shop.Look", {"what": str(n)}))
        writes = calls.recorder._task
        assert writes is not None
        await (calls.recorder.flush() if flushes else writes)
        await calls.close()

    assert sizes == ([10] if flushes else [4, 4, 2])


@pytest.mark.parametrize(("took_s", "counted_s"), [(0.00001, 0.00001), (7.0, recording.ROW_S)])
async def test_the_stores_time_counts_in_what_records_may_take_but_not_for_how_long_it_waits(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, took_s: float, counted_s: float
) -> None:
    with executor_for(*shop.tools(), log_level="ERROR") as executor:
        real, shows = executor.records.record_tasks, [1_000.0]

        def record_tasks(rows: Any) -> Any:
            shows[0] += took_s
            return real(rows)

        calls = Calls(executor)
        await calls.run(call("Shop.Look", {"what": "tea"}))
        waiting = calls.recorder.all()
        monkeypatch.setattr(type(executor.clock), "stopwatch", lambda self: shows[0])
        monkeypatch.setattr(executor.records, "record_tasks", record_tasks)

        assert await calls.recorder._put(waiting) == pytest.approx(counted_s, rel=1e-3)
        monkeypatch.undo()
        await calls.close()


async def test_while_many_wait_records_take_their_share_of_the_time_and_no_more(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "BATCH", 2)
    pauses, shows = list[float](), [1_000.0]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with executor_for(*shop.tools(), log_level="ERROR") as executor:
        calls = Calls(executor)

        async def put(batch: Any) -> float:
            shows[0] += 0.03  # of which the calls that run meanwhile had most
            return 0.01

        monkeypatch.setattr(calls.recorder, "_put", put)
        monkeypatch.setattr(type(executor.clock), "stopwatch", lambda self: shows[0])
        monkeypatch.setattr(recording.asyncio, "sleep", sleep)
        for n in range(5):
            await calls.run(call("Shop.Look", {"what": str(n)}))
        writes = calls.recorder._task
        assert writes is not None
        await writes
        monkeypatch.undo()
        await calls.close()

    share = 0.01 / recording.SHARE - 0.03
    assert pauses == pytest.approx([recording.PAUSE_S, share, recording.PAUSE_S])


async def test_results_that_wait_to_be_written_hold_a_bounded_number_of_bytes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_BYTES", 100_000)
    with executor_for(*shop.tools(), log_level="ERROR") as executor:
        calls = Calls(executor)
        asked = [call("Shop.Big", {"size": 40_000}) for _ in range(5)]
        for one in asked:
            assert (await calls.run(one)).success
        assert [one.running.call.id for one in calls.recorder.all()] == [one.id for one in asked[-2:]]
        await calls.run(huge := call("Shop.Big", {"size": 500_000}))
        assert [one.running.call.id for one in calls.recorder.all()] == [huge.id]
        await calls.close()
        assert calls.recorder._weight == 0


@pytest.mark.parametrize("name", ["x" * 100_000, "a\0b", "\ud800", "no@1@2"])
async def test_calls_of_what_is_no_tool_are_written_down_too(service: Service, name: str) -> None:
    result = await service.calls.run(asked := call(name, {"a": 1}))

    before = await service.calls.show(asked.id, ALICE)
    listed = (await service.calls.list(ALICE)).calls
    row = await recorded(service, asked.id)

    assert result.failure is not None
    assert result.failure.code == "unknown_tool"
    assert before is not None
    assert [one.call_id for one in listed] == [asked.id]
    assert row.tool == before.tool
    assert len(row.tool) <= 128


async def test_calls_are_written_down_when_their_store_is_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with executor_for(*shop.tools(), log_level="ERROR") as executor:
        calls = Calls(executor)
        real, away = executor.records.record_tasks, 2

        def record_tasks(rows: Any) -> Any:
            nonlocal away
            if away:
                away -= 1
                raise StoreUnavailableError("away")
            return real(rows)

        monkeypatch.setattr(executor.records, "record_tasks", record_tasks)
        await calls.run(asked := call("Shop.Look", {"what": "tea"}))

        await until(lambda: executor.records.task(asked.id) is not None)  # type: ignore[comparison-overlap]
        assert calls.recorder.dropped == 0
        await calls.close()


async def test_a_draining_service_takes_no_more_and_lets_what_runs_end(serve: Serve, shop: Shop) -> None:
    async with serve() as service:
        shop.shut()
        running = asyncio.create_task(service.calls.run(call("Shop.Buy", {"what": "tea"})))
        await until(lambda: shop.running == 1)
        drained = asyncio.create_task(service.drain(10))
        await until(lambda: service.draining)

        refused = await service.calls.run(call("Shop.Buy", {"what": "late"}))
        shop.open()

        assert (await running).success
        assert await drained is True
        assert refused.failure is not None
        assert refused.failure.code == "overloaded"


async def test_what_does_not_end_while_draining_is_cancelled(serve: Serve, shop: Shop) -> None:
    async with serve() as service:
        shop.shut()
        running = asyncio.create_task(service.calls.run(call("Shop.Buy", {"what": "tea"})))
        await until(lambda: shop.running == 1)

        assert await service.drain(0.05) is False
        result = await running

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome) == ("cancelled", "stopped")
    assert "shut down" in result.failure.message


async def test_running_a_call_starts_no_task(executor: ToolExecutor) -> None:
    calls = Calls(executor)
    executor.config.record_calls = "accepted"
    before = asyncio.all_tasks()

    async def during() -> None:
        await calls.run(call("Shop.Look", {"what": "tea"}))
        assert asyncio.all_tasks() == before

    await during()
    assert calls._running == {}
    await calls.close()


async def test_one_call_of_a_batch_is_cancelled_and_the_others_go_on(service: Service, shop: Shop) -> None:
    from toolpost.calls.clock import SYSTEM_CLOCK
    from toolpost.engine.batch import in_order

    shop.shut()
    asked = [call("Shop.Buy", {"what": str(n)}) for n in range(4)]

    async def door() -> Any:
        return await in_order(
            asked,
            lambda one, left_s: service.calls.run(one),
            concurrency=3,
            deadline_s=None,
            fail_fast=True,
            clock=SYSTEM_CLOCK,
        )

    results = asyncio.create_task(door())
    await until(lambda: shop.running == 3)
    await service.calls.cancel(asked[1].id, ALICE)
    await until(lambda: shop.began["3"] == 1)
    shop.open()

    assert [one.success for one in await results] == [True, False, True, True]


@pytest.mark.parametrize("waits", [True, False])
async def test_a_call_that_its_own_body_has_cancelled_ends_where_it_waits_next(waits: bool) -> None:
    calls: Calls

    name = "Self.wait" if waits else "Self.end"

    @Tool(name=name)
    async def end(context: ToolContext) -> str:
        """Ends itself."""
        await calls.cancel(context.call_id, ALICE)
        if waits:
            await asyncio.sleep(20)
        return "on"

    with executor_for(end, log_level="ERROR") as executor:
        calls = Calls(executor)
        observers = len(executor._observers)
        task = asyncio.current_task()
        result = await calls.run(call(name, {}))
        assert result.data == ({"result": "on"} if not waits else None)
        assert result.failure is None if not waits else (result.failure and result.failure.code == "cancelled")
        assert task is not None
        assert task.cancelling() == 0
        assert len(executor._observers) == observers
        await calls.close()
