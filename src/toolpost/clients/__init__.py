"""Clients of a toolpost gateway, for Python programs and for the tool loops of the providers' SDKs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolpost.clients.answers import (
        CallEvent as CallEvent,
        CallResult as CallResult,
        RemoteFile as RemoteFile,
        Report as Report,
    )
    from toolpost.clients.async_client import AsyncClient as AsyncClient, AsyncHandle as AsyncHandle
    from toolpost.clients.client import Client as Client, Handle as Handle

_EXPORTS = {
    "AsyncClient": "async_client",
    "AsyncHandle": "async_client",
    "CallEvent": "answers",
    "CallResult": "answers",
    "Client": "client",
    "Handle": "client",
    "RemoteFile": "answers",
    "Report": "answers",
}


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first used: the adapters of SDKs need no httpx."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


__all__ = ["AsyncClient", "AsyncHandle", "CallEvent", "CallResult", "Client", "Handle", "RemoteFile", "Report"]
