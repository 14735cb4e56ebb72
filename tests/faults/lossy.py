"""A proxy before a server that can lose a reply: what was asked is done, and nobody is told."""

import socket
import threading

from tests.faults.passing import Passing


class Lossy(Passing):
    """Passes everything on, to and fro, until lose() is called: then the next reply is lost with its connection."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._armed = threading.Event()
        self.lost = threading.Event()
        """Set once a reply was lost."""

    def lose(self) -> None:
        """Lose the next reply."""
        self.lost.clear()
        self._armed.set()

    def replies(self, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(65536):
            if self._armed.is_set():
                self._armed.clear()
                self.lost.set()
                return
            client.sendall(data)
