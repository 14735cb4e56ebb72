"""Sandboxes with a network, for tests of its proxy, and what their programs and the servers around have in common."""

from __future__ import annotations

import ast
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.security.canaries import Listener, listening
from tests.toolbox.boxes import real
from toolpost import EgressGuard, Sandbox, Sandboxes, SandboxLimits, SandboxNetwork, SandboxResult

CANARY = "planted-0f8b6c2e91d74a55-credential"
LIMITS = SandboxLimits(wall_s=30.0)
ASK = """
import urllib.error, urllib.request
def ask(url, data=None, **headers):
    try:
        request = urllib.request.Request(url, data, {name.replace("_", "-"): text for name, text in headers.items()})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode("latin-1")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("latin-1")
    except OSError as error:
        return 0, str(error)
"""
RAW = """
import socket
def raw(data, rest=b""):
    with socket.create_connection(("127.0.0.1", 3128), 20) as way:
        way.sendall(data)
        got = b""
        try:
            while piece := way.recv(65536):
                got += piece
        except OSError:
            pass
        return got
"""


async def here(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def guard(resolve: Any = here, private: Sequence[str] = ("*.test:*", "127.0.0.1:*")) -> EgressGuard:
    return EgressGuard(private=private, resolve=resolve)


@asynccontextmanager
async def serving(pem: Path) -> AsyncIterator[Listener]:
    """A server that shows a certificate for NAME, and answers OK until its answer is set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    async with listening(tls=context) as listener:
        yield listener


Make = Callable[..., Sandboxes]


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[Make]:
    made: list[Sandboxes] = []

    def make(*allow: str, egress: EgressGuard | None = None, headers: Any = None, **more: Any) -> Sandboxes:
        network = SandboxNetwork(allow=allow, headers=headers or {})
        profile = Sandbox(network=network, limits=LIMITS, mounts=more.pop("mounts", ()))
        root = tmp_path / f"boxes-{len(made)}"
        made.append(real(root, profile, egress=egress or guard(), warm=0, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def value(result: SandboxResult) -> Any:
    """What the last expression of a Python program was."""
    assert result.status == "ok", result.stderr.text
    assert result.value is not None
    return ast.literal_eval(result.value)


def network(result: SandboxResult) -> Any:
    assert result.usage.network is not None
    return result.usage.network
