"""Sandboxes over the back end of this machine: what only real processes can show."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toolbox.boxes import real
from toolpost import Sandbox, SandboxError, Sandboxes, SandboxLimits, ToolExecutor, ToolRegistry
from toolpost.toolbox import shell_tools


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[Sandboxes]:
    with real(tmp_path / "boxes", max_running=6) as made:
        yield made


def children() -> set[int]:
    """The processes that this one has started and that are still there."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[1] == str(os.getpid()) and fields[0] != "Z":
                found.add(int(folder.name))
    return found


def test_many_at_once_all_end_well_and_leave_nothing(boxes: Sandboxes) -> None:
    async def many() -> list[str | None]:
        results = await asyncio.gather(*(boxes.run_python(f"{n} * 2") for n in range(40)))
        return [result.value for result in results]

    assert asyncio.run(many()) == [str(n * 2) for n in range(40)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert asyncio.run(many()) == [str(n * 2) for n in range(40)]

    assert boxes.running == 0
    assert len(os.listdir("/proc/self/fd")) <= before + 8  # those that are held ready may be more or fewer


def test_a_launcher_that_is_killed_is_replaced_and_sessions_say_that_they_ended(tmp_path: Path) -> None:
    others = children()
    with real(tmp_path / "boxes") as boxes:
        session = boxes.open_session_blocking("mine")
        session.run_blocking(["sh", "-c", "echo x > kept"])
        (launcher,) = children() - others

        os.kill(launcher, signal.SIGKILL)
        with contextlib.suppress(SandboxError):  # what was given to a sandbox that died in this moment is lost
            boxes.run_blocking(["true"])

        assert boxes.run_blocking(["echo", "again"]).stdout.text == "again\n"
        with pytest.raises(SandboxError):
            session.run_blocking(["cat", "kept"])
        assert session.ended is not None
        fresh = boxes.open_session_blocking("mine")
        assert fresh.run_blocking(["cat", "kept"]).exit_code == 1

    assert children() - others == set()


def test_a_forked_child_has_a_launcher_of_its_own_and_leaves_its_parents_alone(boxes: Sandboxes) -> None:
    assert boxes.run_blocking(["true"]).status == "ok"

    child = os.fork()
    if child == 0:
        code = 1
        try:
            said = boxes.run_blocking(["echo", "child"]).stdout.text
            boxes.close()
            code = 0 if said == "child\n" and children() == set() else 2
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert boxes.run_blocking(["echo", "parent"]).stdout.text == "parent\n"


def test_output_is_told_while_the_program_runs(boxes: Sandboxes) -> None:
    told: list[tuple[str, bytes]] = []
    arrived = threading.Event()

    def take(stream: str, data: bytes) -> None:
        told.append((stream, data))
        arrived.set()

    async def run() -> None:
        task = asyncio.create_task(boxes.run(["sh", "-c", "echo first; sleep 30"], on_output=take))
        while not arrived.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(run())

    assert told == [("stdout", b"first\n")]
    assert time.monotonic() - began < 25


def test_closing_an_executor_ends_programs_that_run_in_sandboxes_of_its_own(tmp_path: Path) -> None:
    real(tmp_path / "probe").close()  # which skips where there is none
    others = children()
    made: list[Sandboxes] = []

    def make() -> Sandboxes:
        made.append(Sandboxes(root=tmp_path / "boxes"))
        return made[-1]

    executor = ToolExecutor(registry=ToolRegistry())
    executor.add(shell_tools(make))
    ended: list[BaseException | object] = []

    def call() -> None:
        try:
            ended.append(executor.call_sync("Shell.Run", argv=["sleep", "300"]))
        except Exception as error:
            ended.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    while not ended and (len(made) < 2 or not made[-1].running or not children() - others):
        time.sleep(0.01)
    time.sleep(0.2)
    assert ended == []
    executor.close()
    caller.join(20)

    assert not caller.is_alive()
    assert isinstance(ended[0], Exception)
    assert children() - others == set()


def test_a_session_outlives_a_program_of_it_that_was_cancelled(boxes: Sandboxes) -> None:
    async def use() -> str:
        async with boxes.session() as session:
            await session.run(["sh", "-c", "echo kept > file"])
            task = asyncio.create_task(session.run(["sleep", "300"]))
            while not boxes.running:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await session.run(["cat", "file"])).stdout.text

    assert asyncio.run(use()) == "kept\n"


def test_programs_of_a_session_have_the_limits_of_one_together(tmp_path: Path) -> None:
    profile = Sandbox(limits=SandboxLimits(disk_bytes=1 << 20, memory_bytes=64 << 20, wall_s=20.0))
    write = ["sh", "-c", "head -c 700000 /dev/zero > file$0 || exit 1"]

    with real(tmp_path / "boxes", profile) as boxes, boxes.session() as session:
        first = session.run_blocking([*write, "1"])
        second = session.run_blocking([*write, "2"])
        alone = boxes.run_blocking([*write, "2"])

    assert (first.status, alone.status) == ("ok", "ok")
    assert second.status in ("exit", "limit")
