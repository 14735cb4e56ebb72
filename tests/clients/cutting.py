"""A proxy before a gateway that cuts connections off in the middle of an answer."""

import socket

from tests.faults.passing import Passing


class Cutting(Passing):
    """Passes everything on, to and fro. after(n) has each of the next answers cut off after so many bytes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._cuts: list[int] = []
        self.cut = 0
        """How many answers were cut off."""
        self.broken = 0
        """How often all connections were broken off."""
        self.passed = 0
        """How many bytes of answers were passed on."""

    def after(self, *sizes: int) -> None:
        """Cut the next answers off, each on a connection of its own, after so many bytes; 0: before the first."""
        with self.lock:
            self._cuts += sizes

    def break_off(self) -> None:
        """Break all connections off that there are."""
        self.broken += 1
        super().break_off()

    def replies(self, server: socket.socket, client: socket.socket) -> None:
        left: int | None = None
        while data := server.recv(65536):
            if left is None:
                with self.lock:
                    left = self._cuts.pop(0) if self._cuts else None
            passed = data if left is None else data[:left]
            client.sendall(passed)
            self.passed += len(passed)
            if left is not None:
                left -= len(passed)
                if left <= 0:
                    self.cut += 1
                    return
