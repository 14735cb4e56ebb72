"""Tells a service manager how a gateway stands, as systemd's sd_notify does."""

from __future__ import annotations

import os
import socket
import time


def notify(*states: str) -> None:
    """Send states ("READY=1") to the manager that started this process, if one wants to know."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect(address)
            manager.send("\n".join(states).encode())
    except OSError:
        return  # nobody listens: who started us will see it otherwise


def reloading() -> str:
    """The state that says that settings are being read, for a unit of Type=notify-reload."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


__all__ = ["notify", "reloading"]
