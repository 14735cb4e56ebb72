"""Every call leaves a start and a finish, however it ends and however it was made; where it must, before it runs."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.services import Postgres
from toolpost import BaseTool, FunctionToolSpec, Tool, ToolCall, ToolContext, ToolExecutor, create_tool_call, policy
from toolpost.calls.errors import (
    AuditUnavailableError,
    ConfigurationError,
    InputValidationError,
    ToolNotFoundError,
    ToolTimeoutError,
)
from toolpost.calls.policies import Cache, Idempotency, RateLimit, Retry
from toolpost.engine.spec_executors import FunctionToolExecutor
from toolpost.pipeline.audit import audit
from toolpost.stores import open_records
from toolpost.testing import executor_for
from toolpost.testing.records_claims_contract import said

SECRET = "k" * 40


@Tool("Shop.Add", register=False)
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@Tool("Shop.Break", register=False)
def break_it() -> None:
    """Break."""
    raise ValueError("broken")


@Tool("Shop.Wait", register=False)
async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "done"


class Till(BaseTool):
    """A till."""

    def sell(self, item: str) -> str:
        """Sell an item."""
        return item


@contextmanager
def audited(*tools: Any, **settings: Any) -> Iterator[ToolExecutor]:
    with executor_for(*tools, **{"audit": "on", "secret_key": SECRET, **settings}) as executor:
        yield executor


def rows(executor: ToolExecutor) -> list[dict[str, Any]]:
    """All rows but that of the process itself."""
    log = executor._guards.audit
    assert log is not None
    assert log.flush(20)
    return [
        row
        for one in said(executor.records.audit_rows(0, 100_000))
        if (row := orjson.loads(one.body))["kind"] not in ("opened", "closed")
    ]


def told(executor: ToolExecutor) -> list[tuple[Any, ...]]:
    """Of each row its kind, and how a call ended."""
    names = ("kind", "status", "decision", "stage", "code", "outcome", "source")
    return [tuple(row[name] for name in names if name in row) for row in rows(executor)]


START = ("start",)
OK = ("finish", "ok", "allowed", "ran", "run")


def refusal(stage: str, code: str) -> tuple[str, ...]:
    return ("finish", "rejected", "refused", stage, code, "not_run", "run")


def by_spec(executor: ToolExecutor) -> FunctionToolExecutor:
    """A tool of a spec."""
    spec = FunctionToolSpec(id="sub", tool_name="Shop.Sub", description="Subtract.", parameters=[])
    return FunctionToolExecutor(spec, lambda args: 1, executor=executor)


# Off.


def test_while_audit_is_off_the_stage_is_not_in_the_chain_and_nobody_observes() -> None:
    with executor_for(add) as executor:
        definition = executor.registry.get_tool("Shop.Add")

        assert audit(definition, executor._services, add) is add  # type: ignore[arg-type, comparison-overlap]
        assert executor._observers == []


def test_audit_can_be_switched_on_and_off_while_the_executor_runs() -> None:
    with executor_for(add, secret_key=SECRET) as executor:
        executor.call_sync("Shop.Add", a=1)
        executor.config.audit = "on"
        executor.call_sync("Shop.Add", a=2)
        seen = [row["kind"] for row in rows(executor)]
        executor.config.audit = "off"
        executor.call_sync("Shop.Add", a=3)

        assert [kind for kind in seen if kind != "settings"] == ["start", "finish"]
        assert executor._observers == []
        kinds = [orjson.loads(row.body)["kind"] for row in said(executor.records.audit_rows())]
        assert (kinds[0], kinds[-1], kinds.count("start")) == ("opened", "closed", 1)


def test_a_changed_setting_is_noted_by_its_name() -> None:
    with audited(add) as executor:
        executor.config.max_workers = 3

        [row] = rows(executor)
        assert (row["kind"], row["data"]) == ("settings", {"changed": "max_workers"})


# However a call is made.


async def test_each_way_to_make_a_call_leaves_a_start_and_a_finish_of_one_id() -> None:
    till = Till()
    with audited(add, till) as executor:
        await executor.execute_tool_call(create_tool_call("Shop.Add", {"a": 1}, "one", "ann"))
        executor.execute_sync(create_tool_call("Shop.Add", {"a": 1}, "two"))
        await executor.call("Shop.Add", a=1)
        executor.call_sync("Shop.Add", a=1)
        executor.execute(till, "sell", item="x", user_id="bob")
        await executor.execute_async(till, "sell", item="x")
        await executor.execute_batch(till, [{"op": "sell", "kwargs": {"item": "x"}}])
        await executor.execute_tool_calls([create_tool_call("Shop.Add", {"a": 1}, "three")])
        _ = [result async for result in executor.stream_tool_calls([create_tool_call("Shop.Add", {"a": 1}, "four")])]
        await by_spec(executor).execute({}, ToolContext(call_id="five"))

        found = rows(executor)
    starts = {row["call"]: row for row in found if row["kind"] == "start"}
    finishes = {row["call"]: row for row in found if row["kind"] == "finish"}
    assert len(starts) == len(finishes) == 10
    assert starts.keys() == finishes.keys() >= {"one", "two", "three", "four", "five"}
    assert {row["status"] for row in finishes.values()} == {"ok"}
    assert [row.get("user") for row in starts.values()].count("bob") == 1
    assert starts["one"]["user"] == finishes["one"]["user"] == "ann"
    assert starts["one"]["arguments"].keys() == {"a"}
    assert starts["one"]["definition"] == starts["two"]["definition"] != ""


async def test_each_way_to_name_no_tool_is_audited_once() -> None:
    till = Till()
    with audited(add, till) as executor:
        await executor.execute_tool_call(create_tool_call("Shop.Nothing", {}, "one", "ann"))
        executor.execute_sync(create_tool_call("Shop.Nothing", {}, "two"))
        await executor.execute_tool_calls([create_tool_call("Shop.Nothing", {}, "three")])
        for ask in (
            lambda: executor.call_sync("Shop.Nothing"),
            lambda: executor.execute(till, "nothing"),
        ):
            with pytest.raises(ToolNotFoundError):
                ask()
        with pytest.raises(ToolNotFoundError):
            await executor.call("Shop.Nothing")
        with pytest.raises(ToolNotFoundError):
            await executor.execute_async(till, "nothing")
        with pytest.raises(ToolNotFoundError):
            await executor.execute_batch(till, [{"op": "nothing"}])

        found = rows(executor)
    assert [(row["kind"], row["code"], row["stage"]) for row in found] == [("refused", "unknown_tool", "look-up")] * 8
    assert [row["tool"] for row in found[:4]] == ["Shop.Nothing"] * 4
    assert [row["tool"] for row in found[4:]].count("Till.nothing") == 3
    assert [row["call"] for row in found[:3]] == ["one", "two", "three"]
    assert found[0]["user"] == "ann"


async def test_what_is_no_call_at_all_is_audited_too() -> None:
    till = Till()
    odd = ToolCall(id="odd", name="Shop.Add", arguments=[1])  # type: ignore[arg-type]
    malformed = ToolCall(id="bad", name="Shop.Add", arguments={}, malformed="no JSON")
    with audited(add, till) as executor:
        await executor.execute_tool_call(odd)
        await executor.execute_tool_call(malformed)
        await executor.execute_tool_calls([42])  # type: ignore[list-item]
        with pytest.raises(InputValidationError):
            await executor.execute_batch(till, [{"opp": "sell"}])
        door = by_spec(executor)
        await door.execute([1], ToolContext(call_id="list"))  # type: ignore[arg-type]
        await door.execute({}, ToolContext(call_id="late", deadline_ts=1.0))

        found = rows(executor)
    kinds = [(row["kind"], row["code"], row.get("call")) for row in found if row["kind"] != "start"]
    assert kinds[:3] == [
        ("refused", "invalid_input", "odd"),
        ("finish", "invalid_input", "bad"),
        ("refused", "invalid_input", ""),
    ]
    assert [kind[:2] for kind in kinds[3:]] == [("refused", "invalid_input")] * 2 + [("refused", "timeout")]
    assert [kind[2] for kind in kinds[4:]] == ["list", "late"]


async def test_calls_of_a_batch_that_were_never_taken_up_are_audited() -> None:
    till = Till()
    with audited(wait, break_it, till) as executor:
        late = [create_tool_call("Shop.Wait", {"seconds": 5}, f"c{number}") for number in range(3)]
        await executor.execute_tool_calls(late, concurrency=1, deadline_s=0.05)
        failing = [create_tool_call("Shop.Break", {}, "f0"), *(create_tool_call("Shop.Break", {}, "f1") for _ in "a")]
        await executor.execute_tool_calls(failing, concurrency=1, fail_fast=True)
        with pytest.raises(ToolTimeoutError):
            await executor.execute_batch(till, [{"op": "sell", "kwargs": {"item": "x"}}], deadline_s=-1.0)

        found = rows(executor)
    by_call = {}
    for row in found:
        by_call.setdefault(row["call"], []).append((row["kind"], row.get("code")))
    assert by_call["c0"] == [("start", None), ("finish", "timeout")]
    assert by_call["c1"] == by_call["c2"] == [("refused", "timeout")]
    assert by_call["f0"] == [("start", None), ("finish", "tool_failed")]
    assert by_call["f1"] == [("refused", "cancelled")]
    assert [row["code"] for row in found if row["tool"] == "Till"] == ["timeout"]


# However it ends.


async def test_each_stage_that_refuses_is_named() -> None:
    @Tool("Shop.Text", register=False)
    def text(text: str) -> str:
        """Text."""
        return text

    @Tool("Shop.Staff", register=False, permissions=["staff"])
    def staff() -> int:
        """Staff."""
        return 1

    @Tool("Shop.Seldom", register=False)
    @policy(RateLimit(calls=1, per_s=1000.0))
    def seldom() -> int:
        """Seldom."""
        return 1

    with audited(add, text, staff, seldom, security_level="strict") as executor:
        for name, arguments in (
            ("Shop.Add", {"a": "x"}),
            ("Shop.Text", {"text": "<script>alert(1)</script>"}),
            ("Shop.Staff", {}),
            ("Shop.Seldom", {}),
            ("Shop.Seldom", {}),
        ):
            await executor.execute_tool_call(create_tool_call(name, arguments))

        found = told(executor)
    assert found == [
        START, refusal("validate", "invalid_input"), START, refusal("screen", "screened"),
        START, refusal("authorize", "denied"), START, OK, START, refusal("limit", "rate_limited"),
    ]  # fmt: skip


async def test_failures_timeouts_and_cancellations_are_told_as_what_they_are() -> None:
    with audited(break_it, wait) as executor:
        await executor.execute_tool_call(create_tool_call("Shop.Break", {}))
        await executor.execute_tool_call(create_tool_call("Shop.Wait", {"seconds": 5}, deadline_s=0.05))
        task = asyncio.ensure_future(executor.execute_tool_call(create_tool_call("Shop.Wait", {"seconds": 5})))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        found = told(executor)
    assert found == [
        START, ("finish", "failed", "allowed", "tool_failed", "ran", "run"),
        START, ("finish", "failed", "allowed", "timeout", "stopped", "run"),
        START, ("finish", "failed", "allowed", "cancelled", found[5][4], "run"),
    ]  # fmt: skip


async def test_retries_hits_and_replays_are_told() -> None:
    tries = []

    @Tool("Shop.Twice", register=False)
    @policy(Retry(attempts=3, wait_s=0.0, insist=True))
    def twice() -> int:
        """Fail once."""
        tries.append(1)
        if len(tries) < 2:
            raise ConnectionError("again")
        return 1

    @Tool("Shop.Kept", register=False)
    @policy(Cache(ttl_s=60.0))
    def kept() -> int:
        """Kept."""
        return 1

    @Tool("Shop.Once", register=False)
    @policy(Idempotency())
    def once(order: int) -> int:
        """Once."""
        return order

    with audited(twice, kept, once) as executor:
        await executor.execute_tool_call(create_tool_call("Shop.Twice", {}))
        for _ in range(2):
            await executor.execute_tool_call(create_tool_call("Shop.Kept", {}))
        for _ in range(2):
            await executor.execute_tool_call(create_tool_call("Shop.Once", {"order": 1}))

        finishes = [row for row in rows(executor) if row["kind"] == "finish"]
    assert finishes[0]["attempts"] == 2
    assert [row["source"] for row in finishes[1:]] == ["run", "cache", "run", "replay"]


async def test_a_body_that_lets_another_tools_refusal_through_is_told_as_failed() -> None:
    with audited(add) as executor:

        @Tool("Shop.Outer", register=False)
        async def outer() -> Any:
            """Call another."""
            return await executor.call("Shop.Add", a="x")

        executor.add(outer)
        await executor.execute_tool_call(create_tool_call("Shop.Outer", {}, "outer"))

        found = {(row["tool"], row["kind"]): row for row in rows(executor)}
    assert found["Shop.Add", "finish"]["decision"] == "refused"
    assert (found["Shop.Outer", "finish"]["decision"], found["Shop.Outer", "finish"]["status"]) == ("allowed", "failed")


async def test_arguments_are_told_as_they_came_whatever_the_body_does_to_them() -> None:
    @Tool("Shop.Clear", register=False)
    def clear(items: list[int]) -> int:
        """Clear."""
        items.clear()
        return 1

    with audited(clear, audit_values="redacted") as executor:
        await executor.execute_tool_call(create_tool_call("Shop.Clear", {"items": [1, 2]}))

        assert rows(executor)[0]["arguments"] == {"items": [1, 2]}


async def test_a_call_that_is_explained_says_that_it_was_noted() -> None:
    with audited(add) as executor:
        result = await executor.execute_tool_call(create_tool_call("Shop.Add", {"a": 1}), explain=True)

        stages = {entry["stage"]: entry for entry in result.explanation or []}
        assert stages["audit"]["decision"] == "noted"
        assert told(executor) == [START, OK]


def test_closing_the_executor_writes_what_waits(sqlite_url: str) -> None:
    with audited(add, records_url=sqlite_url) as executor:
        executor.call_sync("Shop.Add", a=1)

    records = open_records(sqlite_url)
    kinds = [orjson.loads(row.body)["kind"] for row in said(records.audit_rows())]
    records.close()
    assert kinds == ["opened", "start", "finish", "closed"]


def test_health_says_that_the_log_cannot_be_written() -> None:
    with audited(add, records_url="postgresql://nobody@127.0.0.1:1/none") as executor:
        executor.call_sync("Shop.Add", a=1)
        end = time.monotonic() + 20
        while executor.health()["status"] != "degraded":
            assert time.monotonic() < end
            time.sleep(0.02)

        [problem] = executor.health()["problems"]
        assert problem.startswith("the audit log cannot be written: the records at")
        executor._guards.audit._writer._closing.set()  # type: ignore[union-attr]


# Where it is required.


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/records.db"


async def test_the_start_is_in_the_store_before_the_body_runs(sqlite_url: str) -> None:
    seen: list[list[str]] = []

    with audited(audit="required", records_url=sqlite_url) as executor:

        def look(call: str) -> int:
            """Look."""
            other = open_records(sqlite_url)
            seen.append([orjson.loads(row.body).get("call") for row in said(other.audit_rows())])
            other.close()
            return 1

        executor.add(Tool("Shop.Look", register=False)(look))
        await executor.execute_tool_call(create_tool_call("Shop.Look", {"call": "a"}, "call-a"))
        executor.execute_sync(create_tool_call("Shop.Look", {"call": "b"}, "call-b"))

    assert "call-a" in seen[0]
    assert "call-b" in seen[1]


async def test_a_thousand_required_calls_share_few_transactions(sqlite_url: str) -> None:
    with audited(add, audit="required", records_url=sqlite_url) as executor:
        calls = [create_tool_call("Shop.Add", {"a": 1}) for _ in range(1000)]
        results = await executor.execute_tool_calls(calls, concurrency=200)
        rows(executor)

        assert all(result.success for result in results)
        assert executor.records.batches < 250  # type: ignore[attr-defined]
        assert executor.audit.verify().ok


async def test_what_cannot_be_audited_is_refused_and_nothing_runs(caplog: pytest.LogCaptureFixture) -> None:
    ran = []

    @Tool("Shop.Run", register=False)
    def run() -> None:
        """Run."""
        ran.append(1)

    caplog.set_level(logging.ERROR)
    url = "postgresql://nobody:hunter2@127.0.0.1:1/none"
    with audited(run, audit="required", records_url=url) as executor:
        first = await executor.execute_tool_call(create_tool_call("Shop.Run", {}))
        second = executor.execute_sync(create_tool_call("Shop.Run", {}))
        with pytest.raises(AuditUnavailableError, match="calls must be audited, and the audit log cannot be written"):
            executor.call_sync("Shop.Run")
        executor._guards.audit._writer._closing.set()  # type: ignore[union-attr]

    assert [result.failure.code for result in (first, second)] == ["audit_unavailable"] * 2  # type: ignore[union-attr]
    assert first.failure is not None
    assert (first.failure.retryable, first.status) == (True, "rejected")
    assert ran == []
    assert "hunter2" not in caplog.text + str(first.to_dict())


def test_calls_that_are_refused_while_it_is_away_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolpost.telemetry.audit_writer.MOST_ROWS", 5)
    monkeypatch.setattr("toolpost.telemetry.audit_writer.CLOSE_S", 0.1)
    url = "postgresql://nobody:hunter2@127.0.0.1:1/none"
    with audited(add, audit="required", records_url=url) as executor:
        log = executor._guards.audit
        assert log is not None
        for _ in range(50):
            assert not executor.execute_sync(create_tool_call("Shop.Add", {"a": 1})).success
        waiting, lost = log.waiting, log.lost

    assert waiting <= 7  # with the row about the losses before the first try, and those since
    assert lost >= 44


@pytest.mark.timeout(120)
async def test_after_an_outage_required_calls_run_again_and_all_ends_are_told(own_postgres: Postgres) -> None:
    gate = asyncio.Event()

    @Tool("Shop.Hold", register=False)
    async def hold() -> str:
        """Hold."""
        await gate.wait()
        return "held"

    with audited(add, hold, audit="required", records_url=own_postgres.url) as executor:
        held = asyncio.ensure_future(executor.execute_tool_call(create_tool_call("Shop.Hold", {}, "held")))
        await executor.execute_tool_call(create_tool_call("Shop.Add", {"a": 1}, "before"))
        rows(executor)
        own_postgres.kill()
        gate.set()
        result = await held
        refused = await executor.execute_tool_call(create_tool_call("Shop.Add", {"a": 1}, "meanwhile", deadline_s=20.0))
        own_postgres.restart()
        end = time.monotonic() + 30
        while not (last := await executor.execute_tool_call(create_tool_call("Shop.Add", {"a": 1}, "after"))).success:
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        found = rows(executor)
        report = executor.audit.verify()

    assert (result.success, last.success) == (True, True)
    assert refused.failure is not None
    assert refused.failure.code == "audit_unavailable"
    assert [(row["kind"], row.get("status")) for row in found if row["call"] == "held"] == [
        ("start", None),
        ("finish", "ok"),
    ]
    assert report.ok
    assert report.open == []


def test_on_lets_calls_run_while_the_store_is_away(own_postgres: Postgres) -> None:
    with audited(add, records_url=own_postgres.url) as executor:
        executor.call_sync("Shop.Add", a=1)
        rows(executor)
        own_postgres.kill()
        began = time.monotonic()
        results = [executor.call_sync("Shop.Add", a=number) for number in range(20)]
        took_s = time.monotonic() - began
        own_postgres.restart()

        assert executor._guards.audit.flush(20)  # type: ignore[union-attr]
        assert results == list(range(1, 21))
        assert took_s < 2.0
        assert executor.audit.verify().rows == 1 + 2 * 21


def test_required_is_refused_where_records_are_in_memory() -> None:
    with pytest.raises(ConfigurationError, match="set records_url"):
        ToolExecutor(audit="required")
