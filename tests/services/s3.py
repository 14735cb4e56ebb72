"""An S3 server that checks signatures: versitygw on a folder, built once; moto, declared lenient, where Go is missing.

The requests that the harness itself makes are signed here (Source: AWS Signature Version 4), so they prove a server
strict without any client library.
"""

import hashlib
import hmac
import os
import secrets
import shutil
import subprocess
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from tests.services.moto import REGION, interpreter, moto_answers, moto_command
from tests.services.server import CACHE, HOST, Missing, Server

VERSION = "v1.8.0"
MODULE = "github.com/versity/versitygw/cmd/versitygw"
BINARY = CACHE / f"versitygw-{VERSION}"
EMPTY = hashlib.sha256(b"").hexdigest()


class S3(Server):
    """versitygw, or moto in its place; `lenient` says which. Credentials are its attributes."""

    name = "s3"
    variable = "TOOLPOST_TEST_S3"
    region: ClassVar[str] = REGION

    def __init__(self, given: str | None = None, *, outlives: bool = False) -> None:
        super().__init__(given, outlives=outlives)
        # A server that others run is taken at its word: nobody gives a URL and two keys for one that does not care.
        self.lenient = not given and not BINARY.exists()
        self.keeps_data = not self.lenient
        self.access_key = os.environ.get(f"{self.variable}_ACCESS_KEY", "") if given else "toolpost"
        self.secret_key = os.environ.get(f"{self.variable}_SECRET_KEY", "") if given else secrets.token_hex(16)

    @classmethod
    def find(cls) -> Path:
        return BINARY if BINARY.exists() else interpreter(cls.variable)

    @classmethod
    def prepare(cls) -> None:
        if not BINARY.exists() and shutil.which("go"):
            build()
        cls.find()
        if not BINARY.exists():
            print("S3 is played by moto, which accepts any credentials; with Go it is versitygw, which checks them")

    def make(self, folder: Path) -> None:
        folder.joinpath("data").mkdir()

    def command(self, folder: Path) -> list[str]:
        if self.lenient:
            return moto_command(self.find(), self.port)
        return [str(BINARY), "--port", f"{HOST}:{self.port}", "--region", self.region, "--quiet", "posix", "data"]

    def environment(self) -> dict[str, str]:
        # Not on the command line, where every user of the machine could read it.
        return {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}

    def answers(self) -> bool:
        if self.lenient:
            return moto_answers(self.port)
        try:
            return self.request("GET", "/")[0] == 200
        except HTTPException:
            return False

    def variables(self) -> dict[str, str]:
        keys = {"ACCESS_KEY": self.access_key, "SECRET_KEY": self.secret_key}
        return super().variables() | {f"{self.variable}_{name}": value for name, value in keys.items()}

    def summary(self) -> str:
        return super().summary() + (", moto: it accepts any credentials and forgets" if self.lenient else "")

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"toolpost-{secrets.token_hex(6)}"
        self.expect(200, "PUT", f"/{name}")
        return name

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket with all that is in it."""
        for key in self.keys(name):
            self.expect(204, "DELETE", f"/{name}/{key}")
        self.expect(204, "DELETE", f"/{name}")

    def keys(self, bucket: str) -> list[str]:
        """The first thousand keys of a bucket."""
        listing = ElementTree.fromstring(self.expect(200, "GET", f"/{bucket}", {"list-type": "2"}))
        return [element.text or "" for element in listing.iterfind("{*}Contents/{*}Key")]

    def expect(self, status: int, method: str, path: str, query: dict[str, str] | None = None) -> bytes:
        """Make a signed request and return its body. Raises OSError for another status."""
        got, body = self.request(method, path, query)
        if got != status:
            raise OSError(f"{method} {path} at {self.url} answered {got} instead of {status}: {body[:200]!r}")
        return body

    def request(
        self, method: str, path: str, query: dict[str, str] | None = None, *, secret_key: str | None = None
    ) -> tuple[int, bytes]:
        """Make a request, signed with another secret if one is given: (status, body)."""
        parts = urlsplit(self.url)
        path = quote(parts.path.rstrip("/") + path, safe="/-_.~")
        text = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted((query or {}).items())
        )
        headers = self._signed(method, parts.netloc, path, text, secret_key or self.secret_key)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.netloc, timeout=10)
        try:
            connection.request(method, f"{path}?{text}" if text else path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _signed(self, method: str, host: str, path: str, query: str, secret_key: str) -> dict[str, str]:
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = {"host": host, "x-amz-content-sha256": EMPTY, "x-amz-date": time}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = "\n".join([method, path, query, lines, names, EMPTY])
        scope = f"{time[:8]}/{self.region}/s3/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", time, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{secret_key}".encode()
        for word in [*scope.split("/"), to_sign]:
            key = hmac.digest(key, word.encode(), "sha256")
        credential = f"Credential={self.access_key}/{scope}"
        authorization = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={key.hex()}"
        return headers | {"authorization": authorization}


def build() -> None:
    """Build versitygw into the cache, whole or not at all. Raises Missing with the compiler's last words."""
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"building versitygw {VERSION}, the S3 server of the tests, once: 2 to 3 minutes", flush=True)
    folder = CACHE / f"build-{os.getpid()}"
    command = ["go", "install", "-ldflags=-s -w", f"{MODULE}@{VERSION}"]
    try:
        run = subprocess.run(command, env=os.environ | {"GOBIN": str(folder)}, capture_output=True, text=True)
        if run.returncode:
            last = " ".join(run.stderr.split("\n")[-3:]).strip()
            raise Missing(f"versitygw {VERSION} cannot be built ({last}); set {S3.variable} to a server's URL")
        folder.joinpath("versitygw").replace(BINARY)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
