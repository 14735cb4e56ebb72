"""The moto server: DynamoDB in memory, and S3 where no stricter peer can be had. It accepts any credentials."""

import sys
from functools import cache
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

from tests.services.server import CHECKOUT, HOST, Missing, Server

REGION = "us-east-1"


class Dynamo(Server):
    """DynamoDB as moto plays it: conditions, transactions and TTL are right; nothing outlives the process."""

    name = "dynamodb"
    variable = "TOOLPOST_TEST_DYNAMODB"
    keeps_data = False
    access_key = "toolpost"
    secret_key = "any-will-do"
    region = REGION

    @classmethod
    def find(cls) -> Path:
        return interpreter(cls.variable)

    def command(self, folder: Path) -> list[str]:
        return moto_command(self.find(), self.port)

    def answers(self) -> bool:
        return moto_answers(self.port)


@cache
def interpreter(variable: str) -> Path:
    """A Python that has moto: this one, or the checkout's. Raises Missing."""
    if find_spec("moto") and find_spec("flask"):
        return Path(sys.executable)
    python = CHECKOUT / ".venv" / "bin" / "python"
    if python.exists() and any(python.parent.glob("moto_server*")):
        return python
    raise Missing(f"moto is not installed: make .venv/.ready, or set {variable} to a server's URL")


def moto_command(python: Path, port: int) -> list[str]:
    """What starts it; -I keeps it from importing this checkout's own files."""
    return [str(python), "-I", "-m", "moto.server", "-H", HOST, "-p", str(port)]


def moto_answers(port: int) -> bool:
    """Whether its own page is there, which no other server has."""
    try:
        with urlopen(f"http://{HOST}:{port}/moto-api/data.json", timeout=2) as answer:
            return bool(answer.status == 200)
    except HTTPException:
        return False
