"""A Redis server that counts as durable: every write is flushed to its append-only file, and nothing is evicted."""

import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.services.server import HOST, Server, ask, which


class Redis(Server):
    """The redis-server of this machine."""

    name = "redis"
    variable = "TOOLPOST_TEST_REDIS"
    package = "redis-server"

    @classmethod
    def find(cls) -> Path:
        return which("redis-server", f"install Redis (Debian: {cls.package}), or set {cls.variable} to a server's URL")

    def command(self, folder: Path) -> list[str]:
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        return [str(self.find()), *(word for name, value in settings.items() for word in (f"--{name}", value))]

    def answers(self) -> bool:
        """Whether it answers PING; while it loads its file, it says so instead."""
        return ask(self.port, b"PING\r\n").startswith(b"+PONG")

    def own_url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def emptied(self, database: int) -> str:
        """Empty one of the numbered databases and return its URL; of a server that others run, the one it names."""
        url = self.given or f"redis://{HOST}:{self.port}/{database}"
        flush(url)
        return url


def flush(url: str) -> None:
    """FLUSHDB on the database that a redis:// URL names."""
    parts = urlsplit(url)
    commands = [["SELECT", parts.path.strip("/") or "0"], ["FLUSHDB"]]
    if parts.password is not None:
        commands.insert(0, ["AUTH", *filter(None, [parts.username]), unquote(parts.password)])
    with socket.create_connection((parts.hostname or HOST, parts.port or 6379), timeout=10) as connection:
        replies = connection.makefile("rb")
        for words in commands:
            encoded = [word.encode() for word in words]
            bulks = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
            connection.sendall(b"*%d\r\n%s" % (len(words), bulks))
            if (reply := replies.readline()) != b"+OK\r\n":
                raise OSError(f"redis on port {parts.port} answered {reply!r} to {words[0]}")
