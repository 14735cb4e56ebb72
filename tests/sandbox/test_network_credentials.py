"""Credentials that the proxy of sandboxes adds: outside, and never to be seen inside."""

# ruff: noqa: F811
# Fixtures are imported, and named again by who takes them.
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.runners.test_http_tls import NAME, pem  # noqa: F401
from tests.sandbox.networked import ASK, CANARY, LIMITS, RAW, Make, boxes, here, network, serving, value  # noqa: F401
from tests.security.canaries import listening, redirect
from tests.toolbox.boxes import real
from toolpost import (
    EgressGuard,
    Sandbox,
    SandboxError,
    SandboxNetwork,
    Tool,
    ToolContext,
    ToolExecutor,
    ToolRegistry,
    create_tool_call,
)
from toolpost.calls.needles import Finder, forms_of
from toolpost.runners.sandbox_echoes import WINDOW, Echoes
from toolpost.toolbox import shell_tools

# --- credentials


class Vault:
    """A provider of one secret, which counts how often it was asked."""

    keeps = False

    def __init__(self, secret: str = CANARY) -> None:
        self.secret, self.asked = secret, 0

    def get(self, path: str) -> str:
        self.asked += 1
        return self.secret


SEARCH = """
import os, socket
def everything():
    found = [repr(dict(os.environ)), open('/proc/self/environ').read()]
    for name in os.listdir('/proc'):
        if name.isdigit():
            for what in ('environ', 'cmdline'):
                try: found.append(open(f'/proc/{name}/{what}', errors='replace').read())
                except OSError: pass
    maps = [line.split() for line in open('/proc/self/maps')]
    with open('/proc/self/mem', 'rb', 0) as memory:
        for line in maps:
            begin, end = (int(one, 16) for one in line[0].split('-'))
            if line[1].startswith('rw') and end - begin < 64 << 20:
                try:
                    memory.seek(begin)
                    found.append(memory.read(end - begin).decode('latin-1'))
                except (OSError, ValueError): pass
    for top in ('/box', '/tmp', '/run', '/etc', '/opt', '/var', '/dev/shm'):
        for folder, _, files in os.walk(top):
            for name in files:
                try: found.append(open(f'{folder}/{name}', errors='replace').read(1 << 20))
                except OSError: pass
    return ''.join(found)
"""


async def test_a_credential_is_added_outside_and_never_seen_inside(
    boxes: Make,
    pem: Path,
) -> None:
    vault = Vault()
    async with serving(pem) as secure:
        entry = f"{NAME}:{secure.port}"
        headers = {entry: {"Authorization": "Bearer {secret://vault/token}", "X-Api-Version": "2"}}
        sandboxes = boxes(entry, headers=headers, secrets={"vault": vault})
        result = await sandboxes.run_python(
            f"{ASK}\nask('http://{entry}/x', Authorization='mine', X_Api_version='9', Range='bytes=0-3', "
            "Accept_Encoding='gzip', Cookie='own')"
        )
        tunnel = await sandboxes.run_python(f"{ASK}\nask('https://{entry}/')")

    assert value(result) == (200, "ok")
    (request,) = secure.requests
    lines = request.lower().split("\r\n")
    assert [line for line in lines if line.startswith(("authorization", "x-api-version", "x-api_version"))] == [
        f"authorization: bearer {CANARY}",
        "x-api-version: 2",
    ]
    assert "range: bytes=0-3" not in lines
    assert "cookie: own" in lines
    assert "accept-encoding: identity" in lines
    assert CANARY not in repr(result)
    assert "http://" in value(tunnel)[1]
    assert network(tunnel).denied == {entry: 1}
    assert vault.asked == 1


async def test_no_memory_file_or_variable_inside_holds_the_credential(boxes: Make, pem: Path) -> None:
    async with serving(pem) as secure:
        entry = f"{NAME}:{secure.port}"
        headers = {entry: {"Authorization": "Bearer {secret://vault/token}"}}
        sandboxes = boxes(entry, headers=headers, secrets={"vault": Vault()})
        # What is looked for is put together only once all was read: it stands in no memory before.
        codes = [ord(char) + 1 for char in CANARY]
        result = await sandboxes.run_python(
            f"{ASK}{SEARCH}\nanswer = ask('http://{entry}/x')\ntext = everything()\n"
            f"wanted = ''.join(chr(one - 1) for one in {codes})\nanswer[0], len(text) > 100_000, wanted in text"
        )
        planted = await sandboxes.run_python(
            f"{SEARCH}\nkept = ''.join(chr(one - 1) for one in {codes})\nkept in everything()"
        )

    assert value(result) == (200, True, False)
    assert value(planted) is True  # the search finds what is there
    assert len(secure.requests) == 1


async def test_a_server_that_says_a_credential_back_does_not_hand_it_in(boxes: Make, pem: Path) -> None:
    import base64
    from urllib.parse import quote

    secret = 'tok"en/' + CANARY
    shown = [
        secret,
        json.dumps(secret),
        quote(secret, safe=""),
        base64.b64encode(f"Bearer {secret}".encode()).decode(),
        secret.encode().hex(),
    ]
    body = (". " * 20_000).join(["", *shown, ""]).encode()
    async with serving(pem) as secure:
        entry = f"{NAME}:{secure.port}"
        sandboxes = boxes(
            entry,
            headers={entry: {"Authorization": "Bearer {secret://vault/token}"}},
            secrets={"vault": Vault(secret)},
        )
        lines = f"HTTP/1.1 200 {secret}\r\nX-Echo: Bearer {secret}\r\nContent-Length: {len(body)}\r\n\r\n"
        secure.answer = lambda path: lines.encode() + body
        code = f"{RAW}\nraw(b'GET http://{entry}/ HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')"
        code += ".decode('latin-1')"
        got = value(await sandboxes.run_python(f"{code}[:2000]"))
        whole = await sandboxes.run_python(
            f"open('got', 'w').write({code[code.index('raw(b') :]})".join([f"{RAW}\n", ""])
        )
        packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"
        secure.answer = lambda path: packed
        refused = value(await sandboxes.run_python(f"{code}[:12]"))

    text = whole.artifacts["got"].decode()
    assert "HTTP/1.1 200" in got
    for form in (*shown, secret, CANARY):
        assert form not in text, form[:20]
        assert form not in got
    after = text.partition("\n\n" if "\r" not in text else "\r\n\r\n")[2]
    assert len(after) == len(body)
    assert after.count(". ") == 6 * 20_000
    assert refused == "HTTP/1.1 502"


async def test_a_redirect_of_such_a_host_to_itself_is_told_as_the_program_must_ask(
    boxes: Make,
    pem: Path,
) -> None:
    async with serving(pem) as secure:
        entry = f"{NAME}:{secure.port}"
        sandboxes = boxes(entry, headers={entry: {"X-Key": "secret://vault/k"}}, secrets={"vault": Vault()})
        secure.answer = lambda path: redirect(f"https://{entry}/new?a=1")
        result = await sandboxes.run_python(
            f"{RAW}\nraw(b'GET http://{entry}/ HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')"
        )

    assert f"Location: http://{entry}/new?a=1\r\n".lower().encode() in value(result).lower()


async def test_a_secret_that_cannot_be_had_sends_nothing_and_one_that_was_refused_is_asked_for_anew(
    boxes: Make,
    pem: Path,
) -> None:
    class Failing(Vault):
        def get(self, path: str) -> str:
            raise KeyError(path)

    kept = Vault()
    kept.keeps = True  # type: ignore[misc]
    async with serving(pem) as secure:
        entry = f"{NAME}:{secure.port}"
        headers = {entry: {"X-Key": "secret://vault/k"}}
        failing = boxes(entry, headers=headers, secrets={"vault": Failing()})
        result = await failing.run_python(f"{ASK}\nask('http://{entry}/')")
        before = len(secure.requests)
        secure.answer = lambda path: b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
        holding = boxes(entry, headers=headers, secrets={"vault": kept})
        await holding.run_python(f"{ASK}\nask('http://{entry}/'), ask('http://{entry}/')")

    assert value(result)[0] == 502
    assert "vault" not in value(result)[1]
    assert before == 0
    assert kept.asked == 2


def test_a_credential_is_found_wherever_a_body_is_cut() -> None:
    finder = Finder([forms_of(CANARY)])
    body = (b". " * (WINDOW // 2) + CANARY.encode() + b" ") * 3
    for size in (7, 4093, WINDOW, len(body)):
        echoes = Echoes(finder, len(CANARY))
        out = b"".join(echoes.feed(body[at : at + size]) for at in range(0, len(body), size)) + echoes.end()
        assert out == body.replace(CANARY.encode(), b"*" * len(CANARY)), size


# --- the tools of an executor


async def test_the_tools_of_an_executor_go_by_its_guard_and_its_secrets(tmp_path: Path, pem: Path) -> None:
    vault = Vault()
    async with serving(pem) as secure, listening() as plain:
        entry = f"{NAME}:{secure.port}"
        network = SandboxNetwork(
            allow=(entry, f"ok.test:{plain.port}", f"shut.test:{plain.port}"),
            headers={entry: {"Authorization": "Bearer {secret://vault/token}"}},
        )
        own = EgressGuard(hosts=(NAME, "ok.test"), private=("*.test:*",), resolve=here)
        with real(tmp_path / "boxes", Sandbox(network=network, limits=LIMITS), warm=0) as sandboxes:
            executor = ToolExecutor(registry=ToolRegistry(), egress=own, secrets={"vault": vault})
            executor.add(shell_tools(sandboxes))
            urls = f"http://{entry}/ http://ok.test:{plain.port}/ http://shut.test:{plain.port}/"
            script = (
                f"for url in {urls}; do curl -s -o out -w '%{{http_code}} ' $url || exit 99; done; "
                f"curl -sp -o out -w '%{{http_connect}} ' http://shut.test:{plain.port}/; true"
            )
            result = await executor.execute_tool_call(create_tool_call("Shell.Run", {"script": script}))
            executor.close()

    assert result.success, result.error
    if result.data["exit_code"] == 99:
        pytest.skip("there is no curl")
    assert result.data["stdout"].split() == ["200", "200", "403", "403"]
    assert f"Authorization: Bearer {CANARY}\r\n" in secure.requests[0]
    assert vault.asked == 1
    assert plain.connections == 1
    assert result.data["refused_hosts"] == [f"shut.test:{plain.port}"]


def test_equal_networks_of_an_executor_have_one_proxy_which_ends_with_it() -> None:
    ways: list[Any] = []

    @Tool(name="Net.Way", register=False)
    async def body(host: str, ctx: ToolContext) -> None:
        added = {host: {"X-Key": "secret://env/KEY", "A": "1"}}
        ways.append(ctx.gateway(SandboxNetwork(allow=(host,), headers=added)))

    executor = ToolExecutor(registry=ToolRegistry())
    executor.add([body])
    for host in ("a.test", "a.test", "b.test"):
        assert executor.execute_sync(create_tool_call("Net.Way", {"host": host})).success
    first, again, other = ways
    executor.close()

    assert first is again
    assert first is not other
    with pytest.raises(SandboxError, match="closed"):
        first.open(os.open("/dev/null", os.O_RDONLY))
