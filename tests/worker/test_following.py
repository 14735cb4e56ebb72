"""What calls tell, for those who follow: in order, to the result, replayed by id, bounded, wherever they run."""

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest

from tests.worker.conftest import Serve, until
from tests.worker.shop import Shop
from tests.worker.test_calls import ALICE, call
from toolpost import ToolExecutor
from toolpost.testing import executor_for
from toolpost.worker import feed as feeds
from toolpost.worker.calls import Calls
from toolpost.worker.feed import CallEvent
from toolpost.worker.keeping import had
from toolpost.worker.reports import report_json
from toolpost.worker.service import Service


async def followed(calls: Calls, call_id: str, after: str | None = None) -> list[CallEvent]:
    async with asyncio.timeout(15):
        return [event async for event in calls.follow(call_id, ALICE, after)]


def told(events: list[CallEvent]) -> list[Any]:
    return [event.data.get("state", event.data.get("message")) for event in events if event.kind != "result"]


async def test_a_watched_call_is_followed_from_its_start_to_its_result(service: Service, shop: Shop) -> None:
    shop.shut()
    task = asyncio.create_task(service.calls.run(asked := call("Shop.Tell", {"times": 2}), watched=True))
    following = asyncio.create_task(followed(service.calls, asked.id))
    await asyncio.sleep(0)
    shop.open()
    result = await task

    events = await following

    assert told(events) == ["running", "step 0", "line 0", "line 1", "step 1"]
    assert [event.id for event in events] == sorted(event.id for event in events)
    assert len({event.id for event in events}) == len(events)
    assert events[-1].kind == "result"
    report = await service.calls.show(asked.id, ALICE)
    assert report is not None
    assert dict(events[-1].data) == report_json(report)
    assert events[-1].data["data"] == result.data


async def test_events_are_replayed_after_an_id_and_for_a_while_after_the_end(service: Service) -> None:
    await service.calls.run(asked := call("Shop.Tell", {"times": 3}), watched=True)

    all_of_them = await followed(service.calls, asked.id)

    assert all_of_them[-1].kind == "result"
    for at, event in enumerate(all_of_them):
        assert await followed(service.calls, asked.id, event.id) == all_of_them[at + 1 :]


async def test_a_call_that_nobody_watched_has_its_result_to_be_followed(service: Service) -> None:
    await service.calls.run(asked := call("Shop.Tell", {}))

    before = await followed(service.calls, asked.id)
    await service.calls.recorder.flush()
    after = await followed(service.calls, asked.id)

    assert [event.kind for event in before] == [event.kind for event in after] == ["result"]
    assert before[0].data == after[0].data


async def test_an_accepted_call_is_followed_where_it_runs(service: Service, shop: Shop) -> None:
    shop.shut()
    report = await service.calls.accept(call("Shop.Tell", {"times": 3}))
    following = asyncio.create_task(followed(service.calls, report.call_id))
    await until(lambda: service.calls.feed.ring(report.call_id) is not None)
    shop.open()

    events = await following

    assert [one for one in told(events) if one != "queued"][:2] == ["running", "step 0"]
    assert told(events)[-1] == "step 2"
    assert [line for line in told(events) if "line" in line] == ["line 0", "line 1", "line 2"]
    assert events[-1].kind == "result"
    assert events[-1].data["state"] == "succeeded"


async def test_an_accepted_call_is_followed_from_another_process_and_again_after_a_restart(
    shop: Shop, settings: dict[str, Any]
) -> None:
    if settings["records_url"] == "memory://":
        pytest.skip("memory is not shared between processes")
    with executor_for(*shop.tools(), **settings) as here, executor_for(*shop.tools(), **settings) as there:
        async with Service(there) as works, Service(here, works=False) as door:
            shop.shut()
            report = await door.calls.accept(call("Shop.Tell", {"times": 3}))
            followers = [asyncio.create_task(followed(door.calls, report.call_id)) for _ in range(5)]
            await until(lambda: door.calls._following._pollers)
            assert len(door.calls._following._pollers) == 1
            shop.open()
            several = [await one for one in followers]
            await works.calls.journal.flush()
        with executor_for(*shop.tools(), **settings) as later:
            calls = Calls(later)
            again = await followed(calls, report.call_id)
            resumed = await followed(calls, report.call_id, again[1].id)
            await calls.close()

    assert [one[-1].data["state"] for one in several] == ["succeeded"] * 5
    assert [line for line in told(several[0]) if "line" in line] == ["line 0", "line 1", "line 2"]
    assert told(again) == ["step 0", "line 0", "line 1", "line 2", "step 2"]
    assert resumed == again[2:]
    assert [event for event in several[0] if event.kind == "log"] == [event for event in again if event.kind == "log"]


async def test_a_call_that_ends_without_running_is_followed_to_its_result(executor: ToolExecutor, shop: Shop) -> None:
    from toolpost import Accept

    calls = Calls(executor)
    report = await calls.accept(call("Shop.Buy", {"what": "tea"}), Accept(delay_s=60))
    following = asyncio.create_task(followed(calls, report.call_id))
    await until(lambda: calls._following._pollers)

    await calls.cancel(report.call_id, ALICE)
    events = await following
    await calls.close()

    assert [event.data["state"] for event in events] == ["queued", "cancelled"]
    assert calls._following._pollers == {}
    assert not calls.feed.busy


async def test_of_progress_that_is_told_too_often_the_newest_counts(service: Service) -> None:
    await service.calls.run(asked := call("Shop.Tell", {"times": 100, "quickly": True}), watched=True)

    events = await followed(service.calls, asked.id)

    progress = [event.data["value"] for event in events if event.kind == "progress"]
    assert progress == [0, 99]


async def test_the_newest_events_stay_and_a_slow_follower_is_told_that_some_are_gone(
    service: Service, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.shut()
    task = asyncio.create_task(service.calls.run(asked := call("Shop.Tell", {"times": 500}), watched=True))
    await asyncio.sleep(0)
    slow = service.calls.follow(asked.id, ALICE)
    assert (await anext(slow)).data == {"state": "running"}
    shop.open()

    result = await task
    rest = [event async for event in slow]

    assert result.success
    assert rest[0].kind == "state"
    assert rest[0].data["dropped"] > 200
    assert rest[-1].kind == "result"
    lines = [event.data["fields"]["number"] for event in rest if event.kind == "log"]
    assert lines == list(range(lines[0], 500))
    assert len(rest) <= feeds.KEPT_EVENTS + 1


async def test_events_of_accepted_calls_in_the_store_are_bounded_too(service: Service) -> None:
    report = await service.calls.accept(call("Shop.Tell", {"times": 400}))
    await service.calls.wait(report.call_id, ALICE, 15)
    await service.calls.journal.flush()

    kept = await service.calls.journal.read(report.call_id)

    assert len(kept) <= feeds.KEPT_EVENTS + 2
    assert kept[-1].kind in ("log", "progress")
    assert max(event.data["fields"]["number"] for event in kept if event.kind == "log") == 399


async def test_many_followers_of_one_call_hold_no_events_of_their_own(executor: ToolExecutor, shop: Shop) -> None:
    calls = Calls(executor)
    shop.shut()
    task = asyncio.create_task(calls.run(asked := call("Shop.Tell", {"times": 200}), watched=True))
    await asyncio.sleep(0)
    followers = [asyncio.create_task(followed(calls, asked.id)) for _ in range(300)]
    await asyncio.sleep(0.05)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    ring = calls.feed.ring(asked.id)
    assert ring is not None
    assert ring.followers == 300
    for n in range(200):
        ring.tell("log", {"level": "info", "message": "x" * 1000, "fields": {"n": n}}, 0.0)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    shop.open()
    await task
    await calls.close()

    assert held < 1_000_000
    assert ring.followers == 0


async def test_followers_that_go_away_hold_no_call_up_and_leave_nothing_behind(service: Service, shop: Shop) -> None:
    shop.shut()
    report = await service.calls.accept(call("Shop.Tell", {}))
    follower = asyncio.create_task(followed(service.calls, report.call_id))
    await until(lambda: service.calls._following._pollers)
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    shop.open()

    found = await service.calls.wait(report.call_id, ALICE, 10)

    assert found is not None
    assert found.state == "succeeded"
    await until(lambda: not service.calls._following._pollers and not service.calls.feed.busy)


async def test_what_tools_say_from_threads_is_heard(executor: ToolExecutor) -> None:
    from toolpost import Tool, ToolContext

    def tell(ctx: ToolContext) -> str:
        for n in range(3):
            ctx.log(f"line {n}")
        return "done"

    executor.add(Tool(name="Thread.Tell", register=False)(tell))
    calls = Calls(executor)
    await calls.run(asked := call("Thread.Tell", {}), watched=True)

    events = await followed(calls, asked.id)
    await calls.close()

    assert told(events) == ["running", "line 0", "line 1", "line 2"]


class Unspeakable:
    """What has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


async def test_what_cannot_be_shown_ends_no_call_and_hides_nothing_else(service: Service) -> None:
    from toolpost import Tool, ToolContext

    async def tell(ctx: ToolContext) -> str:
        ctx.log("first", value=Unspeakable())
        ctx.log("second")
        ctx.log(3)  # type: ignore[arg-type]
        return "done"

    service.executor.add(Tool(name="Odd", register=False)(tell))
    report = await service.calls.accept(call("Odd", {}))
    events = await followed(service.calls, report.call_id)

    assert events[-1].data["state"] == "succeeded"
    assert [event.data["message"] for event in events if event.kind == "log"] == ["second", "3"]


async def test_followers_do_not_wait_for_a_poller_that_broke(executor: ToolExecutor, shop: Shop) -> None:
    calls = Calls(executor)
    report = await calls.accept(call("Shop.Buy", {"what": "tea"}))

    async def look(*args: Any) -> bool:
        raise ValueError("a row that cannot be read")

    calls._following._look = look  # type: ignore[method-assign]
    events = await followed(calls, report.call_id)
    await calls.close()

    assert [event.data["state"] for event in events] == ["queued"]
    assert not calls.feed.busy


async def test_secrets_are_hidden_in_what_followers_are_told(executor: ToolExecutor) -> None:
    from toolpost import Tool, ToolContext

    async def tell(ctx: ToolContext) -> str:
        ctx.log("it is known-secret-value", value="known-secret-value")
        return "done"

    executor._guards.redactor.add("known-secret-value")
    executor.add(Tool(name="Leak", register=False)(tell))
    calls = Calls(executor)
    await calls.run(asked := call("Leak", {}), watched=True)

    events = await followed(calls, asked.id)
    await calls.close()

    assert "known-secret-value" not in str(events)


async def test_nobody_observes_while_nobody_watches(executor: ToolExecutor, serve: Serve) -> None:
    before = len(executor._observers)
    async with serve() as service:
        report = await service.calls.accept(call("Shop.Tell", {}))
        await service.calls.wait(report.call_id, ALICE, 10)
        await until(lambda: not service.calls.feed.busy)

        assert len(executor._observers) == before
        assert await had(executor.records.task(report.call_id)) is not None


async def test_a_drain_lets_followers_go_who_would_wait_for_ever(serve: Serve, executor: ToolExecutor) -> None:
    from toolpost import Accept

    async with serve() as service:
        report = await service.calls.accept(call("Shop.Buy", {"what": "tea"}), Accept(delay_s=60))
        following = asyncio.create_task(followed(service.calls, report.call_id))
        waiting = asyncio.create_task(service.calls.wait(report.call_id, ALICE, 60))
        await until(lambda: service.calls._following._pollers)

        assert await service.drain(1) is True
        events, still = await following, await waiting

        late = await followed(service.calls, report.call_id)

    assert told(events) == told(late) == ["queued"]
    assert still is not None
    assert still.state == "queued"


async def test_what_a_watched_call_told_is_forgotten_after_a_while(
    executor: ToolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "KEPT_S", 0.1)
    before = len(executor._observers)
    calls = Calls(executor)
    await calls.run(asked := call("Shop.Tell", {}), watched=True)
    assert calls.feed.ring(asked.id) is not None

    await until(lambda: not calls.feed.busy)

    assert len(executor._observers) == before
    await calls.close()
