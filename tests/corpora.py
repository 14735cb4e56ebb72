"""Where the corpora of attacks and innocent texts are: a folder of *.jsonl files that is not part of the project.

TOOLPOST_CORPORA names it; without it the folder shared/corpora beside the checkout is taken, if it is there.
"""

import json
import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parent.parent.parent / "shared" / "corpora"


def corpora() -> Path | None:
    """The folder, None where there is none."""
    named = os.environ.get("TOOLPOST_CORPORA")
    folder = Path(named) if named else BESIDE
    return folder if folder.is_dir() else None


def items(pattern: str) -> list[str]:
    """The texts of every file that matches, in order. Skips the test, and says so, where there are no corpora."""
    folder = corpora()
    if folder is None:
        pytest.skip("NOT TESTED without corpora: name their folder in TOOLPOST_CORPORA")
    found = [
        json.loads(line)["t"]
        for path in sorted(folder.glob(f"{pattern}.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line
    ]
    assert found, f"{folder} holds no {pattern}.jsonl"
    return found
