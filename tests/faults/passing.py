"""A proxy before a server, for tests that interfere with what is replied."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

HOST = "127.0.0.1"


class Passing:
    """Passes everything on, to and fro; replies may do otherwise.

    A socket is closed by the thread that reads it, and others only shut it down: a number that was given back could be
    another connection's by the time it is read.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._listener = socket.create_server((HOST, 0))
        self._sockets: list[socket.socket] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The server's URL, by way of the proxy."""
        user = self._parts.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        return urlunsplit(self._parts._replace(netloc=f"{user}{'@' if user else ''}{HOST}:{port}"))

    def replies(self, server: socket.socket, client: socket.socket) -> None:
        """Pass on what the server replies on one connection, which ends when this returns."""
        while data := server.recv(65536):
            client.sendall(data)

    def break_off(self) -> None:
        """Break all connections off that there are."""
        with self.lock:
            for each in self._sockets:
                shut(each)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shut(self._listener)
        self.break_off()

    def _accept(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection((HOST, self._parts.port or 0)) as server:
            with self.lock:
                self._sockets += [client, server]
            asking = threading.Thread(target=self._ask, args=(client, server), daemon=True)
            asking.start()
            with contextlib.suppress(OSError):
                self.replies(server, client)
            with self.lock:
                self._sockets = [one for one in self._sockets if one not in (client, server)]
            shut(server)
            shut(client)
            asking.join()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        shut(server)


def shut(each: socket.socket) -> None:
    """End a connection, or a listener's waiting, without giving its number back."""
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
