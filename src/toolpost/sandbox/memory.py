"""How much memory the programs of a sandbox have, where no control group counts: as good as it can be seen."""

from __future__ import annotations

import contextlib
import os


def more_memory_than(limit: int) -> bool:
    """Whether all programs and the files that they wrote take more bytes than that."""
    space = os.statvfs("/tmp")
    files = (space.f_blocks - space.f_bfree) * space.f_frsize
    # The first count is quick and has pages that processes share once for each; the second is right, and slow.
    return files + sum(map(_resident, _programs())) > limit and files + sum(map(_own, _programs())) > limit


def _programs() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def _resident(pid: str) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
        words = file.read().split()
        return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGESIZE")
    return 0


def _own(pid: str) -> int:
    """Bytes of a process, where those that it shares with others count in part."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            rows = {words[0]: int(words[1]) for words in map(bytes.split, file) if len(words) == 3}
    except OSError:
        return _resident(pid)
    if b"Pss_Anon:" in rows:
        return (rows[b"Pss_Anon:"] + rows.get(b"Pss_Shmem:", 0)) << 10
    return rows.get(b"Pss:", 0) << 10
