"""References are resolved by their providers, once at a time, kept for a while, and never shown."""

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given, strategies as st

from toolpost import ConfigurationError, PluginError, SecretUnavailableError
from toolpost.calls.redaction import HIDDEN, Redactor
from toolpost.calls.references import reference_of, references_in, replaced
from toolpost.security.secrets import Secrets
from toolpost.testing import FakeClock


class Provider:
    """Counts what it is asked for, and gives what its values have."""

    waits = False

    def __init__(self, **values):
        self.values, self.asked = values, []

    def get(self, path):
        self.asked.append(path)
        return self.values[path]


def secrets_with(provider=None, **options):
    providers = {} if provider is None else {"shop": provider}
    return Secrets(Redactor(), providers=providers, **options)


# -- references --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("secret://env/API_KEY", ("env", "API_KEY", None)),
        ("secret://file/app.json#/db/password", ("file", "app.json", "/db/password")),
        ("secret://file//run/secrets/db", ("file", "/run/secrets/db", None)),
        ("secret://vault/kv/shop/db#password", ("vault", "kv/shop/db", "password")),
    ],
)
def test_a_reference_names_provider_path_and_field(text, parts):
    assert tuple(reference_of(text)) == parts
    assert str(reference_of(text)) == text


@pytest.mark.parametrize("text", ["secret://env", "secret://env/", "secret:///x", "env/X", "secret://env/a b", ""])
def test_what_is_no_reference_is_refused_with_an_example(text):
    with pytest.raises(ConfigurationError, match="secret://env/API_KEY"):
        reference_of(text)


def test_what_may_be_a_secret_itself_is_not_quoted_by_that_refusal():
    with pytest.raises(ConfigurationError) as raised:
        reference_of("hunter2-the-password")

    assert "hunter2" not in str(raised.value)


def test_references_are_found_alone_and_in_braces():
    value = {"a": "secret://env/A", "b": ["Bearer {secret://env/B}", {"c": "{place} and {secret://env/C}"}], "d": 1}

    assert sorted(references_in(value)) == ["secret://env/A", "secret://env/B", "secret://env/C"]


def test_one_in_a_text_without_braces_is_refused_with_the_way_to_write_it():
    with pytest.raises(ConfigurationError, match=r"\{secret://env/TOKEN\}"):
        list(references_in({"Authorization": "Bearer secret://env/TOKEN"}))


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_is_filled_in_is_never_read_for_references(before, value):
    text = before.replace("secret://", "").replace("{", "") + "{secret://env/A}"

    filled = replaced(text, lambda reference: value + "{secret://env/B}")

    assert filled.endswith(value + "{secret://env/B}")


# -- the environment and files -----------------------------------------------------------------------------------------


def test_env_gives_a_variable_and_its_new_value_at_once(monkeypatch):
    secrets = secrets_with()
    monkeypatch.setenv("CANARY_KEY", "canary-env-1")
    first = secrets.value_sync("secret://env/CANARY_KEY")
    monkeypatch.setenv("CANARY_KEY", "canary-env-2")

    second = secrets.value_sync("secret://env/CANARY_KEY")

    assert (first, second) == ("canary-env-1", "canary-env-2")
    assert secrets.redactor.text(f"{first} {second}") == f"{HIDDEN} {HIDDEN}"


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_missing_or_empty_cannot_be_had(monkeypatch, value):
    monkeypatch.delenv("CANARY_NONE", raising=False)
    if value is not None:
        monkeypatch.setenv("CANARY_NONE", value)

    with pytest.raises(SecretUnavailableError, match="secret://env/CANARY_NONE: there is no such secret"):
        secrets_with().value_sync("secret://env/CANARY_NONE")


def private(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("content", "value"), [(b"canary\n", "canary"), (b"canary\r\n", "canary"), (b"a\n\n", "a\n")])
def test_file_gives_the_content_without_one_newline_at_its_end(tmp_path, content, value):
    private(tmp_path / "key", content)

    assert secrets_with(directories=[tmp_path]).value_sync("secret://file/key") == value


def test_file_takes_relative_and_absolute_paths_and_fields(tmp_path):
    private(tmp_path / "app.json", b'{"db": {"pass/word": "canary-deep"}, "port": 5432, "token": "canary-top"}')
    secrets = secrets_with(directories=[tmp_path / "other", tmp_path])

    assert secrets.value_sync(f"secret://file/{tmp_path}/app.json#token") == "canary-top"
    assert secrets.value_sync("secret://file/app.json#/db/pass~1word") == "canary-deep"
    assert secrets.value_sync("secret://file/app.json#port") == "5432"
    with pytest.raises(SecretUnavailableError, match="no such field"):
        secrets.value_sync("secret://file/app.json#nothing")
    with pytest.raises(SecretUnavailableError, match="holds no text"):
        secrets.value_sync("secret://file/app.json#db")


@pytest.mark.parametrize("path", ["../outside", "sub/../../outside", "/etc/hostname", "leads-out", "nothing", "."])
def test_file_leaves_its_directories_by_no_path_and_no_link(tmp_path, path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    private(tmp_path / "outside", b"canary-outside")
    (tmp_path / "in" / "leads-out").symlink_to(tmp_path / "outside")

    with pytest.raises(SecretUnavailableError) as raised:
        secrets_with(directories=[tmp_path / "in"]).value_sync(f"secret://file/{path}")

    assert "canary" not in str(raised.value)


def test_file_follows_links_within_its_directory_as_orchestrators_make_them(tmp_path):
    (tmp_path / "..data_1").mkdir()
    private(tmp_path / "..data_1" / "token", b"canary-linked")
    (tmp_path / "..data").symlink_to("..data_1")
    (tmp_path / "token").symlink_to("..data/token")

    assert secrets_with(directories=[tmp_path]).value_sync("secret://file/token") == "canary-linked"


def test_a_file_that_others_may_write_is_refused(tmp_path):
    private(tmp_path / "key", b"canary").chmod(0o620)

    with pytest.raises(SecretUnavailableError, match="chmod go-w"):
        secrets_with(directories=[tmp_path]).value_sync("secret://file/key")


def test_a_file_that_others_may_read_is_told_of_once(tmp_path, caplog):
    private(tmp_path / "key", b"canary-readable").chmod(0o644)
    secrets = secrets_with(directories=[tmp_path], keep_s=0)

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            secrets.value_sync("secret://file/key")

    assert caplog.text.count("chmod o-r") == 1
    assert "canary" not in caplog.text


def test_a_pipe_is_no_secret_and_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(SecretUnavailableError, match="it is no file"):
        secrets_with(directories=[tmp_path]).value_sync("secret://file/pipe")


def test_what_is_no_text_cannot_be_had_and_is_hidden_all_the_same(tmp_path):
    private(tmp_path / "key", b"\xff\xfe\xfdbinary")
    secrets = secrets_with(directories=[tmp_path])

    with pytest.raises(SecretUnavailableError, match="no text in UTF-8"):
        secrets.value_sync("secret://file/key")

    assert secrets.redactor.text(b"\xff\xfe\xfdbinary".hex()) == HIDDEN


# -- keyring and plugins -----------------------------------------------------------------------------------------------


def test_keyring_gives_what_the_keyring_package_has(monkeypatch):
    import keyring
    from keyring.backend import KeyringBackend

    class InMemory(KeyringBackend):
        priority = 1

        def get_password(self, service, username):
            return {("shop", "db"): "canary-keyring"}.get((service, username))

        def set_password(self, service, username, password):
            raise NotImplementedError

    before = keyring.get_keyring()
    keyring.set_keyring(InMemory())
    try:
        secrets = secrets_with()

        assert secrets.value_sync("secret://keyring/shop/db") == "canary-keyring"
        with pytest.raises(SecretUnavailableError, match="secret://keyring/shop/other: there is no such secret"):
            secrets.value_sync("secret://keyring/shop/other")
        with pytest.raises(ConfigurationError, match="service/name"):
            secrets.value_sync("secret://keyring/shop")
    finally:
        keyring.set_keyring(before)


PLUGIN = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "canary-secrets"
        version = "1"
        [project.entry-points."toolpost.secrets"]
        shop = "canary_secrets:Shop"
        broken = "canary_secrets:nothing_here"
        [tool.hatch.build.targets.wheel]
        packages = ["canary_secrets"]
    """,
    "canary_secrets/__init__.py": """
        class Shop:
            async def get(self, path):
                return {"password": f"canary-of-{path}"}
    """,
    "use.py": """
        import asyncio
        from toolpost import PluginError, Tool, ToolContext, create_tool_call
        from toolpost.testing import executor_for

        @Tool(name="Shop.Login", register=False)
        async def login(ctx: ToolContext) -> dict:
            value = await ctx.secret("secret://shop/kv/db#password")
            return {"right": value == "canary-of-kv/db", "value": value}

        @Tool(name="Shop.Broken", register=False)
        async def broken(ctx: ToolContext) -> str:
            return await ctx.secret("secret://broken/x")

        with executor_for(login, broken) as executor:
            print(executor.execute_sync(create_tool_call("Shop.Login", {})).data)
            print(executor.execute_sync(create_tool_call("Shop.Broken", {})).failure.code)
    """,
}


def test_a_plugin_of_an_installed_distribution_is_found_by_its_name(tmp_path):
    for name, text in PLUGIN.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(textwrap.dedent(text))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", tmp_path / "there", tmp_path / "src"], check=True, capture_output=True)

    done = subprocess.run(
        [sys.executable, tmp_path / "src" / "use.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "there")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == ["{'right': True, 'value': '[hidden]'}", "plugin"]


def test_an_unknown_provider_is_refused_with_those_that_there_are():
    with pytest.raises(SecretUnavailableError, match=r"named 'nowhere'; there are env, file, keyring"):
        secrets_with().value_sync("secret://nowhere/x")


# -- keeping, asking once, rotating ------------------------------------------------------------------------------------


def test_a_value_is_kept_for_so_long_and_then_asked_for_anew():
    provider, clock = Provider(key="canary-one"), FakeClock()
    secrets = secrets_with(provider, keep_s=60, clock=clock)
    for _ in range(3):
        secrets.value_sync("secret://shop/key")
    provider.values["key"] = "canary-two"
    clock.advance(59)
    assert secrets.value_sync("secret://shop/key") == "canary-one"

    clock.advance(2)

    assert secrets.value_sync("secret://shop/key") == "canary-two"
    assert len(provider.asked) == 2
    assert secrets.redactor.text("canary-one canary-two") == f"{HIDDEN} {HIDDEN}"


def test_fields_of_one_secret_are_asked_for_once():
    provider = Provider(db={"user": "canary-user", "password": "canary-pass"})
    secrets = secrets_with(provider)

    assert secrets.value_sync("secret://shop/db#user") == "canary-user"
    assert secrets.value_sync("secret://shop/db#password") == "canary-pass"
    assert provider.asked == ["db"]
    with pytest.raises(SecretUnavailableError, match="name one: secret://shop/db#name"):
        secrets.value_sync("secret://shop/db")


def test_what_was_refused_upstream_is_asked_for_anew():
    provider = Provider(key="canary-old")
    secrets = secrets_with(provider)
    secrets.value_sync("secret://shop/key")
    provider.values["key"] = "canary-new"

    secrets.forget(["secret://shop/key"])

    assert secrets.value_sync("secret://shop/key") == "canary-new"


def test_fresh_asks_whatever_is_kept():
    provider = Provider(key="canary-old")
    secrets = secrets_with(provider)
    secrets.value_sync("secret://shop/key")
    provider.values["key"] = "canary-new"

    assert secrets.value_sync("secret://shop/key", fresh=True) == "canary-new"
    assert secrets.value_sync("secret://shop/key") == "canary-new"


class Slow:
    """Answers when it is told to."""

    def __init__(self):
        self.asked, self.go = 0, asyncio.Event()

    async def get(self, path):
        self.asked += 1
        await self.go.wait()
        if path == "bad":
            raise RuntimeError("the provider said canary-of-provider")
        return f"canary-{path}"


async def test_many_who_ask_at_once_make_one_question():
    slow = Slow()
    secrets = secrets_with(slow)
    asking = [asyncio.create_task(secrets.value("secret://shop/key")) for _ in range(20)]
    await asyncio.sleep(0)
    slow.go.set()

    assert set(await asyncio.gather(*asking)) == {"canary-key"}
    assert slow.asked == 1


async def test_whoever_waits_for_one_that_is_cancelled_asks_himself():
    slow = Slow()
    secrets = secrets_with(slow)
    first, second = (asyncio.create_task(secrets.value("secret://shop/key")) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    slow.go.set()

    assert await second == "canary-key"
    assert slow.asked == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_all_who_wait_are_told_of_a_failure_and_the_next_one_asks_again():
    slow = Slow()
    secrets = secrets_with(slow)
    asking = [asyncio.create_task(secrets.value("secret://shop/bad")) for _ in range(5)]
    await asyncio.sleep(0)
    slow.go.set()

    outcomes = await asyncio.gather(*asking, return_exceptions=True)

    assert all(isinstance(outcome, SecretUnavailableError) for outcome in outcomes)
    assert slow.asked == 1
    with pytest.raises(SecretUnavailableError):
        await secrets.value("secret://shop/bad")
    assert slow.asked == 2


def test_threads_and_loops_ask_once_together():
    started, go = threading.Event(), threading.Event()

    class Blocking:
        asked = 0

        def get(self, path):
            Blocking.asked += 1
            started.set()
            go.wait(5)
            return "canary-threads"

    secrets, found = secrets_with(Blocking()), []
    threads = [threading.Thread(target=lambda: found.append(secrets.value_sync("secret://shop/key"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait(5)
    go.set()
    for thread in threads:
        thread.join()

    assert found == ["canary-threads"] * 8
    assert Blocking.asked == 1


async def test_value_sync_waits_also_where_a_loop_runs():
    class Answers:
        async def get(self, path):
            await asyncio.sleep(0)
            return "canary-sync"

    assert secrets_with(Answers()).value_sync("secret://shop/x") == "canary-sync"


def test_the_error_of_a_provider_names_the_reference_and_has_no_cause_that_shows_more():
    class Leaks:
        waits = False

        def get(self, path):
            token = "canary-inner-token"
            raise RuntimeError(f"request with {token[:3]} failed")

    with pytest.raises(SecretUnavailableError) as raised:
        secrets_with(Leaks()).value_sync("secret://shop/key#field")

    assert "secret://shop/key" in str(raised.value)
    assert "RuntimeError" in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.retryable is SecretUnavailableError.retryable


@pytest.mark.parametrize("value", [None, 5, ["canary"], object()])
def test_a_provider_that_gives_no_text_is_refused(value):
    with pytest.raises(SecretUnavailableError, match="gave a value of type"):
        secrets_with(Provider(key=value)).value_sync("secret://shop/key")


def test_only_what_is_allowed_is_resolved():
    secrets = secrets_with(allowed=["secret://env/APP_*", "secret://vault/kv/shop#password"])

    secrets.refuse_unless_allowed("secret://env/APP_KEY")
    secrets.refuse_unless_allowed("secret://vault/kv/shop#password")
    for other in ("secret://env/AWS_KEY", "secret://vault/kv/shop#root", "secret://file/APP_KEY"):
        with pytest.raises(SecretUnavailableError, match="secrets_allowed"):
            secrets.refuse_unless_allowed(other)


def test_what_is_kept_is_not_shown_by_repr_or_vars():
    secrets = secrets_with(Provider(key="canary-kept"))
    secrets.value_sync("secret://shop/key")

    shown = repr(secrets) + repr(vars(secrets)) + repr([kept.until for kept in secrets._kept.values()])

    assert "canary-kept" not in shown
    assert PluginError.code == "plugin"


@pytest.mark.parametrize("path", ["app/../db", "app/%2e%2e/db", r"app/..\db", "app/./db"])
def test_a_pattern_is_not_left_by_steps_in_a_path(tmp_path, path):
    (tmp_path / "app").mkdir()
    (tmp_path / "db").write_text("canary-of-db")
    (tmp_path / "db").chmod(0o600)
    secrets = secrets_with(directories=[tmp_path], allowed=["secret://file/app/*"])

    with pytest.raises(SecretUnavailableError, match="no pattern of secrets_allowed"):
        secrets.refuse_unless_allowed(f"secret://file/{path}")
    secrets.refuse_unless_allowed("secret://file/app/db.v1..old")
