"""Accepted calls in processes that are killed, frozen and broken at every boundary: none is lost, none ends twice, and
no effect that is not safe to repeat happens twice."""

import itertools
import json
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.effects import Effects
from tests.faults.fleet import Worker, until
from tests.services import Postgres
from toolpost import StoreUnavailableError
from toolpost.stores import TERMINAL, Pending, Records, open_records
from toolpost.worker.failpoints import NAMES

LEASE_S = 0.5
KEYED = {"only_caller": True, "in_flight": "refuse", "lease_s": LEASE_S}
TOOLS = (
    {"name": "Safe", "hints": {"idempotent": True}},
    {"name": "Keyed", "idempotency": KEYED},
    {"name": "Once"},
)
STARTS_S = 15.0


class Server(Worker):
    """A process that accepts calls and runs them. Its answers are read here, a line a call."""

    module = "tests.faults.server"

    def __init__(self, effects: Effects, name: str, settings: dict[str, Any], **environment: str) -> None:
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        super().__init__(effects, name, settings, TOOLS, **environment)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.put(json.loads(line))

    def ready(self) -> "Server":
        try:
            assert self.said.get(timeout=STARTS_S)["id"] == 0
        except queue.Empty:
            raise AssertionError(f"server {self.name} did not start:\n{self.log[-3000:]}") from None
        return self

    @property
    def alive(self) -> bool:
        return self._process.poll() is None


class Fleet:
    """Servers over one store, the calls that were asked of them, and those that they said they accepted."""

    def __init__(self, effects: Effects, settings: dict[str, Any]) -> None:
        self.effects, self.settings = effects, settings
        self.servers: list[Server] = []
        self._made: list[Server] = []
        self.accepted: dict[str, tuple[str, str]] = {}
        """call id -> tool and order."""
        self._names, self._orders = itertools.count(1), itertools.count(1)
        self._asked: dict[tuple[str, int, int], tuple[str, str]] = {}
        self.unanswered: set[tuple[str, str]] = set()
        self.records: Records = open_records(settings["records_url"])

    def start(self, number: int = 1, **environment: str) -> list[Server]:
        started = [Server(self.effects, f"s{next(self._names)}", self.settings, **environment) for _ in range(number)]
        self._made += started
        ready = [server.ready() for server in started]
        self.servers += ready
        return ready

    def ask(self, server: Server, tools: list[str], orders: list[str] | None = None, *, last: bool = False) -> None:
        """Have calls accepted; those that are not answered are to be asked again, by the same key.

        last: the server kills itself as soon as it has answered the last one.
        """
        asked = [(tool, f"o{next(self._orders)}") for tool in tools]
        if orders is not None:
            asked = list(zip(tools, orders, strict=True))
        calls = [
            {"tool": tool, "arguments": {"order": order}, "fields": {"idempotency_key": order, "user_id": "u"}}
            for tool, order in asked
        ]
        for call, (tool, _) in zip(calls, asked, strict=True):
            if tool == "Once":  # without a key of its own it cannot be asked again, and may be there twice
                call["fields"] = {"user_id": "u"}
        calls[-1]["last"] = last
        try:
            number = Worker.ask(server, calls)
        except (BrokenPipeError, ValueError):
            return
        for n, one in enumerate(asked):
            self._asked[server.name, number, n] = one
            self.unanswered.add(one)

    def listen(self) -> None:
        """Take in what servers said so far."""
        for server in self.servers:
            while not server.said.empty():
                said = server.said.get_nowait()
                one = self._asked.get((server.name, said["id"], said.get("n", 0)))
                if one is not None and "call_id" in said:
                    self.accepted[said["call_id"]] = one
                    self.unanswered.discard(one)

    def had(self, answer: Any) -> Any:
        return answer.wait(timeout_s=10) if isinstance(answer, Pending) else answer

    def rows(self) -> list[Any]:
        return list(self.had(self.records.tasks(limit=100_000)))

    def settled(self) -> bool:
        self.listen()
        rows = {row.task_id: row for row in self.rows()}
        return all(row.state in TERMINAL for row in rows.values()) and rows.keys() >= self.accepted.keys()

    def settled_at_last(self) -> bool:
        """settled, as far as the store can be asked."""
        try:
            return self.settled()
        except StoreUnavailableError:
            return False

    def ask_again(self) -> None:
        """Do what a client does whose connection broke: ask again by the same key. What has none is let be."""
        self.listen()
        again = sorted(one for one in self.unanswered if one[0] != "Once")
        if again:
            self.ask(self.servers[-1], [tool for tool, _ in again], [order for _, order in again])
            until(lambda: self.listen() or not self.unanswered & set(again), 20, what="an answer")

    def check(self) -> Counter[str]:
        """That nothing was lost, nothing ended twice, and what is not to be repeated was not; how calls ended."""
        rows = {row.task_id: row for row in self.rows()}
        assert rows.keys() >= self.accepted.keys()
        begun = Counter((line["tool"], line["order"]) for line in self.effects.seen("begin"))
        ended = Counter((line["tool"], line["order"]) for line in self.effects.seen("end"))
        keys = Counter(row.idempotency_key for row in rows.values() if row.idempotency_key is not None)
        assert set(keys.values()) <= {1}
        found: Counter[str] = Counter()
        for row in rows.values():
            order = json.loads(self.had(self.records.task(row.task_id)).arguments)["order"]
            one = (row.tool, order)
            found[f"{row.tool} {row.state}"] += 1
            if row.tool in ("Safe", "Tell"):
                assert row.state == "succeeded", row
                assert ended[one] >= 1
                continue
            assert begun[one] <= 1, one
            if row.state == "succeeded":
                assert ended[one] == 1, row
            else:
                assert (row.state, row.error_code) in (("failed", "outcome_unknown"), ("cancelled", "cancelled")), row
        return found

    def end(self) -> None:
        for server in self._made:
            server.end()
        self.records.close()


def settings_of(url: str, folder: Path) -> dict[str, Any]:
    """The settings of servers that share records."""
    return {
        "records_url": url,
        "blobs_url": f"file://{folder}/blobs",
        "task_lease": LEASE_S,
        "worker_concurrency": 8,
        "log_level": "ERROR",
        "drain_timeout": 2.0,
    }


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path, effects: Effects) -> Iterator[Fleet]:
    """Servers over the kind of records that the test asks for."""
    url = f"sqlite:///{tmp_path}/records.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    made = Fleet(effects, settings_of(url, tmp_path))
    made.had(made.records.ping())
    yield made
    made.end()


both = pytest.mark.parametrize("fleet", ["sqlite", "postgres"], indirect=True)


@both
def test_calls_survive_servers_that_are_killed_at_any_moment(fleet: Fleet) -> None:
    chance = random.Random(6)
    fleet.start(2)
    stop = threading.Event()

    def feed() -> None:
        while not stop.is_set():
            alive = [server for server in fleet.servers if server.alive]
            if alive:
                fleet.ask(chance.choice(alive), chance.choices(["Safe", "Keyed", "Once"], k=6))
            fleet.listen()
            time.sleep(0.06)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for _ in range(4):
            time.sleep(chance.uniform(0.3, 0.7))
            chance.choice([server for server in fleet.servers if server.alive]).kill()
            fleet.start()
    finally:
        stop.set()
        feeder.join()
    fleet.ask_again()
    until(fleet.settled, 25, what="the end of all calls")

    found = fleet.check()

    assert found["Safe succeeded"] > 10
    assert found["Keyed succeeded"] > 10
    assert len(fleet.accepted) > 60


@both
def test_what_was_answered_is_durable_at_that_very_moment(fleet: Fleet) -> None:
    for last in ("Keyed", "Once"):
        [server] = fleet.start()
        fleet.ask(server, [last], last=True)
        until(lambda server=server: not server.alive, 15, what="the death")  # type: ignore[misc]
        server._reader.join(10)
        fleet.listen()
    assert len(fleet.accepted) == 2

    fleet.start()
    until(fleet.settled, 20, what="the end of all calls")

    assert len(fleet.rows()) == 2
    fleet.check()


TOLD = ["events.before", "blob.before", "blob.after"]
FATAL = ["accept.before", "accept.after", "claim.after", "run.before", "run.after", "finish.before", "finish.after"]


@pytest.mark.parametrize(
    ("fleet", "at"),
    [
        *(("sqlite", at) for at in ("claim.before", *FATAL, *TOLD, "renew", "sweep.before")),
        *(("postgres", at) for at in ("accept.after", "claim.after", "finish.after")),
    ],
    indirect=["fleet"],
)
def test_calls_survive_a_death_at_each_boundary(fleet: Fleet, at: str) -> None:
    # The third call is one that must not run twice.
    after = {"claim.before": 1, "renew": 1, "sweep.before": 0, "events.before": 0}.get(at, 2)
    [doomed] = fleet.start(TOOLPOST_FAILPOINTS=f"{at}:die:1:{after}")
    if at == "renew":
        fleet.effects.shut(doomed.name)
    fleet.ask(doomed, ["Tell"] * 4 if at in TOLD else ["Safe", "Keyed", "Once"] * 6)
    until(lambda: not doomed.alive, 15, what=f"the death at {at}")

    fleet.start()
    fleet.ask_again()
    until(fleet.settled, 20, what="the end of all calls")

    fleet.check()


@pytest.mark.parametrize(
    ("fleet", "at"),
    [*(("sqlite", at) for at in ("claim.after", "finish.before", "accept.after")), ("postgres", "finish.after")],
    indirect=["fleet"],
)
def test_a_store_that_breaks_off_at_a_boundary_costs_time_and_no_calls(fleet: Fleet, at: str) -> None:
    fleet.start(TOOLPOST_FAILPOINTS=f"{at}:error:0.5")
    fleet.ask(fleet.servers[0], ["Safe", "Keyed"] * 10)
    fleet.start()
    time.sleep(0.3)
    fleet.ask_again()
    until(fleet.settled, 25, what="the end of all calls")

    fleet.check()


@pytest.mark.parametrize(
    ("fleet", "then"),
    [("sqlite", "it goes on"), ("postgres", "it goes on"), ("sqlite", "it dies of it")],
    indirect=["fleet"],
)
def test_a_frozen_server_is_taken_over_and_what_it_says_later_counts_for_nothing(fleet: Fleet, then: str) -> None:
    [frozen] = fleet.start(**({"TOOLPOST_FAILPOINTS": "lost:die"} if then == "it dies of it" else {}))
    fleet.effects.shut(frozen.name)
    fleet.ask(frozen, ["Safe", "Keyed", "Once"] * 2)
    until(lambda: len(fleet.effects.seen("begin")) == 6, what="six bodies")
    frozen.stop()
    fleet.start()
    until(fleet.settled, 20, what="the end of all calls")
    before = {row.task_id: row for row in fleet.rows()}

    if then == "it goes on":
        fleet.effects.open(frozen.name)
    frozen.go_on()
    if then == "it goes on":
        until(lambda: frozen.log.count("dropped") >= 6, what="six refusals")
    else:
        until(lambda: not frozen.alive, what="its death")

    assert {row.task_id: row for row in fleet.rows()} == before
    states = Counter(f"{row.tool} {row.state}" for row in before.values())
    assert states == {"Safe succeeded": 2, "Keyed failed": 2, "Once failed": 2}
    assert {row.fence for row in before.values()} == {2}


def test_results_outlive_a_database_that_is_killed_while_bodies_run(
    own_postgres: Postgres, tmp_path: Path, effects: Effects
) -> None:
    fleet = Fleet(effects, settings_of(own_postgres.url, tmp_path) | {"task_lease": 5.0})
    try:
        [server] = fleet.start()
        effects.shut(server.name)
        fleet.ask(server, ["Safe", "Once"] * 4)
        until(lambda: len(effects.seen("begin")) == 8, what="eight bodies")
        own_postgres.kill()
        effects.open(server.name)
        until(lambda: len(effects.seen("end")) == 8, what="their ends")
        until(lambda: "wait for their store" in server.log, what="the gate")
        own_postgres.restart()
        until(fleet.settled_at_last, 20, what="the end of all calls")

        assert fleet.check() == {"Safe succeeded": 4, "Once succeeded": 4}
        assert len(effects.seen("begin")) == 8
        assert "is back" in server.log
    finally:
        fleet.end()


@pytest.mark.parametrize("fleet", ["sqlite"], indirect=True)
def test_calls_survive_a_death_in_the_midst_of_a_shutdown(fleet: Fleet) -> None:
    [doomed] = fleet.start(TOOLPOST_FAILPOINTS="drain.begin:die")
    fleet.effects.shut(doomed.name)
    fleet.ask(doomed, ["Safe", "Keyed", "Once"])
    until(lambda: len(fleet.effects.seen("begin")) == 3, what="three bodies")
    assert doomed._process.stdin is not None
    doomed._process.stdin.close()
    until(lambda: not doomed.alive, what="its death")

    fleet.start()
    until(fleet.settled, 20, what="the end of all calls")

    assert fleet.check() == {"Safe succeeded": 1, "Keyed failed": 1, "Once failed": 1}


@pytest.mark.parametrize("fleet", ["sqlite"], indirect=True)
def test_a_death_in_the_midst_of_a_cancel_ends_the_call_and_says_what_is_not_known(fleet: Fleet) -> None:
    [doomed] = fleet.start(TOOLPOST_FAILPOINTS="cancel.seen:die")
    fleet.effects.shut(doomed.name)
    fleet.ask(doomed, ["Safe", "Once"])
    until(lambda: len(fleet.effects.seen("begin")) == 2, what="two bodies")
    fleet.listen()
    for call_id in fleet.accepted:
        assert fleet.had(fleet.records.cancel_task(call_id)) == "told"
    until(lambda: not doomed.alive, what="its death")

    fleet.start()
    until(fleet.settled, 20, what="the end of all calls")

    assert {row.tool: (row.state, row.error_code) for row in fleet.rows()} == {
        "Safe": ("cancelled", "cancelled"),
        "Once": ("failed", "outcome_unknown"),
    }
    assert len(fleet.effects.seen("begin")) == 2


@pytest.mark.parametrize("fleet", ["sqlite"], indirect=True)
def test_a_server_that_is_told_to_end_leaves_nothing_running(fleet: Fleet) -> None:
    [server] = fleet.start()
    fleet.effects.shut(server.name)
    fleet.ask(server, ["Safe", "Once"] * 2)
    until(lambda: len(fleet.effects.seen("begin")) == 4, what="four bodies")

    assert server._process.stdin is not None
    server._process.stdin.close()
    assert server._process.wait(15) == 0

    fleet.listen()
    states = Counter(f"{row.tool} {row.state} {row.attempt}" for row in fleet.rows())
    assert states == {"Safe queued 0": 2, "Once cancelled 1": 2}


def test_every_failpoint_is_tried() -> None:
    assert {"claim.before", *FATAL, *TOLD, "renew", "sweep.before", "lost", "drain.begin", "cancel.seen"} == NAMES
