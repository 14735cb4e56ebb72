"""How the engine lets a program begin, with a stand-in for its sandbox: a socket and pipes of this test."""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from toolpost.calls.errors import SandboxError
from toolpost.sandbox import frames, kernel
from toolpost.sandbox.backend import Job
from toolpost.sandbox.box import Box
from toolpost.sandbox.conversation import Conversation
from toolpost.sandbox.profile import SandboxLimits

LIMITS = SandboxLimits()
REPORT = {"status": 0, "cpu_s": 0.0, "processes": 1, "artifacts": []}


class StandIn:
    """The other end of a sandbox's channel, with the reading end of the way to its parked program."""

    def __init__(self, *, direct: bool = True) -> None:
        ours, theirs = socket.socketpair()
        self.channel = theirs
        stdin, stdout, stderr, jobs = (os.pipe() for _ in range(4))
        self.jobs, self._kept = jobs[0], [stdin[0], stdout[1], stderr[1]]
        ends = [stdin[1], stdout[0], stderr[0], *([jobs[1]] if direct else [])]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))]
        theirs.sendmsg([frames.packed({"ready": True, "direct": direct})], rights)
        for fd in (stdin[1], stdout[0], stderr[0], jobs[1]):
            os.close(fd)
        self.box = Box(ours.detach(), os.open("/dev/null", os.O_RDONLY))

    def talk(self, job: Job) -> Conversation:
        return Conversation(self.box, job, {"HOME": "/box"}, LIMITS)

    def order(self) -> tuple[dict[str, Any], bytes]:
        got = frames.read(self.channel.fileno())
        assert got is not None
        return got

    def close(self) -> None:
        self.box.close()
        self.channel.close()
        for fd in (self.jobs, *self._kept):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def sandbox() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.close()


def finished(sandbox: StandIn, job: Job) -> Conversation:
    """The conversation about a job whose report is there before it is asked for."""
    sandbox.channel.sendall(frames.packed(REPORT))
    talk = sandbox.talk(job)
    talk.run()
    assert talk.report == REPORT
    return talk


def test_a_short_job_goes_to_the_parked_program_itself(sandbox: StandIn) -> None:
    finished(sandbox, Job(code="6 * 7", limits=LIMITS.tightened(cpu_s=1.5)))
    head, body = sandbox.order()
    assert head["begun"]
    assert body == b""
    said, code = frames.read(sandbox.jobs) or ({}, b"")
    assert (said["argv"], said["code"], said["env"]) == (None, 5, {"HOME": "/box"})
    assert said["rlimits"] == {"CPU": 2}
    assert code == b"6 * 7"
    assert os.read(sandbox.jobs, 1) == b"", "the engine keeps a way into a program that has begun"


@pytest.mark.parametrize(
    "job",
    [
        Job(code="6 * 7", files={"a": b"x"}, limits=LIMITS),
        Job(code="6 * 7", session="one", limits=LIMITS),
        Job(code="#" * 5000, limits=LIMITS),
    ],
    ids=["with files", "in a session", "too long for a pipe"],
)
def test_what_only_the_sandbox_can_see_to_is_begun_by_it(sandbox: StandIn, job: Job) -> None:
    finished(sandbox, job)
    head, body = sandbox.order()
    assert not head["begun"]
    assert body.startswith((job.code or "").encode())
    assert os.read(sandbox.jobs, 1) == b""


def test_a_sandbox_that_offers_no_way_in_begins_its_program() -> None:
    sandbox = StandIn(direct=False)
    finished(sandbox, Job(code="6 * 7", limits=LIMITS))
    assert not sandbox.order()[0]["begun"]
    sandbox.close()


def test_nothing_is_said_to_have_not_run_once_the_program_was_told(sandbox: StandIn) -> None:
    class Cut(Conversation):
        def _begin(self, frame: bytes) -> None:
            super()._begin(frame)
            sandbox.channel.close()  # with the order unread, which resets the connection

    talk = Cut(sandbox.box, Job(code="6 * 7", limits=LIMITS), {}, LIMITS)
    talk.run()
    assert talk.report is None
    assert talk.lost
    assert talk.lost_error().outcome == "unknown"


def test_a_parked_program_that_has_ended_has_not_run(sandbox: StandIn) -> None:
    os.close(sandbox.jobs)
    sandbox.jobs = -1
    with pytest.raises(SandboxError, match="had ended") as caught:
        sandbox.talk(Job(code="6 * 7", limits=LIMITS)).run()
    assert caught.value.outcome == "not_run"


def test_a_sandbox_is_not_closed_by_one_while_another_kills_it(
    sandbox: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor's number would be another's by then."""
    there: list[bool] = []

    def kill(pidfd: int) -> None:
        closing.start()
        closing.join(0.2)
        there.append(os.path.exists(f"/proc/self/fd/{pidfd}"))

    closing = threading.Thread(target=sandbox.box.close)
    monkeypatch.setattr(kernel, "pidfd_kill", kill)
    sandbox.box.kill()
    closing.join()

    assert there == [True]
    assert sandbox.box.pidfd == -1
