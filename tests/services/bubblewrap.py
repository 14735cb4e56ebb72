"""bubblewrap is no server, but has to be there in the same way: a program that tests need and a package brings."""

import shutil
from pathlib import Path
from typing import ClassVar

from tests.services.server import Missing


class Bubblewrap:
    """The bwrap of this machine."""

    name: ClassVar[str] = "bubblewrap"
    package: ClassVar[str | None] = "bubblewrap"

    @classmethod
    def find(cls) -> Path:
        """The program. Raises Missing."""
        path = shutil.which("bwrap")
        if path is None:
            raise Missing(f"install bubblewrap (Debian: {cls.package})")
        return Path(path)

    prepare = find
