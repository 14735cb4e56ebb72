"""The test services themselves: they answer, come back with their data, die with the run, and leave nothing behind."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests.services import (
    KINDS,
    S3,
    LegacyPythonClients,
    Missing,
    NpmClients,
    Postgres,
    Prepared,
    PythonClients,
    Redis,
    Server,
    StartFailed,
    detached,
    node,
    packages,
    processes,
)
from tests.services.__main__ import main
from tests.services.redis import flush

ROOT = Path(__file__).resolve().parent.parent

# The shared fixtures that are not called like their service; `redis` is the client's name.
SHARED = {"redis": "redis_server"}

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks at what only Linux has")


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A private server of each kind; the shared fixture is asked for first, so that it is the one to skip."""
    request.getfixturevalue(SHARED.get(request.param, request.param))
    try:
        service = KINDS[request.param]().start()
    except Missing as error:
        pytest.skip(f"only others' {request.param} can be had here: {error}")
    yield service
    service.stop()


def test_a_killed_server_answers_again_at_the_same_url(server: Server) -> None:
    url, first = server.url, server.pid

    server.kill()

    with pytest.raises(OSError, match="refused"):
        server.answers()

    server.restart()

    assert server.answers()
    assert server.url == url
    assert server.pid != first


def test_a_stopped_server_leaves_no_process_and_no_folder(server: Server) -> None:
    family, folder = processes.tree(server.pid), server.folder

    server.stop()

    assert len(family) >= 1
    assert not any(processes.is_same(process) for process in family)
    assert folder is not None
    assert not folder.exists()


@linux_only
@pytest.mark.parametrize("kind", KINDS)
def test_only_loopback_is_listened_on(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(SHARED.get(kind, kind))

    assert server.given or listeners(server.port) == {"127.0.0.1"}


def listeners(port: int) -> set[str]:
    """The addresses at which something listens on a port, as the kernel has them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(
                    {"0100007F": "127.0.0.1", "0000000000000000FFFF00000100007F": "127.0.0.1"}.get(address, address)
                )
    return found


def test_what_postgres_has_committed_survives_a_kill(own_postgres: Postgres) -> None:
    with psycopg.connect(own_postgres.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        connection.commit()
        own_postgres.kill()

    own_postgres.restart()

    with psycopg.connect(own_postgres.url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]


def test_what_redis_has_acknowledged_survives_a_kill(own_redis: Redis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.set("kept", 7)
        own_redis.kill()

    own_redis.restart()

    with redis.Redis.from_url(own_redis.url) as client:
        assert client.get("kept") == b"7"


def test_a_bucket_survives_a_kill(strict_s3: S3) -> None:
    with S3() as own:
        bucket = own.new_bucket()

        own.kill()
        own.restart()

        assert own.request("GET", f"/{bucket}")[0] == 200


async def test_a_frozen_postgres_keeps_its_sessions_and_answers_once_thawed(own_postgres: Postgres) -> None:
    async with await psycopg.AsyncConnection.connect(own_postgres.url) as connection:
        own_postgres.freeze()
        answer = asyncio.create_task(connection.execute("SELECT 7"))
        await asyncio.wait([answer], timeout=0.3)
        waited = not answer.done()
        own_postgres.thaw()

        assert waited
        assert await (await answer).fetchall() == [(7,)]


def test_a_frozen_server_can_be_stopped(own_redis: Redis) -> None:
    own_redis.freeze()

    own_redis.stop()

    assert not own_redis.running


@linux_only
def test_servers_die_with_a_killed_run(redis_server: Redis) -> None:
    code = "from tests.services import Redis; s = Redis().start(); print(s.pid, s.folder, flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        family = processes.tree(int(pid))

        run.kill()

        assert family
        assert processes.gone(family, patience_s=10)
        shutil.rmtree(folder)


def test_a_server_outlives_the_thread_that_started_it(own_redis: Redis) -> None:
    thread = threading.Thread(target=own_redis.restart)
    thread.start()
    thread.join()

    assert own_redis.running
    assert own_redis.answers()


def test_a_run_that_forgets_to_stop_leaves_no_folder(redis_server: Redis) -> None:
    code = "from tests.services import Redis; print(Redis().start().folder)"

    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert run.stdout.strip()
    assert not Path(run.stdout.strip()).exists()


def test_a_url_in_the_environment_wins_and_its_server_is_never_touched(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLPOST_TEST_REDIS", redis_server.url)

    with Redis.shared() as service:
        assert service.url == redis_server.url
        for touch in (service.kill, service.freeze, service.restart):
            with pytest.raises(RuntimeError):
                touch()


def test_the_usual_s3_server_refuses_a_wrong_signature(strict_s3: S3, s3_bucket: str) -> None:
    assert strict_s3.request("GET", f"/{s3_bucket}")[0] == 200
    assert strict_s3.request("GET", f"/{s3_bucket}", secret_key="wrong")[0] == 403


def test_a_bucket_is_removed_with_its_objects(s3: S3) -> None:
    bucket = s3.new_bucket()
    s3.expect(200, "PUT", f"/{bucket}/a folder/a file")

    s3.remove_bucket(bucket)

    assert s3.request("GET", f"/{bucket}")[0] == 404


@pytest.mark.parametrize("_", range(2))
def test_each_test_gets_an_empty_redis_database(_: int, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


@pytest.mark.parametrize("_", range(2))
def test_each_test_gets_an_empty_postgres_database(_: int, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE left_behind ()")


def test_flushing_refuses_to_go_on_after_an_error(redis_server: Redis) -> None:
    with pytest.raises(OSError, match="to AUTH"):
        flush(redis_server.url.replace("//", "//:secret@"))


def test_a_program_that_ends_at_once_is_reported_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    complain = ["-c", "import sys; sys.exit('no memory left')"]
    monkeypatch.setattr(Redis, "find", classmethod(lambda _: Path(sys.executable)))
    monkeypatch.setattr(Redis, "command", lambda *_: [sys.executable, *complain])
    service = Redis()

    with pytest.raises(StartFailed, match="ended with 1:\nno memory left"):
        service.start()

    assert service.folder is None


# What a machine without a server sees: redis-server is the one that is found on the search path alone.


@pytest.fixture
def without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    for name in ("CI", "TOOLPOST_TEST_REDIS"):
        monkeypatch.delenv(name, raising=False)


def run_a_redis_test(*options: str) -> subprocess.CompletedProcess[str]:
    """Run a test that wants Redis in a pytest of its own."""
    test = f"{__file__}::test_each_test_gets_an_empty_redis_database"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.usefixtures("without_redis")
def test_a_missing_service_skips_and_is_named_at_the_end() -> None:
    run = run_a_redis_test()

    assert "NOT TESTED: 2 tests wanted redis (install Redis (Debian: redis-server)" in run.stdout
    assert run.returncode == 0


@pytest.mark.usefixtures("without_redis")
@pytest.mark.parametrize(("ci", "options"), [("true", []), ("", ["--strict-services"])])
def test_a_missing_service_fails_in_ci(ci: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)

    run = run_a_redis_test(*options)

    assert "NOT TESTED without redis" in run.stdout
    assert run.returncode == 1


@pytest.mark.usefixtures("without_redis")
@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_preparing_names_what_is_missing(
    ci: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", ci)

    assert main(["prepare", "redis"]) == code
    assert "tests that need redis cannot run here: install Redis" in capsys.readouterr().err


@pytest.mark.usefixtures("without_redis")
def test_a_service_named_by_a_url_needs_no_preparing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("TOOLPOST_TEST_REDIS", "redis://127.0.0.1:6379")

    assert main(["prepare", "redis"]) == 0


def test_a_program_that_is_no_server_is_prepared_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(packages, "installable", lambda: True)
    monkeypatch.setattr(packages, "apt_install", asked.append)

    assert main(["prepare", "--install", "bubblewrap"]) == 1
    assert asked == [["bubblewrap"]]
    assert "tests that need bubblewrap cannot run here: install bubblewrap" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [NpmClients, PythonClients, LegacyPythonClients])
def test_clients_that_are_missing_are_named_with_the_way_out(
    kind: type[Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "CACHE", tmp_path)

    with pytest.raises(Missing, match="run 'make prepare'"):
        kind.find()


def test_what_cannot_be_installed_whole_is_not_there_at_all(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "import pathlib, sys; pathlib.Path(sys.argv[1], 'half').touch(); sys.exit('full')"]

    with pytest.raises(Missing, match=r"it cannot be installed \(full\)"):
        node.into(tmp_path / "folder", lambda made: [*fails, str(made)])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/services/*/package-lock.json")), ids=lambda p: p.parent.name)
def test_npm_packages_are_pinned_by_hash_and_no_address(path: Path) -> None:
    entries = {name: entry for name, entry in json.loads(path.read_text())["packages"].items() if name}

    assert entries
    assert [name for name, entry in entries.items() if "integrity" not in entry and not entry.get("inBundle")] == []
    assert [name for name, entry in entries.items() if "resolved" in entry] == []


@pytest.mark.parametrize("before", [None, "exit 0"])
def test_packages_start_nothing_and_the_old_policy_comes_back(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", policy)
    if before:
        policy.write_text(before)
        policy.chmod(0o700)

    with packages.nothing_started():
        inside = subprocess.run([policy]).returncode

    assert inside == 101
    assert [(path.read_text(), path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == (
        [(before, 0o700)] if before else []
    )


def test_detached_services_are_found_again_and_stopped(
    redis_server: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detached, "STATE", tmp_path / "up.json")
    service = Redis(outlives=True)

    detached.up(service)
    detached.up(Redis(outlives=True))
    main(["env"])

    assert capsys.readouterr().out == f"export TOOLPOST_TEST_REDIS={service.url}\n"
    assert service.folder is not None

    main(["down"])

    assert not service.running
    assert not service.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_command_runs_with_the_services_in_its_environment(
    postgres: Postgres, redis_server: Redis, s3: S3, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for service in (postgres, redis_server, s3):
        for name, value in service.variables().items():
            monkeypatch.setenv(name, value)

    code = main(["run", "--", "sh", "-c", "echo $TOOLPOST_TEST_POSTGRES $TOOLPOST_TEST_S3_SECRET_KEY; exit 3"])

    assert code == 3
    assert capfd.readouterr().out == f"{postgres.url} {s3.secret_key}\n"
