"""Process trees by pid: who descends from a process, signals to all of them, and an end that leaves no orphan.

Process groups do not do: each PostgreSQL backend makes a session of its own.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Process:
    """One process. birth tells it from a later one that was given the same pid."""

    pid: int
    parent: int
    birth: str


def find(pid: int) -> Process | None:
    """The running process with this pid; None when there is none, or only a zombie."""
    if not PROC.joinpath("self/stat").exists():
        return table().get(pid)
    try:
        text = PROC.joinpath(str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may itself hold blanks and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else Process(pid, int(fields[1]), fields[19])


def table() -> dict[int, Process]:
    """All running processes by pid."""
    if PROC.joinpath("self/stat").exists():
        found = (find(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdecimal())
        return {process.pid: process for process in found if process}
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat=,lstart="], check=True, capture_output=True, text=True)
    rows = (line.split(None, 3) for line in listing.stdout.splitlines())
    return {int(pid): Process(int(pid), int(parent), birth) for pid, parent, state, birth in rows if state[0] != "Z"}


def tree(pid: int) -> list[Process]:
    """The process and all its descendants, parents first."""
    processes = table()
    found = [processes[pid]] if pid in processes else []
    for parent in found:
        found += [process for process in processes.values() if process.parent == parent.pid]
    return found


def send(process: Process, number: signal.Signals) -> None:
    """Signal this very process, if it still runs."""
    if is_same(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def is_same(process: Process) -> bool:
    """Whether it still runs, perhaps with another parent: orphans are handed on."""
    now = find(process.pid)
    return now is not None and now.birth == process.birth


def freeze(pid: int) -> None:
    """Stop a whole tree, from the top down, until no child is left that was started meanwhile."""
    frozen: set[int] = set()
    while fresh := [process for process in tree(pid) if process.pid not in frozen]:
        for process in fresh:
            send(process, signal.SIGSTOP)
            frozen.add(process.pid)


def thaw(pid: int) -> None:
    """Let a frozen tree go on, children first, so that no parent looks for one that cannot answer."""
    for process in reversed(tree(pid)):
        send(process, signal.SIGCONT)


def end(pid: int, number: signal.Signals, *, patience_s: float) -> None:
    """Signal a process, and kill what is left of its tree when the patience runs out. Returns when all are gone.

    With SIGKILL the whole tree is killed at once, as when a machine dies.
    """
    doomed = tree(pid)
    for process in doomed if number == signal.SIGKILL else doomed[:1]:
        send(process, number)
    if not gone(doomed, patience_s):
        for process in [*doomed, *tree(pid)]:
            send(process, signal.SIGKILL)
        if not gone(doomed, 10):
            raise RuntimeError(f"process {pid} or a child of it does not die of SIGKILL")


def gone(processes: list[Process], patience_s: float) -> bool:
    """Wait until none of them runs any more; False when the patience ran out first."""
    deadline = time.monotonic() + patience_s
    while any(is_same(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
