"""Writes a call's artifacts into a folder; what is there already is never written over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write_artifacts(artifacts: Mapping[str, bytes], folder: Path) -> list[str]:
    """Write each under its name, below the folder; a sentence for each that could not be written.

    Names are relative paths, which ctx.artifact saw to. Nothing follows a link that stands at a file's own place.
    """
    problems = []
    for name, data in artifacts.items():
        path = folder.joinpath(*name.split("/"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            with open(handle, "wb") as file:
                file.write(data)
        except OSError as error:
            problems.append(f"{path} was not written: {error.strerror}")
        except UnicodeEncodeError:
            problems.append(f"{name!r} was not written: this system's file names cannot have all of its letters")
    return problems
