"""What the fault suite gets: an observer outside of everything, worker processes, and stores that outlive a process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.effects import Effects
from tests.faults.fleet import Worker

Start = Callable[..., Worker]


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    """What tools did, whichever process they ran in."""
    return Effects(tmp_path)


@pytest.fixture(params=["redis", "sqlite", "postgres"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of executors whose claims live in each kind of store that outlives a process."""
    if request.param == "redis":
        return {"state_url": request.getfixturevalue("redis_url")}
    if request.param == "sqlite":
        return {"records_url": f"sqlite:///{tmp_path}/records.db"}
    return {"records_url": request.getfixturevalue("postgres_url")}


@pytest.fixture
def start(effects: Effects) -> Iterator[Start]:
    """start(name, settings, tool, …): a worker with these tools, killed when the test is over."""
    workers: list[Worker] = []

    def started(name: str, settings: dict[str, Any], *tools: dict[str, Any]) -> Worker:
        workers.append(Worker(effects, name, settings, tools))
        return workers[-1]

    yield started
    for worker in workers:
        worker.end()
