"""Records in SQLite keep the contract; processes share the file, and nothing acknowledged is lost with the power."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stores.holders import HOLD, MIGRATE, line, process, race
from tests.stores.moved import assert_moved
from toolpost.calls.errors import ConfigurationError, StoreUnavailableError
from toolpost.stores import Answer, ClaimAsk, Finish, Pending, Task, open_records, sqlite_history
from toolpost.stores.migrations import LATEST, MIGRATIONS
from toolpost.stores.sql_tasks import TASK_LIST, Wanted, states_of
from toolpost.stores.sqlite import SqliteRecords
from toolpost.testing import FakeClock
from toolpost.testing.records_claims_contract import at_once
from toolpost.testing.records_contract import RecordsContract

ASK = ClaimAsk("key", None, "me", 30.0, 60.0)


class TestSqliteRecords(RecordsContract):
    @pytest.fixture
    def records(self, tmp_path: Path) -> Iterator[SqliteRecords]:
        self.clock = FakeClock()
        store = SqliteRecords(f"sqlite:///{tmp_path}/records.db", clock=self.clock)
        yield store
        store.close()

    def age(self, records: SqliteRecords, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


@pytest.fixture
def records(path: Path) -> Iterator[SqliteRecords]:
    store = SqliteRecords(f"sqlite:///{path}")
    yield store
    store.close()


# The URL.


def test_a_path_is_relative_after_three_slashes_and_absolute_after_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///a%20b.db", f"sqlite:///{tmp_path}/c.db?migrate=auto"):
        store = open_records(url)
        assert store.submit(Task(task_id="1", tool="t")).wait() is True  # type: ignore[union-attr]
        store.close()

    assert {"a b.db", "c.db"} <= {file.name for file in tmp_path.iterdir()}
    assert (store.durable, store.local) == (True, False)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("sqlite://", "need a file"),
        ("sqlite:///", "need a file"),
        ("sqlite:///:memory:", "say memory://"),
        ("sqlite://host/file", "need a file"),
        ("sqlite:///no/such/folder/a.db", "four slashes: sqlite:////no/such/folder/a.db"),
        ("sqlite:////no/such/folder/a.db", "the folder /no/such/folder does not exist; make it first"),
        ("sqlite:///a.db?migrate=maybe", "migrate=never"),
        ("sqlite:///a.db?mode=ro", "migrate=never"),
    ],
)
def test_a_url_that_names_no_file_is_refused_when_it_is_opened(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        SqliteRecords(url)


def test_a_sqlite_that_is_too_old_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))

    with pytest.raises(ConfigurationError, match=r"needs SQLite 3\.35\.0, and this Python has"):
        SqliteRecords(f"sqlite:///{path}")


# Batches.


async def test_operations_asked_meanwhile_share_a_commit_that_is_synced(records: SqliteRecords) -> None:
    await records.ping()
    before = records.batches

    async def submit(number: int) -> bool:
        return await records.submit(Task(task_id=f"{number}", tool="t"))

    await asyncio.gather(*map(submit, range(300)))

    connection = records._connection
    assert connection is not None
    assert records.batches - before <= 20
    assert connection.execute("pragma synchronous").fetchone()[0] == 2
    assert connection.execute("pragma journal_mode").fetchone()[0] == "wal"
    assert connection.execute("pragma foreign_keys").fetchone()[0] == 1


async def test_expired_claims_go_without_anybody_asking(path: Path) -> None:
    clock = FakeClock()
    records = SqliteRecords(f"sqlite:///{path}", clock=clock)

    async def once(key: str) -> bool:
        return await records.finish(key, (await records.claim(ASK._replace(key=key))).fence, "done", None, 60.0)

    await asyncio.gather(*(once(f"{number}") for number in range(2500)))
    await records.claim(ASK)
    clock.advance(61)
    left = [2501]
    while left[-1] > 1:
        await records.ping()
        assert records._connection is not None
        left.append(records._connection.execute("select count(*) from toolpost_claims").fetchone()[0])

    assert (await records.lookup("key")).state == "unknown"  # type: ignore[union-attr]
    records.close()


def test_a_task_that_is_over_cannot_be_changed_by_any_statement(records: SqliteRecords) -> None:
    records.submit(Task(task_id="1", tool="t")).wait()
    [work] = records.claim_tasks("me", 9, 30.0).wait()
    records.finish_task(Finish(task_id="1", fence=work.fence, state="succeeded", value=b"1")).wait()

    with sqlite3.connect(records.path, isolation_level=None) as connection:
        for change in ("update toolpost_tasks set state = 'queued'", "update toolpost_results set value = null"):
            with pytest.raises(sqlite3.IntegrityError, match="never changes"):
                connection.execute(change)
    connection.close()


# Others beside us.


def test_of_four_processes_with_one_key_one_is_granted(records: SqliteRecords) -> None:
    records.ping().wait()

    counts = race(f"sqlite:///{records.path}")

    assert sorted(counts) == ["0 50", "0 50", "0 50", "1 49"]


def test_a_holder_that_is_killed_leaves_an_unknown_claim_to_be_taken_over(records: SqliteRecords) -> None:
    with process(HOLD, f"sqlite:///{records.path}") as holder:
        state, fence = line(holder).split()
        holder.kill()
        holder.wait()
    threading.Event().wait(0.06)  # its lease

    plain = records.claim(ASK).wait()
    taken = records.claim(ASK._replace(take_over=True)).wait()

    assert (state, plain.state, plain.owner) == ("granted", "unknown", "holder")
    assert (taken.state, taken.taken_over) == ("granted", True)
    assert records.finish("key", int(fence), "done", b"zombie", 60.0).wait() is False
    assert records.finish("key", taken.fence, "done", b"1", 60.0).wait() is True


def test_stores_that_start_at_once_on_a_new_file_all_work(path: Path) -> None:
    stores = [SqliteRecords(f"sqlite:///{path}") for _ in range(8)]

    def submit(number: int) -> Callable[[], Answer[bool]]:
        return lambda: stores[number].submit(Task(task_id=f"{number}", tool="t"))

    answers = at_once([submit(number) for number in range(8)])

    assert answers == [True] * 8
    assert len(stores[0].tasks().wait()) == 8
    for store in stores:
        store.close()


def test_a_file_that_another_keeps_locked_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolpost.stores.sqlite.BUSY_S", 0.05)
    store = SqliteRecords(f"sqlite:///{path}")
    store.ping().wait()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")

    with pytest.raises(StoreUnavailableError, match=r"records\.db cannot be reached: database is locked"):
        store.claim(ASK).wait()

    other.close()
    store.close()


def test_a_forked_child_has_a_connection_of_its_own(records: SqliteRecords) -> None:
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from toolpost.stores import Task, open_records
records = open_records(sys.argv[1])
records.submit(Task(task_id="parent", tool="t")).wait()
child = os.fork()
if not child:
    records.submit(Task(task_id="child", tool="t")).wait()
    records.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert records.submit(Task(task_id="after", tool="t")).wait()
print(sorted(row.task_id for row in records.tasks().wait()))
records.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, f"sqlite:///{records.path}"], capture_output=True, text=True, timeout=30
    )

    assert done.stdout == "['after', 'child', 'parent']\n", done.stderr


# Trouble with the disk.


def test_a_full_disk_is_unavailable_and_what_was_acknowledged_stays(records: SqliteRecords) -> None:
    records.submit(Task(task_id="before", tool="t")).wait()
    assert records._connection is not None
    records._connection.execute("pragma max_page_count = 1")  # answers as a full disk does: SQLITE_FULL

    with pytest.raises(StoreUnavailableError, match=r"records\.db cannot be reached: database or disk is full"):
        records.submit(Task(task_id="big", tool="t", arguments=b"x" * 1_000_000)).wait()

    other = SqliteRecords(f"sqlite:///{records.path}")
    assert [row.task_id for row in other.tasks().wait()] == ["before"]
    other.close()


def test_a_file_that_may_not_be_written_is_unavailable(records: SqliteRecords) -> None:
    records.ping().wait()
    assert records._connection is not None
    records._connection.execute("pragma query_only = on")

    with pytest.raises(StoreUnavailableError, match="attempt to write a readonly database"):
        records.claim(ASK).wait()


def test_a_file_that_is_no_database_is_unavailable(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    store = SqliteRecords(f"sqlite:///{path}")

    with pytest.raises(StoreUnavailableError, match=r"records\.db cannot be reached: file is not a database"):
        store.ping().wait()
    with pytest.raises(StoreUnavailableError, match="file is not a database"):
        store.schema_version()
    store.close()


async def test_every_acknowledged_task_is_in_a_copy_made_at_any_moment(records: SqliteRecords, tmp_path: Path) -> None:
    """What a power cut leaves is what the files hold at that moment, as each commit is synced before it is answered."""
    acknowledged: list[str] = []
    copies: list[tuple[Path, list[str]]] = []
    done = asyncio.Event()

    async def submit(caller: int) -> None:
        number = 0
        while not done.is_set():
            task_id = f"{caller}-{number}"
            assert await records.submit(Task(task_id=task_id, tool="t", arguments=os.urandom(300)))
            acknowledged.append(task_id)
            number += 1

    def copy(number: int) -> None:
        known = list(acknowledged)
        target = tmp_path / f"copy{number}.db"
        # The log first: a checkpoint moves pages from it into the file, never back.
        for suffix in ("-wal", ""):
            shutil.copyfile(f"{records.path}{suffix}", f"{target}{suffix}")
        copies.append((target, known))

    await records.ping()
    callers = [asyncio.create_task(submit(caller)) for caller in range(20)]
    while len(copies) < 12:
        goal = len(acknowledged) + 150
        while len(acknowledged) < goal:
            await asyncio.sleep(0)
        await asyncio.to_thread(copy, len(copies))
    done.set()
    await asyncio.gather(*callers)

    for target, known in copies:
        connection = sqlite3.connect(target)
        kept = {row[0] for row in connection.execute("select task_id from toolpost_tasks")}
        assert connection.execute("pragma integrity_check").fetchone()[0] == "ok"
        assert set(known) <= kept
        connection.close()
    assert len(copies[-1][1]) > 1000


# The schema.


def test_the_schema_is_made_by_the_first_operation_or_by_migrate(path: Path) -> None:
    store = SqliteRecords(f"sqlite:///{path}?migrate=never")
    before = store.schema_version()
    with pytest.raises(ConfigurationError, match=rf"has schema 0, and this toolpost needs schema {LATEST}; run"):
        store.claim(ASK).wait()
    applied = store.migrate()

    assert (before, store.schema_version(), store.migrate()) == (0, LATEST, [])
    assert [step.split()[0] for step in applied] == [str(number + 1) for number in range(LATEST)]
    assert store.claim(ASK).wait().state == "granted"
    store.close()


def test_a_newer_schema_is_refused_with_both_numbers(records: SqliteRecords) -> None:
    records.ping().wait()
    with sqlite3.connect(records.path) as connection:
        connection.execute("insert into toolpost_schema values (?, 'from the future', 0)", (LATEST + 6,))
    connection.close()
    other = SqliteRecords(f"sqlite:///{records.path}")

    complaint = f"has schema {LATEST + 6}, and this toolpost knows schemas up to {LATEST}"
    with pytest.raises(ConfigurationError, match=complaint):
        other.ping().wait()
    with pytest.raises(ConfigurationError, match=complaint):
        other.migrate()
    other.close()


def test_a_migration_killed_in_the_middle_is_completed_by_the_next_start(records: SqliteRecords) -> None:
    with process(MIGRATE, f"sqlite:///{records.path}") as migrator:
        assert line(migrator) == "half done"
        migrator.kill()
        migrator.wait()

    assert records.schema_version() == 0
    assert records.submit(Task(task_id="1", tool="t")).wait() is True
    assert records.schema_version() == LATEST


def test_the_rows_of_an_older_schema_are_there_after_it_moved(records: SqliteRecords) -> None:
    with sqlite3.connect(records.path) as connection:
        for statement in MIGRATIONS[0].sqlite + MIGRATIONS[1].sqlite:
            connection.execute(statement)
        connection.execute("create table toolpost_schema (number integer primary key, name text, applied_at real)")
        connection.execute("insert into toolpost_schema values (1, 'a', 0), (2, 'b', 0)")
        connection.execute(
            "insert into toolpost_tasks (task_id, tool, arguments, created_at) values ('open', 't', x'7b7d', 1)"
        )
        connection.execute(
            "insert into toolpost_tasks (task_id, tool, arguments, user_id, state, created_at) "
            "values ('over', 't', x'7b7d', 'u', 'failed', 1)"
        )
        connection.execute(
            "insert into toolpost_results (task_id, fence, status, value, source, finished_at) "
            "values ('over', 1, 'failed', x'31', 'run', 2)"
        )
    connection.close()

    assert_moved(records)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({"state": "queued"}, "toolpost_tasks_ready"),
        ({"state": ("queued", "waiting", "running")}, "toolpost_tasks_leases"),
        ({"state": "failed"}, "toolpost_tasks_unwell"),
        ({"user_id": "u", "tenant": "t", "after": "x"}, "toolpost_tasks_of (user_id=? AND tenant=? AND task_id<?)"),
        ({"session_id": "s"}, "toolpost_tasks_in_session"),
        ({"since": 1.0, "until": 2.0}, "toolpost_tasks_since"),
    ],
)
def test_lists_of_tasks_find_theirs_by_an_index(records: SqliteRecords, wanted: dict[str, Any], index: str) -> None:
    records.ping().wait()
    of_any = dict.fromkeys(Wanted._fields, None) | {"limit": 10}
    state = states_of(wanted.get("state"))
    where, values = Wanted(**(of_any | wanted | {"state": state})).where("?")
    with sqlite3.connect(records.path) as connection:
        text = f"explain query plan {TASK_LIST} {where} order by t.task_id desc limit 10"
        plan = "\n".join(row[3] for row in connection.execute(text, values))
    connection.close()

    assert f"USING INDEX {index}" in plan or f"USING COVERING INDEX {index}" in plan, plan
    assert "SCAN" not in plan.replace("SCAN toolpost_tasks USING", ""), plan


def test_the_files_are_for_their_owner_alone(tmp_path):
    records = open_records(f"sqlite:///{tmp_path}/r.db")
    records.submit(Task(task_id="t", tool="x")).wait()

    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    records.close()

    assert set(modes.values()) == {"0o600"}


def test_however_many_ask_at_once_tasks_are_counted_once(records: SqliteRecords, path: Path) -> None:
    records.submit(Task(task_id="1", tool="t")).wait()
    pendings: list[Any] = [Pending(("count_tasks", ("queued", "waiting"))) for _ in range(50)]
    asked: list[str] = []
    connection = sqlite3.connect(path)
    connection.set_trace_callback(asked.append)

    sqlite_history.count_tasks(connection, pendings, 0.0)
    connection.close()

    assert [pending.value for pending in pendings] == [{"queued": 1, "waiting": 0}] * 50
    assert len(asked) == 1
