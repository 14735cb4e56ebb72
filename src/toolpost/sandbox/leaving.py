"""A program that is leaving: it runs no instruction any more, while the kernel still gives back its memory.

That takes the kernel most of a millisecond, for which nobody need wait. Its filter's listener tells of the moment: it
hangs up when no process has the filter any more that can make a system call (Linux 6.11 and later; before, it does so
when they are gone). Every process of a program has the filter, and none can put it off.
"""

from __future__ import annotations

import os
import time
from typing import Final

_EXITING: Final = 4
"""PF_EXITING of the kernel's include/linux/sched.h."""
_FLAGS, _CHILDREN_USER, _CHILDREN_SYSTEM, _START, _EXIT_CODE = 6, 13, 14, 23, 49
"""Where they stand after the name, in /proc/PID/stat: proc_pid_stat(5)."""


def cpu_s_of(pid: int) -> float | None:
    """Processor time of a child that is leaving with exit code 0; None where that is not so, or cannot be told."""
    try:
        words = _words(pid)
        if words[_START] == b"0":
            # It has no memory any more, so that its exit code is shown: it may have been hidden when that was read.
            words = _words(pid)
        elif words[_START] == b"1":
            return None
        if not int(words[_FLAGS]) & _EXITING or int(words[_EXIT_CODE]) != 0:
            return None
        ticks = int(words[_CHILDREN_USER]) + int(words[_CHILDREN_SYSTEM])
        # clock_getcpuclockid(3), which the standard library has for threads only.
        return time.clock_gettime(~pid << 3 | 2) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _words(pid: int) -> list[bytes]:
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    return text[text.rindex(b")") + 2 :].split()
