"""The tunnel through a container engine's pipes, whose other end may not behave. What goes right is in the contract."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from toolpost.sandbox import tunnel


class Ends:
    """A tunnel's outer end, in a thread: far is the container's side, near the engine's."""

    def __init__(self) -> None:
        from_far, self.say = os.pipe()
        self.hear, to_far = os.pipe()
        self.near, self.theirs = socket.socketpair()
        self.near.settimeout(10)
        self.tunnel = tunnel.Tunnel(from_far, to_far, self.theirs, inside=False)
        self.thread = threading.Thread(target=self.tunnel.run, daemon=True)
        self.thread.start()

    def send(self, kind: int, stream: int, data: bytes) -> None:
        os.write(self.say, struct.pack("!BII", kind, stream, len(data)) + data)

    def program(self) -> list[int]:
        """Have a program be ready there; its pipes here."""
        self.send(2, 1, b"ready")
        said, fds, _, _ = socket.recv_fds(self.near, 100, 3)
        assert said == b"ready"
        return fds


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.near.close()
    made.thread.join(10)
    made.theirs.close()
    assert not made.thread.is_alive()


def test_a_piece_that_nobody_would_send_ends_the_tunnel(ends: Ends) -> None:
    os.write(ends.say, struct.pack("!BII", 0, 0, 1 << 31))
    ends.thread.join(10)

    assert not ends.thread.is_alive()


def test_the_end_of_the_container_ends_the_tunnel(ends: Ends) -> None:
    os.close(ends.say)
    ends.thread.join(10)

    assert not ends.thread.is_alive()


def test_input_that_nobody_reads_there_does_not_pile_up(ends: Ends) -> None:
    stdin, stdout, stderr = ends.program()
    os.set_blocking(stdin, False)
    os.set_blocking(ends.hear, False)
    written = heard = quiet = 0
    while quiet < 50:
        try:
            written += os.write(stdin, bytes(1 << 16))
            quiet = 0
        except BlockingIOError:
            quiet += 1
        try:
            heard += len(os.read(ends.hear, 1 << 20))
            quiet = 0
        except BlockingIOError:
            threading.Event().wait(0.01)

    assert (1 << 20) <= heard < (1 << 20) + (1 << 18)
    assert written < (1 << 20) + (1 << 18)
    for fd in (stdin, stdout, stderr):
        os.close(fd)


def test_output_for_nobody_is_dropped(ends: Ends) -> None:
    stdin, stdout, stderr = ends.program()
    for fd in (stdin, stdout):
        os.close(fd)
    ends.send(0, 2, b"x" * 1000)
    ends.send(0, 9, b"of no stream")
    ends.send(0, 3, b"heard")
    ends.send(0, 0, b"report")

    assert ends.near.recv(100) == b"report"
    assert os.read(stderr, 100) == b"heard"
    os.close(stderr)


def test_the_engines_end_is_heard_also_while_the_container_takes_nothing(ends: Ends) -> None:
    """Its pipe is full, and more than may wait is waiting."""
    ends.near.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while True:
            ends.near.send(b"x" * (1 << 16))
    ends.near.close()
    ends.thread.join(10)

    assert not ends.thread.is_alive()
