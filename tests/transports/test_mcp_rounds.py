"""Rounds over MCP: bodies that ask, approvals and grants, in both eras, and what nobody may bend."""

import json
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.transports.mcp_door import FORMS, LINKS, key_of, mcp_door, over_http
from toolpost import Approval, AuthorizationRequiredError, Question, Tool, ToolContext, policy

NAME = {"properties": {"name": {"type": "string"}}, "required": ["name"]}
GIVEN = {"action": "accept", "content": {"name": "Ann"}}
ran: list[str] = []


@Tool(register=False)
async def greet(context: ToolContext) -> str:
    """Ask for a name."""
    answer = (await context.ask({"who": Question.form("What is your name?", NAME)}))["who"]
    return f"Hello, {answer['content']['name']}!" if answer["action"] == "accept" else "Hello, whoever you are!"


@Tool(register=False)
async def tour(context: ToolContext) -> str:
    """Ask twice, one after the other."""
    first = await context.elicit("Your name?", NAME)
    second = await context.elicit("Your colour?", {"properties": {"colour": {"type": "string"}}})
    return f"{first['content']['name']} likes {second['content']['colour']}"


@Tool(register=False)
async def either(context: ToolContext) -> str:
    """Ask for what the client can give."""
    asked = {"a": Question.form("Name?", NAME, optional=True), "b": Question.sample("Say hi", optional=True)}
    answers = await context.ask(asked)
    return json.dumps({key: answer is not None for key, answer in answers.items()})


@Tool(register=False)
async def think(context: ToolContext) -> str:
    """Ask the client's model, and for its folders."""
    said = await context.sample("Say hi", max_tokens=10)
    roots = await context.roots()
    return f"{said['content']['text']} from {roots[0]['uri']}"


@Tool(register=False)
@policy(Approval(reason="it costs money", self_approval=True))
def refund(amount: int) -> str:
    """Give money back."""
    ran.append(f"refund {amount}")
    return f"refunded {amount}"


@Tool(register=False)
@policy(Approval(reason="it costs money", approvers=("role:boss",)))
def payout(amount: int) -> str:
    """Give money away."""
    ran.append(f"payout {amount}")
    return f"paid {amount}"


@Tool(register=False)
def mail() -> str:
    """Needs a grant, which is there the second time."""
    if ran.count("mail") == 0:
        ran.append("mail")
        raise AuthorizationRequiredError("grant access to your mail", url="https://idp.example/grant?flow=1")
    return "sent"


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


async def test_a_body_that_asks_is_run_again_with_the_answer() -> None:
    async with mcp_door(greet) as door:
        asked = await door.call("greet", capabilities=FORMS)
        answered = await door.call(
            "greet", capabilities=FORMS, requestState=asked["requestState"], inputResponses={"who": GIVEN}
        )
        declined = await door.call("greet", capabilities=FORMS, inputResponses={"who": {"action": "decline"}})

        assert asked["resultType"] == "input_required"
        assert asked["inputRequests"]["who"]["method"] == "elicitation/create"
        assert asked["inputRequests"]["who"]["params"]["requestedSchema"] == {"type": "object", **NAME}
        assert answered["content"][0]["text"] == "Hello, Ann!"
        assert declined["content"][0]["text"] == "Hello, whoever you are!"


async def test_earlier_answers_come_back_in_the_state() -> None:
    async with mcp_door(tour) as door:
        first = await door.call("tour", capabilities=FORMS)
        second = await door.call(
            "tour", capabilities=FORMS, requestState=first["requestState"], inputResponses={"question-1": GIVEN}
        )
        last = {"question-2": {"action": "accept", "content": {"colour": "red"}}}
        done = await door.call("tour", capabilities=FORMS, requestState=second["requestState"], inputResponses=last)

        assert list(second["inputRequests"]) == ["question-2"]
        assert second["requestState"] != first["requestState"]
        assert done["content"][0]["text"] == "Ann likes red"


async def test_state_that_was_bent_or_is_of_another_call_is_refused() -> None:
    async with mcp_door(greet, tour) as door:
        state = (await door.call("greet", capabilities=FORMS))["requestState"]
        ann = key_of(door.executor, "ann")

        for params, headers in (
            ({"name": "greet", "arguments": {}, "requestState": state[:-4] + "AAAA"}, None),
            ({"name": "tour", "arguments": {}, "requestState": state}, None),
            ({"name": "greet", "arguments": {"x": 1}, "requestState": state}, None),
            ({"name": "greet", "arguments": {}, "requestState": state}, ann),
        ):
            error = await door.error("tools/call", params, capabilities=FORMS, headers=headers)
            assert error["code"] == -32602


async def test_state_is_good_in_every_process_of_one_secret_key() -> None:
    async with mcp_door(greet) as first, mcp_door(greet) as second, mcp_door(greet, secret_key="o" * 40) as stranger:
        state = (await first.call("greet", capabilities=FORMS))["requestState"]

        done = await second.call("greet", capabilities=FORMS, requestState=state, inputResponses={"who": GIVEN})
        params = {"name": "greet", "arguments": {}, "requestState": state}
        refused = await stranger.error("tools/call", params, capabilities=FORMS)

        assert done["content"][0]["text"] == "Hello, Ann!"
        assert refused["code"] == -32602


async def test_a_client_that_cannot_be_asked_is_told_what_it_lacks() -> None:
    async with mcp_door(greet, think) as door:
        lacks = await door.error("tools/call", {"name": "greet", "arguments": {}})
        model = await door.error("tools/call", {"name": "think", "arguments": {}}, capabilities=FORMS)

        assert (lacks["code"], lacks["data"]) == (-32021, {"requiredCapabilities": {"elicitation": {}}})
        assert model["data"] == {"requiredCapabilities": {"sampling": {}}}


async def test_optional_questions_are_asked_of_whoever_can_answer_them() -> None:
    async with mcp_door(either) as door:
        asked = await door.call("either", capabilities={"sampling": {}})
        said = {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"}
        done = await door.call(
            "either", capabilities={"sampling": {}}, requestState=asked["requestState"], inputResponses={"b": said}
        )
        nothing = await door.call("either")

        assert list(asked["inputRequests"]) == ["b"]
        assert json.loads(done["content"][0]["text"]) == {"a": False, "b": True}
        assert json.loads(nothing["content"][0]["text"]) == {"a": False, "b": False}


async def test_whoever_may_approve_a_call_of_their_own_is_asked_in_the_client() -> None:
    async with mcp_door(refund) as door:
        ann = key_of(door.executor, "ann")
        asked = await door.call("refund", {"amount": 5}, capabilities=FORMS, headers=ann)
        ((key, question),) = asked["inputRequests"].items()
        assert "it costs money" in question["params"]["message"]
        assert ran == []

        yes = {key: {"action": "accept", "content": {"approve": True}}}
        done = await door.call(
            "refund",
            {"amount": 5},
            capabilities=FORMS,
            headers=ann,
            requestState=asked["requestState"],
            inputResponses=yes,
        )
        again = await door.call("refund", {"amount": 5}, capabilities=FORMS, headers=ann)

        assert done["content"][0]["text"] == "refunded 5"
        assert ran == ["refund 5"]
        assert again["resultType"] == "input_required"


@pytest.mark.parametrize("answer", [{"action": "decline"}, {"action": "accept", "content": {"approve": False}}])
async def test_a_call_that_was_declined_is_not_made(answer: dict[str, Any]) -> None:
    async with mcp_door(refund) as door:
        ann = key_of(door.executor, "ann")
        asked = await door.call("refund", {"amount": 5}, capabilities=FORMS, headers=ann)
        more = {"requestState": asked["requestState"], "inputResponses": {next(iter(asked["inputRequests"])): answer}}
        denied = await door.call("refund", {"amount": 5}, capabilities=FORMS, headers=ann, **more)

        assert denied["_meta"]["toolpost/error"]["code"] == "approval_denied"
        assert ran == []


async def test_an_approval_without_the_state_that_names_it_approves_nothing() -> None:
    async with mcp_door(refund) as door:
        ann = key_of(door.executor, "ann")
        yes = {"toolpost-approval": {"action": "accept", "content": {"approve": True}}}
        answer = await door.call("refund", {"amount": 5}, capabilities=FORMS, headers=ann, inputResponses=yes)

        assert answer["resultType"] == "input_required"
        assert ran == []


async def test_whoever_may_not_approve_is_sent_to_the_page_and_runs_once_somebody_did() -> None:
    async with mcp_door(payout, base_url="https://tools.example") as door:
        ann = key_of(door.executor, "ann")
        forms_only = await door.call("payout", {"amount": 9}, capabilities=FORMS, headers=ann)
        asked = await door.call("payout", {"amount": 9}, capabilities=LINKS, headers=ann)
        ((key, question),) = asked["inputRequests"].items()
        approval_id = forms_only["_meta"]["toolpost/error"]["details"]["approval_id"]
        seen = {"requestState": asked["requestState"], "inputResponses": {key: {"action": "accept"}}}
        still = await door.call("payout", {"amount": 9}, capabilities=LINKS, headers=ann, **seen)
        door.executor.approvals.approve(approval_id, by="the boss")
        seen["requestState"] = still["requestState"]
        done = await door.call("payout", {"amount": 9}, capabilities=LINKS, headers=ann, **seen)

        assert forms_only["isError"] is True
        assert question["params"]["url"] == f"https://tools.example/v1/approvals/{approval_id}"
        assert still["resultType"] == "input_required"
        assert done["content"][0]["text"] == "paid 9"
        assert ran == ["payout 9"]


async def test_the_page_is_where_the_client_found_the_gateway_unless_a_setting_says_where() -> None:
    async with mcp_door(payout) as door:
        ann = key_of(door.executor, "ann")
        asked = await door.call("payout", {"amount": 9}, capabilities=LINKS, headers={**ann, "host": "localhost:8080"})

        url = next(iter(asked["inputRequests"].values()))["params"]["url"]
        assert url.startswith("http://localhost:8080/v1/approvals/")


async def test_a_grant_that_is_missing_is_a_link_and_its_page_another_try() -> None:
    async with mcp_door(mail) as door:
        asked = await door.call("mail", capabilities=LINKS)
        ((key, question),) = asked["inputRequests"].items()
        done = await door.call(
            "mail", capabilities=LINKS, requestState=asked["requestState"], inputResponses={key: {"action": "accept"}}
        )

        assert question["params"]["url"] == "https://idp.example/grant?flow=1"
        assert done["content"][0]["text"] == "sent"


async def test_without_a_way_to_show_a_link_the_grant_is_an_error_that_has_it() -> None:
    async with mcp_door(mail) as door:
        failed = await door.call("mail")

        assert failed["_meta"]["toolpost/error"]["details"]["authorization_url"] == "https://idp.example/grant?flow=1"


async def test_an_older_client_is_asked_while_the_call_runs() -> None:
    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ann"})

    async def sample(context: Any, params: Any) -> types.CreateMessageResult:
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text="hi"), model="m", stop_reason="endTurn"
        )

    async def roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///home/ann")])

    async with mcp_door(greet, think) as door, over_http(door) as url:
        client = Client(
            url, mode="legacy", elicitation_callback=elicit, sampling_callback=sample, list_roots_callback=roots
        )
        async with client:
            greeted = await client.call_tool("greet", {})
            thought = await client.call_tool("think", {})

        assert greeted.content[0].text == "Hello, Ann!"  # type: ignore[union-attr]
        assert thought.content[0].text == "hi from file:///home/ann"  # type: ignore[union-attr]


async def test_an_older_client_that_cannot_be_asked_gets_an_error_with_the_question() -> None:
    async with mcp_door(greet) as door, over_http(door) as url, Client(url, mode="legacy") as client:
        refused = await client.call_tool("greet", {})

        assert refused.is_error
        assert "What is your name?" in refused.content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize(("agrees", "outcome"), [(True, ["refund 5"]), (False, [])])
async def test_an_older_client_approves_its_own_call_while_it_waits(agrees: bool, outcome: list[str]) -> None:
    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        assert "it costs money" in params.message
        return types.ElicitResult(action="accept", content={"approve": agrees})

    async with mcp_door(refund) as door, over_http(door) as url:
        async with httpx2.AsyncClient(headers=key_of(door.executor, "ann")) as http:
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode="legacy", elicitation_callback=elicit) as client:
                result = await client.call_tool("refund", {"amount": 5})

    assert result.is_error is not agrees
    assert ran == outcome
