"""Artifacts: files that a body gives beside its value, by name, within bounds and without secrets."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

from toolpost.calls.errors import OutputValidationError
from toolpost.calls.redaction import Redactor

MAX_ARTIFACTS: Final = 256
"""How many one call may give."""
MAX_ARTIFACT_BYTES: Final = 64 << 20
"""How many bytes they may have together: they are held in memory."""
MAX_NAME_CHARS: Final = 512
ADDING: Final = threading.Lock()
"""Held while one is added: a body may do so from several threads."""


def add_artifact(artifacts: dict[str, bytes], name: str, data: bytes | str) -> None:
    """Keep one; a second of the same name takes its place. Raises OutputValidationError for what cannot be kept."""
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    elif isinstance(data, (bytes, bytearray, memoryview)):
        data = bytes(data)
    else:
        raise OutputValidationError(f"an artifact is bytes or text, got {type(data).__name__}")
    _check_name(name)
    others = sum(len(kept) for other, kept in artifacts.items() if other != name)
    if others + len(data) > MAX_ARTIFACT_BYTES:
        raise OutputValidationError(
            f"artifact {name!r} has {len(data)} bytes, and a call may give {MAX_ARTIFACT_BYTES} in all; "
            "put what is larger where others can fetch it"
        )
    if name not in artifacts and len(artifacts) >= MAX_ARTIFACTS:
        raise OutputValidationError(f"artifact {name!r} is one more than the {MAX_ARTIFACTS} that a call may give")
    artifacts[name] = data


def _check_name(name: object) -> None:
    """Names are relative paths, so that whoever writes them into a folder writes nowhere else."""
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or not name.isprintable() or "\\" in name:
        raise OutputValidationError(f"an artifact's name is plain text such as 'plots/one.png', got {name!r:.100}")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise OutputValidationError(f"an artifact's name is a relative path such as 'plots/one.png', got {name!r:.100}")


def without_secrets(artifacts: Mapping[str, bytes], redactor: Redactor) -> tuple[dict[str, bytes], list[str]]:
    """The artifacts with secrets hidden in text, and the names of those left out: no text, and with a secret within."""
    shown: dict[str, bytes] = {}
    withheld: list[str] = []
    for name, data in artifacts.items():
        named = _free(redactor.text(name), name, shown, artifacts)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            if redactor.shows(data.decode("latin-1")):
                withheld.append(named)
            else:
                shown[named] = data
            continue
        hidden = redactor.text(text)
        shown[named] = data if hidden is text or hidden == text else hidden.encode()
    return shown, withheld


def _free(named: str, name: str, shown: Mapping[str, bytes], given: Mapping[str, bytes]) -> str:
    """The name in which a secret was hidden, told from others that became the same."""
    if named == name:
        return named
    free, number = named, 1
    while free in shown or free in given:
        number += 1
        free = f"{named}-{number}"
    return free


def listed(artifacts: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Names and sizes, as JSON."""
    return [{"name": name, "bytes": len(data)} for name, data in artifacts.items()]
