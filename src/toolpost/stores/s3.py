"""S3Blobs: large bytes by digest in a bucket of S3 or whatever speaks its protocol, through obstore."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, StoreUnavailableError
from toolpost.stores import public_url
from toolpost.stores.memory_blobs import check_range, checked, digest_of
from toolpost.stores.pending import Pending
from toolpost.stores.workers import Workers

T = TypeVar("T")
PART_BYTES = 8 * 1024 * 1024
"""Larger blobs go in parts, each a request with the whole timeout."""
LONGEST_SIGNATURE_S = 7 * 24 * 3600.0
"""Source: AWS Signature Version 4, X-Amz-Expires."""
OPTIONS = ("endpoint", "region", "allow_http")

_runtime_of: int | None = None
"""The process whose obstore has threads: a child forked after that inherits them dead, and would wait forever."""


class S3Blobs:
    """Blobs as objects <prefix>/sha256/ab/cdef... of a URL s3://bucket/prefix?endpoint=https://...&region=...

    Credentials are the URL's user and password, else those of the AWS_* environment. http is for endpoints on this
    machine, or where allow_http=true says so. A request takes at most timeout_s, with its retries twice that.
    What an upload that was cut off has left is for the bucket's lifecycle rules (AbortIncompleteMultipartUpload).
    """

    local = False
    durable = True

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK, threads: int = 8, timeout_s: float = 10.0) -> None:
        self.url = public_url(url.partition("?")[0])
        self._store = _store_of(url, timeout_s)
        self._workers = Workers("blobs", threads, gate=True, clock=clock)

    def put(self, data: bytes, /) -> Pending[str]:
        """Keep bytes; their digest."""
        return self._ask(partial(self._put, bytes(data)))

    def get(self, digest: str, start: int = 0, length: int | None = None, /) -> Pending[bytes | None]:
        """The bytes, or a range of them; None where there are none. Raises EngineError for a damaged blob."""
        check_range(digest, start, length)
        return self._ask(partial(self._get, digest, start, length))

    def size(self, digest: str, /) -> Pending[int | None]:
        """Bytes, None where there is no such blob."""
        check_range(digest)
        return self._ask(partial(self._size, digest))

    def delete(self, digest: str, /) -> Pending[bool]:
        """Forget a blob; whether there was one, as of just before."""
        check_range(digest)
        return self._ask(partial(self._delete, digest))

    def sign(self, digest: str, ttl_s: float, /) -> Pending[str]:
        """A URL that gives the bytes, whether or not they are there yet; ttl_s is at most seven days."""
        check_range(digest)
        if not 0 < ttl_s <= LONGEST_SIGNATURE_S:
            raise ConfigurationError(f"a signed URL holds for more than 0 and at most 604800 seconds, got {ttl_s!r}")
        return self._ask(lambda: obstore.sign(self._store, "GET", _key(digest), timedelta(seconds=ttl_s)))

    def ping(self) -> Pending[None]:
        """Reach the bucket, with these credentials."""
        return self._ask(self._ping)

    def close(self) -> None:
        """Do what was asked, then end the threads."""
        self._workers.close()

    def _ask(self, work: Callable[[], T]) -> Pending[T]:
        return self._workers.ask(partial(self._told, work))

    def _told(self, work: Callable[[], T]) -> T:
        """Do it; what obstore says becomes a StoreUnavailableError that names the bucket."""
        global _runtime_of
        if _runtime_of not in (None, os.getpid()):
            raise StoreUnavailableError(
                f"{self.url} cannot be used in a process forked after S3 was used; start processes by spawn"
            )
        _runtime_of = os.getpid()
        try:
            return work()
        except (BaseError, OSError) as error:
            raise StoreUnavailableError(f"{self.url} cannot be used ({_said(error)})") from error

    def _put(self, data: bytes) -> str:
        digest = digest_of(data)
        obstore.put(
            self._store,
            _key(digest),
            data,
            use_multipart=len(data) > PART_BYTES,
            chunk_size=PART_BYTES,
            max_concurrency=4,
        )
        return digest

    def _get(self, digest: str, start: int, length: int | None) -> bytes | None:
        if start == 0 and length is None:
            data = self._whole(_key(digest))
            return None if data is None else checked(data, digest, self.url)
        size = self._size(digest)
        if size is None:
            return None
        return self._parts(_key(digest), start, size if length is None else min(size, start + length))

    def _whole(self, key: str) -> bytes | None:
        found = _unless_missing(lambda: obstore.get(self._store, key))
        if found is None:
            return None
        size: int = found.meta["size"]
        return bytes(found.bytes()) if size <= PART_BYTES else self._parts(key, 0, size)

    def _parts(self, key: str, start: int, end: int) -> bytes:
        """A range, request by request: each has the whole timeout."""
        read = partial(obstore.get_range, self._store, key)
        return b"".join(bytes(read(start=at, end=min(end, at + PART_BYTES))) for at in range(start, end, PART_BYTES))

    def _size(self, digest: str) -> int | None:
        found = _unless_missing(lambda: obstore.head(self._store, _key(digest)))
        return None if found is None else int(found["size"])

    def _delete(self, digest: str) -> bool:
        if self._size(digest) is None:
            return False
        obstore.delete(self._store, _key(digest))
        return True

    def _ping(self) -> None:
        _unless_missing(lambda: obstore.get(self._store, "ping"))


def _key(digest: str) -> str:
    return f"sha256/{digest[:2]}/{digest[2:]}"


def _unless_missing(work: Callable[[], T]) -> T | None:
    """What it gives, None where there is no such object. A bucket that is not there is an error like any other."""
    try:
        return work()
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise
        return None


def _said(error: Exception) -> str:
    """The kind of failure and its first line, without the request that obstore prints below."""
    code = next((word for word in ("NoSuchBucket", "SignatureDoesNotMatch", "AccessDenied") if word in str(error)), "")
    return code or f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]


def _store_of(url: str, timeout_s: float) -> S3Store:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    shown = public_url(url.partition("?")[0])
    if parts.scheme != "s3" or not parts.hostname:
        raise ConfigurationError(
            f"blobs in S3 need a URL such as s3://bucket/prefix?region=eu-central-1, got {shown!r}"
        )
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise ConfigurationError(f"{shown}: no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    if (parts.username is None) != (parts.password is None):
        raise ConfigurationError(f"{shown}: a key needs its secret; write s3://key:secret@bucket, or neither")
    config: dict[str, Any] = {name: options[name] for name in ("endpoint", "region") if options.get(name)}
    if parts.username is not None and parts.password is not None:
        config |= {"access_key_id": unquote(parts.username), "secret_access_key": unquote(parts.password)}
    limit = timedelta(seconds=timeout_s)
    return S3Store(
        parts.netloc.rpartition("@")[2],
        prefix=unquote(parts.path).strip("/") or None,
        config=config,  # type: ignore[arg-type]
        client_options={
            "allow_http": _may_be_http(options, shown),
            "connect_timeout": min(limit, timedelta(seconds=3)),
            "timeout": limit,
        },
        retry_config={
            "max_retries": 3,
            "retry_timeout": limit,
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        },
    )


def _may_be_http(options: dict[str, str], shown: str) -> bool:
    asked = options.get("allow_http", "false")
    if asked not in ("true", "false"):
        raise ConfigurationError(f"{shown}: allow_http must be true or false, got {asked!r}")
    endpoint = urlsplit(options.get("endpoint", ""))
    if endpoint.scheme != "http":
        return asked == "true"
    if asked == "true" or _is_loopback(endpoint.hostname or ""):
        return True
    raise ConfigurationError(
        f"{shown}: its endpoint is http and not on this machine; use https, or add allow_http=true"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
