"""Records in PostgreSQL keep the contract, whatever becomes of the server, of its answers, and of others beside us."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.services import Postgres
from tests.stores.holders import HOLD, MIGRATE, line, process, race
from tests.stores.moved import assert_moved
from toolpost.calls.errors import ConfigurationError, InputValidationError, StoreUnavailableError
from toolpost.stores import Answer, ClaimAsk, Finish, Outgoing, Pending, Task, open_records, postgres_history
from toolpost.stores.migrations import LATEST, MIGRATIONS
from toolpost.stores.postgres import HURRY_MS, LOCK_MS, PostgresRecords
from toolpost.stores.postgres_tasks import _CLAIM_TASKS
from toolpost.testing.records_claims_contract import at_once
from toolpost.testing.records_contract import RecordsContract

ASK = ClaimAsk("key", None, "me", 30.0, 60.0)
AGES = {
    "toolpost_claims": "lease_until began_at expires_at",
    "toolpost_tasks": "created_at due_at deadline_at lease_until",
    "toolpost_outbox": "due_at",
    "toolpost_documents": "created_at updated_at expires_at",
}


def age(url: str, seconds: float) -> None:
    """Make all that has a time older, in place of waiting."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table, columns in AGES.items():
            moves = ", ".join(f"{column} = {column} - %(seconds)s" for column in columns.split())
            where = " where state in ('queued', 'waiting', 'running')" if table == "toolpost_tasks" else ""
            connection.execute(f"update {table} set {moves}{where}", {"seconds": seconds})


class TestPostgresRecords(RecordsContract):
    unit_s = 10.0  # the database's own clock goes on meanwhile

    @pytest.fixture
    def records(self, postgres_url: str) -> Iterator[PostgresRecords]:
        self.database = postgres_url
        store = PostgresRecords(postgres_url)
        yield store
        store.close()

    def age(self, records: PostgresRecords, seconds: float) -> None:
        age(self.database, seconds)


@pytest.fixture
def records(postgres_url: str) -> Iterator[PostgresRecords]:
    store = PostgresRecords(postgres_url)
    yield store
    store.close()


def task(task_id: str, **more: Any) -> Task:
    return Task(task_id=task_id, tool="t", **more)


def execute(url: str, *statements: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


async def until_done(records: PostgresRecords, one: Task) -> bool:
    """Submit until the store answers."""
    while True:
        try:
            return await records.submit(one)
        except StoreUnavailableError:
            await asyncio.sleep(0.02)


# The URL.


def test_a_url_may_say_all_that_libpq_understands_and_shows_no_password(postgres_url: str) -> None:
    store = open_records(f"{postgres_url}?application_name=shop&migrate=auto")

    assert store.submit(task("1")).wait() is True  # type: ignore[union-attr]

    password = urlsplit(postgres_url).password or "?"
    assert password not in store.url
    assert execute(postgres_url, "select count(*) from pg_stat_activity where application_name = 'shop'") == [(1,)]
    store.close()


@pytest.mark.parametrize("url", ["postgresql://h/d?nonsense=1", "postgresql://h/d?migrate=maybe"])
def test_a_url_with_unknown_options_is_refused_when_it_is_opened(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://h/d"):
        PostgresRecords(url)


@pytest.mark.parametrize("password", ["ses@ame", "ses/ame", "ses#ame", "[sesame"])
def test_a_password_that_is_not_encoded_is_refused_without_showing_it(password: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        PostgresRecords(f"postgresql://me:{password}@127.0.0.1:1/none")

    assert "ses" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nobody_there_is_unavailable_without_showing_the_password() -> None:
    store = PostgresRecords("postgresql://me:sesame@127.0.0.1:1/none")

    with pytest.raises(StoreUnavailableError, match="1/none cannot be reached") as caught:
        store.ping().wait()
    with pytest.raises(StoreUnavailableError):
        store.schema_version()

    assert "sesame" not in str(caught.value)
    store.close()


def test_the_session_bounds_its_waits_and_syncs_its_commits(postgres_url: str) -> None:
    database = urlsplit(postgres_url).path[1:]
    execute(postgres_url, f"alter database {database} set synchronous_commit = off")
    store = PostgresRecords(postgres_url)
    store.ping().wait()
    assert store._connection is not None
    names = ("synchronous_commit", "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")

    shown = [store._connection.execute(f"show {name}").fetchone() for name in (*names, "application_name")]

    assert shown == [("on",), ("500ms",), ("4s",), ("5s",), ("toolpost",)]
    store.close()


# Batches.


async def test_operations_asked_meanwhile_share_a_round_trip(records: PostgresRecords) -> None:
    await records.ping()
    before = records.batches

    async def submit(number: int) -> bool:
        return await records.submit(task(f"{number}"))

    await asyncio.gather(*map(submit, range(300)))

    assert records.batches - before <= 6


async def test_one_row_that_the_database_refuses_fails_alone(records: PostgresRecords, postgres_url: str) -> None:
    await records.ping()
    execute(postgres_url, "alter table toolpost_tasks add constraint no check (task_id <> '117')")

    async def submit(number: int) -> Any:
        return await records.submit(task(f"{number}"))

    answers = await asyncio.gather(*map(submit, range(200)), return_exceptions=True)

    assert [number for number, answer in enumerate(answers) if answer is not True] == [117]
    assert isinstance(answers[117], InputValidationError)
    assert len(await records.tasks(limit=1000)) == 199


async def test_a_finish_that_the_database_refuses_fails_alone(records: PostgresRecords, postgres_url: str) -> None:
    await asyncio.gather(*(until_done(records, task(f"{number}")) for number in range(50)))
    works = await records.claim_tasks("me", 100, 30.0)
    execute(postgres_url, "alter table toolpost_results add constraint no check (task_id <> '17')")

    async def finish(task_id: str, fence: int) -> Any:
        return await records.finish_task(Finish(task_id=task_id, fence=fence, state="succeeded", value=b"1"))

    answers = await asyncio.gather(*(finish(w.task.task_id, w.fence) for w in works), return_exceptions=True)

    failed = [w.task.task_id for w, answer in zip(works, answers, strict=True) if answer is not True]
    assert failed == ["17"]
    assert (await records.task("17")).state == "running"  # type: ignore[union-attr]


REFUSE = """
create sequence tries;
create function refuse() returns trigger language plpgsql as $$ begin
    if nextval('tries') <= {} then raise exception 'try again' using errcode = '{}'; end if; return new;
end $$;
create trigger refuse before insert on toolpost_claims for each row execute function refuse();
"""


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_what_the_database_rolls_back_is_tried_again(records: PostgresRecords, postgres_url: str, code: str) -> None:
    records.ping().wait()
    execute(postgres_url, REFUSE.format(3, code))

    assert records.claim(ASK).wait().state == "granted"


def test_what_the_database_keeps_rolling_back_is_given_up(records: PostgresRecords, postgres_url: str) -> None:
    records.ping().wait()
    execute(postgres_url, REFUSE.format(1_000_000, "40001"))

    with pytest.raises(StoreUnavailableError, match="claim failed: SerializationFailure"):
        records.claim(ASK).wait()

    assert execute(postgres_url, "select last_value < 20 from tries") == [(True,)]


async def test_a_row_that_another_session_holds_fails_alone_and_soon(
    records: PostgresRecords, postgres_url: str
) -> None:
    keys = [f"{number}" for number in range(8)]
    for key in keys:
        await records.claim(ASK._replace(key=key))

    async def renew(key: str) -> Any:
        return await records.renew([(key, (await records.lookup(key)).fence)], 60.0)  # type: ignore[union-attr]

    with psycopg.connect(postgres_url) as other:
        other.execute("select 1 from toolpost_claims where key = '3' for update")
        answers = await asyncio.gather(*map(renew, keys), return_exceptions=True)

    assert [answer == [True] for answer in answers] == [key != "3" for key in keys]
    assert isinstance(answers[3], StoreUnavailableError)
    assert "another session holds the row" in answers[3].message


async def test_a_row_that_another_session_holds_does_not_take_the_time_of_a_whole_batch(
    records: PostgresRecords, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{number:03}" for number in range(400)]
    claims = await asyncio.gather(*(until_claimed(records, key) for key in keys))
    waits: list[float] = []
    monkeypatch.setattr(records, "_wait_for_rows", _noting(records._wait_for_rows, waits))

    with psycopg.connect(postgres_url) as other:
        other.execute("select 1 from toolpost_claims where key = '117' for update")
        pendings = [records.finish(claim.key, claim.fence, "done", None, 60.0) for claim in claims]
        answers = await asyncio.gather(*(_awaited(pending) for pending in pendings), return_exceptions=True)

    assert [key for key, answer in zip(keys, answers, strict=True) if answer is not True] == ["117"]
    assert waits == [HURRY_MS, LOCK_MS]
    assert records._connection is not None
    assert records._connection.execute("show lock_timeout").fetchone() == ("500ms",)


def _noting(act: Callable[..., None], noted: list[float]) -> Callable[..., None]:
    def noting(connection: Any, longest_ms: int) -> None:
        noted.append(longest_ms)
        act(connection, longest_ms)

    return noting


async def until_claimed(records: PostgresRecords, key: str) -> Any:
    return await records.claim(ASK._replace(key=key))


async def _awaited(pending: Any) -> Any:
    return await pending


async def test_what_was_committed_before_the_connection_broke_is_not_told_as_failed(
    records: PostgresRecords, postgres_url: str
) -> None:
    claim = await records.claim(ASK)
    with psycopg.connect(postgres_url, autocommit=True) as other, other.transaction():
        other.execute("select 1 from toolpost_claims for update")
        with held_back(records):
            written = records.put_outbox([Outgoing("r", "d", "k", b"")])  # the first of a batch
            finished = records.finish("key", claim.fence, "done", None, 60.0)
        await asyncio.to_thread(end_whoever_waits, postgres_url)

        assert await written is None
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            await finished

    assert execute(postgres_url, "select key from toolpost_outbox") == [("k",)]


@contextmanager
def held_back(records: PostgresRecords) -> Iterator[None]:
    """What is asked meanwhile comes in one batch."""
    go, flush = threading.Event(), records._batcher._flush

    def later(batch: list[Any]) -> None:
        go.wait(20)
        records._batcher._flush = flush
        flush(batch)

    records._batcher._flush = later
    records.ping()
    yield
    go.set()


def end_whoever_waits(url: str) -> None:
    text = """
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'
    """
    while not execute(url, text):
        threading.Event().wait(0.01)


def test_rows_are_locked_in_one_order_whatever_the_database_sorts_by(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("drop database if exists sorted_otherwise with (force)")
        connection.execute("create database sorted_otherwise template template0 locale_provider icu icu_locale 'en'")
    url = urlsplit(postgres.url)._replace(path="/sorted_otherwise").geturl()
    records = PostgresRecords(url)
    keys = ["B", "a"]  # as bytes; in a dictionary the other way round
    for key in keys:
        records.claim(ASK._replace(key=key)).wait()
    age(url, 60)

    with psycopg.connect(url) as other, psycopg.connect(url) as third:
        other.execute("select 1 from toolpost_claims where key = 'B' for update")
        with held_back(records):
            asked = [records.claim(ASK._replace(key=key, take_over=True)) for key in keys]
        waiting = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        while not execute(url, waiting):
            threading.Event().wait(0.005)
        third.execute("select 1 from toolpost_claims where key = 'a' for update nowait")
        third.rollback()
        other.rollback()

    assert [claim.wait().taken_over for claim in asked] == [True, True]
    records.close()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("drop database sorted_otherwise with (force)")


def test_a_task_that_is_over_cannot_be_changed_by_any_statement(records: PostgresRecords, postgres_url: str) -> None:
    records.submit(task("1")).wait()
    [work] = records.claim_tasks("me", 9, 30.0).wait()
    records.finish_task(Finish(task_id="1", fence=work.fence, state="succeeded", value=b"1")).wait()

    for change in ("update toolpost_tasks set state = 'queued'", "update toolpost_results set value = null"):
        with pytest.raises(psycopg.errors.RaiseException, match="never changes"):
            execute(postgres_url, change)


def test_two_tasks_of_one_order_key_cannot_run_by_any_statement(records: PostgresRecords, postgres_url: str) -> None:
    for task_id in ("1", "2"):
        records.submit(task(task_id, order_key="o")).wait()

    with pytest.raises(psycopg.errors.UniqueViolation, match="in_turn"):
        execute(postgres_url, "update toolpost_tasks set state = 'running'")


# Others beside us.


def test_of_four_processes_with_one_key_one_is_granted(records: PostgresRecords, postgres_url: str) -> None:
    records.ping().wait()

    assert sorted(race(postgres_url)) == ["0 50", "0 50", "0 50", "1 49"]


def test_a_holder_that_is_killed_leaves_an_unknown_claim_to_be_taken_over(
    records: PostgresRecords, postgres_url: str
) -> None:
    with process(HOLD, postgres_url) as holder:
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


async def test_batches_in_opposite_orders_never_wait_for_each_other(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = []  # which the store would hide by trying again
    monkeypatch.setattr(PostgresRecords, "_raise_if_unreachable", lambda self, connection, error: errors.append(error))
    stores = [PostgresRecords(postgres_url) for _ in range(3)]
    await stores[0].ping()
    keys = [f"{number:03}" for number in range(400)]

    async def churn(store: PostgresRecords, order: list[str]) -> int:
        granted = 0
        for _ in range(8):
            asks = [store.claim(ASK._replace(key=key, owner="o")) for key in order]
            claims = [await ask for ask in asks]
            mine = [claim for claim in claims if claim.state == "granted"]
            granted += len(mine)
            pendings = [store.renew([(c.key, c.fence) for c in mine[::2]], 30.0)]
            pendings += [store.release(c.key, c.fence) for c in mine]  # type: ignore[misc]
            assert [await pending for pending in pendings][1:] == [True] * len(mine)
        return granted

    counts = await asyncio.gather(
        churn(stores[0], keys), churn(stores[1], keys[::-1]), churn(stores[2], keys[200:] + keys[:200])
    )

    assert sum(counts) >= 400
    assert errors == []
    for store in stores:
        store.close()


async def test_workers_of_several_connections_get_each_task_once_and_in_turn(postgres_url: str) -> None:
    stores = [PostgresRecords(postgres_url) for _ in range(4)]
    running: set[str] = set()
    begun: list[str] = []
    done: list[str] = []
    for number in range(120):
        order_key = f"o{number % 5}" if number < 60 else None
        await stores[0].submit(task(f"{number:03}", order_key=order_key))

    async def work(store: PostgresRecords, name: str) -> None:
        while len(done) < 120:
            for got in await store.claim_tasks(name, 5, 30.0):
                order = got.task.order_key
                assert order is None or order not in running
                running.add(order or got.task.task_id)
                begun.append(got.task.task_id)
                await asyncio.sleep(0)
                running.discard(order or got.task.task_id)
                assert await store.finish_task(Finish(task_id=got.task.task_id, fence=got.fence, state="succeeded"))
                done.append(got.task.task_id)

    await asyncio.gather(*(work(store, f"w{number}") for number, store in enumerate(stores)))

    assert len(done) == len(set(done)) == 120
    for order in range(5):
        assert [t for t in begun if int(t) < 60 and int(t) % 5 == order] == [f"{n:03}" for n in range(order, 60, 5)]
    for store in stores:
        store.close()


def test_stores_that_start_at_once_on_a_new_database_all_work(postgres_url: str) -> None:
    stores = [PostgresRecords(postgres_url) for _ in range(8)]

    def submit(number: int) -> Callable[[], Answer[bool]]:
        return lambda: stores[number].submit(task(f"{number}"))

    answers = at_once([submit(number) for number in range(8)])

    assert answers == [True] * 8
    for store in stores:
        store.close()


# Trouble with the server.


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load(own_postgres: Postgres) -> None:
    records = PostgresRecords(own_postgres.url)
    acknowledged: list[str] = []

    async def submit(caller: int) -> None:
        for number in range(60):
            task_id = f"{caller}-{number}"
            await until_done(records, task(task_id))  # False: it was written, and the answer was lost
            acknowledged.append(task_id)

    load = asyncio.gather(*(submit(caller) for caller in range(20)))
    for goal in (100, 500):
        while len(acknowledged) < goal:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(own_postgres.kill)
        known = list(acknowledged)
        await asyncio.to_thread(own_postgres.restart)
        kept = {row[0] for row in execute(own_postgres.url, "select task_id from toolpost_tasks")}
        assert set(known) <= kept
    await load

    kept = {row[0] for row in execute(own_postgres.url, "select task_id from toolpost_tasks")}
    assert kept == set(acknowledged)
    assert len(kept) == 1200
    records.close()


async def test_a_frozen_server_is_answered_for_in_bounded_time(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolpost.stores.postgres.TIMEOUT_S", 0.5)
    monkeypatch.setattr("toolpost.stores.postgres._CONNECT", {"connect_timeout": "2"})
    records = PostgresRecords(own_postgres.url)
    await records.ping()
    own_postgres.freeze()

    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            await records.submit(task("1"))
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):  # the gate is shut
            await records.submit(task("2"))
    own_postgres.thaw()

    await until_done(records, task("3"))
    assert await records.task("3") is not None
    records.close()


def test_a_server_that_freezes_once_it_is_connected_to_is_answered_for_as_well(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolpost.stores.postgres.TIMEOUT_S", 0.5)
    records = PostgresRecords(own_postgres.url)
    connect = psycopg.connect

    def connect_and_freeze(*args: Any, **options: Any) -> Any:
        connection = connect(*args, **options)
        own_postgres.freeze()
        return connection

    monkeypatch.setattr(psycopg, "connect", connect_and_freeze)
    for ask in (records.schema_version, lambda: records.ping().wait(timeout_s=10)):
        try:
            with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                ask()
        finally:
            own_postgres.thaw()
    records.close()


def test_a_server_that_was_restarted_meanwhile_is_not_noticed(own_postgres: Postgres) -> None:
    records = PostgresRecords(own_postgres.url)
    records.submit(task("1")).wait()
    own_postgres.restart()

    assert records.submit(task("2")).wait() is True
    records.close()


def test_a_database_that_takes_no_writes_is_unavailable_until_it_does(postgres_url: str) -> None:
    database = urlsplit(postgres_url).path[1:]
    store = PostgresRecords(postgres_url)
    store.ping().wait()
    execute(postgres_url, f"alter database {database} set default_transaction_read_only = on")
    store.close()
    standby = PostgresRecords(postgres_url)

    with pytest.raises(StoreUnavailableError, match="read-only transaction"):
        standby.submit(task("1")).wait()

    standby.close()
    execute(
        postgres_url,
        "set default_transaction_read_only = off",
        f"alter database {database} set default_transaction_read_only = off",
    )
    again = PostgresRecords(postgres_url)
    assert again.submit(task("1")).wait() is True
    again.close()


class Proxy:
    """Passes bytes on to a server until it is told to swallow what the server answers, and to hang up."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.mute = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = [self.listener]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(self.target)
            self.sockets += [client, server]
            threading.Thread(target=self.pass_on, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(server, client, True), daemon=True).start()

    def pass_on(self, source: socket.socket, target: socket.socket, from_server: bool) -> None:
        try:
            while data := source.recv(65536):
                if from_server and self.mute:
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        for one in self.sockets:
            one.close()


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, Proxy]]:
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "", parts.port or 0)
    yield parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl(), proxy
    proxy.close()


async def test_a_finish_whose_answer_was_lost_is_recognised_when_it_is_said_again(postgres_url: str) -> None:
    with proxied(postgres_url) as (url, proxy):
        records = PostgresRecords(url)
        claim = await records.claim(ASK)
        await records.submit(task("1"))
        [work] = await records.claim_tasks("me", 9, 30.0)
        end = Finish(
            task_id="1", fence=work.fence, state="succeeded", value=b"1", outbox=(Outgoing("r", "d", "1", b""),)
        )
        proxy.mute = True
        for finish in (
            lambda: records.finish("key", claim.fence, "done", b"1", 60.0, [Outgoing("r", "d", "k", b"")]),
            lambda: records.finish_task(end),
        ):
            proxy.mute = True
            with pytest.raises(StoreUnavailableError):
                await finish()
            proxy.mute = False
            while True:
                try:
                    assert await finish() is True
                    break
                except StoreUnavailableError:
                    await asyncio.sleep(0.02)

        assert sorted(message.key for _, message, _ in await records.take_outbox(9, 30.0)) == ["1", "k"]
        records.close()


# The schema.


def test_the_schema_is_made_by_the_first_operation_or_by_migrate(postgres_url: str) -> None:
    store = PostgresRecords(f"{postgres_url}?migrate=never")
    before = store.schema_version()
    with pytest.raises(ConfigurationError, match=rf"has schema 0, and this toolpost needs schema {LATEST}; run"):
        store.claim(ASK).wait()
    applied = store.migrate()

    assert (before, store.schema_version(), store.migrate()) == (0, LATEST, [])
    assert [step.split()[0] for step in applied] == [str(number + 1) for number in range(LATEST)]
    assert store.claim(ASK).wait().state == "granted"
    store.close()


def test_a_newer_schema_is_refused_with_both_numbers(records: PostgresRecords, postgres_url: str) -> None:
    records.ping().wait()
    execute(postgres_url, f"insert into toolpost_schema values ({LATEST + 6}, 'from the future', 0)")
    other = PostgresRecords(postgres_url)

    complaint = f"has schema {LATEST + 6}, and this toolpost knows schemas up to {LATEST}"
    with pytest.raises(ConfigurationError, match=complaint):
        other.ping().wait()
    with pytest.raises(ConfigurationError, match=complaint):
        other.migrate()
    other.close()


def test_a_migration_killed_in_the_middle_is_completed_by_the_next_start(
    records: PostgresRecords, postgres_url: str
) -> None:
    with process(MIGRATE, postgres_url) as migrator:
        assert line(migrator) == "half done"
        migrator.kill()
        migrator.wait()

    assert records.schema_version() == 0
    assert records.submit(task("1")).wait() is True
    assert records.schema_version() == LATEST


def test_the_rows_of_an_older_schema_are_there_after_it_moved(records: PostgresRecords, postgres_url: str) -> None:
    execute(
        postgres_url,
        *MIGRATIONS[0].postgres,
        *MIGRATIONS[1].postgres,
        "create table toolpost_schema (number bigint primary key, name text, applied_at double precision)",
        "insert into toolpost_schema values (1, 'a', 0), (2, 'b', 0)",
        "insert into toolpost_tasks (task_id, tool, arguments, created_at) values ('open', 't', '{}', 1)",
        "insert into toolpost_tasks (task_id, tool, arguments, user_id, state, created_at) "
        "values ('over', 't', '{}', 'u', 'failed', 1)",
        "insert into toolpost_results (task_id, fence, status, value, source, finished_at) "
        "values ('over', 1, 'failed', '1', 'run', 2)",
    )

    assert_moved(records)


def test_attempts_and_results_go_with_their_task(records: PostgresRecords, postgres_url: str) -> None:
    records.submit(task("1")).wait()
    [work] = records.claim_tasks("me", 9, 30.0).wait()
    records.finish_task(Finish(task_id="1", fence=work.fence, state="failed")).wait()
    rows = "select (select count(*) from toolpost_attempts), (select count(*) from toolpost_results)"

    before = execute(postgres_url, rows)
    dropped = records.drop_tasks(0.0).wait()

    assert (before, dropped, execute(postgres_url, rows)) == ([(1, 1)], 1, [(0, 0)])


def test_what_another_session_works_on_is_left_for_the_next_time(records: PostgresRecords, postgres_url: str) -> None:
    records.record_tasks([(task(t), Finish(task_id=t, fence=0, state="failed")) for t in ("1", "2")]).wait()

    with psycopg.connect(postgres_url) as other:
        other.execute("select 1 from toolpost_tasks where task_id = '1' for update")
        first = records.drop_tasks(0.0).wait()

    assert (first, records.drop_tasks(0.0).wait()) == (1, 1)


def test_a_process_that_knows_many_tools_does_not_go_through_them_for_each_task(
    records: PostgresRecords, postgres_url: str
) -> None:
    records.migrate()
    values = {"owner": "me", "limit": 1, "lease_s": 30.0, "tools": [f"t{n}" for n in range(500)]}

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        plan = connection.execute(f"explain {_CLAIM_TASKS}", values).fetchall()

    assert sum("hashed SubPlan" in line for (line,) in plan) == 2


def test_however_many_ask_at_once_tasks_are_counted_once(records: PostgresRecords, postgres_url: str) -> None:
    records.submit(task("1")).wait()
    pendings: list[Any] = [Pending(("count_tasks", ("queued", "waiting"))) for _ in range(50)]
    asked: list[str] = []

    with psycopg.connect(postgres_url, autocommit=True) as connection:

        class Heard:
            def execute(self, text: str) -> Any:
                asked.append(text)
                return connection.execute(text)

        postgres_history.count_tasks(Heard(), pendings)  # type: ignore[arg-type]

    assert [pending.value for pending in pendings] == [{"queued": 1, "waiting": 0}] * 50
    assert len(asked) == 1
