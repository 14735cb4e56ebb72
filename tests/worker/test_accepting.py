"""Accepted calls: written down once, refused at once where they can be, and one for each key of a caller."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.worker.conftest import Serve, until
from tests.worker.shop import Shop
from tests.worker.test_calls import ALICE, call
from toolpost import (
    Accept,
    Caller,
    IdempotencyMismatchError,
    InputValidationError,
    OverloadedError,
    PermissionDeniedError,
    SecurityError,
    StoreUnavailableError,
    ToolExecutor,
    ToolNotFoundError,
    UnauthorizedError,
    create_tool_call,
)
from toolpost.calls.call import ANONYMOUS
from toolpost.testing import FakeClock, executor_for
from toolpost.worker import accepting
from toolpost.worker.calls import Calls
from toolpost.worker.keeping import had
from toolpost.worker.service import Service

BOB = Caller(user_id="bob", tenant="acme")


@pytest.fixture
def calls(executor: ToolExecutor) -> Any:
    """Calls of a process that runs none of the accepted ones."""
    return Calls(executor)


async def test_an_accepted_call_is_in_the_store_with_all_that_it_needs(calls: Calls) -> None:
    asked = call("Shop.Buy", {"what": "tea"}, replace(ALICE, session_id="s", scopes=frozenset({"a"})), deadline_s=60.0)
    how = Accept(priority=5, delay_s=30, max_attempts=3, order_key="o", format="openai", provider_id="call_1")

    report = await calls.accept(asked, how)

    row = await had(calls.executor.records.task(asked.id))
    assert row is not None
    assert (report.call_id, report.state, report.accepted, report.ended) == (asked.id, "queued", True, False)
    assert (report.arguments, report.version, report.priority, report.max_attempts) == ({"what": "tea"}, "1.0.0", 5, 3)
    assert (report.format, report.provider_id) == ("openai", "call_1")
    assert report.due_at is not None
    assert abs(report.due_at - report.created_at - 30) < 1
    assert report == await calls.show(asked.id, ALICE)
    assert row.arguments == b'{"what":"tea"}'
    assert row.extra["scopes"] == ["a"]


@pytest.mark.parametrize("records_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("tool", "arguments", "caller", "error"),
    [
        ("Shop.None", {}, ALICE, ToolNotFoundError),
        ("Shop.Buy", {}, ALICE, InputValidationError),
        ("Shop.Buy", {"what": 1, "more": 2}, ALICE, InputValidationError),
        ("Shop.Own", {}, ANONYMOUS, UnauthorizedError),
        ("Shop.Admin", {}, ALICE, PermissionDeniedError),
    ],
)
async def test_what_can_be_refused_is_refused_at_once(
    calls: Calls, tool: str, arguments: dict[str, Any], caller: Caller, error: type[Exception]
) -> None:
    asked = call(tool, arguments, caller)

    with pytest.raises(error):
        await calls.accept(asked)

    assert await had(calls.executor.records.task(asked.id)) is None


async def test_arguments_are_screened_at_once() -> None:
    from toolpost import Tool

    async def ask(query: str) -> str:
        return query

    with executor_for(Tool(name="Ask", register=False)(ask), sanitization_rules="strict") as executor:
        with pytest.raises(SecurityError):
            await Calls(executor).accept(create_tool_call("Ask", {"query": "1' OR '1'='1' --; DROP TABLE users"}))


async def test_refusals_are_audited(tmp_path: Any) -> None:
    with executor_for(audit="on", secret_key="a-secret-key-of-some-length") as executor:
        with pytest.raises(ToolNotFoundError):
            await Calls(executor).accept(call("Shop.None", {}))

        def told() -> Any:
            return [row for row in executor.audit.newest(10) if b"Shop.None" in row.body]

        assert await until(lambda: asyncio.to_thread(told))


@pytest.mark.parametrize(
    ("how", "named"),
    [
        (Accept(priority=101), "priority"),
        (Accept(priority=1.5), "priority"),  # type: ignore[arg-type]
        (Accept(delay_s=-1), "delay_s"),
        (Accept(delay_s=float("nan")), "delay_s"),
        (Accept(delay_s=1e12), "delay_s"),
        (Accept(max_attempts=0), "max_attempts"),
        (Accept(max_attempts=1_000), "max_attempts"),
        (Accept(order_key="k" * 1_025), "order_key"),
        (Accept(order_key="half \ud800"), "order_key"),
        (Accept(order_key=5), "order_key"),  # type: ignore[arg-type]
        (Accept(callback="ftp://example.com"), "callback"),
    ],
)
async def test_what_cannot_be_promised_is_refused_by_name(how: Accept, named: str) -> None:
    with executor_for(*Shop().tools(), secret_key="a-secret-key-of-some-length") as executor:
        with pytest.raises(InputValidationError, match=named):
            await Calls(executor).accept(call("Shop.Buy", {"what": "tea"}), how)


@pytest.mark.parametrize("key", ["half \ud800", "no\0thing", "k" * 1_025])
async def test_a_key_that_no_store_can_keep_is_refused(key: str) -> None:
    with executor_for(*Shop().tools()) as executor:
        with pytest.raises(InputValidationError, match="idempotency key"):
            await Calls(executor).accept(call("Shop.Buy", {"what": "tea"}, idempotency_key=key))


async def test_however_many_accept_at_once_those_who_wait_are_counted_once(calls: Calls) -> None:
    """Where many wait, counting them takes a while, and each who accepts may ask."""
    real, asked = calls.executor.records.count_tasks, 0

    def count_tasks(*states: Any) -> Any:
        nonlocal asked
        asked += 1
        return real(*states)

    calls.executor.records.count_tasks = count_tasks  # type: ignore[method-assign]
    await asyncio.gather(*(calls.accept(call("Shop.Buy", {"what": str(n)})) for n in range(40)))

    assert asked == 1
    assert len(await had(calls.executor.records.tasks())) == 40


async def test_an_id_is_given_once(calls: Calls) -> None:
    asked = call("Shop.Buy", {"what": "tea"})
    await calls.accept(asked)

    with pytest.raises(InputValidationError, match="another id"):
        await calls.accept(asked)


async def test_no_more_are_accepted_than_may_wait(shop: Shop, settings: dict[str, Any]) -> None:
    with executor_for(*shop.tools(), **settings, max_accepted=3) as executor:
        calls = Calls(executor)
        for n in range(3):
            await calls.accept(call("Shop.Buy", {"what": str(n)}))

        with pytest.raises(OverloadedError) as refused:
            await calls.accept(call("Shop.Buy", {"what": "more"}))

    assert refused.value.retry_after_s == 5.0


async def test_whoever_has_filled_the_queue_leaves_room_for_others(
    shop: Shop, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "COUNTED_S", 0.0)
    monkeypatch.setattr(accepting, "SELDOM", 0.0)

    async def accepted(calls: Calls, caller: Caller) -> int:
        """How many calls one caller has accepted until it is refused."""
        for number in range(30):
            try:
                await calls.accept(call("Shop.Buy", {"what": "tea"}, caller))
            except OverloadedError:
                return number
        raise AssertionError("it was never refused")

    with executor_for(*shop.tools(), **settings, max_accepted=20) as executor:
        calls = Calls(executor)
        assert [await accepted(calls, one) for one in (ALICE, ALICE, BOB, ANONYMOUS)] == [18, 0, 2, 0]

    with executor_for(*shop.tools(), records_url="memory://", log_level="ERROR", max_accepted=20) as executor:
        assert await accepted(Calls(executor), ANONYMOUS) == 20  # who may be anybody


async def test_a_draining_process_accepts_nothing(calls: Calls) -> None:
    calls.draining = True

    with pytest.raises(OverloadedError):
        await calls.accept(call("Shop.Buy", {"what": "tea"}))


async def test_a_store_that_is_away_is_said(executor: ToolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(task: Any) -> Any:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(executor.records, "submit", submit)

    with pytest.raises(StoreUnavailableError):
        await Calls(executor).accept(call("Shop.Buy", {"what": "tea"}))


# -- keys -------------------------------------------------------------------------------------------------------------


async def test_one_key_of_one_caller_for_one_tool_is_one_call(service: Service, shop: Shop) -> None:
    first = await service.calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))
    again = await service.calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))
    ended = await service.calls.wait(first.call_id, ALICE, 10)
    later = await service.calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))
    others = [
        await service.calls.accept(call("Shop.Buy", {"what": "tea"}, BOB, idempotency_key="k")),
        await service.calls.accept(call("Shop.Look", {"what": "tea"}, idempotency_key="k")),
        await service.calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k2")),
        await service.calls.accept(call("Shop.Buy", {"what": "tea"}, Caller(user_id="alice"), idempotency_key="k")),
    ]

    assert first.call_id == again.call_id == later.call_id
    assert ended is not None
    assert later.result == ended.result
    assert len({first.call_id, *(other.call_id for other in others)}) == 5


async def test_a_key_with_other_arguments_is_a_mistake(calls: Calls) -> None:
    await calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))

    with pytest.raises(IdempotencyMismatchError):
        await calls.accept(call("Shop.Buy", {"what": "milk"}, idempotency_key="k"))


async def test_of_many_who_accept_under_one_key_at_once_in_several_processes_one_writes(
    shop: Shop, settings: dict[str, Any]
) -> None:
    processes = 1 if settings["records_url"] == "memory://" else 3
    executors = [executor_for(*shop.tools(), **settings) for _ in range(processes)]
    opened = [one.__enter__() for one in executors]
    try:
        doors = [Calls(one) for one in opened]
        reports = await asyncio.gather(
            *(
                door.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key=f"k{n % 5}"))
                for door in doors
                for n in range(20)
            )
        )

        rows = await had(opened[0].records.tasks(limit=1000))
        assert len({report.call_id for report in reports}) == len(rows) == 5
    finally:
        for one in executors:
            one.__exit__(None, None, None)


async def test_a_key_whose_call_was_never_written_stands_for_one_call_still(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died between naming the call and writing it."""
    real = calls.executor.records.submit

    def submit(task: Any) -> Any:
        monkeypatch.setattr(calls.executor.records, "submit", real)
        raise StoreUnavailableError("died here")

    monkeypatch.setattr(calls.executor.records, "submit", submit)
    with pytest.raises(StoreUnavailableError):
        await calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))

    with pytest.raises(IdempotencyMismatchError):
        await calls.accept(call("Shop.Buy", {"what": "milk"}, idempotency_key="k"))
    first = await calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))
    again = await calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))

    assert first.call_id == again.call_id
    assert len(await had(calls.executor.records.tasks())) == 1


async def test_a_key_is_free_again_when_its_call_was_forgotten(shop: Shop) -> None:
    clock = FakeClock()
    with executor_for(*shop.tools(), clock=clock) as executor:
        calls = Calls(executor)
        first = await calls.accept(call("Shop.Buy", {"what": "tea"}, idempotency_key="k"))
        await had(executor.records.cancel_task(first.call_id))
        clock.advance(1000)
        assert await had(executor.records.drop_tasks(500.0)) == 1

        second = await calls.accept(call("Shop.Buy", {"what": "milk"}, idempotency_key="k"))

    assert second.call_id != first.call_id


async def test_a_key_is_kept_with_the_call_and_handed_to_the_pipeline(serve: Serve, shop: Shop) -> None:
    async with serve() as service:
        report = await service.calls.accept(call("Shop.Pay", {"what": "tea"}, idempotency_key="k"))
        await service.calls.wait(report.call_id, ALICE, 10)

        at_once = await service.calls.run(call("Shop.Pay", {"what": "tea"}, idempotency_key="k"))

    assert at_once.source == "replay"
    assert shop.began["tea"] == 1
