"""`toolpost serve`: gateways that start from nothing, drain, follow their settings, and refuse what would be unsafe."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.transports.cli_shop import environment
from tests.transports.serving import LIMITED, PATIENCE_S, Pipes, connects, refused, running, serving


def test_a_gateway_needs_nothing_but_a_folder(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as gateway:
        answer = gateway.call("add", a=40)
        data = tmp_path / "toolpost-data"
        kept = {path.name for path in data.iterdir()}
        gateway.signal(signal.SIGTERM)

        assert gateway.ends() == 0
    assert answer.json()["data"] == {"result": 42}
    assert {"toolpost.db", "secret.key"} <= kept
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "secret.key").stat().st_mode) == 0o600


def test_it_says_where_to_look_and_what_to_try(tmp_path: Path) -> None:
    with running("serve", "--port=0", "--ready-file=ready", folder=tmp_path) as gateway:
        gateway.says("to stop")
        url = (tmp_path / "ready").read_text().strip()
        try_it = gateway.says("to try")
        pages = [httpx.get(f"{url}{path}").status_code for path in ("/live", "/ready", "/docs", "/metrics")]
        gateway.signal(signal.SIGINT)

        assert gateway.ends() == 0
    assert pages == [200, 200, 200, 200]
    assert gateway.says("4 tools at").strip().endswith(url)
    assert f"curl -s {url}/v1/tools/" in try_it
    assert not (tmp_path / "ready").exists()


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
def test_a_running_call_gets_its_answer_while_the_gateway_drains(server: str, tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    with serving(f"--server={server}", folder=tmp_path) as gateway, ThreadPoolExecutor() as threads:
        answer = threads.submit(gateway.call, "hold", **pipes.arguments)
        pipes.wait()
        gateway.signal(signal.SIGTERM)
        gateway.says("SIGTERM: no more is taken")
        while connects(gateway.url):
            pass
        pipes.let_go("in the end")

        assert gateway.ends() == 0
        assert answer.result().json()["data"] == {"result": "in the end"}
        assert answer.result().headers["connection"] == "close"


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    with serving(folder=tmp_path) as gateway, ThreadPoolExecutor() as threads:
        answer = threads.submit(gateway.call, "hold", **pipes.arguments)
        pipes.wait()
        gateway.signal(signal.SIGTERM)
        gateway.says("SIGTERM: no more is taken")
        gateway.signal(signal.SIGTERM)

        assert gateway.ends() == 128 + signal.SIGTERM
        with pytest.raises(httpx.TransportError):
            answer.result()


def test_settings_are_read_anew_at_a_hangup(tmp_path: Path) -> None:
    (tmp_path / "toolpost.toml").write_text("max_input_size = 1000\n")
    with serving(folder=tmp_path) as gateway:
        (tmp_path / "toolpost.toml").write_text("max_input_size = 10\ndata_directory = 'elsewhere'\n")
        before = gateway.call("hold", reached="x" * 50, release="y")
        gateway.signal(signal.SIGHUP)
        line = gateway.says("settings read anew")
        after = gateway.call("hold", reached="x" * 50, release="y")

    assert "taken over: max_input_size" in line
    assert "in force after a restart:" in line
    assert "data_directory" in line
    assert before.status_code == 500
    assert after.json()["code"] == "invalid_input"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_depth = 'many'\n", "max_depth must be a whole number from 1 to 250"),
        ("max_depth = \n", "is not TOML"),
        ("max_depht = 9\n", "no setting is named 'max_depht'"),
        ("max_depth = 9\ncache_backend = 'redis'\n", "no Redis is named"),
        ("max_depth = 9\nlock_file = 'nowhere'\n", "nowhere"),
    ],
)
def test_wrong_settings_change_nothing(text: str, said: str, tmp_path: Path) -> None:
    with serving(folder=tmp_path) as gateway:
        (tmp_path / "toolpost.toml").write_text(text)
        gateway.signal(signal.SIGHUP)
        line = gateway.says("settings stay as they were")
        (tmp_path / "toolpost.toml").write_text("max_depth = 7\n")
        gateway.signal(signal.SIGHUP)

        assert said in line
        assert gateway.says("settings read anew").strip().endswith("taken over: max_depth")
        assert gateway.call("add", a=1).status_code == 200


def test_a_settings_file_that_is_gone_takes_nothing_back(tmp_path: Path) -> None:
    file = tmp_path / "toolpost.toml"
    file.write_text('authentication = "required"\n')
    with serving(folder=tmp_path) as gateway:
        before = gateway.call("add", a=1).status_code
        file.unlink()
        gateway.signal(signal.SIGHUP)
        line = gateway.says("settings stay as they were|settings read anew")
        after = gateway.call("add", a=1).status_code

    assert "toolpost.toml is gone" in line
    assert (before, after) == (401, 401)


def test_settings_that_let_everybody_in_are_said_as_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "toolpost.toml"
    file.write_text('authentication = "required"\n')
    with serving("--host=0.0.0.0", folder=tmp_path) as gateway:
        file.write_text('authentication = "auto"\n')
        gateway.signal(signal.SIGHUP)
        refused = gateway.says("settings stay as they were")
        file.write_text('authentication = "none"\n')
        gateway.signal(signal.SIGHUP)
        gateway.says("taken over: authentication")

        assert gateway.says("whoever reaches the gateway may call every tool")
    assert "there is no API key" in refused


def test_two_gateways_may_share_a_data_directory(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as first, serving(folder=tmp_path) as second:
        call_id = first.accept("add", a=1)

        assert second.report(call_id)["data"] == {"result": 3}


def test_accepted_calls_are_run_by_a_worker_when_no_gateway_is_there(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path)
    with serving(folder=tmp_path) as gateway:
        call_id = gateway.accept("hold", options={"delay_s": 0.5}, **pipes.arguments)
        gateway.signal(signal.SIGTERM)
        assert gateway.ends() == 0
    with running("worker", folder=tmp_path) as worker:
        ran_in = pipes.wait()
        worker.signal(signal.SIGTERM)
        worker.says("SIGTERM: no more is taken")
        pipes.let_go("by a worker")

        assert worker.ends() == 0
        assert ran_in == worker.process.pid
    with serving(folder=tmp_path) as gateway:
        assert gateway.report(call_id)["data"] == {"result": "by a worker"}


def test_a_gateway_may_have_as_many_connections_as_the_system_allows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with serving(folder=tmp_path) as gateway:
            gateway.call("add", a=1)
            allowed = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert allowed == (min(hard, 65_536), hard)


def test_a_gateway_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "toolpost.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with serving(f"--uds={path}", folder=tmp_path) as gateway:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            answer = gateway.call("add", client, a=1)
        mode = stat.S_IMODE(path.stat().st_mode)
        gateway.signal(signal.SIGTERM)

        assert gateway.ends() == 0
    assert answer.json()["data"] == {"result": 3}
    assert mode == 0o660
    assert not path.exists()


def test_it_does_not_listen_to_others_before_there_is_a_key(tmp_path: Path) -> None:
    everywhere = ("serve", "--host=0.0.0.0", "--port=0")
    ended = refused(*everywhere, folder=tmp_path)
    key = refused("keys", "create", "--data", "toolpost-data", folder=tmp_path).stdout.strip()
    with serving("--host=0.0.0.0", folder=tmp_path) as gateway:
        without = gateway.call("add", a=1)
        with_it = gateway.call("add", headers={"authorization": f"Bearer {key}"}, a=1)

    assert ended.returncode == 2
    assert f"`toolpost keys create --data {tmp_path / 'toolpost-data'}`" in ended.stderr
    assert "serve_host is '0.0.0.0'" in ended.stderr
    assert without.status_code == 401
    assert with_it.json()["data"] == {"result": 3}


def test_it_listens_to_everybody_where_that_is_said(tmp_path: Path) -> None:
    with serving("--host=0.0.0.0", "--set", "authentication=none", folder=tmp_path) as gateway:
        assert gateway.call("add", a=1).json()["data"] == {"result": 3}
        gateway.says("warning: authentication is 'none'")


def test_a_gateway_that_wants_keys_starts_before_there_are_any(tmp_path: Path) -> None:
    with serving("--host=0.0.0.0", "--set", "authentication=required", folder=tmp_path) as gateway:
        gateway.says("nobody can call; `toolpost keys create")
        assert gateway.call("add", a=1).status_code == 401


def test_processes_that_would_each_count_by_themselves_are_refused(tmp_path: Path) -> None:
    by_tool = refused("serve", "--port=0", "--workers=2", folder=tmp_path, tools=LIMITED)
    by_setting = refused("serve", "--port=0", "--workers=2", "--set=max_calls_per_minute=60", folder=tmp_path)

    assert (by_tool.returncode, by_setting.returncode) == (2, 2)
    assert "limited has RateLimit, which 2 processes would each count by themselves" in by_tool.stderr
    assert "state_url=redis://" in by_tool.stderr
    assert "max_calls_per_minute is 60" in by_setting.stderr


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "toolpost-data"
    folder.mkdir()
    (folder / "secret.key").write_text("0123456789abcdef0123456789abcdef")
    (folder / "secret.key").chmod(0o644)

    ended = refused("serve", "--port=0", folder=tmp_path)

    assert ended.returncode == 2
    assert "others can read the key" in ended.stderr
    assert "chmod 600" in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_access_log_that_cannot_be_written_is_said(workers: str, tmp_path: Path) -> None:
    ended = refused("serve", "--port=0", f"--workers={workers}", "--access-log=nowhere/log", folder=tmp_path)

    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the access log nowhere/log cannot be written (No such file or directory)")


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = refused("serve", f"--port={taken.getsockname()[1]}", folder=tmp_path)

    assert ended.returncode == 2
    assert "cannot listen on 127.0.0.1 port" in ended.stderr
    assert "port 0 takes a free one" in ended.stderr


@pytest.mark.parametrize(
    ("package", "server", "extra"),
    [("starlette", "uvicorn", "serve"), ("uvicorn", "uvicorn", "serve"), ("granian", "granian", "granian,serve")],
)
def test_a_package_that_is_missing_is_said(package: str, server: str, extra: str, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{package}.py").write_text(f"raise ModuleNotFoundError('it is not here', name={package!r})\n")
    path = os.pathsep.join([str(hidden), environment()["PYTHONPATH"]])

    ended = refused("serve", "--port=0", f"--server={server}", folder=tmp_path, PYTHONPATH=path)

    assert ended.returncode == 2
    assert ended.stderr == f"error: a gateway needs the package {package}; install toolpost[{extra}]\n"


def test_a_service_manager_is_told_how_it_stands(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        with serving(folder=tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as gateway:
            told = [manager.recv(1000)]
            gateway.signal(signal.SIGHUP)
            told += [manager.recv(1000), manager.recv(1000)]
            gateway.signal(signal.SIGTERM)
            told.append(manager.recv(1000))

            assert gateway.ends() == 0
    assert [state.split(b"\n")[0] for state in told] == [b"READY=1", b"RELOADING=1", b"READY=1", b"STOPPING=1"]
    assert told[1].split(b"\n")[1].startswith(b"MONOTONIC_USEC=")
