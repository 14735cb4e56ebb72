"""What tests get: all of them an environment free of toolpost's settings; those that ask, real servers.

The servers start at their first use and are shared by the run; each test gets a database or bucket of its own in them.
One that this machine lacks skips the test, and fails it where CI is set or under --strict-services.
"""

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeVar
from unittest.mock import patch
from urllib.parse import urlsplit, urlunsplit

import pytest
from hypothesis import settings

from tests.services import S3, Dynamo, Missing, Mongo, Oidc, Postgres, Prepared, Redis, Server, in_ci

S = TypeVar("S", bound=Server)

# Wall time per example says more about the machine than about the code; pytest-timeout bounds a whole test.
settings.register_profile("toolpost", deadline=None)
settings.load_profile("toolpost")

SETTING_PREFIXES = ("TOOL_EXECUTOR_", "ARCADE_", "OAUTH_")
# The variables that the requirement documents name without a prefix.
SETTINGS = frozenset(
    {
        "ALLOWED_FILE_EXTENSIONS",
        "ALLOWED_HOSTS",
        "CACHE_BACKEND",
        "CACHE_PREFIX",
        "CACHE_REDIS_URL",
        "DATABASE_URL",
        "ENABLE_METRICS",
        "ENABLE_TOOL_EXECUTOR_METRICS",
        "MAX_INPUT_SIZE",
        "METRICS_BACKEND",
        "PROMETHEUS_PORT",
        "SANDBOX_ROOT",
        "SECRET_KEY",
        "SECURITY_LEVEL",
        "TIMEOUT_SECONDS",
    }
)


@pytest.fixture(autouse=True)
def toolpost_env() -> Iterator[None]:
    """Hide the caller's settings from the test and undo what the test itself sets."""
    with patch.dict(os.environ):
        for name in list(os.environ):
            if name in SETTINGS or name.startswith(SETTING_PREFIXES):
                del os.environ[name]
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-services", action="store_true", help="fail tests whose service is missing, as in CI")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line for each missing service how much was not looked at."""
    reasons = (str(report.longrepr[-1]) for report in terminalreporter.stats.get("skipped", []))
    found = (re.search(r"NOT TESTED without (\w+): (.*)", reason) for reason in reasons)
    for (name, way_out), number in Counter(match.groups() for match in found if match).items():
        tests = "1 test" if number == 1 else f"{number} tests"
        terminalreporter.write_line(f"NOT TESTED: {tests} wanted {name} ({way_out})", yellow=True, bold=True)


def miss(name: str, way_out: str, config: pytest.Config) -> NoReturn:
    """Leave the test in the way that the run wants for a missing service."""
    reason = f"NOT TESTED without {name}: {way_out}"
    if in_ci() or config.getoption("--strict-services"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def serving(service: S, config: pytest.Config) -> Iterator[S]:
    """Start a service, and stop it afterwards."""
    try:
        service.start()
    except Missing as error:
        miss(service.name, str(error), config)
    yield service
    service.stop()


def prepared(kind: type[Prepared], config: pytest.Config) -> Path:
    """Where programs of a kind are, or the test is left in the way that the run wants."""
    try:
        return kind.find()
    except Missing as error:
        miss(kind.name, str(error), config)


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """The shared PostgreSQL server. Tests use `postgres_url`, or `own_postgres` to kill or freeze it."""
    yield from serving(Postgres.shared(), pytestconfig)


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[Redis]:
    """The shared Redis server. Tests use `redis_url`, or `own_redis` to kill or freeze it."""
    yield from serving(Redis.shared(), pytestconfig)


@pytest.fixture(scope="session")
def s3(pytestconfig: pytest.Config) -> Iterator[S3]:
    """The shared S3 server: url, region, access_key, secret_key, and lenient if it takes any credentials."""
    yield from serving(S3.shared(), pytestconfig)


@pytest.fixture
def strict_s3(s3: S3, pytestconfig: pytest.Config) -> S3:
    """The shared S3 server, for tests of credentials: it is missing where only a lenient one can be had."""
    if s3.lenient:
        miss("strict_s3", f"install Go and run 'make prepare', or set {S3.variable} to a server's URL", pytestconfig)
    return s3


@pytest.fixture(scope="session")
def dynamodb(pytestconfig: pytest.Config) -> Iterator[Dynamo]:
    """The shared DynamoDB server: url, region, access_key, secret_key. Name tables by the test."""
    yield from serving(Dynamo.shared(), pytestconfig)


@pytest.fixture(scope="session")
def mongo(pytestconfig: pytest.Config) -> Iterator[Mongo]:
    """The shared MongoDB server. Name databases by the test."""
    yield from serving(Mongo.shared(), pytestconfig)


@pytest.fixture(scope="session")
def oidc_server(pytestconfig: pytest.Config) -> Iterator[Oidc]:
    """The shared OpenID provider. Tests use `oidc`, or `own_oidc` to kill it or to have a second one."""
    yield from serving(Oidc.shared(), pytestconfig)


@pytest.fixture
def oidc(oidc_server: Oidc) -> Oidc:
    """The OpenID provider with its settings and counts as at its start."""
    oidc_server.set()
    return oidc_server


@pytest.fixture
def own_oidc(pytestconfig: pytest.Config) -> Iterator[Oidc]:
    """An OpenID provider of the test's own, to kill and restart, or to play another one. It takes 1 s."""
    yield from serving(Oidc(), pytestconfig)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database that is this test's alone; sessions left open are ended with it. It takes 70 ms."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield urlunsplit(urlsplit(postgres.url)._replace(path=f"/{name}"))
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of a Redis database that is empty when the test starts."""
    return redis_server.emptied(1)


@pytest.fixture
def s3_bucket(s3: S3) -> Iterator[str]:
    """The name of an empty bucket that is this test's alone."""
    name = s3.new_bucket()
    yield name
    s3.remove_bucket(name)


@pytest.fixture
def own_postgres(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """A PostgreSQL server of the test's own, to kill, freeze and restart. It takes 0.7 s."""
    yield from serving(Postgres(), pytestconfig)


@pytest.fixture
def own_redis(pytestconfig: pytest.Config) -> Iterator[Redis]:
    """A Redis server of the test's own, to kill, freeze and restart."""
    yield from serving(Redis(), pytestconfig)
