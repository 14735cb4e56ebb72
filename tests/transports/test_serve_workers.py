"""Gateways of several processes: one that dies comes back, what was accepted is run, all stop together."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.transports.serving import Gateway, Pipes, connects, serving

TWO = ("--workers=2", "--access-log=none")


def processes(gateway: Gateway, answers: int = 2) -> list[int]:
    """The processes that answered so far, in the order in which they did."""
    gateway.says(r"process \d \(\d+\) answers", answers)
    return [int(found) for found in re.findall(r"process \d \((\d+)\) answers", gateway.said)]


def test_one_that_is_killed_comes_back_and_every_accepted_call_is_run(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    with serving(*TWO, "--set=task_lease=1", folder=tmp_path) as gateway, ThreadPoolExecutor() as threads:
        first = processes(gateway)
        held = gateway.accept("hold", options={"max_attempts": 3}, **pipes.arguments)
        victim = pipes.wait()
        os.kill(victim, signal.SIGKILL)
        again = pipes.wait()  # the lease ran out, and another process took the call over
        pipes.let_go("by another")
        gateway.says("ended by SIGKILL; it is started again")
        now = processes(gateway, 3)
        answers = list(threads.map(lambda n: gateway.call("add", a=n), range(50)))
        gateway.signal(signal.SIGTERM)

        assert gateway.ends() == 0
    assert victim in first
    assert again != victim
    assert len(set(now)) == 3
    assert [answer.json()["data"] for answer in answers] == [{"result": n + 2} for n in range(50)]
    assert held


def test_what_runs_in_any_of_them_is_drained(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    with serving(*TWO, folder=tmp_path) as gateway, ThreadPoolExecutor() as threads:
        answer = threads.submit(gateway.call, "hold", **pipes.arguments)
        pipes.wait()
        gateway.signal(signal.SIGTERM)
        gateway.says("SIGTERM: no more is taken", 3)
        while connects(gateway.url):
            pass
        pipes.let_go("drained")

        assert gateway.ends() == 0
        assert answer.result().json()["data"] == {"result": "drained"}


def test_a_second_signal_ends_them_all_at_once(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    with serving(*TWO, folder=tmp_path) as gateway, ThreadPoolExecutor() as threads:
        answer = threads.submit(gateway.call, "hold", **pipes.arguments)
        pipes.wait()
        gateway.signal(signal.SIGTERM)
        gateway.says("SIGTERM: no more is taken", 3)
        gateway.signal(signal.SIGTERM)

        assert gateway.ends() == 128 + signal.SIGTERM
        with pytest.raises(httpx.TransportError):
            answer.result()


def test_all_of_them_follow_settings_and_none_those_that_are_wrong(tmp_path: Path) -> None:
    with serving(*TWO, folder=tmp_path) as gateway:
        (tmp_path / "toolpost.toml").write_text("max_calls_per_minute = 5\n")
        gateway.signal(signal.SIGHUP)
        line = gateway.says("settings stay as they were")
        (tmp_path / "toolpost.toml").write_text("max_input_size = 10\n")
        gateway.signal(signal.SIGHUP)
        gateway.says("taken over: max_input_size")
        answers = [gateway.call("hold", reached="x" * 50, release="y") for _ in range(8)]
        gateway.signal(signal.SIGTERM)

        assert gateway.ends() == 0
    assert "which 2 processes would each count by themselves" in line
    assert {answer.json()["code"] for answer in answers} == {"invalid_input"}


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no descriptors of processes")
def test_none_outlives_the_one_that_started_them(tmp_path: Path) -> None:
    with serving(*TWO, folder=tmp_path) as gateway:
        started = processes(gateway)
        watched = [os.pidfd_open(pid) for pid in started]
        gateway.signal(signal.SIGKILL)
        gateway.process.wait()

        for fd in watched:
            _ended(fd)


def test_it_gives_up_when_they_die_before_they_answer(tmp_path: Path) -> None:
    tools = tmp_path / "tools.py"
    tools.write_text(
        "import os, sys\n"
        "from toolpost import Tool\n"
        "if 'serve_worker' in ' '.join(sys.orig_argv):\n"
        "    os._exit(7)\n"
        "@Tool(register=False)\n"
        "def nothing() -> None: ...\n"
        "ALL = [nothing]\n"
    )

    with pytest.raises(AssertionError, match="did not start") as raised:
        with serving(*TWO, folder=tmp_path, tools=f"{tools}:ALL"):
            pass

    assert "processes die before they answer (exit code 7); the gateway ends" in str(raised.value)


def _ended(fd: int) -> None:
    """Wait until a process has ended."""
    import select

    ready, _, _ = select.select([fd], [], [], 30)
    if not ready:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)
    assert ready
