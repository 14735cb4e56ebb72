"""Finding: what a check of `toolpost doctor` found, and checks that several of its parts make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MIN_FREE_BYTES = 100_000_000

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found; way_out says what to do about it, None when all is well."""

    status: Status
    check: str
    found: str
    way_out: str | None = None


def numbers(version: str) -> list[int]:
    """The first numbers of a version, to be compared."""
    import re

    return [int(digits) for digits in re.findall(r"\d+", version)[:3]]


def writable(check: str, folder: Path, way_out: str) -> Finding:
    """Whether a directory can be written, or made, told by writing a file."""
    import shutil
    import tempfile

    there = next(place for place in (folder, *folder.parents) if place.exists())
    found = str(folder) if there == folder else f"{folder}, which will be made"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"toolpost")
    except OSError as exc:
        problem = f"{there} cannot be written ({exc.strerror})"
        return Finding(status="fail", check=check, found=problem, way_out=way_out)
    free = shutil.disk_usage(there).free
    if free < MIN_FREE_BYTES:
        problem = f"{found}: only {free // 1_000_000} MB are free"
        return Finding(status="warn", check=check, found=problem, way_out="free some space")
    return Finding(status="ok", check=check, found=found)


__all__ = ["Finding", "Status", "numbers", "writable"]
