"""What clients can be told and asked is on their page."""

import inspect
from pathlib import Path

from toolpost.clients import AsyncClient, Client
from toolpost.clients.operations import _SUBMIT
from toolpost.engine.discovery import NAMES

DOCS = Path(__file__).parent.parent.parent / "docs"


def public(kind: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(one) for name, one in vars(kind).items() if name[0] != "_" and callable(one)}


def test_every_option_and_method_is_on_the_page() -> None:
    page = (DOCS / "clients.md").read_text()

    assert [name for name in _SUBMIT if f"`{name}`" not in page] == []
    assert [name for name in public(Client) if f"`{name}" not in page and f"client.{name}" not in page] == []


def test_both_clients_take_the_same() -> None:
    assert {name: list(one.parameters) for name, one in public(Client).items()} == {
        name: list(one.parameters) for name, one in public(AsyncClient).items()
    }


def test_the_three_of_discovery_are_on_their_page() -> None:
    page = (DOCS / "discovery.md").read_text()

    assert [name for name in NAMES if f"| `{name}` |" not in page] == []
