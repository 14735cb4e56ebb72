"""MemoryBlobs: large bytes by digest in the process itself, bounded."""

from __future__ import annotations

import hashlib
import re
import threading

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, EngineError, StoreUnavailableError

DIGEST = re.compile(r"[0-9a-f]{64}\Z")
DEFAULT_MAX_BYTES = 256 * 1024 * 1024


class MemoryBlobs:
    """Blobs in a dict, for one process and its lifetime. Answers are at hand.

    max_bytes bounds the bytes of all blobs. A blob is never dropped to make room, since somebody may hold its digest:
    a put that does not fit raises StoreUnavailableError and keeps nothing.
    """

    local = True
    durable = False

    def __init__(
        self, url: str = "memory://", *, clock: Clock = SYSTEM_CLOCK, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        if max_bytes < 1:
            raise ConfigurationError(f"MemoryBlobs: max_bytes must be more than 0, got {max_bytes!r}")
        self.url = url
        self._max_bytes = max_bytes
        self._blobs: dict[str, bytes] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, data: bytes, /) -> str:
        """Keep bytes; their digest."""
        data = bytes(data)
        digest = digest_of(data)
        with self._lock:
            if digest not in self._blobs:
                if self._bytes + len(data) > self._max_bytes:
                    raise StoreUnavailableError(
                        f"{self.url} holds {self._bytes} of at most {self._max_bytes} bytes, so {len(data)} more do "
                        "not fit; delete blobs, raise max_bytes, or use file:// or s3://"
                    )
                self._blobs[digest] = data
                self._bytes += len(data)
        return digest

    def get(self, digest: str, start: int = 0, length: int | None = None, /) -> bytes | None:
        """The bytes, or a range of them; None where there are none."""
        check_range(digest, start, length)
        data = self._blobs.get(digest)
        return data if data is None or (not start and length is None) else data[start : end_of(start, length)]

    def size(self, digest: str, /) -> int | None:
        """Bytes, None where there is no such blob."""
        check_range(digest)
        data = self._blobs.get(digest)
        return None if data is None else len(data)

    def delete(self, digest: str, /) -> bool:
        """Forget a blob."""
        check_range(digest)
        with self._lock:
            data = self._blobs.pop(digest, None)
            self._bytes -= len(data or b"")
        return data is not None

    def sign(self, digest: str, ttl_s: float, /) -> None:
        """None: nobody else can reach this process's memory."""
        check_range(digest)

    def ping(self) -> None:
        """Nothing to reach."""

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blobs.clear()
            self._bytes = 0


def digest_of(data: bytes) -> str:
    """The SHA-256 in hex: the name of a blob."""
    return hashlib.sha256(data).hexdigest()


def check_range(digest: str, start: int = 0, length: int | None = None) -> None:
    """Raise ConfigurationError for what can be no blob's name, or no range of one."""
    if not isinstance(digest, str) or not DIGEST.match(digest):
        raise ConfigurationError(f"a blob is named by its SHA-256 as 64 lower-case hex digits, got {digest!r:.100}")
    if start < 0 or (length is not None and length < 0):
        raise ConfigurationError(
            f"a range begins at 0 or later and is not negative, got start={start}, length={length}"
        )


def end_of(start: int, length: int | None) -> int | None:
    """Where a range ends, as slices have it."""
    return None if length is None else start + length


def checked(data: bytes, digest: str, url: str) -> bytes:
    """A whole blob as it was put. Raises EngineError when the store has other bytes under that name."""
    if digest_of(data) != digest:
        raise EngineError(
            f"blob {digest} in {url} is damaged: its {len(data)} bytes no longer match its digest; "
            "put it again, or delete it",
            details={"digest": digest},
        )
    return data
