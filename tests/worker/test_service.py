"""What a service does beside running calls: callbacks leave with their ends, old calls go, broken parts restart."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.conftest import until
from tests.worker.shop import Shop
from tests.worker.test_calls import ALICE, call
from tests.worker.test_loop import ended, looping
from toolpost import Accept, ConfigurationError, NotSupportedError, StoreUnavailableError, ToolExecutor
from toolpost.stores.memory_records import MemoryRecords
from toolpost.testing import FakeClock, executor_for
from toolpost.worker import failpoints, service as services, sweeping
from toolpost.worker.callbacks import KIND
from toolpost.worker.calls import Calls
from toolpost.worker.gate import Gate
from toolpost.worker.keeping import had
from toolpost.worker.places import Places
from toolpost.worker.service import Service
from toolpost.worker.sweeping import Sweeper

URL = "http://127.0.0.1:9/told"
SIGNED = {"secret_key": "a-secret-key-of-some-length", "egress_private": ["127.0.0.1:*"]}


@pytest.fixture
def telling(shop: Shop, settings: dict[str, Any]) -> Iterator[ToolExecutor]:
    """An executor that can call back."""
    with executor_for(*shop.tools(), **settings, **SIGNED) as made:
        yield made


async def outbox(executor: ToolExecutor, *kinds: str) -> list[Any]:
    return [message for _, message, _ in await had(executor.records.take_outbox(100, 60.0, kinds))]


# -- callbacks --------------------------------------------------------------------------------------------------------


async def test_a_callback_leaves_with_the_end_of_its_call_and_carries_its_report(telling: ToolExecutor) -> None:
    async with looping(telling) as loop:
        report = await loop._calls.accept(call("Shop.Files", {}), Accept(callback=URL))
        found = await ended(loop._calls, report)

    [message] = await outbox(telling, KIND)
    told = json.loads(message.body)
    assert (message.dest, message.key) == (URL, report.call_id)
    assert (told["type"], told["data"]["state"], told["data"]["call_id"]) == (
        "call.succeeded",
        "succeeded",
        report.call_id,
    )
    assert told["data"]["data"] == (found.result and found.result.data)
    assert [one["name"] for one in told["data"]["artifacts"]] == ["plots/one.png", "notes.txt"]
    assert found.callback == URL


async def test_nobody_is_called_back_before_the_end(telling: ToolExecutor, shop: Shop) -> None:
    shop.fails["tea"] = 1
    async with looping(telling) as loop:
        report = await loop._calls.accept(call("Shop.Fetch", {"what": "tea"}), Accept(callback=URL, max_attempts=2))
        await until(lambda: shop.began["tea"] == 1)
        assert await outbox(telling, KIND) == []
        await ended(loop._calls, report)

    assert len(await outbox(telling, KIND)) == 1


async def test_who_waits_for_a_call_that_the_store_ended_is_told_too(telling: ToolExecutor) -> None:
    calls, sweeper = Calls(telling), Sweeper(telling)
    cancelled = await calls.accept(call("Shop.Buy", {"what": "tea"}), Accept(callback=URL))
    await calls.cancel(cancelled.call_id, ALICE)
    dead = await calls.accept(call("Shop.Buy", {"what": "milk"}), Accept(callback=URL))
    for _ in range(3):
        await had(telling.records.claim_tasks("dead", 1, 0.02))
        await asyncio.sleep(0.05)

    await sweeper.sweep()
    await sweeper.sweep()

    messages = await outbox(telling, KIND)
    assert {message.key: json.loads(message.body)["type"] for message in messages} == {
        cancelled.call_id: "call.cancelled",
        dead.call_id: "call.dead",
    }
    assert await outbox(telling, "farewell") == []


async def test_a_farewell_that_cannot_be_said_holds_up_no_others(
    telling: ToolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, sweeper = Calls(telling), Sweeper(telling)
    reports = [await calls.accept(call("Shop.Buy", {"what": str(n)}), Accept(callback=URL)) for n in range(3)]
    for report in reports:
        await calls.cancel(report.call_id, ALICE)
    real = sweeping.call_back

    async def call_back(executor: ToolExecutor, call_id: str) -> None:
        if call_id == reports[0].call_id:
            raise ValueError("a row that cannot be read")
        await real(executor, call_id)

    monkeypatch.setattr(sweeping, "call_back", call_back)

    await sweeper.sweep()

    assert {message.key for message in await outbox(telling, KIND)} == {one.call_id for one in reports[1:]}
    assert "a row that cannot be read" in caplog.text


async def test_a_call_that_was_to_go_on_later_and_was_cancelled_meanwhile_is_told_of(
    telling: ToolExecutor, shop: Shop
) -> None:
    async with looping(telling) as loop:
        real = telling.records.finish_task

        def finish_task(finish: Any) -> Any:
            telling.records.cancel_task(finish.task_id)
            return real(finish)

        telling.records.finish_task = finish_task  # type: ignore[method-assign]
        shop.fails["tea"] = 1
        report = await loop._calls.accept(call("Shop.Fetch", {"what": "tea"}), Accept(callback=URL, max_attempts=2))
        found = await ended(loop._calls, report)
        await until(lambda: not loop.held)
        telling.records.finish_task = real  # type: ignore[method-assign]

    assert found.state == "cancelled"
    assert [json.loads(message.body)["type"] for message in await outbox(telling, KIND)] == ["call.cancelled"]


async def test_callbacks_that_could_not_be_signed_or_sent_are_refused_at_once(
    telling: ToolExecutor, shop: Shop
) -> None:
    with executor_for(*shop.tools()) as unsigned, pytest.raises(NotSupportedError, match="secret_key"):
        await Calls(unsigned).accept(call("Shop.Buy", {"what": "tea"}), Accept(callback="https://example.com/told"))
    asked = call("Shop.Buy", {"what": "tea"})
    with pytest.raises(Exception, match="callback"):
        await Calls(telling).accept(asked, Accept(callback="http://example.com/told"))

    assert await had(telling.records.task(asked.id)) is None


# -- sweeping ---------------------------------------------------------------------------------------------------------


async def test_calls_that_ended_long_ago_are_forgotten_and_others_are_not(shop: Shop) -> None:
    clock = FakeClock()
    with executor_for(*shop.tools(), clock=clock, calls_kept=1000.0) as executor:
        calls, sweeper = Calls(executor), Sweeper(executor)
        old = await calls.accept(call("Shop.Buy", {"what": "old"}))
        waits = await calls.accept(call("Shop.Buy", {"what": "waits"}))
        await calls.cancel(old.call_id, ALICE)
        clock.advance(900)
        new = await calls.accept(call("Shop.Buy", {"what": "new"}))
        await calls.cancel(new.call_id, ALICE)
        clock.advance(200)

        await sweeper.forget()

        assert await calls.show(old.call_id, ALICE) is None
        assert await calls.show(waits.call_id, ALICE) is not None
        assert await calls.show(new.call_id, ALICE) is not None


# -- the service ------------------------------------------------------------------------------------------------------


async def test_a_service_that_does_not_work_only_answers(executor: ToolExecutor, shop: Shop) -> None:
    async with Service(executor, works=False) as door:
        report = await door.calls.accept(call("Shop.Buy", {"what": "tea"}))
        await asyncio.sleep(0.1)
        shown = await door.calls.show(report.call_id, ALICE)
        assert (await door.calls.run(call("Shop.Look", {"what": "milk"}))).success

    assert shown is not None
    assert shown.state == "queued"
    assert shop.began["tea"] == 0


async def test_an_accepted_call_survives_the_service_that_took_it(executor: ToolExecutor, shop: Shop) -> None:
    async with Service(executor, works=False) as door:
        report = await door.calls.accept(call("Shop.Buy", {"what": "tea"}))

    async with Service(executor) as service:
        found = await ended(service.calls, report)

    assert found.state == "succeeded"


async def test_a_part_that_breaks_is_begun_anew(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(services, "PAUSE_S", 0.01)
    with executor_for(*shop.tools(), log_level="ERROR") as executor:
        real, broken = executor.records.claim_tasks, 2

        def claim_tasks(*args: Any) -> Any:
            nonlocal broken
            if broken:
                broken -= 1
                raise RuntimeError("a bug")
            return real(*args)

        monkeypatch.setattr(executor.records, "claim_tasks", claim_tasks)
        async with Service(executor) as service:
            report = await service.calls.accept(call("Shop.Buy", {"what": "tea"}))

            assert (await ended(service.calls, report)).state == "succeeded"

    assert sum("begins anew" in record.getMessage() for record in caplog.records) == 2


async def test_a_service_leaves_no_task_behind(executor: ToolExecutor) -> None:
    before = asyncio.all_tasks()
    async with Service(executor) as service:
        report = await service.calls.accept(call("Shop.Tell", {}))
        await ended(service.calls, report)

    assert asyncio.all_tasks() == before


async def test_a_service_can_be_stopped_twice_and_before_it_started(executor: ToolExecutor) -> None:
    service = Service(executor)
    await service.stop()
    async with Service(executor) as other:
        await other.stop()


async def test_a_drain_does_not_take_longer_than_it_may(executor: ToolExecutor, shop: Shop) -> None:
    executor.config.cancel_grace_s = 0.1
    async with Service(executor) as service:
        shop.shut()
        await service.calls.accept(call("Shop.Buy", {"what": "tea"}))
        await until(lambda: shop.running == 1)
        began = time.monotonic()

        assert await service.drain(0.1) is False

        assert time.monotonic() - began < 2.0
        shop.open()


async def test_settings_that_change_hold_for_the_next_call(shop: Shop) -> None:
    with executor_for(*shop.tools(), max_in_flight=7) as executor:
        calls = Calls(executor)
        executor.config.max_in_flight = 3

        assert calls.places.limit == 3
        await calls.close()
        executor.config.max_in_flight = 4
        assert calls.places.limit == 3


# -- the gate, places, failpoints -------------------------------------------------------------------------------------


async def test_while_the_store_is_away_one_asks_and_all_who_wait_go_on_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "toolpost.worker")
    with executor_for() as executor:
        gate, asked, away = Gate(executor), 0, True

        def ping() -> None:
            nonlocal asked
            asked += 1
            if away:
                raise StoreUnavailableError("away")

        def operation() -> int:
            if away:
                raise StoreUnavailableError("away")
            return 1

        executor.records.ping = ping  # type: ignore[method-assign]
        waiting = [asyncio.create_task(gate.through(operation)) for _ in range(50)]
        await until(lambda: asked >= 2)
        assert not gate.is_open
        assert asked < 5
        away = False

        assert await asyncio.gather(*waiting) == [1] * 50
        assert gate.is_open
        assert len(caplog.records) == 2


async def test_a_store_that_answers_wrongly_for_a_while_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "toolpost.worker")
    with executor_for() as executor:
        gate, answers = Gate(executor), [ConfigurationError("a newer schema"), RuntimeError("what"), None]

        def ping() -> None:
            answer = answers.pop(0)
            if answer is not None:
                raise answer

        executor.records.ping = ping  # type: ignore[method-assign]
        gate.shut(StoreUnavailableError("away"))

        async with asyncio.timeout(10):
            await gate.passed()

    assert "ConfigurationError: a newer schema" in caplog.text


async def test_after_an_outage_those_who_held_calls_have_time_to_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    with executor_for(clock=clock) as executor:
        gate = Gate(executor)
        gate.answered = True
        monkeypatch.setattr(executor.records, "ping", lambda: None)

        async def outage(lasts_s: float) -> None:
            gate.shut(StoreUnavailableError("away"))
            await asyncio.sleep(0)
            clock.advance(lasts_s)
            await gate.passed()

        await outage(4.0)
        assert gate.owners_have_s(15.0) == 0.0
        await outage(6.0)
        assert gate.owners_have_s(15.0) == pytest.approx(12.0)
        clock.advance(12.0)
        assert gate.owners_have_s(15.0) == 0.0


async def test_who_starts_in_an_outage_cannot_know_how_long_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with executor_for() as executor:
        gate = Gate(executor)
        monkeypatch.setattr(executor.records, "ping", lambda: None)
        gate.shut(StoreUnavailableError("away"))

        await gate.passed()

        assert 1.0 < gate.owners_have_s(2.0) <= 2.0


async def test_places_are_given_in_turn_whatever_happens_to_those_who_wait() -> None:
    places = Places(2, 10)
    got: list[int] = []

    async def one(n: int) -> None:
        await places.wait("t", None)
        got.append(n)
        await asyncio.sleep(0)
        places.leave()

    tasks = [asyncio.create_task(one(n)) for n in range(8)]
    await asyncio.sleep(0)
    tasks[4].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert sorted(got) == [0, 1, 3, 5, 6, 7]
    assert (places.taken, places.waiting) == (0, 0)


@pytest.mark.parametrize(
    "said", ["nowhere:die", "renew", "renew:explode", "renew:die:x", "renew:hang=x", "renew:die:1:2:3"]
)
def test_what_is_no_failpoint_is_said(said: str) -> None:
    with pytest.raises(ConfigurationError, match="TOOLPOST_FAILPOINTS"):
        failpoints.arm(said)
    failpoints.fp("renew")


def test_failpoints_fire_where_they_are_and_after_so_many_passes() -> None:
    failpoints.arm("renew:error:1:2, lost:hang=0")
    try:
        failpoints.fp("renew")
        failpoints.fp("renew")
        failpoints.fp("lost")
        failpoints.fp("claim.before")
        with pytest.raises(StoreUnavailableError, match="renew"):
            failpoints.fp("renew")
    finally:
        failpoints.arm(None)
    failpoints.fp("renew")


def test_records_in_memory_say_that_they_do_not_last() -> None:
    assert MemoryRecords().durable is False
