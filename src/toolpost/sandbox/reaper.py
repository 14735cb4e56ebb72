"""Removes what launchers that were killed left: their folders, their control groups, and what still runs in those."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

from toolpost.sandbox import cgroups

logger = logging.getLogger("toolpost")


def launcher_name() -> str:
    """A new launcher's name, by which its control groups tell whose they are also where its folder is gone.

    It holds this process's number, its start, and the namespace in which it has that number.
    """
    return f"l-{os.getpid()}-{_started(os.getpid()) or 0}-{_namespace()}-{secrets.token_hex(6)}"


def lives(name: str) -> bool:
    """Whether the engine of a launcher of that name lives, or may: of other namespaces nothing can be told."""
    parts = re.fullmatch(r"l-(\d+)-([1-9]\d*)-([1-9]\d*)-[0-9a-f]+", name)
    if parts is None or int(parts[3]) != _namespace():
        return True
    pid, began = int(parts[1]), int(parts[2])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return _started(pid) in (began, None)


def _namespace() -> int:
    """The number of this process's namespace of processes; 0 where /proc does not show that one."""
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):
            return os.stat("/proc/self/ns/pid").st_ino
    return 0


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the boot: 0 where it has ended, None where /proc does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return 0 if words[0] in (b"Z", b"X") else int(words[19])


def reap(root: Path, cgroup_parent: str) -> None:
    """Clean up below root, and in the control groups of launchers that began there or whose engine is gone."""
    dead = [folder for folder in sorted(root.glob("l-*")) if is_dead(folder)] if root.is_dir() else []
    names = {folder.name for folder in dead}
    removed: list[str] = []
    try:
        removed = cgroups.sweep(cgroup_parent, lambda owner: owner not in names and lives(owner))
    except OSError as error:
        logger.warning("control groups of sandboxes that ended could not be removed: %s", error)
    for folder in dead:
        shutil.rmtree(folder, ignore_errors=True)
    if dead or removed:
        logger.info("removed %d folders and %d control groups of killed sandbox launchers", len(dead), len(removed))


def is_dead(folder: Path) -> bool:
    """Whether the launcher of a run folder is gone: it holds a lock for as long as it lives."""
    try:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            return False  # of somebody else, or no run folder
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        # It has not made its lock yet, or was killed before it could.
        with contextlib.suppress(OSError):
            return folder.stat().st_mtime + 60 < _now()
        return False
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _now() -> float:
    import time

    return time.time()
