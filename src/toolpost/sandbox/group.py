"""One control group: its limits, what it counted, and how it is emptied and removed.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from toolpost.sandbox import kernel

PERIOD_US: Final = 100_000
LEAST_QUOTA_US: Final = 1_000
PATIENCE_S: Final = 2.0
LEFT_OVER: Final = 1 << 20
"""A group that is used again may start with this much charged to it before it is worth emptying."""
MOST_LEFT_OVER: Final = 4 << 20
"""And with this much of what cannot be emptied, which the next program does not have for itself."""


class Used(NamedTuple):
    """What a group's processes used since it was made or reset. None: this kernel cannot tell."""

    peak: int | None = None
    cpu_s: float | None = None
    oom_kills: int = 0
    processes_refused: int = 0


class Limits(NamedTuple):
    memory: int
    processes: int
    cpus: float

    @property
    def quota_us(self) -> int:
        """Processor time within each PERIOD_US; the kernel takes no less than 1 ms."""
        return max(LEAST_QUOTA_US, int(self.cpus * PERIOD_US))


class Group:
    """One control group. by: what holds each limit, for Enforced: keys "memory", "process_count", "cpu" as there are.

    folders are its directories: what reap needs when nobody is left who made it.
    """

    version = 0

    def __init__(self, name: str, places: Mapping[str, str], limits: Limits) -> None:
        self.name = name
        self.by: dict[str, str] = {}
        self._places = {what: f"{base}/{name}" for what, base in places.items()}
        self.folders = tuple(dict.fromkeys(self._places.values()))
        self._limits = limits
        self._memory = limits.memory
        self._before = Used()
        self._held: dict[str, int] = {}
        self._files: dict[str, int] | None = None

    def hold(self) -> list[int]:
        """Descriptors of its folders, by which used() reads from now on: also where no path leads to them."""
        for folder in self.folders:
            if folder not in self._held:
                self._held[folder] = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return list(self._held.values())

    def keep_open(self) -> None:
        """For a process that inherited hold's descriptors and no others: used() opens each file once."""
        self._files = {}

    def told(self) -> dict[str, Any]:
        """All that a process needs, which inherits the descriptors of hold, to count for this group: see heard."""
        return {
            "version": self.version,
            "name": self.name,
            "places": {what: os.path.dirname(folder) for what, folder in self._places.items()},
            "limits": tuple(self._limits),
            "before": tuple(self._before),
            "held": dict(self._held),
        }

    def _let_go(self) -> None:
        for held in (self._held, self._files or {}):
            while held:
                os.close(held.popitem()[1])

    def _text(self, what: str, file: str) -> str:
        folder = self._places[what]
        if folder not in self._held:
            return read(f"{folder}/{file}")
        if self._files is None:
            return read(file, self._held[folder])
        path = f"{folder}/{file}"
        try:
            if path not in self._files:
                self._files[path] = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._held[folder])
            return os.pread(self._files[path], 1 << 16, 0).decode().strip()
        except OSError:
            return ""

    def make(self) -> None:
        """Make it and set every limit, or leave nothing and raise."""
        try:
            for folder in self.folders:
                os.mkdir(folder, 0o755)
            for what, limit in (("memory", self._limit_memory), ("process_count", self._limit_processes)):
                if what in self._places:
                    self.by[what] = limit()
            if "cpu" in self._places:
                self.by["cpu"] = self._limit_cpu()
        except BaseException:
            self.remove()
            raise

    def join(self, pid: int) -> None:
        """Put a process into it; its later children follow. pid is as seen from here, 0 is this one. Raises OSError."""
        for folder in self.folders:
            write(f"{folder}/cgroup.procs", pid)

    def limit_memory(self, n: int) -> None:
        """Set another memory limit, in bytes, until the next reset. Raises OSError."""
        before = self._memory
        if n == before:
            return
        self._memory = n
        try:
            self._limit_memory()
        except OSError:
            self._memory = before
            raise

    def used(self) -> Used:
        """What was used until now."""
        now = self._count()
        return Used(
            peak=now.peak,
            cpu_s=None if now.cpu_s is None else max(0.0, now.cpu_s - (self._before.cpu_s or 0.0)),
            oom_kills=now.oom_kills - self._before.oom_kills,
            processes_refused=now.processes_refused - self._before.processes_refused,
        )

    def reset(self) -> None:
        """Count from nought again and go back to the first limits. Raises OSError where processes are left in it."""
        left = members(self.folders)
        if left:
            raise OSError(errno.EBUSY, f"control group {self.name}: cannot be used again, processes {left} are in it")
        self.limit_memory(self._limits.memory)
        if "memory" in self._places:
            self._forget_memory(self._places["memory"])
        self._before = self._count()

    def kill(self) -> None:
        """SIGKILL every process in it, those that are being started meanwhile too, and wait until they are gone."""
        _kill(self.folders)
        if "process_count" in self._places:
            with contextlib.suppress(FileNotFoundError):
                self._limit_processes()

    def remove(self) -> bool:
        """Kill what is left and remove it. False when the kernel would not within 2 s."""
        self._let_go()
        return reap(self.folders)

    def _limit_memory(self) -> str:
        raise NotImplementedError

    def _limit_processes(self) -> str:
        write(f"{self._places['process_count']}/pids.max", self._limits.processes)
        return f"cgroup v{self.version} pids.max"

    def _limit_cpu(self) -> str:
        raise NotImplementedError

    def _count(self) -> Used:
        raise NotImplementedError

    def _forget_memory(self, folder: str) -> None:
        """Let the peak start from what is charged to the group now, which should be next to nothing."""
        raise NotImplementedError

    def _refused(self) -> int:
        return (
            _table(self._text("process_count", "pids.events")).get("max", 0) if "process_count" in self._places else 0
        )


class Version1(Group):
    version = 1

    def _limit_memory(self) -> str:
        folder = self._places["memory"]
        with_swap = f"{folder}/memory.memsw.limit_in_bytes"
        alone = f"{folder}/memory.limit_in_bytes"
        if not os.path.exists(with_swap):
            # Without swap accounting: what is in this group is never swapped out.
            write(f"{folder}/memory.swappiness", 0)
            write(alone, self._memory)
            return "cgroup v1 memory.limit_in_bytes"
        # The limit with swap may at no time be the lower of the two.
        raised = self._memory > int(read(alone) or 0)
        for path in (with_swap, alone) if raised else (alone, with_swap):
            write(path, self._memory)
        return "cgroup v1 memory.limit_in_bytes, memory.memsw.limit_in_bytes"

    def _limit_cpu(self) -> str:
        folder = self._places["cpu"]
        write(f"{folder}/cpu.cfs_period_us", PERIOD_US)
        write(f"{folder}/cpu.cfs_quota_us", self._limits.quota_us)
        return "cgroup v1 cpu.cfs_quota_us"

    def _count(self) -> Used:
        memory = "memory" in self._places
        spent = self._text("cpu_time", "cpuacct.usage") if "cpu_time" in self._places else ""
        peak = self._text("memory", "memory.max_usage_in_bytes") if memory else ""
        return Used(
            peak=int(peak) if peak else None,
            cpu_s=int(spent) / 1e9 if spent else None,
            oom_kills=_table(self._text("memory", "memory.oom_control")).get("oom_kill", 0) if memory else 0,
            processes_refused=self._refused(),
        )

    def _forget_memory(self, folder: str) -> None:
        if int(read(f"{folder}/memory.usage_in_bytes") or 0) > LEFT_OVER:
            with contextlib.suppress(OSError):
                write(f"{folder}/memory.force_empty", 0)
            left = int(read(f"{folder}/memory.usage_in_bytes") or 0)
            if left > MOST_LEFT_OVER:
                raise OSError(errno.EBUSY, f"control group {self.name}: {left} bytes stay charged to it")
        write(f"{folder}/memory.max_usage_in_bytes", 0)


class Version2(Group):
    version = 2

    def _limit_memory(self) -> str:
        folder = self._places["memory"]
        write(f"{folder}/memory.max", self._memory)
        try:
            write(f"{folder}/memory.swap.max", 0)
        except FileNotFoundError:
            if len(read("/proc/swaps").splitlines()) > 1:
                raise
        return "cgroup v2 memory.max"

    def _limit_cpu(self) -> str:
        write(f"{self._places['cpu']}/cpu.max", f"{self._limits.quota_us} {PERIOD_US}")
        return "cgroup v2 cpu.max"

    def _count(self) -> Used:
        memory = "memory" in self._places
        peak = self._text("memory", "memory.peak") if memory else ""
        spent = _table(self._text(next(iter(self._places)), "cpu.stat")).get("usage_usec")
        return Used(
            peak=int(peak) if peak else None,
            cpu_s=None if spent is None else spent / 1e6,
            oom_kills=_table(self._text("memory", "memory.events")).get("oom_kill", 0) if memory else 0,
            processes_refused=self._refused(),
        )

    def _forget_memory(self, folder: str) -> None:
        """memory.peak starts anew for one open file only, and that since Linux 6.12: a new group does for everybody."""
        if not self.remove():
            raise OSError(errno.EBUSY, f"control group {self.name}: cannot be used again, {folder} cannot be removed")
        self.make()


def heard(told: Mapping[str, Any]) -> Group:
    """The group of which another process told."""
    kind = Version2 if told["version"] == 2 else Version1
    group = kind(told["name"], told["places"], Limits(*told["limits"]))
    group._before = Used(*told["before"])
    group._held = dict(told["held"])
    return group


def reap(folders: Iterable[str]) -> bool:
    """Kill what is in these folders of one group, and remove them. False when the kernel would not within 2 s."""
    folders = [folder for folder in folders if os.path.exists(folder)]
    if members(folders):
        _kill(folders)
    end = time.monotonic() + PATIENCE_S
    stays = [folder for folder in folders if not _removed(folder, end)]
    return not stays


def _removed(folder: str, end: float) -> bool:
    while True:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return True
        except OSError:
            # The last process is gone from the list a little before the group knows of it.
            if time.monotonic() > end:
                return False
            _kill_once([folder])
            time.sleep(0.001)
        else:
            return True


def _kill(folders: Iterable[str]) -> None:
    folders = list(folders)
    for folder in folders:
        # Nothing is started any more, in version 1 and before Linux 5.14 too, so that killing comes to an end.
        with contextlib.suppress(OSError):
            write(f"{folder}/pids.max", 0)
    end = time.monotonic() + PATIENCE_S
    while _kill_once(folders) and time.monotonic() < end:
        time.sleep(0.001)


def _kill_once(folders: Iterable[str]) -> bool:
    """Whether there was anything to kill."""
    found = False
    for folder in folders:
        pids = members([folder])
        found = found or bool(pids)
        try:
            if pids:
                write(f"{folder}/cgroup.kill", 1)
        except OSError:
            _kill_members(folder, pids)
    return found


def _kill_members(folder: str, pids: Iterable[int]) -> None:
    """Kill by descriptor what is still in the group after it was opened: a number may have gone to another process."""
    held = {}
    try:
        for pid in pids:
            with contextlib.suppress(OSError):
                held[pid] = kernel.pidfd_open(pid)
        still = members([folder])
        for pid in still & held.keys():
            with contextlib.suppress(OSError):
                kernel.pidfd_kill(held[pid], signal.SIGKILL)
    finally:
        for fd in held.values():
            os.close(fd)


def members(folders: Iterable[str]) -> set[int]:
    """Processes as numbered here; those of namespaces out of sight have none, and are left out."""
    return {int(pid) for folder in folders for pid in read(f"{folder}/cgroup.procs").split()} - {0}


def _table(text: str) -> dict[str, int]:
    """Lines "name number"."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def read(path: str, folder: int | None = None) -> str:
    """A file's text without its last line feed; empty where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return ""
    try:
        pieces = []
        while piece := os.read(fd, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces).decode().strip()
    except OSError:
        return ""
    finally:
        os.close(fd)


def write(path: str, value: int | str) -> None:
    """Write to a file that exists. The error names it, and the value."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"control group: {path} = {value}: {os.strerror(error.errno or 0)}") from None
