"""Which answers may leave in one piece, past ASGI: those of which nothing more is to be said."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from toolpost.transports.http_answers import WHOLE, Answers, Sent
from toolpost.transports.http_problems import Answer

CLEAN = "0199b0a1-7a5b-7000-8000-000000000000"


async def sent_whole(
    *,
    method: str = "POST",
    fields: dict[bytes, bytes] | None = None,
    call_id: str | None = CLEAN,
    draining: bool = False,
    takes: bool = True,
    **answer: Any,
) -> tuple[bool, list[Any]]:
    """Whether an answer was offered to the server in one piece and taken, and what was sent over ASGI."""
    offered, messages = list[bytes](), list[Any]()
    figures = SimpleNamespace(request=lambda *told: None)
    door: Any = SimpleNamespace(
        executor=SimpleNamespace(figures=figures), base_url="", service=SimpleNamespace(draining=draining)
    )

    def whole(scope: Any, head: bytes, body: bytes) -> bool:
        offered.append(head + b"\r\n" + body)
        return takes

    async def send(message: Any) -> None:
        messages.append(message)

    sent = Sent({"method": method, WHOLE: whole}, None, cast("Any", send))
    sent.fields = fields or {}
    await Answers(door).send(sent, Answer(200, b"{}", call_id=call_id, **answer))
    assert sent.started
    return bool(offered) and takes, messages


async def test_the_result_of_a_call_leaves_in_one_piece() -> None:
    assert await sent_whole() == (True, [])


@pytest.mark.parametrize(
    "more",
    [
        {"method": "GET"},
        {"method": "HEAD"},
        {"call_id": None},
        {"call_id": "1\r\nset-cookie: a=b"},
        {"call_id": "é"},
        {"headers": [(b"ratelimit", b"r=1")]},
        {"draining": True},
        {"takes": False},
        {"fields": {b"origin": b"https://a.example"}},
        {"fields": {b"x-request-id": b"1"}},
        {"fields": {b"connection": b"close"}},
    ],
    ids=str,
)
async def test_all_else_goes_by_way_of_asgi(more: dict[str, Any]) -> None:
    whole, messages = await sent_whole(**more)

    assert not whole
    assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
    assert messages[1]["body"] == (b"" if more.get("method") == "HEAD" else b"{}")
    assert ((b"connection", b"close") in messages[0]["headers"]) == more.get("draining", False)
