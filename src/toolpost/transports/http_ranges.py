"""Ranges and conditions of requests for bytes (RFC 9110, sections 13 and 14): what of them is wanted, if anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from toolpost.transports.http_headers import etag_matches

MAX_FIELD: Final = 1024
MAX_RANGES: Final = 16
"""More than these, or more bytes than there are, is a way to have much sent for little: then all is sent, once."""
_UNIT: Final = re.compile(r"\s*bytes\s*=", re.I)
_RANGE: Final = re.compile(r"([0-9]+)-([0-9]*)\Z|-([0-9]+)\Z", re.ASCII)


class Range(NamedTuple):
    """Bytes from start to end, without end."""

    start: int
    end: int


Wanted = Literal["whole", "unchanged", "failed"] | tuple[Range, ...]
"""All of it; nothing, as the caller has it (304); nothing, as it is another than the caller thinks (412); or ranges:
none of them means that there are no such bytes (416)."""


def wanted(headers: Mapping[str, str], etag: str, size: int, method: str) -> Wanted:
    """What a request with these fields (by names in lower case) is to be sent of bytes under a strong etag."""
    if (match := headers.get("if-match")) is not None and not _strongly(match, etag):
        return "failed"
    if etag_matches(headers.get("if-none-match"), etag):
        return "unchanged"
    field = headers.get("range")
    if field is None or method != "GET":
        return "whole"
    if (if_range := headers.get("if-range")) is not None and if_range.strip() != etag:
        return "whole"  # also for a date: nothing here has one
    ranges = ranges_of(field, size)
    return "whole" if ranges is None else ranges


def ranges_of(field: str, size: int) -> tuple[Range, ...] | None:
    """The satisfiable ranges of a Range field in their order; None where it is to be passed over."""
    unit = _UNIT.match(field)
    if unit is None or len(field) > MAX_FIELD:
        return None
    found = []
    asked = [part.strip(" \t") for part in field[unit.end() :].split(",")]
    for part in asked:
        if not part:  # lists may have empty places
            continue
        spec = _RANGE.match(part)
        if spec is None:
            return None
        first, last, suffix = spec.groups()
        if suffix is not None:
            found.append(Range(max(0, size - int(suffix)), size))
            continue
        if last and int(last) < int(first):
            return None
        found.append(Range(int(first), min(int(last) + 1, size) if last else size))
    there = tuple(one for one in found if one.start < one.end)
    if not found or len(there) > MAX_RANGES or sum(one.end - one.start for one in there) > size:
        return None
    return there


def _strongly(field: str, etag: str) -> bool:
    return field.strip() == "*" or etag in (one.strip() for one in field.split(","))
