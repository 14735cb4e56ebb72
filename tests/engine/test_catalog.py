"""The catalog of resources and prompts: what goes in, what comes out, and who is told."""

from typing import Any

import pytest

from toolpost import Access, Caller, ConfigurationError, Prompt, PromptArgument, Resource, Tool, ToolExecutor
from toolpost.calls.content import Content
from toolpost.engine.catalog import Catalog
from toolpost.engine.registry import ToolRegistry
from toolpost.errors import DuplicateToolError, InputValidationError, NotFoundError

ANN = Caller(user_id="ann", scopes=frozenset({"notes"}))
BOB = Caller(user_id="bob")


@Tool(register=False)
def hello() -> str:
    """Say hello."""
    return "hello"


@pytest.mark.parametrize(
    ("read", "contents"),
    [
        ("text", {"uri": "a:1", "mimeType": "text/plain", "text": "text"}),
        (b"\x00", {"uri": "a:1", "mimeType": "application/octet-stream", "blob": "AA=="}),
        (lambda: {"n": 1}, {"uri": "a:1", "mimeType": "application/json", "text": '{"n":1}'}),
        (lambda: Content.image(b"\x00"), {"uri": "a:1", "mimeType": "image/png", "blob": "AA=="}),
    ],
)
async def test_a_resource_gives_text_bytes_json_or_content(read: Any, contents: dict[str, Any]) -> None:
    catalog = Catalog()
    catalog.add(Resource(uri="a:1", read=read))

    assert await catalog.read("a:1", BOB) == [contents]


async def test_a_template_takes_its_variables_from_the_uri() -> None:
    catalog = Catalog()
    catalog.add(Resource(uri="a://{x}/b/{y}", read=lambda x, y: f"{x}-{y}"))

    assert (await catalog.read("a://1/b/2%2F3", BOB) or [])[0]["text"] == "1-2/3"
    assert await catalog.read("a://1/2/b/3", BOB) is None


async def test_what_is_not_for_a_caller_is_not_there() -> None:
    catalog = Catalog()
    catalog.add(Resource(uri="a:1", read="x", access=Access(scopes=("notes",))))
    catalog.add(Prompt(name="p", render=lambda: "x", access=Access(scopes=("notes",))))

    assert (len(catalog.resources(ANN)), len(catalog.resources(BOB))) == (1, 0)
    assert (len(catalog.prompts(ANN)), len(catalog.prompts(BOB))) == (1, 0)
    assert await catalog.read("a:1", BOB) is None
    assert await catalog.render("p", {}, BOB) is None


async def test_a_prompt_checks_its_arguments() -> None:
    catalog = Catalog()
    catalog.add(Prompt(name="p", render=lambda a, b="c": f"{a} {b}"))
    catalog.add(Prompt(name="bad", render=lambda: 5))

    assert (await catalog.render("p", {"a": "1"}, BOB) or ((), []))[1][0]["content"]["text"] == "1 c"
    with pytest.raises(InputValidationError, match="needs 'a'"):
        await catalog.render("p", {}, BOB)
    with pytest.raises(ConfigurationError, match="a prompt renders text"):
        await catalog.render("bad", {}, BOB)


def test_watchers_are_told_until_they_stop() -> None:
    catalog, told = Catalog(), []
    stop = catalog.watch(lambda change, uri: told.append((change, uri)))
    catalog.add(Resource(uri="a:1", read="x"))
    catalog.add(Prompt(name="p", render=lambda: "x"))
    catalog.changed("a:1")
    catalog.remove("p")
    stop()
    catalog.remove("a:1")

    assert told == [("resources", ""), ("prompts", ""), ("resource", "a:1"), ("prompts", "")]


def test_a_name_is_offered_once_and_removed_once() -> None:
    catalog = Catalog()
    catalog.add(Resource(uri="a:1", read="x"))
    with pytest.raises(DuplicateToolError, match="replace=True"):
        catalog.add(Resource(uri="a:1", read="y"))
    catalog.add(Resource(uri="a:1", read="y"), replace=True)
    catalog.remove("a:1")
    with pytest.raises(NotFoundError):
        catalog.remove("a:1")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Resource(uri="no uri", read="x"), "must be a URI"),
        (lambda: Resource(uri="a://{x}", read="x"), "must be a function of x"),
        (lambda: Resource(uri="a://{x", read="x"), "written as {name}"),
        (lambda: Resource(uri="a:1", read="x", complete={"y": list}), "complete names 'y'"),
        (lambda: Prompt(name=" ", render=str), "must be text"),
        (lambda: Prompt(name="p", render="x"), "must be a function"),  # type: ignore[arg-type]
        (lambda: Prompt(name="p", render=str, arguments=(), complete={"y": list}), "complete names 'y'"),
        (lambda: Catalog().add("x"), "takes Resources and Prompts"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_declaration_is_refused_with_the_fix(make: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says.replace("{", r"\{")):
        make()


def test_an_executor_takes_tools_and_offers_together() -> None:
    with ToolExecutor(registry=ToolRegistry()) as executor:
        told: list[str] = []
        stop = executor.registry.watch(lambda: told.append("changed"))
        added = executor.add(
            [hello, Resource(uri="a:1", read="x"), Prompt(name="p", render=str, arguments=(PromptArgument(name="a"),))]
        )
        stop()
        executor.registry.unregister_tool("hello")

        assert [tool.name for tool in added] == ["hello"]
        assert [one.uri for one in executor.catalog.resources(BOB)] == ["a:1"]
        assert [one.name for one in executor.catalog.prompts(BOB)] == ["p"]
        assert told == ["changed"]
