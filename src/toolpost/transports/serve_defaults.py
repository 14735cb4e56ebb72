"""What `toolpost serve` stands on when nothing else is set up: a folder with records, blobs and a key of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from toolpost.calls.errors import ConfigurationError

if TYPE_CHECKING:
    from toolpost.engine.settings import ExecutorConfig

FOLDER = "toolpost-data"
"""The data directory, in the working directory, where none is set."""

RECORDS, BLOBS, KEY = "toolpost.db", "blobs", "secret.key"


def data_directory_of(config: ExecutorConfig) -> Path:
    """Where a gateway with these settings keeps what it keeps."""
    return config.data_directory or Path(os.path.abspath(FOLDER))


def embedded(config: ExecutorConfig) -> ExecutorConfig:
    """The settings with a place in the data directory for all that they name none for; it is made when it is needed.

    Raises ConfigurationError where the folder cannot be made or its key is not safe.
    """
    folder = data_directory_of(config)
    given: dict[str, Any] = {}
    if config.records_url is None:
        given["records_url"] = f"sqlite:///{quote(str(folder / RECORDS))}"
    if config.blobs_url is None:
        given["blobs_url"] = f"file://{quote(str(folder / BLOBS))}"
    if given or config.secret_key is None:
        _make(folder)
    if config.secret_key is None:
        given["secret_key"] = key_in(folder)
    return config.model_copy(update=given) if given else config


def is_used(config: ExecutorConfig) -> bool:
    """Whether there is a data directory: one that is set, or one in the working directory that a gateway made."""
    return config.data_directory is not None or (data_directory_of(config) / RECORDS).exists()


def gateway_settings(config: ExecutorConfig, *, keeps: bool = True) -> ExecutorConfig:
    """The settings as gateways have them: with embedded stores, if it keeps anything; keys count for all tools."""
    settings = embedded(config) if keeps else config
    if config.origin("idempotency_keys") == "default":
        settings = settings.model_copy(update={"idempotency_keys": "all"})
    return settings


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(
            f"the data directory {folder} cannot be made ({exc.strerror}); name another with --data"
        ) from exc


def key_in(folder: Path) -> str:
    """The secret key of a data directory, made when there is none. Safe for processes that start at once.

    Raises ConfigurationError where others can read it, or it cannot be read or written.
    """
    path = folder / KEY
    try:
        if not path.exists():
            _write_once(path, f"{secrets.token_urlsafe(32)}\n")
        return _read(path)
    except OSError as exc:
        raise ConfigurationError(
            f"the key {path} cannot be read or written ({exc.strerror}); let this user do so, or set secret_key"
        ) from exc


def _write_once(path: Path, text: str) -> None:
    """Write a file whole or not at all; one that is there stays."""
    fd, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        os.unlink(scratch)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd) as file:
        about = os.fstat(fd)
        if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"others can read the key {path} (mode {stat.S_IMODE(about.st_mode):04o}); "
                f"make it yours alone with `chmod 600 {path}`, and set another where it may have been read"
            )
        key = file.read().strip()
    if not key:
        raise ConfigurationError(f"the key {path} is empty; remove it to have another made, or put it back")
    return key


__all__ = ["data_directory_of", "embedded", "gateway_settings", "is_used", "key_in"]
