"""What tests of the worker get: an executor over each kind of records, and a service on it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.worker.shop import Shop
from toolpost import ToolExecutor
from toolpost.testing import executor_for
from toolpost.worker.service import Service

Serve = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def shop() -> Shop:
    """The tools, and what they did."""
    return Shop()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def records_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where records are: every kind."""
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def settings(records_url: str, tmp_path: Path) -> dict[str, Any]:
    """The settings of executors that share records and blobs."""
    return {"records_url": records_url, "blobs_url": f"file://{tmp_path}/blobs", "log_level": "ERROR"}


@pytest.fixture
def executor(shop: Shop, settings: dict[str, Any]) -> Iterator[ToolExecutor]:
    """An executor with the shop's tools."""
    with executor_for(*shop.tools(), **settings) as made:
        yield made


@pytest.fixture
def serve(shop: Shop, executor: ToolExecutor) -> Serve:
    """serve(works=...): a started service. The shop's gates are opened when it ends."""

    @asynccontextmanager
    async def serving(*, of: ToolExecutor = executor, works: bool = True) -> AsyncIterator[Service]:
        service = Service(of, works=works)
        await service.start()
        try:
            yield service
        finally:
            shop.open()
            await service.stop()

    return serving


@pytest.fixture
async def service(serve: Serve) -> AsyncIterator[Service]:
    """A service that works."""
    async with serve() as made:
        yield made


async def until(found: Callable[[], Any], patience_s: float = 10.0) -> Any:
    """Look again and again until something is found, or comes of awaiting it."""
    async with asyncio.timeout(patience_s):
        while True:
            seen = found()
            if asyncio.iscoroutine(seen):
                seen = await seen
            if seen:
                return seen
            await asyncio.sleep(0.005)
