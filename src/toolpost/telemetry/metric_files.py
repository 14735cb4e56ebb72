"""MetricFiles: the figures of all processes of a gateway, each in a file, so that whichever is asked gives the sum."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from toolpost.calls.call import new_id
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.telemetry.figures import Figures, Snapshot

logger = logging.getLogger("toolpost")

WRITE_S: Final = 1.0
SHARE: Final = 50
"""A process spends at most one part in so many of its time on writing its file."""

ALIVE, KEPT, LOCK, RETIRED = ".alive", ".json", "lock", "retired.json"


@contextlib.contextmanager
def counted_together(folder: Path, figures: Figures) -> Iterator[None]:
    """For as long as a process runs: what it counts is told by the other processes of this folder too.

    Where the folder cannot be written that is logged, and each tells its own.
    """
    try:
        files = MetricFiles(folder, figures)
    except OSError as error:
        logger.warning("metrics of several processes cannot be added up in %s: %s", folder, error)
        yield
        return
    try:
        yield
    finally:
        files.close()


class MetricFiles:
    """The files of one process among those of a folder. Made by each process that counts; close() when it ends.

    A process writes what it counted each second, and whenever it is asked: so no sum ever falls, whoever tells it. It
    holds a lock for as long as it lives, however it dies. What processes counted that are gone is added up in
    retired.json, and begins at zero when a process starts beside none that lives. Raises OSError where the folder
    cannot be written.
    """

    def __init__(self, folder: Path, figures: Figures) -> None:
        self._folder, self._figures = folder, figures
        self._name = f"{_this_process()}-{new_id()}"
        self._stopped = threading.Event()
        self._writing = threading.Lock()
        self._failing = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            if not any(self._lives(name) for name in self._others()):
                self._forget()
            # A record lock: unlike flock's, no child that is forked keeps it.
            self._alive = os.open(folder / (self._name + ALIVE), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            fcntl.lockf(self._alive, fcntl.LOCK_EX)
        self.write()
        figures.files = self
        self._thread = threading.Thread(target=self._go_on_writing, name="toolpost metrics", daemon=True)
        self._thread.start()

    def write(self) -> Snapshot:
        """Write what this process has counted up to now; what that is."""
        with self._writing:
            snapshot = self._figures.snapshot()
            self._put(self._name + KEPT, snapshot.to_json())
            return snapshot

    def total(self) -> tuple[Snapshot, int]:
        """The sum over all processes, and how many live. Those that are gone have no gauges any more."""
        with self._locked():
            total = self.write()
            self._retire([name for name in self._others() if not self._lives(name)])
            retired = self._get(RETIRED)
            if retired is not None:
                total.add(Snapshot.from_json(retired["figures"]))
            living = self._others()
            for name in living:
                kept = self._get(name + KEPT)
                if kept is not None:
                    total.add(Snapshot.from_json(kept))
        return total, len(living) + 1

    def close(self) -> None:
        """Write a last time, and be counted among those that are gone."""
        self._stopped.set()
        self._thread.join()
        if self._figures.files is self:
            self._figures.files = None
        with contextlib.suppress(OSError):
            self.write()
        os.close(self._alive)

    def _go_on_writing(self) -> None:
        pause_s = WRITE_S
        while not self._stopped.wait(pause_s):
            began = SYSTEM_CLOCK.monotonic()
            try:
                self.write()
                self._failing = False
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    logger.warning("metrics of this process cannot be written to %s: %s", self._folder, error)
            pause_s = max(WRITE_S, SHARE * (SYSTEM_CLOCK.monotonic() - began))

    # The folder; the lock is held by whoever looks at others' files.

    def _others(self) -> list[str]:
        names = {path.name.removesuffix(ALIVE) for path in self._folder.glob("*" + ALIVE)}
        return sorted(names - {self._name})

    def _lives(self, name: str) -> bool:
        """Whether a process holds its lock. (Closing any descriptor of one's own file would give its lock up.)"""
        if name.startswith(_this_process()):
            return True
        try:
            file = os.open(self._folder / (name + ALIVE), os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False

    def _retire(self, names: list[str]) -> None:
        """Add what those counted that are gone, once, wherever this process may be killed meanwhile."""
        if not names:
            return
        kept = self._get(RETIRED) or {"figures": Snapshot().to_json(), "names": []}
        figures, known = Snapshot.from_json(kept["figures"]), set(kept["names"])
        for name in names:
            file = None if name in known else self._get(name + KEPT)
            if file is not None:
                figures.add(Snapshot.from_json(file), gauges=False)
        self._put(RETIRED, {"figures": figures.to_json(), "names": names})
        for name in names:
            self._clear(name)

    def _forget(self) -> None:
        self._delete(RETIRED)
        for name in self._others():
            self._clear(name)

    def _clear(self, name: str) -> None:
        self._delete(name + KEPT)
        for path in self._folder.glob(f"*.{name}.new"):  # it was killed while it wrote
            path.unlink(missing_ok=True)
        self._delete(name + ALIVE)

    def _get(self, name: str) -> dict[str, Any] | None:
        try:
            return orjson.loads((self._folder / name).read_bytes())  # type: ignore[no-any-return]
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None

    def _put(self, name: str, value: dict[str, Any]) -> None:
        """Write a file as a whole, or not at all."""
        written = self._folder / f"{name}.{self._name}.new"
        with open(os.open(written, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            file.write(orjson.dumps(value))
        written.replace(self._folder / name)

    def _delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time, and one thread of it, as record locks are the process's."""
        with _here, open(os.open(self._folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600), "rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield


_here = threading.Lock()
_TOKEN: Final = new_id()


def _this_process() -> str:
    return f"{os.getpid()}-{_TOKEN}"
