"""A proxy before a server that can lose a reply: what was asked is done, and nobody is told."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

HOST = "127.0.0.1"


class Lossy:
    """Passes everything on, to and fro, until lose() is called: then the next reply is lost with its connection."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._listener = socket.create_server((HOST, 0))
        self._sockets = [self._listener]
        self._armed = threading.Event()
        self.lost = threading.Event()
        """Set once a reply was lost."""

    @property
    def url(self) -> str:
        """The server's URL, by way of the proxy."""
        user = self._parts.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        return urlunsplit(self._parts._replace(netloc=f"{user}{'@' if user else ''}{HOST}:{port}"))

    def lose(self) -> None:
        """Lose the next reply."""
        self.lost.clear()
        self._armed.set()

    def __enter__(self) -> "Lossy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for each in self._sockets:
            _end(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._parts.port or 0))
                self._sockets += [client, server]
                threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if replies and self._armed.is_set():
                    self._armed.clear()
                    self.lost.set()
                    break
                target.sendall(data)
        _end(source)
        _end(target)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
