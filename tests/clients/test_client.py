"""The clients of a gateway, against a real one: calls, errors, accepted calls, batches, lists, approvals."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import GATES, RAN, TOOLS
from toolpost import Approval, Tool
from toolpost.clients import AsyncClient, Client
from toolpost.errors import (
    ApprovalRequiredError,
    ConfigurationError,
    IdempotencyMismatchError,
    InputValidationError,
    NotFoundError,
    OperationError,
    RateLimitError,
    Rejected,
    RemoteToolError,
    ToolError,
    ToolNotFoundError,
    ToolTimeoutError,
    UnauthorizedError,
)


@Tool(name="Mail.Send", approval=Approval(), register=False)
async def send(to: str) -> str:
    """Send a mail."""
    return f"sent to {to}"


@Tool(name="Math.Declared", returns={"type": "object", "required": ["sum"]}, register=False)
async def declared(a: int) -> dict[str, int]:
    """Give what it says it gives."""
    return {"sum": a}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    with gateway([*TOOLS, send, declared], records_url=f"sqlite:///{folder}/calls.db", record_calls="all") as one:
        yield one


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway that asks for keys."""
    folder = tmp_path_factory.mktemp("keyed")
    with gateway([*TOOLS, send], listens_on="0.0.0.0", records_url=f"sqlite:///{folder}/calls.db") as one:
        yield one


def key_of(served: Served, user: str) -> str:
    scopes = ["toolpost:approve"] if user == "boss" else []
    return served.executor.api_keys.create(user_id=user, scopes=scopes).secret


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as one:
        yield one


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_call_gives_the_tools_value(client: Client) -> None:
    assert client.call("Math.Add", {"a": 1, "b": 2}) == {"sum": 3}
    assert client.call("Math.Add", {"a": 1, "b": 2}, version="1.0.0") == {"result": 3}


async def test_it_is_the_same_for_who_awaits(served: Served) -> None:
    async with AsyncClient(served.url) as client:
        values = await asyncio.gather(*(client.call("Math.Add", {"a": n, "b": 1}) for n in range(20)))

    assert [one["sum"] for one in values] == list(range(1, 21))


def test_a_result_tells_how_the_call_ended(client: Client) -> None:
    result = client.execute("Math.Add", {"a": 1, "b": 2}, explain=True, task_id="t1")

    assert (result.success, result.tool_name, result.source) == (True, "Math.Add", "run")
    assert result.explanation is not None
    assert result.explanation[0]["stage"] == "settle"
    assert result.usage is not None


def test_wrong_arguments_raise_with_their_places(client: Client) -> None:
    with pytest.raises(InputValidationError) as caught:
        client.call("Math.Add", {"a": "x", "b": 2})

    assert caught.value.errors()[0]["path"] == "/a"
    assert caught.value.errors()[0]["loc"] == ("a",)
    assert caught.value.tool == "Math.Add"
    assert not caught.value.retryable


def test_a_tools_own_error_keeps_its_code_and_details(client: Client) -> None:
    with pytest.raises(ToolError, match="there is no such order") as caught:
        client.call("Fail.Tool")

    assert (caught.value.code, caught.value.details, caught.value.outcome) == ("NO_ORDER", {"order": 7}, "ran")


def test_errors_are_those_of_the_tree(client: Client) -> None:
    with pytest.raises(ToolNotFoundError, match=r"did you mean 'Math\.Add'"):
        client.call("Math.Ad")
    with pytest.raises(OperationError):
        client.call("Fail.Hard")
    with pytest.raises(UnauthorizedError):
        client.call("Who.Am.I")
    with pytest.raises(RemoteToolError) as caught:
        client.call("Fail.Upstream")
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, pytest.approx(2.5, abs=0.01))


def test_a_rate_limit_is_told_with_its_pause(client: Client) -> None:
    for _ in range(2):
        client.call("Limited.Two", user_id="limit")

    with pytest.raises(RateLimitError) as caught:
        client.call("Limited.Two", user_id="limit")

    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 60
    assert client.execute("Limited.Two", user_id="limit").status == "rejected"


def test_a_key_makes_a_call_run_once(client: Client) -> None:
    first = client.execute("Count.Once", {"name": "keyed by a client"}, idempotency_key="k 1", user_id="u")
    again = client.execute("Count.Once", {"name": "keyed by a client"}, idempotency_key="k 1", user_id="u")

    assert (first.source, again.source, RAN["keyed by a client"]) == ("run", "replay", 1)
    with pytest.raises(IdempotencyMismatchError):
        client.call("Count.Once", {"name": "other"}, idempotency_key="k 1", user_id="u")


def test_a_deadline_is_kept(client: Client) -> None:
    with pytest.raises(ToolTimeoutError) as caught:
        client.call("Gate.Wait", {"name": "deadline"}, deadline_s=0.1)

    assert caught.value.outcome == "stopped"


def test_a_silent_gateway_is_a_timeout_of_unknown_outcome(client: Client) -> None:
    result = client.execute("Gate.Wait", {"name": "silent"}, timeout_s=0.2)

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome) == ("timeout", "unknown")


def test_an_option_that_is_not_known_is_told(client: Client) -> None:
    with pytest.raises(ConfigurationError, match="no option 'deadline'; there are answers, deadline_s"):
        client.call("Math.Add", {}, deadline=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="http:// or https:// URL"):
        Client("localhost:8080")
    with pytest.raises(InputValidationError, match="cannot be sent as JSON"):
        client.call("Echo.Value", {"value": object()})


def test_a_batch_gives_results_in_order(client: Client) -> None:
    calls: list[Any] = [("Math.Add", {"a": n, "b": 0}) for n in range(5)]
    calls.insert(2, ("Fail.Tool", {}))
    calls.append({"tool": "Math.Double", "arguments": {"number": 4}})

    results = client.batch(calls)

    assert [one.success for one in results] == [True, True, False, True, True, True, True]
    assert [one.data["sum"] for one in results if one.tool_name == "Math.Add"] == [0, 1, 2, 3, 4]
    with pytest.raises(ToolError):
        results[2].value()
    with pytest.raises(InputValidationError, match="call 0 must be"):
        client.batch(["Math.Add"])


async def test_a_batch_may_be_larger_than_a_request(served: Served) -> None:
    async with AsyncClient(served.url) as client:
        results = await client.batch(("Math.Add", {"a": n, "b": 0}) for n in range(1200))

    assert [one.data["sum"] for one in results] == list(range(1200))


# -- accepted calls ----------------------------------------------------------------------------------------------------


def test_an_accepted_call_is_waited_for(client: Client) -> None:
    handle = client.submit("Gate.Wait", {"name": "handle"}, priority=3)
    GATES.begun("handle")
    with pytest.raises(TimeoutError, match="has not ended after 0 s; it is running"):
        handle.result(0)
    GATES.open("handle")

    assert handle.value(20) == {"result": "through handle"}
    assert (handle.report.state, handle.report.raw["priority"]) == ("succeeded", 3)
    assert client.show(handle.call_id).accepted


def test_a_repeated_submit_is_the_same_call(client: Client) -> None:
    one = client.submit("Math.Add", {"a": 1, "b": 2}, idempotency_key="same")
    one.wait(20)
    two = client.submit("Math.Add", {"a": 1, "b": 2}, idempotency_key="same")
    failed = client.submit("Fail.Tool", idempotency_key="same failure")
    failed.wait(20)
    again = client.submit("Fail.Tool", idempotency_key="same failure")

    assert (two.call_id, two.value(0)) == (one.call_id, {"sum": 3})
    assert again.call_id == failed.call_id
    with pytest.raises(ToolError):
        again.value(0)


def test_what_cannot_be_accepted_is_raised(client: Client) -> None:
    with pytest.raises(InputValidationError):
        client.submit("Math.Add", {"a": "x", "b": 2})
    with pytest.raises(InputValidationError, match="max_attempts"):
        client.submit("Math.Add", {"a": 1, "b": 2}, max_attempts=1000)


def test_a_tool_that_declares_its_result_is_accepted(client: Client) -> None:
    assert client.submit("Math.Declared", {"a": 1}).value(20) == {"sum": 1}


def test_a_call_is_cancelled(client: Client) -> None:
    handle = client.submit("Gate.Wait", {"name": "cancelled"})
    GATES.begun("cancelled")

    handle.cancel()

    assert handle.wait(20).state == "cancelled"
    with pytest.raises(NotFoundError):
        client.cancel("0198c0de-0000-7000-8000-000000000001")


async def test_accepted_calls_for_who_awaits(served: Served) -> None:
    async with AsyncClient(served.url) as client:
        handle = await client.submit("Gate.Wait", {"name": "awaited"})
        await asyncio.to_thread(GATES.begun, "awaited")
        assert not (await client.show(handle.call_id)).ended
        GATES.open("awaited")

        assert await handle.value(20) == {"result": "through awaited"}
        assert [one.kind async for one in handle.events()][-1] == "result"
        assert (await handle.cancel()).state == "succeeded"
        assert (await client.wait(handle.call_id)).ended
        assert (await client.result(handle.call_id)).success


def test_an_explanation_is_looked_up(client: Client) -> None:
    handle = client.submit("Math.Add", {"a": 1, "b": 2}, explain=True)
    handle.wait(20)

    assert client.explain(handle.call_id)[0]["stage"] == "settle"


def test_calls_are_listed_page_by_page(client: Client) -> None:
    made = [client.submit("Math.Double", {"number": n}, session_id="listed") for n in range(7)]
    for one in made:
        one.wait(20)

    found = list(client.calls(session="listed", state=["succeeded", "failed"], page=3))

    assert [one.call_id for one in found] == [one.call_id for one in reversed(made)]
    assert list(client.calls(session="listed", state="queued")) == []
    with pytest.raises(InputValidationError, match="state must be one of"):
        list(client.calls(state="done"))


# -- tools, approvals --------------------------------------------------------------------------------------------------


def test_tools_are_listed_in_a_providers_form(client: Client) -> None:
    shown = client.tools("anthropic", query="add numbers", limit=1)

    assert [one["name"] for one in shown] == ["Math__Add"]
    assert {one["name"] for one in client.tools()} >= {"Math.Add", "Echo.Value"}


def test_an_approval_is_given_and_the_call_made(keyed: Served) -> None:
    with Client(keyed.url, key=key_of(keyed, "ann")) as ann, Client(keyed.url, key=key_of(keyed, "boss")) as boss:
        with pytest.raises(ApprovalRequiredError) as caught:
            ann.call("Mail.Send", {"to": "ann"})
        asked = caught.value.approval_id
        assert asked is not None

        assert asked in [one["id"] for one in ann.approvals.list()]
        assert ann.approvals.show(asked)["state"] == "pending"
        boss.approvals.approve(asked, reason="fine")
        made = ann.approvals.run(asked)

        assert made.data == {"result": "sent to ann"}
        with pytest.raises(Rejected, match="only one that is approved can be run"):
            ann.approvals.run(asked)


async def test_an_approval_is_denied(keyed: Served) -> None:
    async with (
        AsyncClient(keyed.url, key=key_of(keyed, "ann")) as ann,
        AsyncClient(keyed.url, key=key_of(keyed, "boss")) as boss,
    ):
        result = await ann.execute("Mail.Send", {"to": "bob"})
        assert result.failure is not None
        asked = result.failure.details["approval_id"]

        denied = await boss.approvals.deny(asked, reason="not today")

        assert denied["state"] == "denied"
        assert [one["id"] async for one in ann.approvals.list("denied")] == [asked]
        again = await ann.execute("Mail.Send", {"to": "bob"})
        assert "not today" in (again.error or "")


# -- who calls ---------------------------------------------------------------------------------------------------------


def test_a_key_may_be_given_by_a_function(keyed: Served) -> None:
    keys = iter(["wrong", key_of(keyed, "eve")])
    with Client(keyed.url, key=lambda: next(keys)) as client:
        with pytest.raises(UnauthorizedError):
            client.call("Who.Am.I")
        assert client.call("Who.Am.I")["user"] == "eve"


def test_an_async_key_is_not_for_who_blocks(served: Served) -> None:
    async def key() -> str:
        return "x"

    with Client(served.url, key=key) as client, pytest.raises(ConfigurationError, match="use AsyncClient"):
        client.call("Math.Add", {"a": 1, "b": 2})


async def test_an_async_key_is_awaited(served: Served) -> None:
    async def key() -> str:
        return "x"

    async with AsyncClient(served.url, key=key) as client:
        with pytest.raises(UnauthorizedError):
            await client.call("Math.Add", {"a": 1, "b": 2})


def test_nothing_is_loaded_before_it_is_used() -> None:
    program = (
        "import sys, toolpost; assert 'toolpost.clients' not in sys.modules\n"
        "import toolpost.clients.openai, toolpost.clients.anthropic\n"
        "assert not {'httpx', 'openai', 'anthropic'} & set(sys.modules), 'too much'\n"
        "from toolpost.clients import Client; assert 'httpx' in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
