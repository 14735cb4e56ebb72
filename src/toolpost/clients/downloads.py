"""Downloads: files of calls, taken up again by ranges where they broke off, and checked by their digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from toolpost.calls.errors import NotFoundError, RemoteToolError
from toolpost.clients.answers import RemoteFile, raise_for
from toolpost.clients.exchange import LostError, Plan, Read, Request, Sleep, exchange, gone
from toolpost.clients.operations import Operations


def found(operations: Operations, call_id: str, name: str) -> Plan[RemoteFile]:
    """A file of a call. Raises NotFoundError."""
    report = yield from operations.show(call_id)
    files = () if report.result is None else report.result.files
    for one in files:
        if one.name == name:
            return one
    there = ", ".join(one.name for one in files) or "none"
    raise NotFoundError(f"call {call_id!r:.80} has no file {name!r:.200}; there are {there}")


def download(operations: Operations, file: RemoteFile, sink: BinaryIO) -> Plan[None]:
    """Write a file's bytes into a sink that is empty, and can be truncated.

    Raises RemoteToolError when it breaks off more often than patience allows without a byte between, and when the
    bytes are not those that the call left.
    """
    path = f"/v1/calls/{quote(file.call_id, safe='')}/artifacts/{quote(file.name)}"
    digest, had, failed, etag = hashlib.sha256(), 0, 0, ""
    while True:
        headers = {"accept-encoding": "identity"}
        if had and etag:
            headers |= {"range": f"bytes={had}-", "if-range": etag}
        request = Request(method="GET", path=path, headers=headers, timeout_s=operations.timeout_s, safe=True)
        answer = yield from exchange(request, operations.patience, opens=True)
        raise_for(answer)
        if had and answer.status != 206:
            sink.seek(0)
            sink.truncate()
            digest, had = hashlib.sha256(), 0
        etag = answer.headers.get("etag", "")
        lost: LostError | None = None
        try:
            while (data := (yield Read())) is not None:
                sink.write(data)
                digest.update(data)
                had, failed = had + len(data), 0
                if had > file.size:
                    break
        except LostError as error:
            lost = error
        if had >= file.size:
            break
        lost = lost or LostError(f"{file.name} ended after {had} of {file.size} bytes", sent=True)
        failed += 1
        if failed > operations.patience.retries:
            raise gone(lost) from lost
        yield Sleep(operations.patience.pause(failed))
    if had != file.size or digest.hexdigest() != file.digest:
        raise RemoteToolError(f"the bytes of {file.name} are not those that the call left: their SHA-256 is another")


def described(file: RemoteFile | str, name: str | None) -> Any:
    """A file as it was given: a RemoteFile, or a call's id and the name of its file. Raises TypeError."""
    if isinstance(file, RemoteFile) == (name is not None):
        raise TypeError("download takes a RemoteFile, or a call's id and the name of one of its files")
    return file


@contextmanager
def placed(path: Path) -> Iterator[BinaryIO]:
    """A file beside path that takes its place when the block ends well, and goes when it does not."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part:
        try:
            yield cast("BinaryIO", part)
            part.flush()
            os.replace(part.name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(part.name)
            raise


__all__ = ["described", "download", "found", "placed"]
