"""The native back end keeps the contract, with interpreters held ready and without."""

import os
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.escape_runs import needs_native
from toolpost.calls.errors import SandboxError
from toolpost.sandbox.backend import BackendFactory, Cancel, Job
from toolpost.sandbox.box import Box
from toolpost.sandbox.link import Link
from toolpost.sandbox.native import NativeBackend
from toolpost.testing.sandbox_contract import SandboxContract


@pytest.fixture(scope="module", autouse=True)
def native(pytestconfig: pytest.Config) -> None:
    needs_native(pytestconfig)


class TestWarm(SandboxContract):
    warm = 2

    @pytest.fixture
    def factory(self) -> BackendFactory:
        return NativeBackend


class TestCold(SandboxContract):
    @pytest.fixture
    def factory(self) -> BackendFactory:
        return NativeBackend


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[NativeBackend]:
    made = NativeBackend(SandboxContract.profile, tmp_path, 0)
    yield made
    made.close()


def job(script: str, **more: Any) -> Job:
    return Job(argv=("/bin/sh", "-c", script), limits=SandboxContract.profile.limits, **more)


def test_an_engine_with_thousands_of_descriptors_runs_programs(backend: NativeBackend) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert backend.run(job("echo ran")).stdout.whole == b"ran\n"
        session = backend.open_session()
        assert [backend.run(job("echo ran", session=session)).status for _ in range(2)] == ["ok", "ok"]
        backend.close_session(session)
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_session_is_as_quick_to_say_that_it_is_ready_as_the_engine_is_slow_to_hear(backend: NativeBackend) -> None:
    """What a sandbox says of its next program may come together with its report on the last one."""
    session = backend.open_session()

    def slow(*_: object) -> None:
        time.sleep(0.05)

    # The engine is busy with output while the sandbox reports and gets ready anew.
    results = [backend.run(job("echo out", session=session, on_output=slow)) for _ in range(20)]

    assert {result.stdout.whole for result in results} == {b"out\n"}


def test_a_job_cancelled_before_its_start_leaves_its_session_usable(backend: NativeBackend) -> None:
    session = backend.open_session()
    for _ in range(5):
        # Busy with output, the engine hears of the end and of the next program's readiness at once.
        backend.run(job("echo x | tee -a kept", session=session, on_output=lambda *_: time.sleep(0.05)))
        cancel = Cancel()
        cancel.cancel()
        assert backend.run(job("echo never >> kept", session=session, cancel=cancel)).status == "cancelled"
        cancel.close()

    assert backend.run(job("cat kept", session=session)).stdout.whole == b"x\n" * 5


def test_a_sandbox_that_fails_before_the_program_runs_is_no_success(backend: NativeBackend) -> None:
    """Input files that do not fit: the program has not run, and nobody may think that it has."""
    files = {f"f{n}": b"" for n in range(SandboxContract.profile.limits.inodes + 10)}

    with pytest.raises(SandboxError, match="input file cannot be put into the work folder") as refused:
        backend.run(job("echo ran", files=files))

    assert refused.value.outcome == "not_run"


def test_a_session_survives_input_files_that_do_not_fit(backend: NativeBackend) -> None:
    session = backend.open_session()
    backend.run(job("echo x > kept; mkfifo taken; mkdir folder; ln -s /etc/passwd link", session=session))
    for name in ("folder", "taken/x", "link/x"):
        with pytest.raises(SandboxError) as refused:
            backend.run(job("echo ran", session=session, files={name: b"data"}))
        assert refused.value.outcome == "not_run"
    given = backend.run(job("cat kept taken link", session=session, files={"taken": b"y\n", "link": b"z\n"}))

    assert given.stdout.whole == b"x\ny\nz\n"


def test_a_sandbox_that_hangs_when_it_is_told_to_stop_is_killed_and_the_limit_is_told(
    backend: NativeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program did run: nobody may take it for one that did not."""
    boxes: list[Box] = []
    take = Link.take

    def taken(link: Link, limits: Mapping[str, float]) -> Box:
        boxes.append(take(link, limits))
        return boxes[-1]

    monkeypatch.setattr(Link, "take", taken)
    limits = SandboxContract.profile.limits.tightened(wall_s=0.5)

    def hang(*_: object) -> None:
        signal.pidfd_send_signal(boxes[-1].pidfd, signal.SIGSTOP)

    argv = ("/bin/sh", "-c", "echo on; sleep 30")
    result = backend.run(Job(argv=argv, limits=limits, on_output=hang))

    assert result.status == "limit"
    assert result.limit is not None
    assert result.limit.name == "wall_s"
    assert result.stdout.whole == b"on\n"
    assert result.left_behind
