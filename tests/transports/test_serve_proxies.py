"""Who is believed about who calls: trusted proxies, and nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from toolpost.transports.serve_proxies import behind_proxies

TRUSTED = ("10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32")


def seen(client: str | None, *headers: tuple[str, str], trusted: tuple[str, ...] = TRUSTED) -> tuple[str | None, str]:
    """Whom the application sees as its caller, and by which scheme."""
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)

    scope = {
        "type": "http",
        "scheme": "http",
        "client": None if client is None else (client, 1234),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(behind_proxies(app, lambda: trusted)(scope, None, None))  # type: ignore[arg-type]
    return found["client"] and found["client"][0], found["scheme"]


@pytest.mark.parametrize(
    ("client", "forwarded", "caller"),
    [
        ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "203.0.113.1, 198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "203.0.113.1, 198.51.100.9, 10.9.9.9", "198.51.100.9"),
        ("10.0.0.1", "10.9.9.9, 10.8.8.8", "10.9.9.9"),
        ("10.0.0.1", "198.51.100.9:4711", "198.51.100.9"),
        ("10.0.0.1", "[2001:db8:1::1]:80, 10.1.1.1", "2001:db8:1::1"),
        ("10.0.0.1", "2001:db9::1", "2001:db9::1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.9, unknown", "10.0.0.1"),
        ("::ffff:10.0.0.1", "198.51.100.9", "198.51.100.9"),
        (None, "198.51.100.9", "198.51.100.9"),
        ("198.51.100.1", "203.0.113.1", "198.51.100.1"),
        ("somewhere", "203.0.113.1", "somewhere"),
    ],
)
def test_only_what_trusted_proxies_wrote_is_believed(client: str | None, forwarded: str, caller: str) -> None:
    assert seen(client, ("x-forwarded-for", forwarded))[0] == caller


def test_several_headers_are_read_as_one_list() -> None:
    headers = (("x-forwarded-for", "203.0.113.1"), ("x-forwarded-for", "198.51.100.9"))

    assert seen("10.0.0.1", *headers)[0] == "198.51.100.9"


@pytest.mark.parametrize(("client", "scheme"), [("10.0.0.1", "https"), ("198.51.100.1", "http")])
def test_the_scheme_is_believed_likewise(client: str, scheme: str) -> None:
    assert seen(client, ("x-forwarded-proto", "https"))[1] == scheme


def test_nobody_is_believed_where_nobody_is_trusted() -> None:
    headers = (("x-forwarded-for", "203.0.113.1"), ("x-forwarded-proto", "https"))

    assert seen("127.0.0.1", *headers, trusted=()) == ("127.0.0.1", "http")
