"""Content as the providers take it: pictures as pictures, the rest as words, never base64 for a model to read."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from toolpost import Content, ToolResult, encode_result

PNG = base64.b64encode(b"png").decode()
SHOWN = Content.text("look") + Content.image(b"png") + Content.audio(b"wav") + Content.link("a://1", "one")
RESULT = ToolResult(call_id="1", tool_name="t", success=True, data=SHOWN.with_value({"n": 1}))


def test_anthropic_gets_blocks() -> None:
    content = encode_result(RESULT, "anthropic")["content"]

    assert content == [
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "text", "text": "[audio: audio/wav, about 3 bytes]"},
        {"type": "text", "text": "[link: one at a://1]"},
    ]


def test_openai_gets_a_list_where_there_are_pictures_and_text_otherwise() -> None:
    words = replace(RESULT, data=Content.text("a") + Content.resource("a://1", "note"))

    output = encode_result(RESULT, "openai")["output"]
    assert output[:2] == [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
    ]
    assert encode_result(words, "openai")["output"] == "a\n[a://1]\nnote"


@pytest.mark.parametrize(("format", "key"), [("openai-chat", "content"), ("gemini", "functionResponse")])
def test_others_get_words(format: Any, key: str) -> None:
    answer = encode_result(RESULT, format)[key]
    text = answer if isinstance(answer, str) else answer["response"]["output"]

    assert text.splitlines()[:2] == ["look", "[image: image/png, about 3 bytes]"]
    assert PNG not in text


def test_mcp_gets_the_blocks_and_the_value() -> None:
    answer = encode_result(RESULT, "mcp")

    assert [block["type"] for block in answer["content"]] == ["text", "image", "audio", "resource_link"]
    assert answer["structuredContent"] == {"n": 1}
    assert answer["isError"] is False
    assert answer["_meta"] == {"toolpost/call_id": "1"}


def test_artifacts_are_named_beside_it() -> None:
    with_file = replace(RESULT, artifacts={"a.txt": b"text"})

    assert encode_result(with_file, "anthropic")["content"][-1] == {
        "type": "text",
        "text": "[artifacts: a.txt (4 bytes)]",
    }
