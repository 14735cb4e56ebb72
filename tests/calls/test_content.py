"""Content is its own JSON form, through every door, cache and replay."""

import base64

import pytest

from toolpost import Cache, ConfigurationError, Content, Idempotency, Tool, ToolExecutor, create_tool_call
from toolpost.calls.content import CONTENT, blocks_of, read_by_programs
from toolpost.engine.registry import ToolRegistry


def test_blocks_are_joined_in_order_beside_one_value() -> None:
    content = Content.text("a").with_value({"n": 1}) + Content.image(b"png", "image/webp") + Content.audio("UklGRg==")

    assert content == {
        CONTENT: [
            {"type": "text", "text": "a"},
            {"type": "image", "data": base64.b64encode(b"png").decode(), "mimeType": "image/webp"},
            {"type": "audio", "data": "UklGRg==", "mimeType": "audio/wav"},
        ],
        "value": {"n": 1},
    }


def test_resources_come_along_or_are_linked() -> None:
    blocks = blocks_of(Content.resource("a://1", b"\x00") + Content.link("a://2", "two", "text/csv", size=3))

    assert blocks == [
        {"type": "resource", "resource": {"uri": "a://1", "blob": "AA=="}},
        {"type": "resource_link", "uri": "a://2", "name": "two", "size": 3, "mimeType": "text/csv"},
    ]


@pytest.mark.parametrize(
    "value", [{"a": 1}, [], "text", None, {CONTENT: "x"}, {CONTENT: [1]}, {CONTENT: [], "other": 1}, {CONTENT: [{}]}]
)
def test_what_only_looks_like_content_is_none(value: object) -> None:
    assert blocks_of(value) is None
    assert read_by_programs(value) is value


@pytest.mark.parametrize("make", [lambda: Content.text(5), lambda: Content.image(5), lambda: Content.link("a:1", 2)])
def test_what_is_no_text_or_bytes_is_refused_where_it_is_made(make: object) -> None:
    with pytest.raises(ConfigurationError, match="Content takes"):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("policies", [{"cache": Cache(ttl_s=60)}, {"idempotency": Idempotency()}])
async def test_content_is_the_same_when_it_is_given_again(policies: dict[str, object]) -> None:
    runs: list[int] = []

    @Tool(register=False, **policies)  # type: ignore[arg-type]
    def draw() -> Content:
        """Draw."""
        runs.append(1)
        return Content.image(b"png") + Content.text("a picture")

    with ToolExecutor(registry=ToolRegistry()) as executor:
        executor.add(draw)
        first, second = [
            await executor.execute_tool_call(create_tool_call("draw", {}, idempotency_key="k")) for _ in range(2)
        ]

        assert first.data == second.data == Content.image(b"png") + Content.text("a picture")
        assert second.source in ("cache", "replay")
        assert len(runs) == 1


async def test_a_schema_of_the_result_speaks_of_the_value_beside_the_blocks() -> None:
    @Tool(register=False, returns={"type": "object", "required": ["n"]})
    def count(good: bool) -> Content:
        """Count."""
        return Content.text("counted").with_value({"n": 1} if good else {})

    with ToolExecutor(registry=ToolRegistry()) as executor:
        executor.add(count)
        good = await executor.execute_tool_call(create_tool_call("count", {"good": True}))
        bad = await executor.execute_tool_call(create_tool_call("count", {"good": False}))

        assert good.success
        assert bad.failure is not None
        assert bad.failure.code == "invalid_output"
