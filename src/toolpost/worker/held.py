"""Held: an accepted call that this process holds, and how far it is with it."""

from __future__ import annotations

from toolpost.stores import Work
from toolpost.worker.running import Running


class Held:
    """A call that this process holds. work's fence may grow when the process takes it over from itself.

    began: whether its body did. ending: whether that is over, and only its end is to be written. lost: another process
    has it by now. given_up: a shutdown did not wait for it any longer.
    """

    __slots__ = ("again", "began", "ending", "finished", "given_up", "lost", "running", "token", "work")

    def __init__(self, work: Work, token: object) -> None:
        self.work, self.token = work, token
        self.running: Running | None = None
        self.again: Work | None = None
        """What it was when this process took it over from itself last."""
        self.finished = 0
        """The fence under which its end was written, or that it goes on later."""
        self.began = False
        self.ending = False
        self.lost = False
        self.given_up = False


__all__ = ["Held"]
