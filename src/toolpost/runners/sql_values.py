"""Turns what databases give into JSON that loses nothing, within a budget of rows and bytes."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Sequence
from typing import Any, Final

SAFE_INTEGER: Final = 2**53 - 1
"""The largest whole number that every reader of JSON keeps as it is (RFC 8259, section 6)."""


def json_safe(value: Any) -> Any:
    """A value as JSON: large numbers and decimals as text, times in ISO 8601, bytes as {"base64": ...}."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if -SAFE_INTEGER <= value <= SAFE_INTEGER else str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): json_safe(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(inner) for inner in value]
    return str(value)


def size_of(value: Any) -> int:
    """About how many bytes a JSON value takes."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(size_of(key) + size_of(inner) + 4 for key, inner in value.items()) + 2
    if isinstance(value, list):
        return sum(size_of(inner) + 1 for inner in value) + 2
    return 8


class Table:
    """The rows of an answer, taken until the budget is spent; duplicate names of columns get numbers."""

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self._max_rows, self._max_bytes, self._bytes = max_rows, max_bytes, 0
        self.columns: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.truncated: str | None = None

    def name(self, names: Sequence[str]) -> None:
        """The columns, as the database names them."""
        taken: set[str] = set()
        for name in names:
            unique, number = name, 1
            while unique in taken:
                number += 1
                unique = f"{name}_{number}"
            taken.add(unique)
            self.columns.append(unique)

    def take(self, row: Sequence[Any]) -> bool:
        """Whether the row was taken; one that was not ends the answer."""
        if len(self.rows) >= self._max_rows:
            self.truncated = "rows"
            return False
        values = [json_safe(value) for value in row]
        self._bytes += sum(size_of(value) for value in values) + sum(len(name) + 6 for name in self.columns)
        if self._bytes > self._max_bytes:
            self.truncated = "bytes"
            return False
        self.rows.append(dict(zip(self.columns, values, strict=True)))
        return True

    def answer(self, types: Sequence[str]) -> dict[str, Any]:
        """{"columns", "rows", "row_count", "truncated", "truncated_by"}."""
        return {
            "columns": [{"name": name, "type": kind} for name, kind in zip(self.columns, types, strict=True)],
            "rows": self.rows,
            "row_count": len(self.rows),
            "truncated": self.truncated is not None,
            "truncated_by": self.truncated,
        }
