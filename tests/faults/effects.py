"""The outside observer: what tools did, as lines of a file to which every process appends, in the order it happened."""

import json
import os
import time
from pathlib import Path
from typing import Any

Seen = dict[str, Any]


class Effects:
    """A file of effects beside the gates that hold bodies up. It needs no store and no engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "effects"

    def note(self, what: str, **more: Any) -> None:
        """Append one line: in one write, so that lines of several processes never mix."""
        line = json.dumps({"what": what, "pid": os.getpid(), "at": time.monotonic(), **more}) + "\n"
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def every(self) -> list[Seen]:
        """All lines, in order."""
        text = self._path.read_text() if self._path.exists() else ""
        return list(map(json.loads, text[: text.rfind("\n") + 1].splitlines()))  # not a line that is being written

    def seen(self, what: str, **fields: Any) -> list[Seen]:
        """The lines of one kind with these fields, in order."""
        return [line for line in self.every() if line["what"] == what and fields.items() <= line.items()]

    def gate(self, name: str) -> Path:
        """The file whose presence holds up the bodies of the process of that name."""
        return self.folder / f"closed-{name}"

    def shut(self, name: str) -> None:
        """Hold up the bodies that the process of that name begins."""
        self.gate(name).touch()

    def open(self, name: str) -> None:
        """Let them go on."""
        self.gate(name).unlink(missing_ok=True)
