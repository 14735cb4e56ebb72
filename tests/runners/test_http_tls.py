"""The guard and TLS: what is connected to is an address, what the certificate is for is the name."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.security.canaries import OK, listening, redirect
from toolpost import EgressDeniedError, EgressGuard, RemoteToolError, Tool, ToolContext, create_tool_call
from toolpost.security import egress_transport
from toolpost.testing import executor_for
from toolpost.toolbox import web_tools

NAME = "secure.test"


class Secure:
    """A server that shows a certificate for NAME, and keeps the names that clients asked it for."""

    def __init__(self) -> None:
        self.answer = OK
        self.names: list[str | None] = []
        self.requests: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
def pem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate for NAME, 30 days from its end, that the transport trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30, hours=12))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    shown = certificate.public_bytes(Encoding.PEM)
    file = tmp_path / "server.pem"
    file.write_bytes(shown + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    trusting = ssl.create_default_context(cadata=shown.decode())
    monkeypatch.setattr(egress_transport, "trust", lambda: trusting)
    return file


@asynccontextmanager
async def serving(pem: Path) -> AsyncIterator[Secure]:
    secure = Secure()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.sni_callback = lambda sock, name, _: secure.names.append(name)
    server = await asyncio.start_server(secure.serve, "127.0.0.1", 0, ssl=context)
    secure.port = server.sockets[0].getsockname()[1]
    try:
        yield secure
    finally:
        server.close()


async def resolve(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


GUARD = EgressGuard(private=("*.test:*", "127.0.0.1:*"), resolve=resolve)


async def get(url: str, **options: Any) -> Any:
    seen = []

    @Tool(name="Net.Get", register=False)
    async def body(ctx: ToolContext) -> None:
        seen.append(await ctx.http.get(url, **options))

    with executor_for(body, egress=GUARD) as executor:
        await executor.call("Net.Get")
    return seen[0]


async def test_the_name_is_asked_for_and_its_certificate_checked_though_an_address_is_connected_to(pem: Path) -> None:
    async with serving(pem) as secure:
        response = await get(f"https://{NAME}:{secure.port}/")
        with pytest.raises(RemoteToolError, match="CERTIFICATE_VERIFY_FAILED"):
            await get(f"https://other.test:{secure.port}/")

    assert response.text == "ok"
    assert secure.names == [NAME, "other.test"]
    assert f"Host: {NAME}:{secure.port}\r\n" in secure.requests[0]
    assert len(secure.requests) == 1


async def test_a_redirect_from_https_to_http_is_refused(pem: Path) -> None:
    async with listening() as plain, serving(pem) as secure:
        secure.answer = redirect(f"http://127.0.0.1:{plain.port}/")
        with pytest.raises(EgressDeniedError) as refused:
            await get(f"https://{NAME}:{secure.port}/", follow_redirects=True)

    assert refused.value.details["rule"] == "egress.downgrade"
    assert plain.connections == 0


async def test_url_health_tells_how_long_the_certificate_holds(pem: Path) -> None:
    async with serving(pem) as secure:
        secure.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        with executor_for(web_tools(), egress=GUARD, enable_security_checks=False) as executor:
            call = create_tool_call("Web.URLHealth", {"url": f"https://{NAME}:{secure.port}/"})
            result = await executor.execute_tool_call(call)

    assert result.success, result.error
    assert (result.data["healthy"], result.data["tls_days_left"]) == (True, 30)
