"""More calls than there are places: each is answered, by its result or by a refusal that says when to come again."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import httpx
import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import GATES, TOOLS
from toolpost import Concurrency, Tool


@Tool(name="Narrow.Wait", concurrency=Concurrency(calls=1), register=False)
async def narrow(name: str) -> str:
    """Wait at a gate, one at a time."""
    await GATES.wait(name)
    return name


@pytest.fixture
def served() -> Iterator[Served]:
    with gateway([*TOOLS, narrow], max_in_flight=4, max_waiting=4) as one:
        yield one


def test_each_of_twice_as_many_calls_as_there_are_places_is_answered(served: Served) -> None:
    body = {"arguments": {"name": "crowd"}}

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{served.url}/v1/tools/Gate.Wait/calls", json=body, timeout=30)

    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, n) for n in range(16)]
        for _ in range(4):
            GATES.begun("crowd")
        refused = [one.result() for one in islice(as_completed(asked, 20), 8)]  # four run, four wait
        GATES.open("crowd")
        for _ in range(4):
            GATES.begun("crowd")
        GATES.open("crowd")
        answers = [one.result(20) for one in asked]

    assert Counter(answer.status_code for answer in answers) == {200: 8, 503: 8}
    for answer in refused:
        assert (answer.json()["code"], answer.json()["retryable"]) == ("overloaded", True)
        assert answer.json()["type"].endswith("#temporary-reduced-capacity")
        assert int(answer.headers["retry-after"]) >= 1


def test_a_tool_with_few_places_says_429_and_when_to_come_again(served: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.client.post, "/v1/tools/Narrow.Wait/calls", json={"arguments": {"name": "narrow"}})
        GATES.begun("narrow")

        answer = httpx.post(f"{served.url}/v1/tools/Narrow.Wait/calls", json={"arguments": {"name": "narrow"}})
        GATES.open("narrow")

        assert (answer.status_code, answer.json()["code"]) == (429, "concurrency_limited")
        assert int(answer.headers["retry-after"]) >= 1
        assert first.result(20).status_code == 200


def test_other_requests_are_answered_while_all_places_are_taken(served: Served) -> None:
    body = {"arguments": {"name": "full"}}
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(httpx.post, f"{served.url}/v1/tools/Gate.Wait/calls", json=body, timeout=30) for _ in range(4)
        ]
        for _ in range(4):
            GATES.begun("full")

        listed = served.client.get("/v1/calls", params={"state": "running"})
        live = served.client.get("/live")
        GATES.open("full")

        assert len(listed.json()["calls"]) == 4
        assert live.status_code == 200
        assert [one.result(20).status_code for one in asked] == [200] * 4
