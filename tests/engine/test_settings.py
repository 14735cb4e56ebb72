"""What ExecutorConfig takes, from where, and what it says when it does not."""

import copy
import os
import pickle
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import SecretStr

from toolpost.calls.errors import ConfigurationError
from toolpost.engine.environment import FILE_VARIABLE, RESERVED, variables_of
from toolpost.engine.settings import FORMS, ExecutorConfig, refuse_unsupported

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"

URLS = {
    "cache_redis_url": "redis://r",
    "state_url": "redis://r",
    "records_url": "postgresql://r/d",
    "blobs_url": "s3://bucket",
    "egress_proxy": "http://p:3128",
}
"""A text that each secret setting takes that is an address."""

TEXTS = {**URLS, "trusted_proxies": "10.0.0.0/8"}
"""A text that a setting takes, where no other would do."""

DOCUMENTED_DEFAULTS = {
    "enable_cache": True,
    "cache_size": 100,
    "cache_ttl": 3600,
    "max_workers": 4,
    "io_concurrency": 8,
    "chunk_size": 10000,
    "max_file_size": 1000000,
    "log_level": "INFO",
    "log_execution_time": True,
    "enable_security_checks": True,
    "retry_attempts": 3,
    "retry_backoff": 1.0,
    "timeout": 30,
}

DOCUMENTED_VARIABLES = {
    "TOOL_EXECUTOR_ENABLE_CACHE": ("true", "enable_cache", True),
    "TOOL_EXECUTOR_CACHE_SIZE": ("1000", "cache_size", 1000),
    "TOOL_EXECUTOR_CACHE_TTL": ("7200", "cache_ttl", 7200),
    "TOOL_EXECUTOR_MAX_WORKERS": ("8", "max_workers", 8),
    "TOOL_EXECUTOR_IO_CONCURRENCY": ("16", "io_concurrency", 16),
    "TOOL_EXECUTOR_CHUNK_SIZE": ("5000", "chunk_size", 5000),
    "TOOL_EXECUTOR_MAX_FILE_SIZE": ("10485760", "max_file_size", 10485760),
    "TOOL_EXECUTOR_LOG_LEVEL": ("DEBUG", "log_level", "DEBUG"),
    "TOOL_EXECUTOR_LOG_EXECUTION_TIME": ("false", "log_execution_time", False),
    "TOOL_EXECUTOR_ENABLE_SECURITY_CHECKS": ("no", "enable_security_checks", False),
    "TOOL_EXECUTOR_RETRY_ATTEMPTS": ("5", "retry_attempts", 5),
    "TOOL_EXECUTOR_RETRY_BACKOFF": ("1.5", "retry_backoff", 1.5),
    "TOOL_EXECUTOR_TIMEOUT": ("45", "timeout", 45.0),
    "TOOL_EXECUTOR_CACHE_BACKEND": ("redis", "cache_backend", "redis"),
    "TOOL_EXECUTOR_CACHE_REDIS_URL": ("redis://h:1/0", "cache_redis_url", SecretStr("redis://h:1/0")),
    "TOOL_EXECUTOR_REDIS_URL": ("rediss://h:2/0", "cache_redis_url", SecretStr("rediss://h:2/0")),
    "TOOL_EXECUTOR_CACHE_PREFIX": ("mine", "cache_prefix", "mine"),
    "TOOL_EXECUTOR_PREFIX": ("ours", "cache_prefix", "ours"),
    "TOOL_EXECUTOR_THREAD_POOL_TYPE": ("process", "thread_pool_type", "process"),
    "TOOL_EXECUTOR_MAX_THREADS_PER_WORKER": ("2", "max_threads_per_worker", 2),
    "TOOL_EXECUTOR_SECURITY_LEVEL": ("high", "security_level", "high"),
    "TOOL_EXECUTOR_ALLOWED_FILE_EXTENSIONS": (".txt,.json", "allowed_file_extensions", (".txt", ".json")),
    "TOOL_EXECUTOR_MAX_INPUT_SIZE": ("2048", "max_input_size", 2048),
    "TOOL_EXECUTOR_SANITIZATION_RULES": ("strict", "sanitization_rules", "strict"),
    "TOOL_EXECUTOR_METRICS_INTERVAL": ("10", "metrics_interval", 10),
    "ENABLE_TOOL_EXECUTOR_METRICS": ("off", "enable_metrics", False),
    "ENABLE_METRICS": ("0", "enable_metrics", False),
    "METRICS_BACKEND": ("prometheus", "metrics_backend", "prometheus"),
    "PROMETHEUS_PORT": ("9191", "prometheus_port", 9191),
    "CACHE_BACKEND": ("redis", "cache_backend", "redis"),
    "CACHE_REDIS_URL": ("unix:///run/r", "cache_redis_url", SecretStr("unix:///run/r")),
    "CACHE_PREFIX": ("theirs", "cache_prefix", "theirs"),
    "SECURITY_LEVEL": ("HIGH", "security_level", "high"),
    "ALLOWED_FILE_EXTENSIONS": ("csv, .TXT", "allowed_file_extensions", (".csv", ".txt")),
    "MAX_INPUT_SIZE": ("4096", "max_input_size", 4096),
    "SANDBOX_ROOT": ("/srv/box", "sandbox_root", Path("/srv/box")),
    "TIMEOUT_SECONDS": ("2.5", "timeout", 2.5),
    "TOOL_EXECUTOR_CPU_SECONDS": ("20", "sandbox_cpu_seconds", 20.0),
    "TOOL_EXECUTOR_MEMORY_MB": ("256", "sandbox_memory_mb", 256),
    "ARCADE_API_KEY": ("k", "arcade_api_key", SecretStr("k")),
    "ARCADE_BASE_URL": ("https://a.example", "arcade_base_url", "https://a.example"),
    "OAUTH_CLIENT_ID": ("id", "oauth_client_id", "id"),
    "OAUTH_CLIENT_SECRET": ("s", "oauth_client_secret", SecretStr("s")),
    "OAUTH_REDIRECT_URI": ("https://a.example/cb", "oauth_redirect_uri", "https://a.example/cb"),
    "DATABASE_URL": ("sqlite:///x", "database_url", SecretStr("sqlite:///x")),
    "SECRET_KEY": ("s", "secret_key", SecretStr("s")),
    "ALLOWED_HOSTS": ("localhost,Your-Domain.com", "allowed_hosts", ("localhost", "your-domain.com")),
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with no settings file in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*args: Any, **kwargs: Any) -> str:
    """What load says when it refuses."""
    with pytest.raises(ConfigurationError) as caught:
        ExecutorConfig.load(*args, **({"environ": {}} | kwargs))
    return str(caught.value)


def constructor_refusal(**settings: Any) -> str:
    """What the constructor says when it refuses."""
    with pytest.raises(ConfigurationError) as caught:
        ExecutorConfig(**settings)
    return str(caught.value)


# Defaults and types


@pytest.mark.parametrize(("setting", "value"), DOCUMENTED_DEFAULTS.items())
def test_a_setting_has_the_documented_default(setting: str, value: Any) -> None:
    assert getattr(ExecutorConfig(), setting) == value


def test_every_default_passes_its_own_check() -> None:
    defaults = dict(ExecutorConfig())

    assert dict(ExecutorConfig(**defaults)) == defaults


@pytest.mark.parametrize("setting", [s for s, form in FORMS.items() if form.expected == "true or false"])
@pytest.mark.parametrize("value", [17, 1, 0, "true", None])
def test_a_switch_takes_nothing_but_true_and_false(setting: str, value: Any) -> None:
    assert constructor_refusal(**{setting: value}).startswith(f"{setting} must be true or false, got ")


@pytest.mark.parametrize(
    "setting", [s for s, f in FORMS.items() if "a number" in f.expected or f.expected.startswith(("a whole", "a port"))]
)
@pytest.mark.parametrize("value", [True, "5", -1, float("nan"), float("inf"), [5]])
def test_a_number_takes_no_boolean_no_text_and_nothing_out_of_bounds(setting: str, value: Any) -> None:
    assert constructor_refusal(**{setting: value}).startswith(f"{setting} must be a ")


@pytest.mark.parametrize("setting", ["cache_size", "cache_ttl", "max_workers", "max_input_size", "max_depth"])
@pytest.mark.parametrize("value", [0, 1.0])
def test_a_size_is_a_whole_number_of_at_least_one(setting: str, value: Any) -> None:
    assert constructor_refusal(**{setting: value}).startswith(f"{setting} must be a whole number")


def test_arguments_may_not_be_allowed_deeper_than_results_can_be_encoded() -> None:
    with pytest.raises(ConfigurationError, match="max_depth must be a whole number from 1 to 250, got 251"):
        ExecutorConfig(max_depth=251)


def test_no_deadline_and_no_limit_are_written_none() -> None:
    config = ExecutorConfig.load({"timeout": None}, environ={"TOOL_EXECUTOR_MAX_CALLS_PER_MINUTE": "None"})

    assert config.timeout is None
    assert config.max_calls_per_minute is None
    assert config.origin("max_calls_per_minute") == "environment TOOL_EXECUTOR_MAX_CALLS_PER_MINUTE"


def test_default_timeout_is_timeout_by_another_name() -> None:
    config = ExecutorConfig(default_timeout=5)
    config.default_timeout = 7

    assert config.timeout == config.default_timeout == 7
    assert config.origin("default_timeout") == "code"


def test_a_setting_under_both_its_names_is_refused() -> None:
    assert refusal({"timeout": 5, "default_timeout": 5}) == (
        "default_timeout is timeout by another name (code); give one of them"
    )


@pytest.mark.parametrize("setting", ["security_level", "thread_pool_type", "cache_backend", "log_level"])
def test_a_choice_ignores_capitals_but_takes_no_other_word(setting: str) -> None:
    default = getattr(ExecutorConfig(), setting)

    assert getattr(ExecutorConfig(**{setting: default.swapcase()}), setting) == default
    message = constructor_refusal(**{setting: "Else"})
    assert message == f"{setting} must be {FORMS[setting].expected}, got 'Else' (code)"
    assert f"'{default}'" in message


@pytest.mark.parametrize("value", ["*.txt", "a/b", "", ".", "..", ". txt", 7])
def test_an_extension_is_no_pattern_and_no_path(value: Any) -> None:
    assert constructor_refusal(allowed_file_extensions=[value]).startswith(
        "allowed_file_extensions must be a list of file name extensions"
    )


def test_extensions_are_kept_in_lower_case_with_their_dot() -> None:
    assert ExecutorConfig(allowed_file_extensions=["TXT", ".tar.gz"]).allowed_file_extensions == (
        ".txt",
        ".tar.gz",
    )


@pytest.mark.parametrize("value", [".txt", None, {".txt": 1}])
def test_a_list_is_not_a_text_nor_anything_else(value: Any) -> None:
    assert constructor_refusal(allowed_file_extensions=value).startswith("allowed_file_extensions must be a list")


@pytest.mark.parametrize("value", ["", "a\0b", 3, b"/x"])
def test_a_directory_has_a_path(value: Any) -> None:
    assert constructor_refusal(allowed_directories=[value]).startswith(
        "allowed_directories must be a list of directories' paths"
    )


def test_a_directory_stays_where_it_was_when_the_working_directory_changes(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExecutorConfig(allowed_directories=["data"])

    monkeypatch.chdir("/")

    assert config.allowed_directories == (empty_folder / "data",)


@pytest.mark.parametrize("value", ["json", "a.b:", ":c", "a b:c", "os:system()"])
def test_a_plugin_is_named_by_module_and_attribute(value: str) -> None:
    assert constructor_refusal(plugins=[value]).startswith("plugins must be a list of names in modules")


def test_several_wrong_values_are_all_named() -> None:
    message = refusal({"cache_size": 0, "max_workers": "x"})

    assert "cache_size must be a whole number, 1 or more, got 0 (code)" in message
    assert "max_workers must be a whole number, 1 or more, got 'x' (code)" in message


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000, list(range(10_000)), -(10**6000), {"a": "b" * 10_000}],
    ids=["text", "list", "integer", "mapping"],
)
def test_a_refusal_is_short_whatever_the_value(value: Any) -> None:
    assert len(refusal({"cache_size": value})) < 200


@settings(max_examples=50)
@given(st.sampled_from(sorted(FORMS)), st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_a_value_is_taken_or_refused_as_a_configuration_error(setting: str, value: Any) -> None:
    message = f"{setting} must be "
    try:
        ExecutorConfig(**{setting: value})
    except ConfigurationError as exc:
        message = str(exc)

    assert message.startswith(f"{setting} must be ")


# Unknown names


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cache_sise", "cache_size"),
        ("cache-size", "cache_size"),
        ("CacheTtl", "cache_ttl"),
        ("workers", "max_workers"),
    ],
)
def test_an_unknown_name_in_code_is_refused_with_the_nearest(name: str, near: str) -> None:
    expected = f"no setting is named {name!r} (code); did you mean {near!r}?"

    assert refusal({name: 1}) == expected
    with pytest.raises(ConfigurationError) as caught:
        ExecutorConfig(**{name: 1})
    assert str(caught.value) == expected


def test_a_name_that_resembles_none_points_to_the_list() -> None:
    assert refusal({"qqq": 1}) == "no setting is named 'qqq' (code); `toolpost config` lists all there are"


@pytest.mark.parametrize("overrides", [{3: 4}, {None: 1}])
def test_a_name_that_is_no_text_is_unknown(overrides: Any) -> None:
    assert refusal(overrides).startswith(f"no setting is named {next(iter(overrides))!r} (code)")


@pytest.mark.parametrize("overrides", [[], "cache_size", 5])
def test_overrides_are_a_mapping(overrides: Any) -> None:
    assert refusal(overrides).startswith("settings must be a mapping of names to values, got ")


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("TOOL_EXECUTOR_CACHE_SISE", "TOOL_EXECUTOR_CACHE_SIZE"),
        ("TOOL_EXECUTOR_cache_size", "TOOL_EXECUTOR_CACHE_SIZE"),
        ("TOOL_EXECUTOR_TOPIC", "TOOL_EXECUTOR_TOPICS"),
        ("TOOL_EXECUTOR_CONFIGS", "TOOL_EXECUTOR_CONFIG"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_and_without_its_value(variable: str, near: str) -> None:
    message = refusal(environ={variable: "hunter2"})

    assert message == f"no setting is named {variable!r} (environment); did you mean {near!r}?"


def test_a_common_prefix_does_not_make_names_alike() -> None:
    assert "did you mean" not in refusal(environ={"TOOL_EXECUTOR_QQQQ": "1"})


def test_a_variable_without_the_prefix_is_nobodys_business() -> None:
    assert ExecutorConfig.load(environ={"TOOLS": "1", "CACHE_SIZE": "1"}) == ExecutorConfig()


# Environment


@pytest.mark.parametrize(("variable", "case"), DOCUMENTED_VARIABLES.items())
def test_a_documented_variable_is_read(variable: str, case: tuple[str, str, Any]) -> None:
    text, setting, value = case

    config = ExecutorConfig.load(environ={variable: text})

    assert getattr(config, setting) == value
    assert config.origin(setting) == f"environment {variable}"


@pytest.mark.parametrize("setting", FORMS)
def test_every_setting_has_a_variable_with_the_prefix(setting: str) -> None:
    texts = {"enable": "no", "allowed_directories": "/a", "plugins": "a:b", "allowed_hosts": "h"}
    value = getattr(ExecutorConfig(), setting)
    text = next((t for part, t in texts.items() if setting.startswith(part)), None)
    text = text or TEXTS.get(setting) or ("https://r" if "https:// URL" in FORMS[setting].expected else None)
    text = text or (
        "17" if value is None else ",".join(map(str, value)) or "17" if isinstance(value, tuple) else str(value)
    )

    config = ExecutorConfig.load(environ={f"TOOL_EXECUTOR_{setting.upper()}": text})

    assert config.origin(setting) == f"environment TOOL_EXECUTOR_{setting.upper()}"


@pytest.mark.parametrize("setting", [s for s in FORMS if len(variables_of(s)) > 1])
def test_the_variable_with_the_prefix_wins_over_the_others_in_any_order(setting: str) -> None:
    value = getattr(ExecutorConfig(), setting)
    text = URLS.get(setting, "https://x" if value is None or "url" in setting else "x")
    text = str(value) if isinstance(value, int | float | str) else text
    names = variables_of(setting)

    for order in (names, names[::-1]):
        config = ExecutorConfig.load(environ=dict.fromkeys(order, text))

        assert config.origin(setting) == f"environment {names[0]}"


def test_an_empty_variable_counts_as_not_set() -> None:
    environ = {
        "TOOL_EXECUTOR_TIMEOUT": "",
        "TIMEOUT_SECONDS": "9",
        "TOOL_EXECUTOR_NO_SUCH": "",
        FILE_VARIABLE: "",
    }

    config = ExecutorConfig.load(environ=environ)

    assert config.timeout == 9
    assert config.origin("timeout") == "environment TIMEOUT_SECONDS"


@pytest.mark.parametrize("text", [",", " , ,"])
def test_a_list_that_names_nothing_is_refused_rather_than_read_as_all(text: str) -> None:
    message = refusal(environ={"TOOL_EXECUTOR_ALLOWED_FILE_EXTENSIONS": text})

    assert message.startswith("allowed_file_extensions must be a list of file name extensions")


def test_directories_are_parted_by_the_platforms_separator(empty_folder: Path) -> None:
    text = os.pathsep.join(["/srv/a,b", "data"])

    config = ExecutorConfig.load(environ={"TOOL_EXECUTOR_ALLOWED_DIRECTORIES": text})

    assert config.allowed_directories == (Path("/srv/a,b"), empty_folder / "data")


@pytest.mark.parametrize(("text", "shown"), [("many", "'many'"), ("1.5", "1.5"), ("-1", "-1"), ("true", "'true'")])
def test_a_wrong_variable_is_named_with_its_value_and_what_is_expected(text: str, shown: str) -> None:
    message = refusal(environ={"TOOL_EXECUTOR_MAX_WORKERS": text})

    place = "environment TOOL_EXECUTOR_MAX_WORKERS"
    assert message == f"max_workers must be a whole number, 1 or more, got {shown} ({place})"


def test_a_wrong_variable_that_may_be_another_programs_says_how_to_step_aside() -> None:
    environ = {"SECURITY_LEVEL": "5"}

    assert refusal(environ=environ).endswith(
        "(environment SECURITY_LEVEL); if SECURITY_LEVEL is meant for another program,"
        " set TOOL_EXECUTOR_SECURITY_LEVEL, which is read before it"
    )
    environ["TOOL_EXECUTOR_SECURITY_LEVEL"] = "low"
    assert ExecutorConfig.load(environ=environ).security_level == "low"


def test_the_workers_variables_are_known_and_kept() -> None:
    environ = dict.fromkeys(RESERVED, "7")

    config = ExecutorConfig.load(environ=environ)

    assert config.reserved == environ
    assert config == ExecutorConfig()
    assert "TOOL_EXECUTOR_MAX_CONCURRENT" in config.reserved


def test_load_reads_the_process_environment_and_the_constructor_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOOL_EXECUTOR_CACHE_SIZE", "77")

    assert ExecutorConfig.load().cache_size == 77
    assert ExecutorConfig().cache_size == 100


# File


def test_a_setting_comes_from_the_file_then_the_environment_then_code(empty_folder: Path) -> None:
    file = empty_folder / "toolpost.toml"
    file.write_text("cache_size = 1\ncache_ttl = 1\nmax_workers = 1\n")
    environ = {"TOOL_EXECUTOR_CACHE_TTL": "2", "TOOL_EXECUTOR_MAX_WORKERS": "2"}

    config = ExecutorConfig.load({"max_workers": 3}, environ=environ)

    assert (config.cache_size, config.cache_ttl, config.max_workers, config.io_concurrency) == (1, 2, 3, 8)
    assert [config.origin(s) for s in ("cache_size", "cache_ttl", "max_workers", "io_concurrency")] == [
        f"file {file}",
        "environment TOOL_EXECUTOR_CACHE_TTL",
        "code",
        "default",
    ]


def test_a_wrong_value_that_another_overrides_does_no_harm(empty_folder: Path) -> None:
    (empty_folder / "toolpost.toml").write_text("cache_size = 'x'\n")

    config = ExecutorConfig.load({"cache_size": 3}, environ={"TOOL_EXECUTOR_CACHE_SIZE": "y"})

    assert config.cache_size == 3


def test_the_file_is_named_by_code_before_the_environment_before_its_usual_name(empty_folder: Path) -> None:
    for number, name in enumerate(["toolpost.toml", "by_environment.toml", "by_code.toml"], start=1):
        (empty_folder / name).write_text(f"cache_size = {number}\n")
    environ = {FILE_VARIABLE: "by_environment.toml"}

    assert ExecutorConfig.load(environ={}).cache_size == 1
    assert ExecutorConfig.load(environ=environ).cache_size == 2
    assert ExecutorConfig.load(environ=environ, file=Path("by_code.toml")).cache_size == 3


def test_settings_may_stand_in_a_table(empty_folder: Path) -> None:
    (empty_folder / "toolpost.toml").write_text("cache_ttl = 5\n[toolpost]\ncache_size = 4\n")

    config = ExecutorConfig.load(environ={})

    assert (config.cache_size, config.cache_ttl) == (4, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache_sise = 4", "no setting is named 'cache_sise' ({origin}); did you mean 'cache_size'?"),
        (
            "[toolpost]\ncache_sise = 4",
            "no setting is named 'cache_sise' ({origin}); did you mean 'cache_size'?",
        ),
        ("[toolpots]\ncache_size = 4", "no setting is named 'toolpots' ({origin}); "),
        (
            "cache_size = 4\n[toolpost]\ncache_size = 4",
            "cache_size is set at the top level and in [toolpost] ",
        ),
        ("toolpost = 3", "toolpost must be a table of settings, got 3 ({origin})"),
        ("cache_size = '4'", "cache_size must be a whole number, 1 or more, got '4' ({origin})"),
        ("cache_size = true", "cache_size must be a whole number, 1 or more, got True ({origin})"),
        ("timeout = inf", "timeout must be a number of seconds"),
        ("cache_size = ", "the settings file {path} is not TOML: "),
        ("cache_size = 4 # \xff", "the settings file {path} is not UTF-8 at byte 17"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_path(empty_folder: Path, text: str, message: str) -> None:
    file = empty_folder / "toolpost.toml"
    file.write_bytes(text.encode("latin-1"))

    assert refusal().startswith(message.format(path=file, origin=f"file {file}"))


def test_a_named_file_that_is_missing_or_no_file_is_refused(empty_folder: Path) -> None:
    missing = empty_folder / "gone.toml"

    assert refusal(file=missing) == f"there is no settings file {missing} (code); name one that exists, or none"
    assert f"{missing} (environment {FILE_VARIABLE})" in refusal(environ={FILE_VARIABLE: "gone.toml"})
    assert refusal(file=empty_folder) == f"the settings file {empty_folder} cannot be read: Is a directory"


def test_paths_in_a_file_start_at_its_folder(empty_folder: Path) -> None:
    file = empty_folder / "etc" / "engine.toml"
    file.parent.mkdir()
    file.write_text('allowed_directories = ["data", "/srv"]\nsandbox_root = "../box"\n')

    config = ExecutorConfig.load(file=file, environ={})

    assert config.allowed_directories == (empty_folder / "etc" / "data", Path("/srv"))
    assert config.sandbox_root == empty_folder / "box"


def test_none_in_a_file_switches_a_number_off(empty_folder: Path) -> None:
    (empty_folder / "toolpost.toml").write_text('timeout = "none"\n')

    assert ExecutorConfig.load(environ={}).timeout is None


def test_without_a_file_the_toml_reader_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tomllib", raising=False)

    ExecutorConfig.load(environ={"TOOL_EXECUTOR_CACHE_SIZE": "5"})

    assert "tomllib" not in sys.modules


# Secrets


SECRETS = [setting for setting, form in FORMS.items() if form.secret]


def test_what_holds_a_secret_is_marked_secret() -> None:
    named = {"arcade_api_key", "oauth_client_secret", "database_url", "secret_key", "secret_key_previous"}

    assert set(SECRETS) == named | URLS.keys()


@pytest.mark.parametrize("setting", SECRETS)
def test_a_secret_is_never_shown(setting: str) -> None:
    url = URLS.get(setting, "redis://").partition("://")[0] + "://u:hunter2@h"
    config = ExecutorConfig(**{setting: url})

    shown = [
        repr(config),
        str(config),
        config.model_dump_json(),
        str(config.model_dump()),
        str(config.effective()),
    ]

    assert not any("hunter2" in text for text in shown)
    assert getattr(config, setting).get_secret_value() == url
    assert next(s.value for s in config.effective() if s.name == setting) == "********"


def test_a_secret_that_is_wrong_is_shown_in_neither_the_refusal_nor_its_context() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ExecutorConfig(cache_redis_url="http://u:hunter2@h")

    assert str(caught.value) == "cache_redis_url must be a redis://, rediss:// or unix:// URL, got ******** (code)"
    assert caught.value.__context__ is None


def test_pydantics_own_way_in_refuses_without_showing_a_secret() -> None:
    with pytest.raises(ValueError, match="cache_redis_url must be") as caught:
        ExecutorConfig.model_validate({"cache_redis_url": "http://u:hunter2@h"})

    assert "hunter2" not in str(caught.value)


def test_an_empty_secret_is_refused_in_code() -> None:
    assert "secret_key must be text that is not empty" in refusal({"secret_key": ""})


# Effective values


def test_effective_lists_every_setting_as_json_with_its_origin_and_description() -> None:
    config = ExecutorConfig.load({"allowed_directories": ["/srv"]}, environ={"CACHE_PREFIX": "p"})

    listed = {setting.name: setting for setting in config.effective()}

    assert list(listed) == list(ExecutorConfig.model_fields)
    assert listed["allowed_directories"][1:3] == (["/srv"], "code")
    assert listed["cache_prefix"][1:3] == ("p", "environment CACHE_PREFIX")
    assert listed["secret_key"][1:3] == (None, "default")
    assert all(setting.description.endswith(".") for setting in listed.values())


def test_the_origin_of_an_unknown_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'cache_size'"):
        ExecutorConfig().origin("cache_sise")


def test_what_cannot_be_done_is_listed_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refuse_unsupported(ExecutorConfig.load({"metrics_backend": "prometheus"})) == []
    monkeypatch.setattr("toolpost.engine.settings.find_spec", lambda name: None)
    config = ExecutorConfig.load({"metrics_backend": "prometheus"}, environ={"CACHE_BACKEND": "redis"})

    assert refuse_unsupported(config) == [
        "metrics_backend is 'prometheus' (code), which needs the package prometheus-client; install toolpost[serve], "
        "or set it to 'none'",
        "cache_backend is 'redis' (environment CACHE_BACKEND), but no Redis is named; set cache_redis_url or a "
        "redis:// state_url",
    ]
    for named in ({"cache_redis_url": "redis://h"}, {"state_url": "redis://h"}):
        assert refuse_unsupported(ExecutorConfig.load({"cache_backend": "redis", **named})) == []
    assert refuse_unsupported(ExecutorConfig()) == []


# Assignment


def test_an_assignment_takes_effect_is_told_and_comes_from_code() -> None:
    config = ExecutorConfig.load(environ={"TOOL_EXECUTOR_CACHE_SIZE": "5"})
    told: list[tuple[str, int]] = []
    config.on_change(lambda setting: told.append((setting, config.cache_size)))

    config.cache_size = min(config.cache_size * 1000, 10_000)

    assert config.cache_size == 5000
    assert told == [("cache_size", 5000)]
    assert config.origin("cache_size") == "code"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("cache_size", 0, "cache_size must be a whole number, 1 or more, got 0 (code)"),
        ("cache_sise", 5, "no setting is named 'cache_sise' (code); did you mean 'cache_size'?"),
    ],
)
def test_an_assignment_that_is_refused_changes_nothing_and_is_told_to_nobody(
    setting: str, value: Any, message: str
) -> None:
    config = ExecutorConfig.load(environ={"TOOL_EXECUTOR_CACHE_SIZE": "5"})
    told: list[str] = []
    config.on_change(told.append)
    before = config.effective()

    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        setattr(config, setting, value)

    assert isinstance(caught.value, ConfigurationError)
    assert config.effective() == before
    assert told == []


def test_a_callback_that_raises_undoes_the_assignment_for_all_who_were_told() -> None:
    config = ExecutorConfig.load(environ={"TOOL_EXECUTOR_CACHE_BACKEND": "memory"})
    seen: list[str] = []
    config.on_change(lambda setting: seen.append(config.cache_backend))

    def refuse(setting: str) -> None:
        if sentences := refuse_unsupported(config):
            raise ConfigurationError(sentences[0])

    config.on_change(refuse)

    with pytest.raises(ConfigurationError, match="cache_backend is 'redis'"):
        config.cache_backend = "redis"

    assert config.cache_backend == "memory"
    assert config.origin("cache_backend") == "environment TOOL_EXECUTOR_CACHE_BACKEND"
    assert seen == ["redis", "memory"]


def test_a_callback_is_no_longer_called_once_it_is_ended() -> None:
    config = ExecutorConfig()
    told: list[str] = []
    end = config.on_change(told.append)

    end()
    config.cache_size = 5

    assert told == []


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda config: config.model_copy(),
        lambda config: config.model_copy(deep=True),
        copy.copy,
        copy.deepcopy,
        lambda config: pickle.loads(pickle.dumps(config)),
    ],
    ids=["model_copy", "deep model_copy", "copy", "deepcopy", "pickle"],
)
def test_a_copy_is_equal_and_shares_neither_callbacks_nor_origins(duplicate: Any) -> None:
    config = ExecutorConfig.load({"cache_ttl": 5}, environ={"TOOL_EXECUTOR_GROUP": "g"})
    told: list[str] = []
    lock = threading.Lock()  # what an executor holds, and nothing can copy
    config.on_change(lambda setting: lock.acquire(blocking=False) and told.append(setting))

    other = duplicate(config)

    assert other == config
    assert other.effective() == config.effective()
    assert other.reserved == {"TOOL_EXECUTOR_GROUP": "g"}
    other.cache_size = 5
    assert told == []
    assert config.cache_size == 100
    assert config.origin("cache_size") == "default"


def test_a_copys_update_is_checked() -> None:
    config = ExecutorConfig()

    assert config.model_copy(update={"cache_size": 5}).cache_size == 5
    with pytest.raises(ConfigurationError, match="cache_size must be"):
        config.model_copy(update={"cache_size": 0})


def test_configs_are_equal_when_their_values_are_whoever_set_them() -> None:
    assert ExecutorConfig(cache_size=100) == ExecutorConfig()
    assert ExecutorConfig(cache_size=101) != ExecutorConfig()


def test_an_assignment_amid_another_threads_assignment_is_kept() -> None:
    config = ExecutorConfig()
    other = threading.Thread(target=setattr, args=(config, "cache_size", 5))

    class Slow:
        def __fspath__(self) -> str:
            other.start()
            other.join(0.05)  # it has to wait for this assignment, which is why this one cannot wait for it
            return "/box"

    config.sandbox_root = Slow()
    other.join()

    assert (config.sandbox_root, config.cache_size) == (Path("/box"), 5)


# Documentation


def documented(default: Any) -> str:
    """A default as the tables write it."""
    match default:
        case None:
            return "none"
        case bool():
            return str(default).lower()
        case tuple():
            return f"[{', '.join(map(str, default))}]"
        case int() | float():
            return f"{default:.10g}"
        case _:
            return f'"{default}"'


def test_the_documentation_has_exactly_one_true_row_for_every_setting() -> None:
    rows = [
        "| "
        + " | ".join(
            [
                f"`{setting}`",
                f"`{documented(info.default)}`",
                FORMS[setting].expected,
                ", ".join(f"`{variable}`" for variable in variables_of(setting)),
                info.description or "",
            ]
        )
        + " |"
        for setting, info in ExecutorConfig.model_fields.items()
    ]

    assert re.findall(r"^\| `.*$", DOCS.read_text(encoding="utf-8"), re.MULTILINE) == rows


@pytest.mark.parametrize("variable", [*DOCUMENTED_VARIABLES, *RESERVED, FILE_VARIABLE])
def test_the_documentation_names_every_variable(variable: str) -> None:
    assert f"`{variable}`" in DOCS.read_text(encoding="utf-8")


def test_settings_are_taken_from_another_config_with_who_set_them() -> None:
    config, other = ExecutorConfig(max_depth=9), ExecutorConfig.load(environ={"TOOL_EXECUTOR_MAX_DEPTH": "7"})
    told: list[str] = []
    config.on_change(told.append)

    config.take(other, ["max_depth", "cache_size"])

    assert (config.max_depth, config.origin("max_depth")) == (7, "environment TOOL_EXECUTOR_MAX_DEPTH")
    assert told == ["max_depth", "cache_size"]


def test_of_settings_that_are_taken_none_is_where_a_listener_refuses_one() -> None:
    config, other = ExecutorConfig(), ExecutorConfig(max_depth=7, cache_size=5)
    told: list[tuple[str, int, int]] = []
    config.on_change(lambda name: told.append((name, config.max_depth, config.cache_size)))

    def refuse(name: str) -> None:
        if name == "cache_size" and config.cache_size == 5:
            raise ConfigurationError("no")

    config.on_change(refuse)
    with pytest.raises(ConfigurationError, match="no"):
        config.take(other, ["max_depth", "cache_size"])

    assert (config.max_depth, config.cache_size) == (64, 100)
    assert told == [(name, 7, 5) for name in ("max_depth", "cache_size")] + [
        (name, 64, 100) for name in ("max_depth", "cache_size")
    ]


@pytest.mark.parametrize("text", ["10.0.0.0/8", "::1", "192.0.2.1"])
def test_proxies_are_addresses_or_networks(text: str) -> None:
    (network,) = ExecutorConfig(trusted_proxies=[text]).trusted_proxies

    assert network.startswith(text)
    with pytest.raises(ConfigurationError, match="a list of addresses or networks"):
        ExecutorConfig(trusted_proxies=["proxy.example"])
