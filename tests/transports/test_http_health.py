"""Whether the gateway lives, is ready and is well, and what it tells of itself to whom."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import GATES, TOOLS
from toolpost import StoreUnavailableError


@pytest.fixture
def served() -> Iterator[Served]:
    with gateway(TOOLS, authentication="required") as one:
        yield one


def key(served: Served, *scopes: str) -> dict[str, str]:
    return {"x-api-key": served.executor.api_keys.create(user_id="anna", scopes=scopes).secret}


def test_a_store_that_is_away_makes_it_unready_but_not_dead(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise StoreUnavailableError("the store at db:5432 is away")

    before = served.client.get("/ready")
    monkeypatch.setattr(served.executor.records, "ping", away)
    monkeypatch.setattr("toolpost.transports.http_health.FRESH_S", 0.0)
    after, live, health = (served.client.get(path) for path in ("/ready", "/live", "/health"))

    assert before.status_code == 200
    assert (after.status_code, after.json()["code"], after.headers["retry-after"]) == (503, "not_ready", "1")
    assert after.json()["detail"] == "the records store cannot be reached"
    assert live.status_code == 200
    assert (health.status_code, health.json()) == (200, {"status": "degraded", "ready": False})


def test_while_it_drains_it_is_not_ready_refuses_calls_and_closes_connections(served: Served) -> None:
    headers = key(served, "toolpost:operate")
    accepted = served.client.post(
        "/v1/tools/Gate.Wait/calls",
        json={"arguments": {"name": "drain"}},
        headers={**headers, "prefer": "respond-async"},
    )
    GATES.begun("drain")

    async def begin() -> Any:
        import asyncio

        return asyncio.get_running_loop().create_task(served.service.drain(20))

    served.run(begin())
    ready = served.client.get("/ready")
    refused = served.client.post("/v1/tools/Math.Add/calls", json={"arguments": {"a": 1, "b": 2}}, headers=headers)
    live = served.client.get("/live")
    GATES.open("drain")

    assert accepted.status_code == 202
    assert ready.status_code == 503
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"]
    assert refused.headers["connection"] == "close"
    assert live.status_code == 200


def test_details_are_for_those_who_may_know(served: Served) -> None:
    nobody = served.client.get("/health").json()
    caller = served.client.get("/health", headers=key(served)).json()
    stranger = served.client.get("/health", headers={"x-api-key": "no-key"}).json()
    operator = served.client.get("/health", headers=key(served, "toolpost:operate")).json()
    watcher = served.client.get("/health", headers=key(served, "toolpost:metrics")).json()

    assert nobody == caller == stranger == {"status": "healthy", "ready": True}
    assert operator["tools"] == watcher["tools"] == len(TOOLS) - 1


def test_metrics_are_for_those_who_may_know(served: Served) -> None:
    served.client.post("/v1/tools/Math.Add/calls", json={"arguments": {"a": 1, "b": 2}}, headers=key(served))
    served.client.get("/nothing/7")

    nobody = served.client.get("/metrics")
    caller = served.client.get("/metrics", headers=key(served))
    watcher = served.client.get("/metrics", headers=key(served, "toolpost:metrics"))

    assert (nobody.status_code, caller.status_code, watcher.status_code) == (401, 403, 200)
    assert watcher.headers["content-type"].startswith("text/plain")
    lines = watcher.text.splitlines()
    counted = [line for line in lines if line.startswith("toolpost_http_requests_total{")]
    assert any('route="/v1/tools/{name}/calls"' in line and 'status="2xx"' in line for line in counted)
    assert any('method="GET"' in line and 'status="4xx"' in line for line in counted)
    assert not [line for line in counted if "/nothing/7" in line]


def test_where_nobody_is_asked_everybody_may_know() -> None:
    with gateway(TOOLS) as served:
        assert served.client.get("/metrics").status_code == 200
        assert served.client.get("/health").json()["tools"] == len(TOOLS) - 1


def test_an_executor_that_is_closed_is_unhealthy(served: Served) -> None:
    served.executor.close()

    answer = served.client.get("/health")

    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
