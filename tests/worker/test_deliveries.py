"""Callbacks on their way to real receivers: signed, retried, bounded, guarded, and never lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.worker.receiver import Receiver, receiving, until
from toolpost import (
    Caller,
    EgressGuard,
    InputValidationError,
    NotFoundError,
    NotSupportedError,
    StoreUnavailableError,
    ToolExecutor,
    ToolResult,
    verify_webhook,
)
from toolpost.testing import FakeClock, executor_for
from toolpost.worker import delivery_requests
from toolpost.worker.callbacks import KIND, MAX_BODY, callback_message, check_callback
from toolpost.worker.calls import OPERATE
from toolpost.worker.deliveries import DELAYS_S, Deliveries
from toolpost.worker.delivery_lanes import Lanes
from toolpost.worker.delivery_log import Delivery, DeliveryLog, key_of
from toolpost.worker.delivery_requests import DeliveryRequests, retry_after_s
from toolpost.worker.keeping import had
from toolpost.worker.reports import CallReport, report_json
from toolpost.worker.webhooks import webhook_secrets

KEY = "a-secret-key-of-some-length"
ALICE = Caller(user_id="alice", tenant="acme")
CALL = "01890000-0000-7000-8000-00000000000{}"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def executor(clock: FakeClock) -> Iterator[ToolExecutor]:
    with executor_for(clock=clock, secret_key=KEY, egress_private=["127.0.0.1:*"]) as made:
        yield made


def report(url: str, number: int = 1, caller: Caller = ALICE, data: Any = 3, **more: Any) -> CallReport:
    call_id = CALL.format(number)
    result = ToolResult(call_id=call_id, tool_name="Math.Add", success=True, data=data)
    told = {"state": "succeeded", "caller": caller, "result": result, "callback": url, "finished_at": 1_750_000_000.0}
    return CallReport(**{"call_id": call_id, "tool": "Math.Add", **told, **more})


async def put(executor: ToolExecutor, *reports: CallReport) -> None:
    messages = [callback_message(executor, one, report_json(one)) for one in reports]
    await had(executor.records.put_outbox(messages))


@asynccontextmanager
async def sending(executor: ToolExecutor, **options: Any) -> AsyncIterator[Deliveries]:
    """Deliveries that run until the test is over."""
    deliveries = Deliveries(executor, **options)
    task = asyncio.create_task(deliveries.run())
    try:
        yield deliveries
    finally:
        await deliveries.drain(5)
        await task


async def delivery(executor: ToolExecutor, number: int = 1, caller: Caller = ALICE) -> Delivery:
    found = await DeliveryLog(executor).find(f"msg_{CALL.format(number)}", caller)
    assert found is not None
    return found


async def waiting(executor: ToolExecutor) -> int:
    """How many callbacks are still in the outbox, seen a year later."""
    executor.clock.advance(400 * 86_400.0)  # type: ignore[attr-defined]
    return len(await had(executor.records.take_outbox(1000, 1.0, [KIND])))


# -- what is sent ------------------------------------------------------------------------------------------------------


async def test_a_callback_arrives_signed_and_is_taken_from_the_outbox(executor: ToolExecutor) -> None:
    async with receiving() as receiver:
        await put(executor, report(receiver.url(), trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01"))

        async with sending(executor) as deliveries:
            [request] = await receiver.got(1)
            await until(lambda: deliveries.counts["delivered"] == 1)

    body = verify_webhook(
        request.body, request.headers, webhook_secrets(executor, "acme", None), now=executor.clock.now()
    )
    assert body["type"] == "call.succeeded"
    assert body["timestamp"] == "2025-06-15T15:06:40.000Z"
    assert body["data"]["call_id"] == CALL.format(1)
    assert body["data"]["data"] == 3
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == f"msg_{CALL.format(1)}"
    assert request.headers["traceparent"].startswith("00-")
    assert (await delivery(executor)).state == "delivered"
    assert await waiting(executor) == 0


async def test_a_callback_can_be_a_cloudevent(executor: ToolExecutor) -> None:
    executor.config.cloudevents = True
    executor.config.public_url = "https://tools.example.com/"
    async with receiving() as receiver:
        await put(executor, report(receiver.url()))

        async with sending(executor):
            [request] = await receiver.got(1)

    event = verify_webhook(
        request.body, request.headers, webhook_secrets(executor, "acme", None), now=executor.clock.now()
    )
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert event["specversion"] == "1.0"
    assert event["type"] == "dev.toolpost.call.succeeded"
    assert event["source"] == "https://tools.example.com"
    assert event["id"] == request.headers["webhook-id"]
    assert event["subject"] == event["data"]["call_id"] == CALL.format(1)


def test_a_large_report_is_sent_without_what_is_large(executor: ToolExecutor) -> None:
    large = report("https://example.com/", data="x" * MAX_BODY)

    message = callback_message(executor, large, report_json(large))

    assert len(message.body) < 10_000
    assert b'"left_out":["data"]' in message.body
    assert CALL.format(1).encode() in message.body


def test_a_call_whose_id_is_anything_has_a_message_id_without_full_stops(executor: ToolExecutor) -> None:
    odd = report("https://example.com/", call_id="a.b\r\nx: y")

    message = callback_message(executor, odd, report_json(odd))

    assert message.headers["id"].startswith("msg_")
    assert message.headers["id"][4:].isalnum()


# -- until it is there -------------------------------------------------------------------------------------------------


async def test_a_callback_is_tried_ten_times_over_three_days_and_then_kept_as_a_dead_letter(
    executor: ToolExecutor, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    begun = clock.now()
    async with receiving(**{"/hook": 500}) as receiver:
        await put(executor, report(receiver.url("/hook?token=hidden")))

        async with sending(executor) as deliveries:
            for number, delay_s in enumerate(DELAYS_S, start=1):
                await until(lambda number=number: deliveries.counts["retried"] == number)
                assert len(receiver.requests) == number
                clock.advance(delay_s)  # with the spread of 20 %, half of which FakeClock gives, this is too early
                deliveries.wake()
                await until(lambda: not deliveries._bell.is_set())
                assert len(receiver.requests) == number
                clock.advance(delay_s * 0.1 + 1.0)
                deliveries.wake()
            await until(lambda: deliveries.counts["failed"] == 1)

    failed = await delivery(executor)
    assert failed.state == "failed"
    assert [attempt.status for attempt in failed.attempts] == [500] * 10
    assert 70 * 3600 < clock.now() - begun < 90 * 3600
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len({request.headers["webhook-timestamp"] for request in receiver.requests}) == 10
    [letter] = await had(executor.records.dead())
    assert letter["payload"] == receiver.requests[0].body
    assert letter["reason"] == "callback_failed"
    assert "hidden" not in f"{letter['error']} {caplog.text} {failed.to_json()}"
    assert await waiting(executor) == 0


@pytest.mark.parametrize(
    ("field", "asked_s"), [("1000", 1000.0), ("Sun, 15 Jun 2025 15:16:40 GMT", 600.0), ("999999999", 86_400.0)]
)
async def test_a_receiver_says_how_long_to_wait(
    executor: ToolExecutor, clock: FakeClock, field: str, asked_s: float
) -> None:
    async with receiving(**{"/hook": (503, {"retry-after": field})}) as receiver:
        await put(executor, report(receiver.url()))

        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["retried"] == 1)

    assert (await delivery(executor)).next_at == pytest.approx(clock.now() + asked_s)


@pytest.mark.parametrize("field", ["0", "-5", "soon", "Mon, 99 Foo 2025", "1e9", "", "Sun, 15 Jun 1925 15:16:40 GMT"])
async def test_a_receiver_does_not_have_us_come_sooner(executor: ToolExecutor, clock: FakeClock, field: str) -> None:
    async with receiving(**{"/hook": (429, {"retry-after": field})}) as receiver:
        await put(executor, report(receiver.url()))

        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["retried"] == 1)

    next_at = (await delivery(executor)).next_at
    assert next_at is not None
    assert 5.0 <= next_at - clock.now() <= 6.0


def test_a_date_beyond_all_calendars_is_no_time_to_wait() -> None:
    assert retry_after_s("Fri, 31 Dec 99999 23:59:59 GMT", 0.0) is None


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 429, 500, 502])
async def test_what_is_no_success_is_tried_again(executor: ToolExecutor, status: int) -> None:
    async with receiving(**{"/hook": (status, {"location": "/elsewhere"})}) as receiver:
        await put(executor, report(receiver.url()))

        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["retried"] == 1)

    assert [request.path for request in receiver.requests] == ["/hook"]
    assert (await delivery(executor)).attempts[0].status == status


async def test_a_receiver_that_says_nothing_is_left_in_time(executor: ToolExecutor) -> None:
    async with receiving(**{"/hook": "hang"}) as receiver:
        await put(executor, report(receiver.url()))

        async with sending(executor, requests=DeliveryRequests(executor, timeout_s=0.05)) as deliveries:
            await until(lambda: deliveries.counts["retried"] == 1)

    assert (await delivery(executor)).error == "no answer within 0.05 s"


async def test_a_receiver_that_is_not_there_is_tried_again(executor: ToolExecutor) -> None:
    async with receiving() as receiver:
        url = receiver.url()
    await put(executor, report(url))

    async with sending(executor) as deliveries:
        await until(lambda: deliveries.counts["retried"] == 1)

    assert (await delivery(executor)).error == "no connection could be made"


# -- endpoints that are gone -------------------------------------------------------------------------------------------


async def test_410_ends_it_and_all_further_callbacks_of_the_tenant_there_until_it_is_enabled(
    executor: ToolExecutor,
) -> None:
    log = DeliveryLog(executor)
    async with receiving(**{"/hook": 410}) as receiver:
        url = receiver.url()
        async with sending(executor) as deliveries:
            await put(executor, report(url, 1))
            deliveries.wake()
            await until(lambda: deliveries.counts["disabled"] == 1)
            await put(executor, report(url, 2), report(url, 3, Caller(user_id="bob", tenant="other")))
            deliveries.wake()
            await until(lambda: deliveries.counts["disabled"] == 3)

            assert len(receiver.requests) == 2  # alice's first, and that of the other tenant
            assert (await delivery(executor, 2)).error == "the endpoint is disabled; nothing was sent"
            with pytest.raises(InputValidationError, match="410 Gone"):
                await check_callback(executor, url, ALICE)

            receiver.answers.clear()
            assert await log.enable(url, Caller(user_id="carol", tenant="acme"))
            await check_callback(executor, url, ALICE)
            await log.resend(f"msg_{CALL.format(2)}", ALICE)
            deliveries.wake()
            await until(lambda: deliveries.counts["delivered"] == 1)

    assert not await log.enable(url, ALICE)
    assert await had(executor.records.dead()) == []


async def test_an_endpoint_is_enabled_by_its_own_tenant_alone(executor: ToolExecutor) -> None:
    log = DeliveryLog(executor)
    await log.disable("https://example.com/", "acme", "alice")

    for other in (Caller(user_id="alice"), Caller(user_id="alice", tenant="other"), Caller()):
        assert not await log.enable("https://example.com/", other)

    assert await log.is_disabled("https://example.com/", "acme", "bob")


# -- resending ---------------------------------------------------------------------------------------------------------


async def test_a_delivered_callback_can_be_sent_again_byte_for_byte(executor: ToolExecutor, clock: FakeClock) -> None:
    async with receiving() as receiver:
        await put(executor, report(receiver.url("/hook?token=1")))
        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["delivered"] == 1)
            clock.advance(3600.0)

            again = await DeliveryLog(executor).resend(f"msg_{CALL.format(1)}", ALICE)
            deliveries.wake()
            first, second = await receiver.got(2)
            await until(lambda: deliveries.counts["delivered"] == 2)

    assert again.state == "pending"
    assert (first.body, first.path) == (second.body, second.path)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) == int(first.headers["webhook-timestamp"]) + 3600
    sent = await delivery(executor)
    assert [(attempt.turn, attempt.status) for attempt in sent.attempts] == [(1, 200), (2, 200)]


async def test_a_resend_while_it_waits_takes_the_place_of_what_waits(executor: ToolExecutor, clock: FakeClock) -> None:
    async with receiving(**{"/hook": 500}) as receiver:
        await put(executor, report(receiver.url()))
        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["retried"] == 1)
            receiver.answers.clear()
            await DeliveryLog(executor).resend(f"msg_{CALL.format(1)}", ALICE)
            deliveries.wake()
            await until(lambda: deliveries.counts["delivered"] == 1)

            clock.advance(86_400.0)
            deliveries.wake()
            await until(lambda: deliveries.counts["dropped"] == 1)

        assert len(receiver.requests) == 2
    assert await waiting(executor) == 0


async def test_nobody_resends_what_is_not_theirs(executor: ToolExecutor) -> None:
    async with receiving() as receiver:
        await put(executor, report(receiver.url()))
        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["delivered"] == 1)

            for other in (Caller(user_id="bob", tenant="acme"), Caller(user_id="alice"), Caller()):
                with pytest.raises(NotFoundError):
                    await DeliveryLog(executor).resend(f"msg_{CALL.format(1)}", other)

    assert len(receiver.requests) == 1


async def test_what_is_no_longer_kept_can_not_be_sent_again(executor: ToolExecutor, clock: FakeClock) -> None:
    async with receiving() as receiver:
        await put(executor, report(receiver.url()))
        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["delivered"] == 1)

    clock.advance(executor.config.calls_kept + 1.0)

    with pytest.raises(NotFoundError):
        await DeliveryLog(executor).resend(f"msg_{CALL.format(1)}", ALICE)


# -- the log -----------------------------------------------------------------------------------------------------------


async def test_callers_see_their_own_deliveries_and_operators_those_of_their_tenant(executor: ToolExecutor) -> None:
    callers = [
        ALICE,
        Caller(user_id="bob", tenant="acme"),
        Caller(user_id="alice", tenant="other"),
        Caller(user_id="alice"),
        Caller(),
    ]
    operators = [
        Caller(user_id="root", tenant="acme", scopes=frozenset({OPERATE})),
        Caller(user_id="root", scopes=frozenset({OPERATE})),
    ]
    async with receiving() as receiver:
        await put(executor, *(report(receiver.url(), n, caller) for n, caller in enumerate(callers)))
        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["delivered"] == len(callers))

    log = DeliveryLog(executor)

    async def seen(caller: Caller) -> list[int]:
        page = await log.list(caller)
        for number in range(len(callers)):
            found = await log.find(f"msg_{CALL.format(number)}", caller)
            by_call = await log.list(caller, call_id=CALL.format(number))
            listed = any(one.call_id == CALL.format(number) for one in page.deliveries)
            assert (found is not None) is listed is bool(by_call.deliveries)
        return [int(one.call_id[-1]) for one in page.deliveries]

    for number, caller in enumerate(callers):
        assert await seen(caller) == [number]
    assert await seen(operators[0]) == [1, 0]
    assert await seen(operators[1]) == [4, 3, 2, 1, 0]


async def test_deliveries_are_listed_newest_first_page_by_page_and_by_state(executor: ToolExecutor) -> None:
    async with receiving(**{"/no": 410}) as receiver:
        paths = ["/hook", "/no?1", "/hook", "/no?2", "/hook"]
        await put(executor, *(report(receiver.url(path), n) for n, path in enumerate(paths)))
        async with sending(executor) as deliveries:
            await until(lambda: sum(deliveries.counts.values()) == 5)

    log = DeliveryLog(executor)
    first = await log.list(ALICE, limit=2)
    second = await log.list(ALICE, limit=2, after=first.after)
    last = await log.list(ALICE, limit=2, after=second.after)

    pages = [[one.call_id[-1] for one in page.deliveries] for page in (first, second, last)]
    assert pages == [["4", "3"], ["2", "1"], ["0"]]
    assert last.after is None
    disabled = await log.list(ALICE, state="disabled")
    assert [one.call_id[-1] for one in disabled.deliveries] == ["3", "1"]
    assert [one.url for one in disabled.deliveries] == [f"{receiver.url('/no')}?..."] * 2


def test_ids_that_are_no_times_have_keys_behind_all_others() -> None:
    assert key_of("msg_x") > key_of(f"msg_{CALL.format(1)}") > key_of(f"msg_{CALL.format(2)}")


# -- where it may go ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/hook", "must be https"),
        ("https://10.0.0.1/hook", "not a public address"),
        ("https://169.254.169.254/latest/meta-data", "not a public address"),
        ("https://[::1]/", "not a public address"),
        ("https://user:password@example.com/", "user or password"),
        ("https://93.184.216.34:22/", "port 22"),
        ("ftp://example.com/", "only https and http"),
        ("https://0x7f.1/", "cannot be a host"),
        ("https://exam\r\nple.com/", "percent-encoded"),
        ("hook", "must begin with https"),
        ("", "must begin with https"),
        ("https://example.com/" + "x" * 100_000, "characters"),
    ],
)
async def test_an_address_that_may_not_be_called_is_refused_before_the_call_is_accepted(
    executor: ToolExecutor, url: str, said: str
) -> None:
    with pytest.raises(InputValidationError, match=said) as refused:
        await check_callback(executor, url, ALICE)

    assert refused.value.errors()[0]["path"] == "/callback"
    assert "password@" not in refused.value.message


@pytest.mark.parametrize("url", ["https://example.com/hook?a=b", "http://127.0.0.1:9/hook", "https://127.0.0.1/"])
async def test_public_hosts_by_https_and_those_that_the_operator_opened_may_be_called(
    executor: ToolExecutor, url: str
) -> None:
    await check_callback(executor, url, ALICE)


async def test_without_a_secret_key_no_callback_is_accepted_and_the_way_out_is_said() -> None:
    with executor_for() as executor, pytest.raises(NotSupportedError, match="toolpost serve"):
        await check_callback(executor, "https://example.com/", ALICE)


async def test_a_name_that_leads_to_a_private_address_later_is_not_connected_to(clock: FakeClock) -> None:
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    guard = EgressGuard(resolve=rebinding, ports=(80, 443))
    with executor_for(clock=clock, secret_key=KEY, egress=guard) as executor:
        await guard.reach().addresses("rebind.example", 443)  # whoever looked first would have found it public
        await put(executor, report("https://rebind.example/hook"))

        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["retried"] == 1)

        assert (await delivery(executor)).error == "refused: egress.private-address"


async def test_a_message_of_another_time_is_not_sent_where_it_may_no_longer_go(clock: FakeClock) -> None:
    async with receiving() as receiver:
        with executor_for(clock=clock, secret_key=KEY) as executor:
            await put(executor, report(receiver.url()))

            async with sending(executor) as deliveries:
                await until(lambda: deliveries.counts["retried"] == 1)

            assert (await delivery(executor)).error == "refused: egress.private-address"
        assert receiver.requests == []


async def test_what_the_receiver_answers_is_kept_nowhere(executor: ToolExecutor, caplog: Any) -> None:
    async with receiving(**{"/hook": (500, {"x-inside": "internal"})}) as receiver:
        await put(executor, report(receiver.url()))

        with caplog.at_level(logging.DEBUG, logger="toolpost"):
            async with sending(executor) as deliveries:
                await until(lambda: deliveries.counts["retried"] == 1)

    assert "internal" not in str((await delivery(executor)).to_json())
    assert KEY not in caplog.text
    assert "whsec_" not in caplog.text


@asynccontextmanager
async def saying(head: bytes, part: bytes, pause_s: float) -> AsyncIterator[str]:
    """A server that begins its answer so, and goes on with such a part without an end; its URL."""

    serving = 0
    over = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal serving
        serving += 1
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while not (over or writer.is_closing()):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
        writer.close()
        serving -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        over = True
        await until(lambda: serving == 0)


@pytest.mark.parametrize(("bound", "value", "pause_s"), [("READ_S", 60.0, 0.0), ("READ_S", 0.05, 0.01)])
async def test_an_answer_that_never_ends_is_an_answer(
    executor: ToolExecutor, monkeypatch: pytest.MonkeyPatch, bound: str, value: float, pause_s: float
) -> None:
    """However much it says, and however slowly."""
    monkeypatch.setattr(delivery_requests, bound, value)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n"
    async with saying(head, b"x" * (10 if pause_s else 65_536), pause_s) as url:
        await put(executor, report(url))

        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["delivered"] == 1)


async def test_an_answer_that_never_begins_is_left_in_time(executor: ToolExecutor) -> None:
    async with saying(b"HTTP/1.1 200 OK\r\nx: ", b"x", 0.01) as url:
        await put(executor, report(url))

        async with sending(executor, requests=DeliveryRequests(executor, timeout_s=0.1)) as deliveries:
            await until(lambda: deliveries.counts["retried"] == 1)

    assert (await delivery(executor)).error == "no answer within 0.1 s"


@pytest.mark.parametrize("trace", ["00-a\r\nx-evil: yes", "x", "00-" + "A" * 32 + "-" + "b" * 16 + "-01"])
async def test_a_trace_that_is_none_becomes_no_header(executor: ToolExecutor, trace: str) -> None:
    async with receiving() as receiver:
        await put(executor, report(receiver.url(), trace=trace))
        async with sending(executor):
            [request] = await receiver.got(1)

    assert "traceparent" not in request.headers
    assert "x-evil" not in request.headers


# -- how many at a time ------------------------------------------------------------------------------------------------


async def test_one_slow_receiver_does_not_hold_up_others(executor: ToolExecutor, clock: FakeClock) -> None:
    async with receiving(**{"/hook": "hang"}) as slow, receiving() as quick:
        many = [report(slow.url(), call_id=f"slow-{n}") for n in range(200)]
        await put(executor, *many, report(quick.url(), 1))

        async with sending(executor, concurrency=16, per_host=4) as deliveries:
            await quick.got(1)
            await until(lambda: deliveries.counts["delivered"] == 1)

            assert slow.most == len(slow.requests) == 4
            slow.answers.clear()
            slow.go_on.set()

            def all_there() -> bool:
                clock.advance(1.0)
                deliveries.wake()
                return deliveries.counts["delivered"] == 201

            await until(all_there)

    assert slow.most == 4


async def test_what_waited_too_long_for_a_place_is_left_to_whoever_takes_it_next(
    executor: ToolExecutor, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving(**{"/hook": "hang"}) as receiver:
        await put(executor, report(receiver.url(), 1), report(receiver.url(), 2))
        async with sending(executor, per_host=1, lease_s=60.0) as deliveries:
            real, given = deliveries._give_back, []

            def give_back(taken: Any) -> None:
                given.append(taken.number)
                real(taken)

            monkeypatch.setattr(deliveries, "_give_back", give_back)
            await receiver.got(1)
            clock.advance(40.0)  # its lease may end before an answer comes
            receiver.answers.clear()
            receiver.go_on.set()
            await until(lambda: deliveries.counts["delivered"] == 2)

    assert len(given) == 1


async def test_one_tenant_does_not_take_all_places(executor: ToolExecutor) -> None:
    async with receiving(**{"/hook": "hang"}) as receiver:
        many = [report(receiver.url(), call_id=f"many-{n}") for n in range(20)]
        await put(executor, *many, report(receiver.url("/other"), 1, Caller(user_id="bob")))

        async with sending(executor, concurrency=8, per_host=100, per_owner=6) as deliveries:
            await until(lambda: deliveries.counts["delivered"] == 1)

            assert sorted(request.path for request in receiver.requests) == ["/hook"] * 6 + ["/other"]
            receiver.go_on.set()


def test_who_finds_no_place_comes_again_in_turn(clock: FakeClock) -> None:
    lanes: Lanes[str] = Lanes(clock, {"host": 2}, patience_s=20.0)
    names = [("host", "slow.example")]
    assert [lanes.enter(names, "one"), lanes.enter(names, "two")] == [0.0, 0.0]

    held = [lanes.enter(names, f"held {n}") for n in range(16)]
    waits = [lanes.enter(names, "more") for _ in range(200)]
    clock.advance(20.0)
    later = [lanes.enter(names, "later") for _ in range(100)]

    assert held == [None] * 16
    assert waits == sorted(w for w in waits if w is not None)
    assert waits[-1] == pytest.approx(10.0)  # two hundred at a tenth of a second each, two at a time
    assert later[9] == pytest.approx(100.0)  # for twenty seconds nobody has left
    assert later[-1] == 600.0
    assert lanes.enter([("host", "other.example")], "other") == 0.0
    assert next(lanes.leave(names, 20.0)) == "held 0"
    assert lanes.give_up() == [f"held {n}" for n in range(1, 16)]


def test_nobody_waits_where_it_would_take_long(clock: FakeClock) -> None:
    lanes: Lanes[str] = Lanes(clock, {"host": 2}, patience_s=20.0)
    names = [("host", "hung.example")]
    assert [lanes.enter(names, "one"), lanes.enter(names, "two")] == [0.0, 0.0]

    clock.advance(50.0)

    assert lanes.enter(names, "three") == pytest.approx(25.0)
    assert lanes.held == 0


def test_whoever_waits_in_one_lane_keeps_no_place_in_it_from_others(clock: FakeClock) -> None:
    lanes: Lanes[str] = Lanes(clock, {"host": 1, "owner": 2}, patience_s=20.0)

    def names(host: str, owner: str) -> list[tuple[str, str]]:
        return [("host", host), ("owner", owner)]

    assert lanes.enter(names("a", "x"), "1") == lanes.enter(names("b", "x"), "2") == 0.0
    assert lanes.enter(names("a", "x"), "3") is lanes.enter(names("a", "y"), "4") is None

    free = []
    for item in lanes.leave(names("a", "x"), 1.0):
        lanes.enter(names("b", "x"), "5")
        free.append((item, lanes.enter(names("a", "y" if item == "4" else "x"), item)))

    assert free == [("3", 0.0)]
    assert lanes.held == 2


# -- ends and outages --------------------------------------------------------------------------------------------------


async def test_draining_lets_what_is_under_way_end(executor: ToolExecutor) -> None:
    async with receiving(**{"/hook": "hang"}) as receiver:
        await put(executor, report(receiver.url()))
        deliveries = Deliveries(executor)
        task = asyncio.create_task(deliveries.run())
        await receiver.got(1)

        draining = asyncio.create_task(deliveries.drain(10))
        await asyncio.sleep(0)
        receiver.go_on.set()

        assert await draining
        await task
    assert deliveries.counts["delivered"] == 1


async def test_what_does_not_end_in_time_is_given_back_for_others_to_send(executor: ToolExecutor) -> None:
    async with receiving(**{"/hook": "hang"}) as receiver:
        await put(executor, report(receiver.url()))
        deliveries = Deliveries(executor)
        task = asyncio.create_task(deliveries.run())
        await receiver.got(1)

        assert not await deliveries.drain(0.01)
        await task

        receiver.go_on.set()
        async with sending(executor) as others:
            await receiver.got(2)
            await until(lambda: others.counts["delivered"] == 1)


async def test_a_drain_of_what_never_ran_is_over_at_once(executor: ToolExecutor) -> None:
    assert await Deliveries(executor).drain()


async def test_an_outage_of_the_store_ends_nothing(executor: ToolExecutor, monkeypatch: Any, caplog: Any) -> None:
    take = executor.records.take_outbox
    away = [True]

    def gone(*args: Any) -> Any:
        if away[0]:
            raise StoreUnavailableError("the store is away")
        return take(*args)

    monkeypatch.setattr(executor.records, "take_outbox", gone)
    async with receiving() as receiver:
        await put(executor, report(receiver.url()))
        async with sending(executor) as deliveries:
            await until(lambda: deliveries._away)
            away[0] = False
            deliveries.wake()

            await receiver.got(1)

    assert caplog.text.count("the store is away") == 1


async def test_a_message_that_cannot_be_read_holds_up_no_others(executor: ToolExecutor, caplog: Any) -> None:
    async with receiving() as receiver:
        good = report(receiver.url(), 1)
        message = callback_message(executor, good, report_json(good))
        nowhere = callback_message(executor, other := report("http://[", 2), report_json(other))
        await had(executor.records.put_outbox([message._replace(headers={}), nowhere, message]))

        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["delivered"] == deliveries.counts["retried"] == 1)

    assert "is tried again in 60 s" in caplog.text
    assert (await delivery(executor, 2)).error == "refused: egress.host-form"


async def test_a_note_that_was_written_before_the_message_was_dropped_is_enough(executor: ToolExecutor) -> None:
    """As when a process is killed between the two."""
    async with receiving() as receiver:
        one = report(receiver.url())
        await put(executor, one)
        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["delivered"] == 1)
        await put(executor, one)

        async with sending(executor) as others:
            await until(lambda: others.counts["dropped"] == 1)

        assert len(receiver.requests) == 1
    assert await waiting(executor) == 0


async def test_a_message_that_is_taken_before_its_next_attempt_waits_for_it(executor: ToolExecutor) -> None:
    """As when a process is killed after it noted a failure, and before it put the message off."""
    async with receiving(**{"/hook": 500}) as receiver:
        one = report(receiver.url())
        await put(executor, one)
        async with sending(executor) as deliveries:
            await until(lambda: deliveries.counts["retried"] == 1)
            await put(executor, one)
            deliveries.wake()
            await until(lambda: deliveries.counts["early"] == 1)

        assert len(receiver.requests) == 1


PROGRAM = """
import asyncio, sys
from toolpost import ToolExecutor
from toolpost.worker.deliveries import Deliveries

async def main():
    with ToolExecutor(records_url=sys.argv[1], secret_key=sys.argv[2], egress_private=["127.0.0.1:*"]) as executor:
        await Deliveries(executor, poll_s=0.02, lease_s=1.0).run()

asyncio.run(main())
"""


async def killed_and_done_by_another(url: str, receiver: Receiver) -> list[str]:
    """Kill a process while it sends; what another one has delivered then."""
    with executor_for(records_url=url, secret_key=KEY, egress_private=["127.0.0.1:*"]) as executor:
        await asyncio.to_thread(executor.records.migrate)
        await put(executor, report(receiver.url("/hook"), 1), report(receiver.url("/other"), 2))
        victim = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, url, KEY)
        await receiver.got(2)
        victim.send_signal(signal.SIGKILL)
        assert await victim.wait() == -signal.SIGKILL
        receiver.answers.clear()
        receiver.go_on.set()

        async with sending(executor, poll_s=0.02, lease_s=1.0):
            await receiver.got(3)
            async with asyncio.timeout(10):
                while {(await delivery(executor, n)).state for n in (1, 2)} != {"delivered"}:
                    await asyncio.sleep(0.01)
        return sorted(request.path for request in receiver.requests)


async def test_a_killed_process_loses_no_callback_sqlite(tmp_path: Path) -> None:
    async with receiving(**{"/hook": "hang"}) as receiver:
        paths = await killed_and_done_by_another(f"sqlite:///{tmp_path}/records.db", receiver)

    assert paths[:2] == ["/hook", "/hook"]
    assert set(paths) == {"/hook", "/other"}


async def test_a_killed_process_loses_no_callback_postgres(postgres_url: str) -> None:
    async with receiving(**{"/hook": "hang"}) as receiver:
        paths = await killed_and_done_by_another(postgres_url, receiver)

    assert set(paths) == {"/hook", "/other"}


async def test_several_processes_send_each_callback_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/records.db"
    async with receiving() as receiver:
        with (
            executor_for(records_url=url, secret_key=KEY, egress_private=["127.0.0.1:*"]) as one,
            executor_for(records_url=url, secret_key=KEY, egress_private=["127.0.0.1:*"]) as two,
        ):
            await asyncio.to_thread(one.records.migrate)
            await put(one, *(report(receiver.url(), call_id=f"call-{n}") for n in range(100)))
            async with sending(one, poll_s=0.02) as first, sending(two, poll_s=0.02) as second:
                await until(lambda: first.counts["delivered"] + second.counts["delivered"] == 100)

    assert len({request.headers["webhook-id"] for request in receiver.requests}) == len(receiver.requests) == 100
