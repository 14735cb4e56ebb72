"""Believes X-Forwarded-For and X-Forwarded-Proto of trusted proxies, and of nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address, ip_network

from toolpost.transports.serve_log import App, Receive, Scope, Send


def behind_proxies(app: App, trusted: Callable[[], Sequence[str]]) -> App:
    """The same application, told who its callers are when they come through a proxy.

    trusted gives the networks of the setting trusted_proxies as they are now. The caller is the last address of
    X-Forwarded-For that is no trusted proxy's, as only what a trusted proxy wrote can be believed. Whoever connects to
    a Unix socket is taken for a proxy when any is trusted.
    """

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        networks = trusted()
        if networks and scope["type"] in ("http", "websocket"):
            _read(scope, networks)
        await app(scope, receive, send)

    return told


def _read(scope: Scope, networks: Sequence[str]) -> None:
    client = scope.get("client")
    if client is not None and client[0] and not _is_in(client[0], networks):
        return
    headers = scope["headers"]
    addresses = [
        part.strip().decode("latin-1")
        for name, value in headers
        if name == b"x-forwarded-for"
        for part in value.split(b",")
    ]
    caller = _caller(addresses, networks)
    if caller is not None:
        scope["client"] = (caller, 0)
    proto = next((value.strip().lower() for name, value in headers if name == b"x-forwarded-proto"), b"")
    if proto in (b"http", b"https"):
        secure = proto == b"https"
        plain = "ws" if scope["type"] == "websocket" else "http"
        scope["scheme"] = f"{plain}s" if secure else plain


def _caller(addresses: Iterable[str], networks: Sequence[str]) -> str | None:
    """The last address that is not a trusted proxy's, or the first of all; None where none can be read."""
    found = None
    for address in reversed(list(addresses)):
        plain = _plain(address)
        if plain is None:
            return found
        found = plain
        if not _is_in(plain, networks):
            return found
    return found


def _plain(address: str) -> str | None:
    """An address without port and brackets."""
    text = address
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _is_in(address: str, networks: Sequence[str]) -> bool:
    try:
        one = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(one, "ipv4_mapped", None)
    one = mapped if mapped is not None else one
    return any(one in ip_network(network) for network in networks)


__all__ = ["behind_proxies"]
