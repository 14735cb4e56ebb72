"""Every way of writing a tool, through every door, to every outcome: equal results, errors, audit and metrics.

What a call comes to in process is held to the table in outcomes.py; what it comes to through any other door, to that.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.journeys import wares
from tests.journeys.doors import DOORS, Door, HttpAccepted, WorkerProcess
from tests.journeys.observed import Told
from tests.journeys.outcomes import EXPECTED, Journey, expected
from tests.journeys.upstream import upstream
from tests.journeys.world import SETTINGS, Asked, World, world
from tests.transports.serving import running
from toolpost import Tool
from toolpost.transports.mcp_fast import Fast

SLOW = ("timeout", "cancelled", "late")
"""Outcomes whose styles are called at the same time, as each takes its while."""


SEEN = ("audit", "metrics", "history", "runs")
"""What of a call is seen from outside."""


class Worlds:
    """The gateway that asks for keys and the one that does not, and what was seen of calls in process."""

    def __init__(self, known: World, unknown: World) -> None:
        self.known, self.unknown = known, unknown
        self._doors: dict[tuple[str, bool], Door] = {}
        self._here: dict[str, dict[str, dict[str, Any]]] = {}

    def door(self, name: str, outcome: str) -> Door:
        """An open door: to the gateway where nobody is known for the outcome that is about it."""
        known = outcome != "unauthenticated"
        if (name, known) not in self._doors:
            self._doors[name, known] = DOORS[name](self.known if known else self.unknown)
        return self._doors[name, known]

    def here(self, style: str, outcome: str) -> dict[str, Any]:
        """What is seen of a call in process."""
        if outcome not in self._here:
            self._here[outcome] = each(self.door("in_process", outcome), outcome)
        return self._here[outcome][style]

    def close(self) -> None:
        """Close the doors."""
        for door in self._doors.values():
            door.close()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    folder = tmp_path_factory.mktemp("journeys")
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("CREATE TABLE runs (mark TEXT, amount INTEGER)")
    shop.close()
    with upstream() as port:
        place = {"JOURNEYS_FOLDER": str(folder), "JOURNEYS_UPSTREAM": f"http://127.0.0.1:{port}"}
        with (
            patch.dict(os.environ, {**place, "JOURNEYS_KEY": wares.SECRET}),
            world(folder, port, known=True) as known,
            world(folder, port, known=False) as unknown,
        ):
            both = Worlds(known, unknown)
            yield both
            both.close()


def styles(outcome: str) -> list[str]:
    """The styles whose tools can end so; of what is no tool, one stands for all."""
    if outcome == "unknown_tool":
        return ["async"]
    return [style for style in wares.STYLES if outcome not in wares.IMPOSSIBLE.get(style, {})]


def seen(door: Door, style: str, outcome: str) -> dict[str, Any]:
    """Make a call; what its caller was told, and what is to be seen of it from outside."""
    here = door.world
    journey = Journey(here, door, style, outcome)
    try:
        journey.prepare()
        before = here.seen(journey.asked.tool, journey.user, journey.mark)
        told = journey.make()
        audit = here.audit_since(before, journey.asked.tool, journey.user)
        counted = here.counted(journey.asked.tool) - before.requests
        rows = [row[2:3] + row[5:6] for row in here.collector.rows[before.history :] if row[1] == journey.asked.tool]
        runs = here.runs(journey.mark) - before.runs
        record = here.record(told.get("call_id")) if door.records else None
        if record is None and door.records and told.get("call_id") is not None:
            assert door.task, "a call that was made is not to be found"
            assert [row["decision"] for row in audit] == ["refused"], "only what was never accepted is not to be found"
    finally:
        journey.end()
    assert wares.SECRET not in str((told, audit, record))
    found = {"told": told, "audit": audit, "metrics": dict(counted), "history": rows, "runs": runs, "record": record}
    return unmarked(found, journey.mark)


def unmarked(found: Any, mark: str) -> Any:
    """The same without the call's own mark."""
    match found:
        case dict():
            return {name: unmarked(value, mark) for name, value in found.items()}
        case list() | tuple():
            return [unmarked(value, mark) for value in found]
        case str():
            return found.replace(mark, "<mark>")
    return found


def each(door: Door, outcome: str) -> dict[str, dict[str, Any]]:
    """What is seen of calls of all styles."""
    names = styles(outcome)
    if door.far or (outcome in SLOW and not door.alone):
        with ThreadPoolExecutor(len(names)) as threads:
            return dict(zip(names, threads.map(lambda style: seen(door, style, outcome), names), strict=True))
    return {style: seen(door, style, outcome) for style in names}


# -- in process --------------------------------------------------------------------------------------------------------


def facts(told: Told) -> dict[str, Any]:
    """What the table says of what a caller was told."""
    if "gone" in told:
        return {}
    if told["ok"]:
        return {"code": None, "source": told["source"]}
    names = ("code", "status", "retryable", "retry_after", "outcome")
    return {name: told[name] for name in names} | {"errors": bool(told["errors"]), "ways": tuple(told["ways"])}


@pytest.mark.parametrize("outcome", EXPECTED)
def test_a_call_in_process_ends_as_the_table_says(worlds: Worlds, outcome: str) -> None:
    differences = {}
    for style in styles(outcome):
        found, wanted = worlds.here(style, outcome), expected(style, outcome)
        told = {"runs": found["runs"], **facts(found["told"])}
        if told != {name: getattr(wanted, name) for name in told}:
            differences[style] = told, wanted, found["told"].get("message")

    assert differences == {}


@pytest.mark.parametrize("outcome", EXPECTED)
@pytest.mark.parametrize("name", [name for name in DOORS if name != "in_process"])
def test_a_call_through_a_door_ends_as_in_process(worlds: Worlds, name: str, outcome: str) -> None:
    door = worlds.door(name, outcome)
    if outcome in door.closed:
        pytest.skip(door.closed[outcome])

    differences = {}
    for style, found in each(door, outcome).items():
        different = unlike(door, outcome, found, worlds.here(style, outcome))
        if different:
            differences[style] = different

    assert differences == {}


def unlike(door: Door, outcome: str, found: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """In what two observations differ: (found, in process) by name."""
    told, wanted = found["told"], here["told"]
    passed = {"call_id", *door.lacks, *door.otherwise.get(outcome, ())}
    out = {name: (found[name], here[name]) for name in SEEN if name not in passed and found[name] != here[name]}
    if found["record"] is not None:
        parts = sorted((wanted.keys() | found["record"].keys()) - passed)
        kept = {part: found["record"].get(part) for part in parts}
        if "gone" not in wanted and kept != (asked := {part: wanted.get(part) for part in parts}):
            out["record"] = kept, asked
    if "gone" not in told and "gone" not in wanted:
        parts = sorted((told.keys() | wanted.keys()) - passed)
        out |= {part: (told.get(part), wanted.get(part)) for part in parts if told.get(part) != wanted.get(part)}
    return out


# -- another process ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A gateway that only answers, on the records that it shares with a process that only works."""
    folder = tmp_path_factory.mktemp("worker")
    stores = {"records_url": f"sqlite:///{folder}/records.db", "blobs_url": f"file://{folder}/blobs"}
    port = int(os.environ["JOURNEYS_UPSTREAM"].rpartition(":")[2])
    here = world(worlds.known.folder, port, known=True, works=False, **stores)
    settings = {**SETTINGS, **stores, "egress_allowed_ports": str(port), "egress_private": "127.0.0.1"}
    env = {f"TOOL_EXECUTOR_{name.upper()}": str(value) for name, value in settings.items()}
    tools = f"{Path(wares.__file__)}:TOOLS"
    with here as known, running("worker", folder=folder, tools=tools, **env) as worker:
        worker.says(".")
        yield WorkerProcess(known)


@pytest.mark.parametrize("outcome", [outcome for outcome in EXPECTED if outcome not in WorkerProcess.closed])
def test_a_call_that_another_process_runs_ends_as_in_process(
    worlds: Worlds, elsewhere: WorkerProcess, outcome: str
) -> None:
    differences = {}
    for style, found in each(elsewhere, outcome).items():
        different = unlike(elsewhere, outcome, found, worlds.here(style, outcome))
        if different:
            differences[style] = different

    assert differences == {}


# -- what only some doors have -----------------------------------------------------------------------------------------


def test_an_accepted_call_waits_for_the_one_that_has_its_key_and_is_answered_by_it(worlds: Worlds) -> None:
    journey = Journey(worlds.known, worlds.door("http_async", "in_progress"), "async", "in_progress")
    journey.prepare()
    door = journey.door
    assert isinstance(door, HttpAccepted)

    call_id = door.answer(journey.asked, prefer="respond-async").json()["call_id"]
    journey.end()
    told = door.ended(call_id)

    assert (told["ok"], told["source"], wares.runs(journey.mark)) == (True, "replay", 1)


@pytest.mark.parametrize("end", ["deadline", "cancel"])
def test_an_accepted_call_that_ends_in_the_queue_is_told_of_as_any_other(worlds: Worlds, end: str) -> None:
    journey = Journey(worlds.known, worlds.door("http_async", "success"), "async", "success")
    door, here, tool = journey.door, journey.world, journey.asked.tool
    assert isinstance(door, HttpAccepted)
    before = here.seen(tool, journey.user, journey.mark)

    options = {"delay_s": 0.1, "deadline_s": 0.02} if end == "deadline" else {"delay_s": 3600}
    path, body = f"/v1/tools/{tool}/calls", {"arguments": journey.asked.arguments, **options}
    made = here.served.client.post(path, json=body, headers={**door.headers, "prefer": "respond-async"}).json()
    if end == "cancel":
        here.served.client.post(f"/v1/calls/{made['call_id']}/cancel", headers=door.headers)
    told = door.ended(made["call_id"])
    (audited,) = here.audit_since(before, tool, journey.user)

    code = "timeout" if end == "deadline" else "cancelled"
    assert (told["code"], told["outcome"], here.runs(journey.mark)) == (code, "not_run", 0)
    assert (audited["decision"], audited["code"], audited["outcome"]) == ("refused", code, "not_run")
    counted = here.counted(tool) - before.requests
    assert counted == {"requests": 1, "failures": 1, "rejected": 1, f"error {code}": 1}


def test_a_body_that_is_too_large_is_no_call_through_any_door(worlds: Worlds) -> None:
    here = worlds.known
    door = worlds.door("http", "success")
    tool = here.place("async", "success", task=False)
    before = here.seen(tool, here.user("http"), "none")
    most = here.executor.config.max_body_size
    headers = {**door.headers, "content-type": "application/json"}

    answers = [
        here.served.client.post(path, content=b" " * (most + 1), headers=headers)
        for path in (f"/v1/tools/{tool}/calls", "/v1/calls", "/v1/calls?format=openai", "/mcp")
    ]

    assert [answer.status_code for answer in answers] == [413] * 4
    assert [answer.json()["code"] for answer in answers[:3]] == ["body_too_large"] * 3
    assert here.seen(tool, here.user("http"), "none") == before


@pytest.mark.parametrize(("name", "quick"), [("mcp_quick", True), ("mcp_sdk", False), ("mcp_task", False)])
def test_the_quick_way_is_taken_by_the_door_that_is_about_it_and_no_other(
    worlds: Worlds, name: str, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    answered = Fast.answered

    async def noted(self: Fast, *given: Any) -> Any:
        answer = await answered(self, *given)
        taken.append(bool(answer))
        return answer

    monkeypatch.setattr(Fast, "answered", noted)
    for style in styles("success"):
        seen(worlds.door(name, "success"), style, "success")

    assert set(taken) == {quick}


def test_a_blocking_call_that_never_came_to_its_loop_is_counted_and_audited(worlds: Worlds) -> None:
    began, ended = threading.Event(), threading.Event()

    @Tool(name="Loop.Blocks", register=False)
    async def blocks() -> None:
        began.set()
        ended.wait(20)

    here, tool = worlds.known, "Async.success"
    here.executor.add(blocks, replace=True)
    here.place("async", "success", task=False)
    asked = Asked(tool=tool, arguments=wares.arguments("async", "success", here.mark()), deadline_s=0.05)
    before = here.seen(tool, here.user("execute_sync"), "none")
    thread = threading.Thread(target=here.executor.call_sync, args=("Loop.Blocks",))
    thread.start()
    assert began.wait(10)
    try:
        result = here.executor.execute_sync(here.call("execute_sync", asked))
    finally:
        ended.set()
        thread.join()

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome) == ("timeout", "not_run")
    (audited,) = here.audit_since(before, tool, here.user("execute_sync"))
    assert (audited["code"], audited["outcome"]) == ("timeout", "not_run")
    assert (here.counted(tool) - before.requests)["error timeout"] == 1
