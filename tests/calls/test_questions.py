"""Bodies that ask: what ends a call, what goes on with answers, and what no policy may make of the question."""

from collections.abc import Mapping
from typing import Any

import pytest

from toolpost import (
    Approval,
    Breaker,
    Cache,
    Caller,
    ConfigurationError,
    Idempotency,
    Question,
    Retry,
    Tool,
    ToolContext,
    ToolExecutor,
    ToolResult,
    create_tool_call,
)
from toolpost.calls.questions import ASKER, is_answer
from toolpost.engine.registry import ToolRegistry

YES = {"action": "accept", "content": {"name": "Ann"}}
runs: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    runs.clear()


async def ask(context: ToolContext) -> str:
    """Ask, then do it."""
    runs.append("began")
    answer = (await context.ask({"who": Question.form("Who?")}))["who"]
    runs.append("did")
    return str(answer["content"]["name"])


async def called(answers: Mapping[str, Any] | None = None, key: str | None = None, **policies: Any) -> ToolResult:
    """One call of ask under policies, by an executor of its own unless one is given."""
    executor = policies.pop("executor")
    call = create_tool_call("ask", {}, answers=answers, idempotency_key=key, user_id="ann")
    result: ToolResult = await executor.execute_tool_call(call)
    return result


def executor_with(**policies: Any) -> ToolExecutor:
    executor = ToolExecutor(registry=ToolRegistry(), secret_key="k" * 40)
    executor.add(Tool(register=False, name="ask", **policies)(ask))
    return executor


async def test_a_question_ends_the_call_and_the_answer_goes_on() -> None:
    with executor_with() as executor:
        asked = await called(executor=executor)
        done = await called({"who": YES}, executor=executor)

        assert asked.failure is not None
        assert (asked.failure.code, asked.failure.outcome, asked.status) == ("input_required", "not_run", "rejected")
        assert asked.failure.details["questions"]["who"]["params"]["message"] == "Who?"
        assert done.data == {"result": "Ann"}


@pytest.mark.parametrize("failures", ["run", "replay"])
async def test_an_idempotency_key_is_not_used_up_by_a_question(failures: Any) -> None:
    with executor_with(idempotency=Idempotency(failures=failures)) as executor:
        await called(key="k", executor=executor)
        done = await called({"who": YES}, key="k", executor=executor)
        replayed = await called({"who": YES}, key="k", executor=executor)

        assert done.data == replayed.data == {"result": "Ann"}
        assert replayed.source == "replay"
        assert runs.count("did") == 1


async def test_a_question_is_not_tried_again_nor_held_against_the_tool() -> None:
    with executor_with(retry=Retry(attempts=3, wait_s=0), breaker=Breaker(failures=1)) as executor:
        await called(executor=executor)
        await called(executor=executor)

        assert runs == ["began", "began"]
        assert (await called({"who": YES}, executor=executor)).success


async def test_what_came_of_an_answer_is_no_answer_for_others() -> None:
    with executor_with(cache=Cache(ttl_s=60)) as executor:
        first = await called({"who": YES}, executor=executor)
        other = await called({"who": {**YES, "content": {"name": "Bob"}}}, executor=executor)
        asked = await called(executor=executor)

        assert (first.data, other.data) == ({"result": "Ann"}, {"result": "Bob"})
        assert asked.failure is not None
        assert asked.failure.code == "input_required"


async def test_an_approval_is_not_used_up_by_a_question() -> None:
    with executor_with(approval=Approval()) as executor:
        waiting = await called(executor=executor)
        assert waiting.failure is not None
        executor.approvals.approve(waiting.failure.details["approval_id"], by=Caller(user_id="bob"))
        asked = await called(executor=executor)
        done = await called({"who": YES}, executor=executor)
        again = await called({"who": YES}, executor=executor)

        assert asked.failure is not None
        assert asked.failure.code == "input_required"
        assert done.success
        assert again.failure is not None
        assert again.failure.code == "approval_required"


async def test_whoever_can_be_asked_while_it_runs_is() -> None:
    class Person:
        async def ask(self, questions: Mapping[str, Question]) -> Mapping[str, Any]:
            return dict.fromkeys(questions, YES)

    with executor_with() as executor:
        before = ASKER.set(Person())
        try:
            done = await called(executor=executor)
        finally:
            ASKER.reset(before)

        assert done.data == {"result": "Ann"}
        assert runs == ["began", "did"]


def test_a_body_that_is_not_async_asks_too() -> None:
    @Tool(register=False)
    def plain(context: ToolContext) -> str:
        """Ask."""
        return str(context.ask_sync({"who": Question.form("Who?")})["who"]["content"]["name"])

    with ToolExecutor(registry=ToolRegistry()) as executor:
        executor.add(plain)
        asked = executor.execute_sync(create_tool_call("plain", {}))
        done = executor.execute_sync(create_tool_call("plain", {}, answers={"who": YES}))

        assert asked.failure is not None
        assert asked.failure.code == "input_required"
        assert done.data == {"result": "Ann"}


@pytest.mark.parametrize(
    ("question", "answer", "good"),
    [
        (Question.form("Who?"), YES, True),
        (Question.form("Who?"), {"action": "cancel"}, True),
        (Question.form("Who?"), {"action": "maybe"}, False),
        (Question.form("Who?"), {"action": "accept", "content": "x"}, False),
        (Question.form("Who?"), 12345, False),
        (Question.form("Who?"), None, False),
        (Question.form("Who?", optional=True), None, True),
        (Question.link("Look", "https://a.example"), {"action": "accept"}, True),
        (Question.sample("Say hi"), {"content": {"type": "text", "text": "hi"}}, True),
        (Question.sample("Say hi"), {"content": "hi"}, False),
        (Question.roots(), {"roots": []}, True),
        (Question.roots(), {}, False),
    ],
)
def test_an_answer_has_the_form_of_its_question(question: Question, answer: Any, good: bool) -> None:
    assert is_answer(question, answer) is good
    assert Question.from_dict(question.to_dict()) == question


def test_a_question_without_words_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="message"):
        Question.form(" ")


FORM: dict[str, Any] = {
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "sure": {"type": "boolean"},
        "colour": {"type": "string", "enum": ["red", "blue"]},
        "size": {"type": "string", "oneOf": [{"const": "s", "title": "Small"}, {"const": "m", "title": "Medium"}]},
        "days": {"type": "array", "maxItems": 2, "items": {"type": "string", "enum": ["mon", "tue"]}},
    },
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("content", "good"),
    [
        ({"name": "Ann"}, True),
        ({"name": "Ann", "age": 3.0, "sure": True, "colour": "red", "size": "m", "days": ["mon"], "more": 1}, True),
        ({}, False),
        (None, False),
        ({"name": 5}, False),
        ({"name": ""}, False),
        ({"name": "Annabella"}, False),
        ({"name": "Ann", "age": "3"}, False),
        ({"name": "Ann", "age": True}, False),
        ({"name": "Ann", "age": 3.5}, False),
        ({"name": "Ann", "age": -1}, False),
        ({"name": "Ann", "age": float("nan")}, False),
        ({"name": "Ann", "sure": "yes"}, False),
        ({"name": "Ann", "colour": "green"}, False),
        ({"name": "Ann", "size": "xl"}, False),
        ({"name": "Ann", "days": ["mon", "sun"]}, False),
        ({"name": "Ann", "days": ["mon", "tue", "mon"]}, False),
        ({"name": "Ann", "days": "mon"}, False),
    ],
    ids=str,
)
def test_an_accepted_form_is_filled_in_as_it_asks(content: Any, good: bool) -> None:
    form = Question.form("Who?", FORM)

    assert is_answer(form, {"action": "accept", "content": content}) is good
    assert is_answer(form, {"action": "decline"})
