"""What the statements for PostgreSQL share: its clock, and rows as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from toolpost.stores import Pending

Connection = psycopg.Connection[tuple[Any, ...]]


Pendings = list[Pending[Any]]


NOW = "extract(epoch from clock_timestamp())::double precision"


class Open:
    """What a Pending's value is until it has an answer; a batch that is done again leaves the others alone."""


OPEN: Final = Open()


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows as one list for each column, as unnest() takes them."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
