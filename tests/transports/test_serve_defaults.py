"""What a gateway stands on without settings, and what it refuses to begin with."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from toolpost import Breaker, Concurrency, ConfigurationError, Exclusive, ExecutorConfig, RateLimit, Tool, ToolExecutor
from toolpost.engine.registry import ToolRegistry
from toolpost.engine.settings import FORMS
from toolpost.transports.serve_checks import is_local, listens_on, refuse_divided
from toolpost.transports.serve_defaults import embedded, gateway_settings, key_in
from toolpost.transports.serve_reload import NEEDS_RESTART, changes

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_what_is_not_named_has_a_place_in_the_data_directory(tmp_path: Path) -> None:
    config = embedded(ExecutorConfig(data_directory=tmp_path / "a folder", blobs_url="memory://"))

    assert config.records_url is not None
    assert config.blobs_url is not None
    assert config.records_url.get_secret_value() == f"sqlite:///{tmp_path}/a%20folder/toolpost.db"
    assert config.blobs_url.get_secret_value() == "memory://"
    with ToolExecutor(config, registry=ToolRegistry()) as executor:
        executor.records.migrate()
    assert (tmp_path / "a folder" / "toolpost.db").exists()


def test_nothing_is_made_where_everything_is_named(tmp_path: Path) -> None:
    named = {"records_url": "memory://", "blobs_url": "memory://", "secret_key": "k" * 32}

    assert embedded(ExecutorConfig(data_directory=tmp_path / "data", **named)).secret_key is not None
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("given", "keys"), [({}, "all"), ({"idempotency_keys": "declared"}, "declared")])
def test_keys_count_for_all_tools_of_a_gateway_unless_told_otherwise(
    given: dict[str, Any], keys: str, tmp_path: Path
) -> None:
    assert gateway_settings(ExecutorConfig(data_directory=tmp_path, **given)).idempotency_keys == keys


def test_processes_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: key_in(tmp_path), range(32)))

    assert len(keys) == 1
    assert len(keys.pop()) >= 32
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_touch_is_refused(mode: int, tmp_path: Path) -> None:
    key_in(tmp_path)
    (tmp_path / "secret.key").chmod(mode)

    with pytest.raises(ConfigurationError, match="others can read the key"):
        key_in(tmp_path)


def test_an_empty_key_and_one_that_is_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.key").touch(0o600)
    with pytest.raises(ConfigurationError, match="is empty"):
        key_in(tmp_path)
    (tmp_path / "secret.key").rename(tmp_path / "other")
    (tmp_path / "secret.key").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        key_in(tmp_path)


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match=r"cannot be made .* name another with --data"):
        embedded(ExecutorConfig(data_directory=tmp_path / "file" / "data"))


@pytest.mark.parametrize(
    ("given", "local", "on"),
    [
        ({}, True, "127.0.0.1"),
        ({"serve_host": "localhost"}, True, "localhost"),
        ({"serve_host": "[::1]"}, True, "[::1]"),
        ({"serve_uds": "/run/toolpost.sock", "serve_host": "0.0.0.0"}, True, "localhost"),
        ({"serve_host": "0.0.0.0"}, False, "0.0.0.0"),
        ({"serve_host": "gateway.example"}, False, "gateway.example"),
        ({"trusted_proxies": ["127.0.0.1"]}, False, "0.0.0.0"),
        ({"public_url": "https://gateway.example"}, False, "0.0.0.0"),
        ({"public_url": "http://localhost:8080"}, True, "127.0.0.1"),
        ({"serve_uds": "/run/toolpost.sock", "trusted_proxies": ["::1"]}, False, "0.0.0.0"),
    ],
)
def test_who_can_reach_a_gateway(given: dict[str, Any], local: bool, on: str) -> None:
    config = ExecutorConfig(**given)

    assert (is_local(config), listens_on(config)) == (local, on)


@pytest.mark.parametrize(
    ("policies", "what"),
    [
        ({"rate_limit": RateLimit(calls=5)}, "RateLimit"),
        ({"concurrency": Concurrency(calls=5)}, "Concurrency"),
        ({"exclusive": Exclusive(by="name")}, "Exclusive"),
        ({"breaker": Breaker(shared=True)}, "a shared Breaker"),
    ],
)
def test_limits_that_processes_would_divide_are_refused(policies: dict[str, Any], what: str) -> None:
    @Tool(name="Some.Tool", register=False, **policies)
    def some(name: str) -> str:
        """A tool."""
        return name

    config = ExecutorConfig(serve_workers=3, records_url="sqlite:///unused.db")
    with ToolExecutor(config, registry=ToolRegistry()) as executor:
        executor.add(some)
        with pytest.raises(ConfigurationError, match=f"Some.Tool has {what}, which 3 processes .*serve_workers=1"):
            refuse_divided(config, executor)
        config.serve_workers = 1
        refuse_divided(config, executor)


def test_records_that_each_process_would_have_for_itself_are_refused() -> None:
    config = ExecutorConfig(serve_workers=2)
    with ToolExecutor(config, registry=ToolRegistry()) as executor:
        with pytest.raises(ConfigurationError, match="records_url is memory://, which 2 processes"):
            refuse_divided(config, executor)


def test_breakers_of_each_process_may_be_many() -> None:
    @Tool(register=False, breaker=Breaker())
    def some(name: str) -> str:
        """A tool."""
        return name

    config = ExecutorConfig(serve_workers=3, records_url="sqlite:///unused.db")
    with ToolExecutor(config, registry=ToolRegistry()) as executor:
        executor.add(some)
        refuse_divided(config, executor)


def test_what_needs_a_restart_is_told_apart_and_on_the_page() -> None:
    now = ExecutorConfig()
    wanted = ExecutorConfig(max_depth=7, serve_port=1, timeout=5.0)

    found = changes(now, wanted)

    assert (found.live, found.waiting) == (("timeout", "max_depth"), ("serve_port",))
    assert str(found) == "settings read anew; taken over: timeout, max_depth; in force after a restart: serve_port"
    assert FORMS.keys() >= NEEDS_RESTART
    section = PAGE.read_text().partition("which settings wait for a restart")[2].partition("\n\n")[0]
    assert {name for name in FORMS if f"`{name}`" in section} == NEEDS_RESTART
