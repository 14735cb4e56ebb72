"""What the statements for SQLite share: many rows in one text, so that few texts are prepared."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import orjson

from toolpost.stores import Pending

Pendings = list[Pending[Any]]


_CHUNKS = (128, 64, 32, 16, 8, 4, 2, 1)
"""Rows of one statement: few different texts, so that each stays prepared."""


def insert(
    connection: sqlite3.Connection,
    table: str,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    verb: str = "insert",
    tail: str = "",
) -> list[Any]:
    """Insert rows, many in one statement; what `returning` in tail gives."""
    returned: list[Any] = []
    start, left = 0, len(rows)
    for size in _CHUNKS:
        while left >= size:
            text = _insert_text(verb, table, tuple(names), size, tail)
            returned += connection.execute(text, list(chain.from_iterable(rows[start : start + size])))
            start += size
            left -= size
    return returned


@lru_cache(maxsize=512)
def _insert_text(verb: str, table: str, names: tuple[str, ...], size: int, tail: str) -> str:
    marks = f"({', '.join('?' * len(names))})"
    return f"{verb} into {table} ({', '.join(names)}) values {', '.join([marks] * size)} {tail}"


def json_of(values: Sequence[Any]) -> str:
    """Values for `in (select value from json_each(?))`: one text of a statement, however many there are."""
    return orjson.dumps(values).decode()
