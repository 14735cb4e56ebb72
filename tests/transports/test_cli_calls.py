"""`toolpost calls` and `toolpost dead`: what operators see and do of the calls that gateways keep."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import Result

from tests.transports.cli_shop import ALL, invoke
from toolpost import ExecutorConfig, ToolCall, ToolExecutor
from toolpost.calls.call import new_id
from toolpost.engine.registry import ToolRegistry
from toolpost.stores import Pending
from toolpost.stores.tasks import Finish
from toolpost.transports.serve_defaults import embedded
from toolpost.worker.calls import Calls
from toolpost.worker.reports import Accept


@contextmanager
def executor_in(folder: Path) -> Iterator[ToolExecutor]:
    with ToolExecutor(embedded(ExecutorConfig(data_directory=folder)), registry=ToolRegistry()) as executor:
        executor.add(ALL)
        yield executor


def accept(executor: ToolExecutor, *calls: ToolCall, delay_s: float = 3600.0) -> None:
    """Write calls down as a gateway does, and have nobody run them."""

    async def accepted() -> None:
        there = Calls(executor)
        for call in calls:
            await there.accept(call, Accept(delay_s=delay_s))
        await there.close()

    asyncio.run(accepted())


def had(answer: Any) -> Any:
    return answer.wait() if isinstance(answer, Pending) else answer


@pytest.fixture
def accepted(tmp_path: Path) -> tuple[str, str]:
    """Two calls that nobody has run: of add for ada, and of echo for bob."""
    first = ToolCall(id=new_id(), name="add", arguments={"a": 1}, user_id="ada")
    second = ToolCall(id=new_id(), name="echo", arguments={"text": "x"}, user_id="bob", tenant="acme")
    with executor_in(tmp_path) as executor:
        accept(executor, first, second)
    return first.id, second.id


def asked(folder: Path, *arguments: str) -> Result:
    return invoke(*arguments, "--data", f"{folder}", tools=False)


def test_calls_are_listed_newest_first_and_chosen(accepted: tuple[str, str], tmp_path: Path) -> None:
    table = asked(tmp_path, "calls", "list").stdout.splitlines()
    of_bob = orjson.loads(asked(tmp_path, "calls", "list", "--user", "bob", "--json").stdout)
    of_add = orjson.loads(asked(tmp_path, "calls", "list", "--tool", "add", "--state", "queued", "--json").stdout)
    ended = orjson.loads(asked(tmp_path, "calls", "list", "--state", "succeeded", "--json").stdout)

    assert [line.split()[0] for line in table] == ["call", *sorted(accepted, reverse=True)]
    assert [call["call_id"] for call in of_bob["calls"]] == [accepted[1]]
    assert [call["call_id"] for call in of_add["calls"]] == [accepted[0]]
    assert ended == {"calls": [], "after": None}


def test_a_call_is_shown_and_cancelled(accepted: tuple[str, str], tmp_path: Path) -> None:
    before = orjson.loads(asked(tmp_path, "calls", "show", accepted[0]).stdout)
    done = asked(tmp_path, "calls", "cancel", accepted[0])
    after = orjson.loads(asked(tmp_path, "calls", "show", accepted[0]).stdout)

    assert (before["state"], before["arguments"]) == ("queued", {"a": 1})
    assert done.stdout == f"{accepted[0]} is cancelled\n"
    assert after["state"] == "cancelled"


@pytest.mark.parametrize("command", ["show", "cancel"])
def test_a_call_that_is_not_there_is_said(command: str, tmp_path: Path) -> None:
    ended = asked(tmp_path, "calls", command, "nothing")

    assert ended.exit_code == 1
    assert "there is no call nothing; `toolpost calls list`" in ended.stderr


def test_dead_letters_are_listed_and_redriven_once(tmp_path: Path) -> None:
    with executor_in(tmp_path) as executor:
        accept(executor, ToolCall(id=new_id(), name="add", arguments={"a": 1}), delay_s=0.0)
        [work] = had(executor.records.claim_tasks("a worker", 9, 30.0))
        died = Finish(task_id=work.task.task_id, fence=work.fence, state="dead", error="its process died thrice")
        had(executor.records.finish_task(died))
        [letter] = [one["id"] for one in had(executor.records.dead())]
    table = asked(tmp_path, "dead", "list").stdout
    again = asked(tmp_path, "dead", "redrive", f"{letter}")
    twice = asked(tmp_path, "dead", "redrive", f"{letter}")

    assert "its process died thrice" in table
    assert again.exit_code == 0, again.stderr
    assert orjson.loads(asked(tmp_path, "calls", "show", again.stdout.strip()).stdout)["arguments"] == {"a": 1}
    assert twice.exit_code == 1
    assert "was redriven" in twice.stderr


@pytest.mark.parametrize("command", [("calls", "list"), ("dead", "list"), ("dead", "redrive", "1")])
def test_records_that_nobody_shares_are_refused(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    ended = invoke(*command, tools=False)

    assert ended.exit_code == 2
    assert "--data to the data directory of a gateway" in ended.stderr
