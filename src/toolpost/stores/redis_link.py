"""RedisLink: one connection to a Redis server, that writes commands in one go and knows the scripts they need."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.exceptions import ConnectionError as LostError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from toolpost.calls.errors import ConfigurationError
from toolpost.stores import public_url

Word = bytes | str | int
Command = Sequence[Word]

SCAN_STEP = 1000


class RedisLink:
    """A connection that is made when it is needed, and anew after a failure. For one thread at a time, but interrupt().

    timeout_s bounds connecting, each write and each read. Nothing is sent twice: who asks must know that a command
    without a reply may have been carried out. What the server says against a command stands for its reply; all else
    that goes wrong raises RedisError or OSError, and the connection is dropped, as replies may be left on it.
    """

    def __init__(self, url: str, *, timeout_s: float, scripts: Callable[[], Sequence[str]] = tuple) -> None:
        try:
            options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
            self._kind: Callable[..., Any] = options.pop("connection_class", Connection)
            options |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "health_check_interval": 0}
            options |= {"retry": Retry(NoBackoff(), 0), "protocol": 2, "driver_info": None, "decode_responses": False}
            self._kind(**options)
        except TypeError as error:
            raise ConfigurationError(f"{public_url(url)} has an option that redis-py does not know: {error}") from error
        except (ValueError, RedisError):  # what they say may be part of a password
            raise ConfigurationError(
                f"{public_url(url)} is no URL of a Redis server; write redis://user:password@host:port/db, "
                "special characters of the password percent-encoded"
            ) from None
        self._options = options
        self._scripts = scripts
        self._connection: Any = None

    def exchange(self, commands: Sequence[Command], replies: list[Any] | None = None) -> list[Any]:
        """A reply for each command. Also where it raises, replies holds those that have come, in the same order."""
        replies = [] if replies is None else replies
        try:
            connection = self._connected()
            _exchange(connection, commands, replies)
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:  # the server was told to forget its scripts; those commands have done nothing
                self._load(connection)
                again = _exchange(connection, [commands[i] for i in unknown], [])
                for i, reply in zip(unknown, again, strict=True):
                    replies[i] = reply
            return replies
        except BaseException:
            self.close()
            raise

    def delete(self, prefix: bytes) -> int:
        """Delete the keys that begin so, in steps that hold nobody up; how many."""
        pattern = re.sub(rb"([][*?\\^-])", rb"\\\1", prefix) + b"*"
        cursor, gone = b"0", 0
        while True:
            cursor, keys = _one(self.exchange([(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_STEP)]))
            if keys:
                gone += _one(self.exchange([(b"UNLINK", *keys)]))
            if cursor == b"0":
                return gone

    def interrupt(self) -> None:
        """Break the connection under the thread that waits for it."""
        connection = self._connection
        if connection is not None:
            connection.disconnect()

    def close(self) -> None:
        """Drop the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def let_go(self) -> None:
        """In a forked child: forget the parent's connection, which closes only the child's copy of the socket."""
        self._connection = None

    def _connected(self) -> Any:
        """The connection; a new one if the server has closed it meanwhile, which costs nothing: nothing was sent."""
        connection = self._connection
        if connection is not None:
            try:
                if connection.is_connected and not connection.can_read(0):
                    return connection
            except LostError:
                pass
            connection.disconnect()
        self._connection = connection = self._kind(**self._options)
        connection.connect()
        self._load(connection)
        return connection

    def _load(self, connection: Any) -> None:
        scripts = self._scripts()
        if scripts:
            for reply in _exchange(connection, [(b"SCRIPT", b"LOAD", text) for text in scripts], []):
                if isinstance(reply, Exception):
                    raise reply


def _exchange(connection: Any, commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    packed = connection.pack_commands(commands)
    connection.send_packed_command([b"".join(packed)] if sum(map(len, packed)) < 1_000_000 else packed)
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


def _one(replies: list[Any]) -> Any:
    [reply] = replies
    if isinstance(reply, Exception):
        raise reply
    return reply
