"""When a program counts as ended although the kernel is not done with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from toolpost.sandbox import leaving, warden

FORKS = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")


@pytest.fixture
def child() -> Iterator[Callable[[str], int]]:
    """Children that have ended and were not waited for; one that waits has not."""
    made: list[int] = []

    def make(code: str) -> int:
        argv = ["/bin/sh", "-c", code]
        made.append(os.posix_spawn(argv[0], argv, {}))
        if "sleep" not in code:
            os.waitid(os.P_PID, made[-1], os.WEXITED | os.WNOWAIT)
        return made[-1]

    yield make
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@FORKS
def test_only_one_that_ends_well_is_said_to_leave(child: Callable[[str], int]) -> None:
    cpu_s = leaving.cpu_s_of(child("exit 0"))
    assert cpu_s is not None
    assert 0 < cpu_s < 5
    assert leaving.cpu_s_of(child("exit 3")) is None
    assert leaving.cpu_s_of(child("kill -9 $$")) is None
    assert leaving.cpu_s_of(child("exec sleep 100")) is None


@FORKS
def test_one_whose_end_is_hidden_or_unknown_is_waited_for(
    child: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = child("exit 0")
    words = leaving._words(pid)
    words[leaving._START] = b"1"  # what the kernel shows of a process that may not be looked at
    monkeypatch.setattr(leaving, "_words", lambda _: words)
    assert leaving.cpu_s_of(pid) is None
    monkeypatch.undo()
    assert leaving.cpu_s_of((1 << 31) - 1) is None


@FORKS
@pytest.mark.parametrize(("there", "ended", "leaves"), [(2, 0, True), (3, 0, False), (None, 0, False), (2, 1, False)])
def test_a_program_that_is_not_alone_is_waited_for(
    child: Callable[[str], int], there: int | None, ended: int, leaves: bool
) -> None:
    run = warden._Run.__new__(warden._Run)
    run.pid, run._ended, run._status, run._left = child("exit 0"), ended, None, False
    assert run._leaves(lambda: there) is leaves
    assert run._left is leaves
    assert (run._status == 0) is leaves
