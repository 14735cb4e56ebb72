"""Claims and tasks against naive models of them, over any order of operations and any passing of time.

Each model keeps plain dicts and one clock, and knows nothing of how a store works. Durations are multiples of 7 s and
leases are not, so that no operation falls on the end of one. In PostgreSQL time passes by making its rows older.
"""

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.stores.test_postgres import age
from toolpost.stores import TERMINAL, ClaimAsk, Finish, Outgoing, Task, TaskRow
from toolpost.stores.memory_records import MemoryRecords
from toolpost.stores.postgres import PostgresRecords
from toolpost.stores.sqlite import SqliteRecords
from toolpost.stores.standing import OPEN, TRANSITIONS
from toolpost.testing import FakeClock
from toolpost.testing.records_claims_contract import said

LEASES_S = st.sampled_from([10.0, 100.0])
TTL_S = 60.0
KEYS = st.sampled_from(["a", "b"])


class Aged:
    """A store, and how time passes in it."""

    def __init__(self, records: Any, pass_time: Any) -> None:
        self.records, self.pass_time = records, pass_time


class InAStore(RuleBasedStateMachine):
    """What both machines do with their store."""

    make: Any

    def __init__(self) -> None:
        super().__init__()
        self.store: Aged = type(self).make()
        self.records = self.store.records
        self.now = 0.0

    @rule(steps=st.sampled_from([1, 1, 5, 50]))
    def time_passes(self, steps: int) -> None:
        self.store.pass_time(7.0 * steps)
        self.now += 7.0 * steps

    def teardown(self) -> None:
        self.records.close()


class ClaimsMachine(InAStore):
    grants = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.claims: dict[str, dict[str, Any]] = {}
        self.highest: dict[str, int] = {}
        self.messages = 0

    def standing(self, key: str) -> str:
        """free, in_flight, unknown, done or failed."""
        claim = self.claims.get(key)
        if claim is None:
            return "free"
        if claim["state"] == "in_flight":
            return "in_flight" if self.now < claim["until"] else "unknown"
        if claim["state"] in ("done", "failed"):
            return str(claim["state"]) if self.now < claim["until"] else "free"
        return "unknown"

    @rule(
        target=grants,
        key=KEYS,
        fingerprint=st.sampled_from([None, "x", "y"]),
        lease_s=LEASES_S,
        take_over=st.booleans(),
        rerun_failed=st.booleans(),
    )
    def claim(self, key: str, fingerprint: Any, lease_s: float, take_over: bool, rerun_failed: bool) -> Any:
        stood, had = self.standing(key), self.claims.get(key)
        got = said(self.records.claim(ClaimAsk(key, fingerprint, "me", lease_s, TTL_S, take_over, rerun_failed)))

        if stood != "free" and had and None not in (fingerprint, had["print"]) and fingerprint != had["print"]:
            assert got.state == "mismatch"
            return multiple()
        if not (stood == "free" or (stood == "unknown" and take_over) or (stood == "failed" and rerun_failed)):
            assert had is not None
            assert (got.state, got.fence) == (stood, had["fence"])
            assert got.result == had["result"]
            return multiple()
        assert (got.state, got.taken_over, got.result) == ("granted", stood == "unknown", None)
        assert got.fence > self.highest.get(key, 0)
        self.highest[key] = got.fence
        kept = had["print"] if had and stood == "unknown" and fingerprint is None else fingerprint
        self.claims[key] = {
            "state": "in_flight", "fence": got.fence, "until": self.now + lease_s, "print": kept, "result": None,
            "began": self.now,
        }  # fmt: skip
        return (key, got.fence)

    def mine(self, grant: tuple[str, int], *states: str) -> bool:
        claim = self.claims.get(grant[0])
        return claim is not None and claim["fence"] == grant[1] and claim["state"] in states

    @rule(
        grant=grants,
        state=st.sampled_from(["done", "failed", "unknown"]),
        result=st.sampled_from([None, b"", b"\0\xff"]),
        tell=st.booleans(),
    )
    def finish(self, grant: tuple[str, int], state: Any, result: Any, tell: bool) -> None:
        key, fence = grant
        outbox = [Outgoing("result", "d", key, b"")] if tell else []
        answer = said(self.records.finish(key, fence, state, result, TTL_S, outbox))

        claim = self.claims.get(key)
        if self.mine(grant, "in_flight") or (self.mine(grant, "unknown") and state != "unknown"):
            assert claim is not None
            assert answer is True
            claim.update(state=state, result=result, until=self.now + TTL_S)
            self.messages += tell
        else:
            same = self.mine(grant, state) and claim is not None and claim["result"] == result
            # What is over may be dropped when the store likes, and then a repeat cannot be recognised any more.
            assert answer is same or (same and self.standing(key) == "free")

    @rule(grant=grants, lease_s=LEASES_S)
    def renew(self, grant: tuple[str, int], lease_s: float) -> None:
        [held] = said(self.records.renew([grant], lease_s))

        assert held is self.mine(grant, "in_flight")
        if held:
            self.claims[grant[0]]["until"] = self.now + lease_s

    @rule(grant=grants)
    def release(self, grant: tuple[str, int]) -> None:
        released = said(self.records.release(*grant))

        assert released is self.mine(grant, "in_flight", "unknown")
        if released:
            del self.claims[grant[0]]

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        stood = self.standing(key)

        assert said(self.records.forget(key)) is (stood in ("done", "failed", "unknown"))

        if stood in ("done", "failed", "unknown"):
            del self.claims[key]

    @rule()
    def sweep(self) -> None:
        said(self.records.sweep())

    @invariant()
    def all_stand_as_they_should(self) -> None:
        for key in ("a", "b"):
            found, stood = said(self.records.lookup(key)), self.standing(key)
            assert (found.state if found else "free") == stood
            if found:
                claim = self.claims[key]
                assert (found.fence, found.result) == (claim["fence"], claim["result"])
                if stood == "in_flight":
                    assert abs(found.left_s - (claim["until"] - self.now)) < 2
        unknown = [key for key in ("a", "b") if self.standing(key) == "unknown"]
        unknown.sort(key=lambda key: self.claims[key]["began"])
        found_keys = [claim.key for claim in said(self.records.unsettled())]
        assert sorted(found_keys) == sorted(unknown)

    def teardown(self) -> None:
        assert len(said(self.records.take_outbox(10_000, 1.0))) == self.messages
        super().teardown()


class TasksMachine(InAStore):
    works = Bundle("works")

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, dict[str, Any]] = {}
        self.seqs = itertools.count()
        self.numbers = itertools.count()
        self.letters = 0

    def move(self, task: dict[str, Any], state: str) -> None:
        """Every move of the model is one that the table has."""
        assert state in TRANSITIONS[task["state"]], (task["state"], state)
        task["state"] = state

    def add(self, task: Task) -> dict[str, Any]:
        due = self.now + task.due_in_s if task.due_in_s else None
        new = {
            "id": task.task_id, "tool": task.tool, "priority": task.priority, "order": task.order_key, "state": "",
            "due": due, "seq": next(self.seqs), "attempt": 0, "lost": 0, "fence": 0, "until": 0.0, "cancel": False,
            "value": None, "report": None,
        }  # fmt: skip
        self.move(new, "queued")
        self.tasks[task.task_id] = new
        return new

    def come_due(self) -> None:
        for task in self.tasks.values():
            if task["state"] in ("queued", "waiting") and task["due"] is not None and task["due"] <= self.now:
                task["due"] = None
                if task["state"] == "waiting":
                    self.move(task, "queued")

    def may_start(self, task: dict[str, Any]) -> bool:
        if task["state"] == "running":
            return task["until"] <= self.now and task["lost"] < 2
        if task["state"] != "queued" or task["due"] is not None:
            return False
        return task["order"] is None or not any(
            other["order"] == task["order"] and other["seq"] < task["seq"] and other["state"] not in TERMINAL
            for other in self.tasks.values()
        )

    def start(self, task: dict[str, Any], lease_s: float) -> None:
        task["lost"] += task["state"] == "running"
        self.move(task, "running")
        task.update(attempt=task["attempt"] + 1, fence=task["fence"] + 1, until=self.now + lease_s, owner="me")

    def matches(self, work: Any, task: dict[str, Any]) -> None:
        assert (work.task.task_id, work.fence, work.attempt, work.lost, work.cancel) == (
            task["id"], task["fence"], task["attempt"], task["lost"], task["cancel"],
        )  # fmt: skip

    tasks_to_be = st.builds(
        dict,
        tool=st.sampled_from(["x", "y"]),
        priority=st.sampled_from([0, 0, 3]),
        order_key=st.sampled_from([None, None, "o"]),
        due_in_s=st.sampled_from([0.0, 0.0, 10.0]),
    )

    @rule(details=tasks_to_be)
    def submit(self, details: dict[str, Any]) -> None:
        task = Task(task_id=f"{next(self.numbers):04}", **details)

        assert said(self.records.submit(task)) is True
        self.add(task)
        assert said(self.records.submit(task)) is False

    @rule(target=works, limit=st.integers(1, 3), lease_s=LEASES_S, tools=st.sampled_from([None, None, ["x"], ["y"]]))
    def claim_tasks(self, limit: int, lease_s: float, tools: Any) -> Any:
        self.come_due()
        ready = [task for task in self.tasks.values() if self.may_start(task) and (not tools or task["tool"] in tools)]
        ready.sort(key=lambda task: (-task["priority"], task["seq"]))
        works = said(self.records.claim_tasks("me", limit, lease_s, tools))

        assert [work.task.task_id for work in works] == [task["id"] for task in ready[:limit]]
        for work, task in zip(works, ready[:limit], strict=True):
            self.start(task, lease_s)
            self.matches(work, task)
        return multiple(*((work.task.task_id, work.fence) for work in works))

    @rule(target=works, details=tasks_to_be, lease_s=LEASES_S, again=st.booleans(), pick=st.integers(0, 9))
    def claim_task(self, details: dict[str, Any], lease_s: float, again: bool, pick: int) -> Any:
        known = sorted(self.tasks)
        task_id = known[pick % len(known)] if again and known else f"{next(self.numbers):04}"
        task = self.tasks.get(task_id) or self.add(Task(task_id=task_id, **details))
        self.come_due()
        answer = said(self.records.claim_task(Task(task_id=task_id, **details), "me", lease_s))

        if not self.may_start(task):
            assert isinstance(answer, TaskRow)
            assert (answer.state, answer.fence) == (task["state"], task["fence"])
            return multiple()
        self.start(task, lease_s)
        self.matches(answer, task)
        return (task_id, task["fence"])

    @rule(
        work=works,
        state=st.sampled_from([*sorted(TERMINAL), "waiting", "queued"]),
        value=st.sampled_from([None, b"1"]),
        report=st.sampled_from([None, b"r"]),
        due_in_s=st.sampled_from([0.0, 10.0]),
    )
    def finish(self, work: tuple[str, int], state: Any, value: Any, report: Any, due_in_s: float) -> None:
        task = self.tasks.get(work[0])
        finish = Finish(task_id=work[0], fence=work[1], state=state, value=value, report=report, due_in_s=due_in_s)
        answer = said(self.records.finish_task(finish))

        if task is None:
            assert answer is False
            return
        if task["state"] != "running" or task["fence"] != work[1]:
            if task["fence"] != work[1]:
                assert answer is False
            elif task["state"] in TERMINAL and state in TERMINAL:
                assert answer is ((task["state"], task["value"], task["report"]) == (state, value, report))
            return
        assert answer is True
        task["attempt"] -= state == "queued"
        if state in TERMINAL:
            self.end(task, state, value, report)
        elif task["cancel"]:
            self.end(task, "cancelled", value, report)
        else:
            self.move(task, state if due_in_s else "queued")
            task["due"] = self.now + due_in_s if due_in_s else None

    def end(self, task: dict[str, Any], state: str, value: Any, report: Any = None) -> None:
        self.move(task, state)
        task.update(value=value, report=report, due=None)
        self.letters += state == "dead"

    @rule(work=works, lease_s=LEASES_S)
    def renew(self, work: tuple[str, int], lease_s: float) -> None:
        task = self.tasks.get(work[0])
        [answer] = said(self.records.renew_tasks("me", [work], lease_s))

        if task is not None and task["state"] == "running" and task["fence"] == work[1]:
            assert answer == ("cancel" if task["cancel"] else "held")
            task["until"] = self.now + lease_s
        else:
            assert answer == "lost"

    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        if not self.tasks:
            return
        task = self.tasks[sorted(self.tasks)[pick % len(self.tasks)]]
        answer = said(self.records.cancel_task(task["id"]))

        if task["state"] == "running":
            assert answer == "told"
            task["cancel"] = True
        else:
            if task["state"] in ("queued", "waiting"):
                self.end(task, "cancelled", None)
            assert answer == task["state"]

    @rule(details=tasks_to_be, state=st.sampled_from(sorted(TERMINAL)), report=st.sampled_from([None, b"r"]))
    def record(self, details: dict[str, Any], state: Any, report: Any) -> None:
        task_id = f"{next(self.numbers):04}"
        known = sorted(self.tasks)[:1]
        ended = [
            (Task(task_id=one, **details), Finish(task_id=one, fence=0, state=state, report=report))
            for one in (*known, task_id)
        ]

        assert said(self.records.record_tasks(ended)) == [False] * len(known) + [True]
        task = {
            "id": task_id,
            "order": None,
            "state": "",
            "seq": next(self.seqs),
            "attempt": 1,
            "fence": 0,
            "due": None,
        }
        self.move(task, state)
        self.tasks[task_id] = task | {"value": None, "report": report, "cancel": False}

    @rule(few=st.sampled_from([1, 1000]))
    def drop(self, few: int) -> None:
        self.time_passes(1)
        over = [task_id for task_id, task in self.tasks.items() if task["state"] in TERMINAL]
        dropped = said(self.records.drop_tasks(0.0, few))

        assert dropped == min(few, len(over))
        left = {row.task_id for row in said(self.records.tasks(limit=10_000))}
        for task_id in over:
            if task_id not in left:
                del self.tasks[task_id]

    @rule()
    def sweep(self) -> None:
        doomed = [
            task
            for task in self.tasks.values()
            if task["state"] == "running" and task["until"] <= self.now and task["lost"] >= 2
        ]
        assert said(self.records.sweep())["dead"] == len(doomed)
        for task in doomed:
            self.end(task, "dead", None)

    @invariant()
    def all_stand_as_they_should(self) -> None:
        rows = {row.task_id: row for row in said(self.records.tasks(limit=10_000))}
        assert list(rows) == sorted(self.tasks, reverse=True)
        for task_id, task in self.tasks.items():
            row = rows[task_id]
            # Whether what is due is queued already or still waiting is the store's own affair.
            assert row.state == task["state"] or (row.state, task["state"]) in {
                ("waiting", "queued"),
                ("queued", "waiting"),
            }
            assert (row.attempt, row.fence, row.value) == (task["attempt"], task["fence"], task["value"])
            assert row.report == task["report"]
            assert row.status == (task["state"] if task["state"] in TERMINAL else None)
        counts = said(self.records.count_tasks([*OPEN, *TERMINAL]))
        states = Counter(row.state for row in rows.values())
        assert counts == {state: states[state] for state in (*OPEN, *TERMINAL)}
        running = [task["order"] for task in self.tasks.values() if task["state"] == "running" and task["order"]]
        assert len(running) == len(set(running))
        assert len(said(self.records.dead(10_000))) == self.letters


def run(machine: type[InAStore], make: Any, examples: int, steps: int, *, shrink: bool = True) -> None:
    class Machine(machine):  # type: ignore[misc, valid-type]
        pass

    Machine.make = staticmethod(make)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=list(Phase) if shrink else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def in_memory() -> Aged:
    clock = FakeClock()
    return Aged(MemoryRecords(clock=clock), clock.advance)


@pytest.fixture
def folder() -> Iterator[Path]:
    # In memory where the machine has such a folder: power cuts are others' business.
    shm = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("machine", [ClaimsMachine, TasksMachine])
def test_in_memory_they_do_as_the_model(machine: type[InAStore]) -> None:
    run(machine, in_memory, examples=100, steps=40)


@pytest.mark.parametrize("machine", [ClaimsMachine, TasksMachine])
def test_in_sqlite_they_do_as_the_model(machine: type[InAStore], folder: Path) -> None:
    numbers = itertools.count()

    def in_a_file() -> Aged:
        clock = FakeClock()
        return Aged(SqliteRecords(f"sqlite:///{folder}/{next(numbers)}.db", clock=clock), clock.advance)

    run(machine, in_a_file, examples=40, steps=30)


@pytest.mark.parametrize("machine", [ClaimsMachine, TasksMachine])
def test_in_postgres_they_do_as_the_model(machine: type[InAStore], postgres_url: str) -> None:
    def in_a_database() -> Aged:
        records = PostgresRecords(postgres_url)
        records.ping().wait()
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "truncate toolpost_claims, toolpost_tasks, toolpost_attempts, toolpost_results, toolpost_outbox, "
                "toolpost_dead_letters"
            )
        return Aged(records, lambda seconds: age(postgres_url, seconds))

    run(machine, in_a_database, examples=12, steps=25, shrink=False)  # which would take minutes there
