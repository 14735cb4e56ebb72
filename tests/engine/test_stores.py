"""Stores of an executor: by URL, anew when a setting changes, or given; one's own by an entry point."""

import asyncio
from importlib import metadata

import pytest

from toolpost import (
    ConfigurationError,
    Idempotency,
    StoreUnavailableError,
    Tool,
    create_tool_call,
    open_blobs,
    open_records,
    open_state,
)
from toolpost.stores import public_url
from toolpost.testing import executor_for


@Tool(name="Once", register=False, idempotency=Idempotency(claims_in="records"))
async def once(n: int) -> int:
    return n


def source(executor, n=1):
    return asyncio.run(executor.execute_tool_call(create_tool_call("Once", {"n": n}))).source


@pytest.mark.parametrize(
    ("opened", "url", "said"),
    [
        (open_state, "memcached://h", "state must be a URL that begins with one of memory://, redis://"),
        (open_records, "mysql://u:hunter2@h/d", "records must be a URL that begins with one of memory://, sqlite://"),
        (open_blobs, "nonsense", "blobs must be a URL that begins with one of memory://, file://, s3://"),
    ],
)
def test_a_url_that_nobody_knows_is_refused_with_those_there_are(opened, url, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        opened(url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pa?s/s@host:1/0?x=secret", "redis://user@host:1/0"),
        ("redis://:secret@host", "redis://host"),
        ("s3://key:secret@bucket?endpoint=http://h", "s3://key@bucket"),
        ("sqlite:///a/b.db?migrate=never", "sqlite:///a/b.db"),
        ("memory://", "memory://"),
    ],
)
def test_a_url_is_shown_without_password_and_query(url, shown):
    assert public_url(url) == shown


def test_another_url_is_opened_when_the_setting_changes(tmp_path):
    with executor_for(once, records_url=f"sqlite:///{tmp_path}/a.db") as executor:
        first = source(executor)
        executor.config.records_url = f"sqlite:///{tmp_path}/b.db"
        elsewhere = source(executor)
        executor.config.records_url = f"sqlite:///{tmp_path}/a.db"

        assert (first, elsewhere, source(executor)) == ("run", "run", "replay")


async def test_a_call_that_runs_while_its_store_is_replaced_is_remembered_where_it_began(tmp_path):
    began, go = asyncio.Event(), asyncio.Event()

    @Tool(name="Held", register=False, idempotency=Idempotency(claims_in="records"))
    async def held(n: int) -> int:
        began.set()
        await go.wait()
        return n

    a_call = create_tool_call("Held", {"n": 1})
    with executor_for(held, records_url=f"sqlite:///{tmp_path}/a.db") as executor:
        running = asyncio.create_task(executor.execute_tool_call(a_call))
        await began.wait()
        executor.config.records_url = f"sqlite:///{tmp_path}/b.db"
        go.set()
        result = await running

        assert (result.success, result.warnings) == (True, [])
    with executor_for(held, records_url=f"sqlite:///{tmp_path}/a.db") as executor:
        assert (await executor.execute_tool_call(a_call)).source == "replay"


def test_claims_are_renewed_in_the_store_that_holds_them(tmp_path):
    with executor_for(once, records_url=f"sqlite:///{tmp_path}/a.db") as executor:
        source(executor)
        first = executor._shared["keeper of records"]
        executor.config.records_url = f"sqlite:///{tmp_path}/b.db"
        source(executor)

        assert executor._shared["keeper of records"]._claims is executor.records
        assert first._claims is not executor.records
    assert first._closed


def test_replaced_stores_are_closed_with_the_executor(tmp_path):
    with executor_for(once, records_url=f"sqlite:///{tmp_path}/a.db") as executor:
        source(executor)
        replaced = executor.records
        executor.config.records_url = f"sqlite:///{tmp_path}/b.db"
        assert replaced.lookup("k").wait(executor._clock, 10) is None

    with pytest.raises(StoreUnavailableError, match="closed"):
        replaced.lookup("k").wait(executor._clock, 10)


def test_a_url_that_cannot_be_opened_leaves_the_old_store_in_place(tmp_path):
    with executor_for(once, records_url=f"sqlite:///{tmp_path}/a.db") as executor:
        source(executor)
        with pytest.raises(ConfigurationError, match="begins with one of"):
            executor.config.records_url = "nobody://knows"

        assert source(executor) == "replay"


def test_a_store_that_is_given_is_used_and_left_open(tmp_path):
    records = open_records(f"sqlite:///{tmp_path}/mine.db")
    for expected in ("run", "replay"):
        with executor_for(once, records=records) as executor:
            assert executor.records is records
            assert source(executor) == expected

    assert records.schema_version() > 0
    records.close()


def test_a_store_of_another_package_is_found_by_its_scheme(monkeypatch, tmp_path):
    opened = []

    class Mine:
        def __new__(cls, url, **options):
            opened.append((url, sorted(options)))
            return open_records(f"sqlite:///{tmp_path}/plugin.db", **options)

    class Point:
        name = "records.mine"

        def load(self):
            return Mine

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Point()] if group == "toolpost.stores" else [])

    with executor_for(once, records_url="mine://there") as executor:
        assert source(executor) == "run"
    with pytest.raises(ConfigurationError, match="mine://"):
        open_records("yours://there")

    assert opened == [("mine://there", ["clock"])]
