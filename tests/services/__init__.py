"""Real servers for the tests, each private, on loopback, and gone when the run is.

A URL in the environment wins (TOOLPOST_TEST_POSTGRES and so on); else the machine's own programs are used.
"""

from tests.services.bubblewrap import Bubblewrap
from tests.services.clients import LegacyPythonClients, NpmClients, PythonClients
from tests.services.mongodb import Mongo
from tests.services.moto import Dynamo
from tests.services.oidc import Oidc
from tests.services.postgres import Postgres
from tests.services.redis import Redis
from tests.services.s3 import S3
from tests.services.server import Missing, Prepared, Server, StartFailed, in_ci

KINDS: dict[str, type[Server]] = {kind.name: kind for kind in (Postgres, Redis, S3, Dynamo, Mongo, Oidc)}
OTHERS: tuple[type[Prepared], ...] = (Bubblewrap, NpmClients, PythonClients, LegacyPythonClients)
PREPARED: dict[str, type[Prepared]] = {**KINDS, **{kind.name: kind for kind in OTHERS}}
"""What `prepare` gets: the servers, and programs that are none."""

__all__ = [
    "KINDS",
    "PREPARED",
    "S3",
    "Bubblewrap",
    "Dynamo",
    "LegacyPythonClients",
    "Missing",
    "Mongo",
    "NpmClients",
    "Oidc",
    "Postgres",
    "Prepared",
    "PythonClients",
    "Redis",
    "Server",
    "StartFailed",
    "in_ci",
]
